// The host as a Device. Memory is counted to the byte while a Buffer is alive; streams run each call at once
// on the device's threads.
#pragma once
#include <atomic>
#include <memory>
#include <vector>

#include "backends/cpu/kernels.h"
#include "backends/cpu/thread_pool.h"
#include "tensor/device.h"

namespace trireme::cpu {

// The widest instruction set of ours that this CPU has.
Isa best_isa();
bool has_isa(Isa isa);
const Kernels& kernels_for(Isa isa);
Chip describe_chip(int threads, Isa isa);

// Memory that a call needs and forgets: grows to the largest call and stays. One thread at a time.
class Scratch {
 public:
  static constexpr int kSlots = 8;
  // At least n elements, 64-byte aligned, not initialised; valid until the slot is taken again.
  template <class T>
  T* take(int slot, i64 n) {
    return static_cast<T*>(grow(slot, n * static_cast<i64>(sizeof(T))));
  }

 private:
  struct Free {
    void operator()(void* p) const;
  };
  void* grow(int slot, i64 bytes);
  std::unique_ptr<void, Free> data_[kSlots];
  i64 bytes_[kSlots] = {};
};

class CpuDevice final : public Device {
 public:
  // `onednn`: large BF16 products go to oneDNN (onednn.h). REQUIRES for it: Isa::kAvx512Bf16.
  CpuDevice(int threads, Isa isa, bool onednn = false);
  const Chip& chip() const override { return chip_; }
  std::unique_ptr<Stream> make_stream() override;
  Result<Buffer> allocate(i64 bytes) override;
  Status copy_in(void* device, const void* host, i64 bytes, Stream& stream) override;
  Status copy_out(void* host, const void* device, i64 bytes, Stream& stream) override;
  bool host_readable() const override { return true; }

  i64 allocated_bytes() const { return allocated_->load(); }  // by live Buffers; thread-safe
  ThreadPool& pool() { return pool_; }
  const Kernels& kernels() const { return kernels_; }
  bool onednn() const { return onednn_; }

 private:
  Chip chip_;
  const Kernels& kernels_;
  bool onednn_;
  ThreadPool pool_;
  std::shared_ptr<std::atomic<i64>> allocated_ = std::make_shared<std::atomic<i64>>(0);
};

class CpuStream final : public Stream {
 public:
  explicit CpuStream(CpuDevice& d)
      : pool(d.pool()),
        kernels(d.kernels()),
        onednn(d.onednn()),
        worker(static_cast<std::size_t>(pool.threads())) {}
  Status synchronize() override { return {}; }

  ThreadPool& pool;
  const Kernels& kernels;
  const bool onednn;
  Scratch shared;
  std::vector<Scratch> worker;  // [pool.threads()]
};

// Every Stream that reaches a CPU op came from CpuDevice::make_stream.
inline CpuStream& cpu(Stream& s) { return static_cast<CpuStream&>(s); }

}  // namespace trireme::cpu
