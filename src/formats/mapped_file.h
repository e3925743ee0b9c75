// A regular file mapped read-only. Move-only; the bytes stay where they are until it is destroyed.
#pragma once
#include <sys/types.h>

#include <cstddef>
#include <span>
#include <string>
#include <string_view>

#include "base/result.h"
#include "base/types.h"

namespace trireme::formats {

class MappedFile {
 public:
  // kNotFound when there is no such file; kDataLoss for a pipe, socket, device or folder (none of which is
  // waited for) and for a file above max_bytes. Symbolic links are followed.
  static Result<MappedFile> open(const std::string& path, u64 max_bytes = u64{1} << 50);

  MappedFile() = default;
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  std::string_view text() const { return {reinterpret_cast<const char*>(data_), size_}; }

 private:
  const std::byte* data_ = nullptr;  // null for an empty file
  std::size_t size_ = 0;
};

}  // namespace trireme::formats
