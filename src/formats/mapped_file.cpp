#include "formats/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>
#include <utility>

namespace trireme::formats {
namespace {

std::string reason(int error) { return std::generic_category().message(error); }

struct Descriptor {
  int fd = -1;
  ~Descriptor() {
    if (fd >= 0) ::close(fd);
  }
};

const char* kind_of(mode_t mode) {
  if (S_ISDIR(mode)) return "a folder";
  if (S_ISFIFO(mode)) return "a pipe";
  if (S_ISSOCK(mode)) return "a socket";
  return "a device";
}

}  // namespace

Result<MappedFile> MappedFile::open(const std::string& path, u64 max_bytes) {
  // Looked at before it is opened: opening a device can already do something. Looked at again afterwards,
  // and opened without blocking, because another process may have put a pipe there in between.
  struct stat info {};
  if (::stat(path.c_str(), &info) != 0) {
    return fail(ErrorCode::kNotFound, "cannot open {}: {}", path, reason(errno));
  }
  if (!S_ISREG(info.st_mode)) {
    return fail(ErrorCode::kDataLoss, "{} is {}, not a regular file", path, kind_of(info.st_mode));
  }
  const Descriptor file{::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY)};
  if (file.fd < 0 || ::fstat(file.fd, &info) != 0) {
    return fail(ErrorCode::kNotFound, "cannot open {}: {}", path, reason(errno));
  }
  if (!S_ISREG(info.st_mode)) {
    return fail(ErrorCode::kDataLoss, "{} is {}, not a regular file", path, kind_of(info.st_mode));
  }
  const auto size = static_cast<u64>(info.st_size);
  if (size > max_bytes) {
    return fail(ErrorCode::kDataLoss, "{} has {} bytes; at most {} are read", path, size, max_bytes);
  }
  MappedFile mapped;
  if (size == 0) return mapped;
  void* data = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.fd, 0);
  if (data == MAP_FAILED) {
    return fail(ErrorCode::kResourceExhausted, "cannot map {} ({} bytes): {}", path, size, reason(errno));
  }
  mapped.data_ = static_cast<const std::byte*>(data);
  mapped.size_ = size;
  // Only hints, so failures do not matter. Weights have no place in a core dump; and reading ahead helps
  // as long as it does not push out what is in memory already.
  ::madvise(data, size, MADV_DONTDUMP);
  const auto free_bytes =
      static_cast<u64>(::sysconf(_SC_AVPHYS_PAGES)) * static_cast<u64>(::sysconf(_SC_PAGESIZE));
  if (size <= free_bytes / 2) ::madvise(data, size, MADV_WILLNEED);
  return mapped;
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

MappedFile::~MappedFile() {
  if (data_) ::munmap(const_cast<std::byte*>(data_), size_);
}

}  // namespace trireme::formats
