#include "backends/cpu/cpu_device.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <limits>
#include <string>
#include <thread>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace trireme::cpu {
namespace {

constexpr i64 kHugePage = 2 << 20;

std::string chip_name() {
#if defined(__x86_64__)
  unsigned r[12] = {};
  if (__get_cpuid(0x80000002, &r[0], &r[1], &r[2], &r[3]) &&
      __get_cpuid(0x80000003, &r[4], &r[5], &r[6], &r[7]) &&
      __get_cpuid(0x80000004, &r[8], &r[9], &r[10], &r[11])) {
    std::string name(reinterpret_cast<const char*>(r), sizeof r);
    name.resize(std::strlen(name.c_str()));
    const auto last = name.find_last_not_of(' ');
    name.resize(last == std::string::npos ? 0 : last + 1);
    if (!name.empty()) return name;
  }
#endif
  return "CPU";
}

bool has_amx_bf16() {
#if defined(__x86_64__)
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d >> 22 & 1u) && (d >> 24 & 1u);
#else
  return false;
#endif
}

// What the system could still give without killing anyone; "unknown" is no limit.
i64 available_bytes() {
  std::ifstream in("/proc/meminfo");
  std::string key;
  i64 kib = 0;
  while (in >> key >> kib) {
    if (key == "MemAvailable:") return kib * 1024;
    in.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
  }
  return std::numeric_limits<i64>::max();
}

// 64-byte aligned; huge pages for what is large. nullptr when there is no more.
void* host_allocate(i64 bytes) {
  const i64 align = bytes >= 2 * kHugePage ? kHugePage : 64;
  void* const p = std::aligned_alloc(static_cast<std::size_t>(align),
                                     static_cast<std::size_t>(round_up(std::max<i64>(bytes, 1), align)));
  if (p != nullptr && align == kHugePage) madvise(p, static_cast<std::size_t>(bytes), MADV_HUGEPAGE);
  return p;
}

}  // namespace

bool has_isa(Isa isa) {
#if defined(__x86_64__)
  switch (isa) {
    case Isa::kGeneric:
      return true;
    case Isa::kAvx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    case Isa::kAvx512Bf16:
      return __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  }
  return false;
#else
  return isa == Isa::kGeneric;
#endif
}

Isa best_isa() {
  for (const Isa isa : {Isa::kAvx512Bf16, Isa::kAvx2})
    if (has_isa(isa)) return isa;
  return Isa::kGeneric;
}

const Kernels& kernels_for(Isa isa) {
  switch (isa) {
    case Isa::kGeneric:
      return generic_kernels();
    case Isa::kAvx2:
      return avx2_kernels();
    case Isa::kAvx512Bf16:
      return avx512_bf16_kernels();
  }
  return generic_kernels();
}

Chip describe_chip(int threads, Isa isa) {
  Chip c;
  c.name = chip_name();
  c.units = threads;
  c.memory_bytes = static_cast<i64>(sysconf(_SC_PHYS_PAGES)) * sysconf(_SC_PAGE_SIZE);
  c.bf16_dot = isa == Isa::kAvx512Bf16;
  c.amx = has_amx_bf16();
  c.instruction_set = kernels_for(isa).name;
  return c;
}

void Scratch::Free::operator()(void* p) const { std::free(p); }

void* Scratch::grow(int slot, i64 bytes) {
  if (bytes > bytes_[slot]) {
    data_[slot].reset();
    data_[slot].reset(host_allocate(bytes));
    CHECK(data_[slot] != nullptr, "no memory for {} bytes of scratch", bytes);
    bytes_[slot] = bytes;
  }
  return data_[slot].get();
}

CpuDevice::CpuDevice(int threads, Isa isa, bool onednn)
    : chip_(describe_chip(threads, isa)), kernels_(kernels_for(isa)), onednn_(onednn), pool_(threads) {
  CHECK(!onednn || isa == Isa::kAvx512Bf16);
}

std::unique_ptr<Stream> CpuDevice::make_stream() { return std::make_unique<CpuStream>(*this); }

Result<Buffer> CpuDevice::allocate(i64 bytes) {
  if (bytes < 0) return invalid("cannot allocate {} bytes", bytes);
  // Linux promises more than it has and kills later, so large requests are judged by what is really there.
  const i64 available = bytes >= (64 << 20) ? available_bytes() : std::numeric_limits<i64>::max();
  void* const p = bytes <= available ? host_allocate(bytes) : nullptr;
  if (p == nullptr) {
    return fail(ErrorCode::kResourceExhausted,
                "cannot allocate {:.1f} MiB of memory: {:.1f} MiB are available, this process holds {:.1f} "
                "MiB; use a "
                "smaller model or cache, or free memory",
                static_cast<double>(bytes) / 0x1p20, static_cast<double>(available_bytes()) / 0x1p20,
                static_cast<double>(allocated_bytes()) / 0x1p20);
  }
  allocated_->fetch_add(bytes);
  return Buffer(std::shared_ptr<void>(p,
                                      [bytes, counter = allocated_](void* q) {
                                        counter->fetch_sub(bytes);
                                        std::free(q);
                                      }),
                p, bytes);
}

Status CpuDevice::copy_in(void* device, const void* host, i64 bytes, Stream&) {
  if (bytes > 0) std::memcpy(device, host, static_cast<std::size_t>(bytes));
  return {};
}
Status CpuDevice::copy_out(void* host, const void* device, i64 bytes, Stream& stream) {
  return copy_in(host, device, bytes, stream);
}

}  // namespace trireme::cpu
