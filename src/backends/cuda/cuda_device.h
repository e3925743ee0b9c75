// One GPU as a Device: memory, streams, graphs, and the road that weights take to it.
//
// Thread-safe but for streams: a stream is for one thread at a time. The process uses the first GPU that it
// sees; CUDA_VISIBLE_DEVICES chooses which that is.
#pragma once
#include <cuda_runtime_api.h>

#include <array>
#include <memory>

#include "backends/cuda/cuda_check.h"
#include "backends/cuda/uploader.h"
#include "tensor/device.h"

namespace trireme::cuda {

class CudaDevice;
class LinearOps;

// What a stream lends to the calls on it. Each slot belongs to one family of kernels.
enum class Scratch : u8 { kLinear, kSums, kAttention, kSample, kCount };

class CudaStream final : public Stream {
 public:
  static Result<std::unique_ptr<CudaStream>> create(CudaDevice& device);
  ~CudaStream() override;
  CudaStream(const CudaStream&) = delete;
  CudaStream& operator=(const CudaStream&) = delete;

  Status synchronize() override;
  cudaStream_t handle() const { return stream_; }
  CudaDevice& device() const { return device_; }
  // Device memory of at least so many bytes, 256-byte aligned, kept and reused by later calls on this stream.
  // It grows by waiting for the stream, so a recording must find it large enough already: kInternal
  // otherwise.
  Result<void*> scratch(Scratch slot, i64 bytes);
  // What a recorded graph uses stays alive: after a recording, growing keeps the old memory.
  // Pinned host memory, likewise. Whoever writes it must know that the stream has read what was there before.
  Result<void*> pinned(Scratch slot, i64 bytes);
  bool capturing() const;
  void note_recording() { recorded_ = true; }

 private:
  explicit CudaStream(CudaDevice& device) : device_(device) {}
  Result<void*> grown(Buffer& buffer, i64 bytes, bool host);
  CudaDevice& device_;
  cudaStream_t stream_ = nullptr;
  std::array<Buffer, static_cast<std::size_t>(Scratch::kCount)> scratch_, pinned_;
  bool recorded_ = false;
  std::vector<Buffer> kept_;  // for graphs
};

inline CudaStream& cuda_stream(Stream& s) { return static_cast<CudaStream&>(s); }
inline cudaStream_t handle_of(Stream& s) { return cuda_stream(s).handle(); }

class CudaDevice final : public Device {
 public:
  // kUnsupported when there is no GPU, its driver is too old, or it is not of compute capability 9.0.
  static Result<std::unique_ptr<CudaDevice>> open();
  ~CudaDevice() override;

  const Chip& chip() const override { return chip_; }
  // REQUIRES: a GPU that works; a stream takes next to nothing of it.
  std::unique_ptr<Stream> make_stream() override;
  // From a stream-ordered pool; large buffers straight from the driver, as transports need them. 256-byte
  // aligned.
  Result<Buffer> allocate(i64 bytes) override;
  Result<Buffer> allocate_host(i64 bytes) override;
  Status copy_in(void* device, const void* host, i64 bytes, Stream& stream) override;
  Status copy_out(void* host, const void* device, i64 bytes, Stream& stream) override;
  Status copy_in_rows(void* device, const void* host, i64 stride, i64 row_bytes, i64 rows,
                      Stream& stream) override;
  bool host_readable() const override { return false; }
  i64 free_bytes() const override;
  i64 used_at_start() const override { return used_at_start_; }
  Result<std::unique_ptr<Graph>> capture(Stream& stream, const std::function<Status()>& work) override;
  bool can_capture() const override { return true; }
  std::unique_ptr<Timeline> make_timeline() override;
  void range_push(const char* name) override;
  void range_pop() override;

  int sms() const { return chip_.units; }
  // How the backend over this device multiplies, and whether its results may depend on the batch.
  void serve(std::unique_ptr<LinearOps> products, bool deterministic);
  LinearOps& products() const { return *products_; }
  bool deterministic() const { return deterministic_; }
  Uploader& uploader() { return *uploader_; }

 private:
  CudaDevice();

  Chip chip_;
  i64 used_at_start_ = 0;
  cudaMemPool_t pool_ = nullptr;
  cudaStream_t pool_stream_ = nullptr;
  std::unique_ptr<Uploader> uploader_;
  std::unique_ptr<LinearOps> products_;
  bool deterministic_ = false;
};

}  // namespace trireme::cuda
