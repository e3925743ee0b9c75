// What a device offers to those who only move bytes: memory, streams and events. The mathematics is ops/.
#pragma once
#include <memory>
#include <string>

#include "base/result.h"
#include "base/types.h"
#include "tensor/view.h"

namespace trireme {

// The chip a kernel choice depends on.
struct Chip {
  std::string name;             // "AMD EPYC 9575F", "NVIDIA H200"
  int units = 1;                // cores used, or SMs
  i64 memory_bytes = 0;         // of the device
  bool bf16_dot = false;        // CPU: AVX512-BF16
  bool amx = false;             // CPU: AMX-BF16
  std::string instruction_set;  // "avx512_bf16", "avx2", "sm_90a"
};

// An ordered queue of work on a device. A CPU stream runs each call at once. One thread at a time.
class Stream {
 public:
  virtual ~Stream() = default;
  virtual Status synchronize() = 0;  // waits for all work queued so far
};

// Owns bytes on a device, or keeps alive what does (a mapped file).
class Buffer {
 public:
  Buffer() = default;
  Buffer(std::shared_ptr<void> owner, void* data, i64 bytes)
      : owner_(std::move(owner)), data_(data), bytes_(bytes) {}
  void* data() const { return data_; }
  i64 bytes() const { return bytes_; }
  View view(DType t, Shape s) const {
    CHECK(s.elements() * size_of(t) <= bytes_, "a view of {} bytes over a buffer of {}",
          s.elements() * size_of(t), bytes_);
    return View(data_, t, s);
  }

 private:
  std::shared_ptr<void> owner_;
  void* data_ = nullptr;
  i64 bytes_ = 0;
};

class Device {
 public:
  virtual ~Device() = default;
  virtual const Chip& chip() const = 0;
  virtual std::unique_ptr<Stream> make_stream() = 0;
  // 64-byte aligned, not initialised. kResourceExhausted, with how much was asked and is there.
  virtual Result<Buffer> allocate(i64 bytes) = 0;
  // Host memory to or from the device, ordered on the stream.
  virtual Status copy_in(void* device, const void* host, i64 bytes, Stream& stream) = 0;
  virtual Status copy_out(void* host, const void* device, i64 bytes, Stream& stream) = 0;
  virtual bool host_readable() const = 0;  // device pointers may be read by the host
};

}  // namespace trireme
