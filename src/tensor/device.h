// What a device offers to those who only move bytes: memory, streams and events. The mathematics is ops/.
#pragma once
#include <functional>
#include <memory>
#include <string>
#include <vector>

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
  const std::shared_ptr<void>& owner() const { return owner_; }
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

// Work recorded once and launched many times, with the same addresses.
class Graph {
 public:
  virtual ~Graph() = default;
  virtual Status launch(Stream& stream) = 0;
};

// When work on a stream passes named points. The time from one mark to the next belongs to the first's name.
// May be recorded into a Graph; then each launch overwrites the times. One thread.
class Timeline {
 public:
  struct Span {
    const char* name = "";
    double begin = 0, seconds = 0;  // begin: since the first mark
  };
  virtual ~Timeline() = default;
  virtual void clear() = 0;  // forgets all marks
  virtual Status mark(Stream& stream, const char* name) = 0;
  virtual Result<std::vector<Span>> read() = 0;  // waits for the last mark, which has no span of its own
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
  // The first row_bytes of each of so many rows, which lie stride bytes apart on both sides. By default row
  // by row.
  virtual Status copy_in_rows(void* device, const void* host, i64 stride, i64 row_bytes, i64 rows,
                              Stream& stream);
  virtual bool host_readable() const = 0;  // device pointers may be read by the host
  // Host memory that copy_in and copy_out move at full speed and without waiting. Plain memory by default.
  virtual Result<Buffer> allocate_host(i64 bytes);
  virtual i64 free_bytes() const { return chip().memory_bytes; }  // of the device, as it stands now
  virtual i64 used_at_start() const { return 0; }  // of it by the driver and others when it was opened
  // kUnsupported on devices without graphs. While `work` runs, its calls are recorded, not carried out.
  virtual Result<std::unique_ptr<Graph>> capture(Stream& stream, const std::function<Status()>& work);
  virtual bool can_capture() const { return false; }
  virtual std::unique_ptr<Timeline> make_timeline();  // by the host's clock, after synchronising
  // Names what follows for a profiler that is attached (NVTX).
  virtual void range_push(const char*) {}
  virtual void range_pop() {}
};

// Names what a scope does for a profiler that is attached.
class NamedRange {
 public:
  NamedRange(Device& device, const char* name) : device_(device) { device_.range_push(name); }
  ~NamedRange() { device_.range_pop(); }
  NamedRange(const NamedRange&) = delete;
  NamedRange& operator=(const NamedRange&) = delete;

 private:
  Device& device_;
};

}  // namespace trireme
