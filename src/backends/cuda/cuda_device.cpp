#include "backends/cuda/cuda_device.h"

#include <nvtx3/nvToolsExt.h>

#include <algorithm>
#include <thread>

#include "backends/cuda/linear.h"

namespace trireme::cuda {
namespace {

// Buffers from here on come from cudaMalloc: what other processes and network cards may be given.
constexpr i64 kFromDriver = i64{256} << 20;
// Copies from here on go through the uploader's pinned memory.
constexpr i64 kUpload = 64 << 20;

class CudaGraph final : public Graph {
 public:
  explicit CudaGraph(cudaGraphExec_t exec) : exec_(exec) {}
  ~CudaGraph() override { cudaGraphExecDestroy(exec_); }
  CudaGraph(const CudaGraph&) = delete;
  CudaGraph& operator=(const CudaGraph&) = delete;
  Status launch(Stream& stream) override {
    CUDA_TRY(cudaGraphLaunch(exec_, handle_of(stream)));
    return {};
  }

 private:
  cudaGraphExec_t exec_;
};

class CudaTimeline final : public Timeline {
 public:
  ~CudaTimeline() override {
    for (const auto e : events_) cudaEventDestroy(e);
  }
  void clear() override { names_.clear(); }
  Status mark(Stream& stream, const char* name) override {
    if (names_.size() == events_.size()) {
      cudaEvent_t e = nullptr;
      CUDA_TRY(cudaEventCreate(&e));
      events_.push_back(e);
    }
    const bool recorded = cuda_stream(stream).capturing();
    const auto flags = recorded ? cudaEventRecordExternal : cudaEventRecordDefault;
    CUDA_TRY(cudaEventRecordWithFlags(events_[names_.size()], handle_of(stream), flags));
    names_.push_back(name);
    return {};
  }
  Result<std::vector<Span>> read() override {
    std::vector<Span> spans;
    if (names_.empty()) return spans;
    CUDA_TRY(cudaEventSynchronize(events_[names_.size() - 1]));
    for (std::size_t i = 0; i + 1 < names_.size(); ++i) {
      float begin = 0, ms = 0;
      CUDA_TRY(cudaEventElapsedTime(&begin, events_[0], events_[i]));
      CUDA_TRY(cudaEventElapsedTime(&ms, events_[i], events_[i + 1]));
      spans.push_back({names_[i], static_cast<double>(begin) * 1e-3, static_cast<double>(ms) * 1e-3});
    }
    return spans;
  }

 private:
  std::vector<cudaEvent_t> events_;
  std::vector<const char*> names_;
};

}  // namespace

Result<std::unique_ptr<CudaStream>> CudaStream::create(CudaDevice& device) {
  std::unique_ptr<CudaStream> s(new CudaStream(device));
  CUDA_TRY(cudaStreamCreateWithFlags(&s->stream_, cudaStreamNonBlocking));
  return s;
}

CudaStream::~CudaStream() {
  if (stream_ != nullptr) {
    cudaStreamSynchronize(stream_);
    cudaStreamDestroy(stream_);
  }
}

Status CudaStream::synchronize() {
  CUDA_TRY(cudaStreamSynchronize(stream_));
  return {};
}

bool CudaStream::capturing() const {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  return cudaStreamIsCapturing(stream_, &status) == cudaSuccess && status != cudaStreamCaptureStatusNone;
}

Result<void*> CudaStream::grown(Buffer& buffer, i64 bytes, bool host) {
  if (buffer.bytes() >= bytes) return buffer.data();
  if (capturing())
    return fail(ErrorCode::kInternal,
                "scratch memory of {} bytes is needed while a graph is recorded, {} are there", bytes,
                buffer.bytes());
  TRY(synchronize());
  if (recorded_ && buffer.bytes() > 0) kept_.push_back(std::move(buffer));
  buffer = {};
  const i64 size = round_up(bytes + bytes / 4, i64{1} << 16);  // some room: sizes grow step by step
  ASSIGN(buffer, host ? device_.allocate_host(size) : device_.allocate(size));
  return buffer.data();
}

Result<void*> CudaStream::scratch(Scratch slot, i64 bytes) {
  return grown(scratch_[static_cast<std::size_t>(slot)], bytes, false);
}

Result<void*> CudaStream::pinned(Scratch slot, i64 bytes) {
  return grown(pinned_[static_cast<std::size_t>(slot)], bytes, true);
}

Result<std::unique_ptr<CudaDevice>> CudaDevice::open() {
  int count = 0;
  const cudaError_t e = cudaGetDeviceCount(&count);
  if (e == cudaErrorInsufficientDriver) {
    return fail(ErrorCode::kUnsupported,
                "--device cuda: no NVIDIA driver for CUDA 13 (580 or newer) is loaded; install it, or use "
                "--device cpu");
  }
  if (e != cudaSuccess || count == 0)
    return fail(ErrorCode::kUnsupported, "--device cuda: no GPU is visible ({}); use --device cpu",
                e == cudaSuccess ? "CUDA_VISIBLE_DEVICES hides them all" : cudaGetErrorString(e));
  cudaDeviceProp p{};
  CUDA_TRY(cudaGetDeviceProperties(&p, 0));
  if (p.major != 9 || p.minor != 0) {
    return fail(
        ErrorCode::kUnsupported,
        "--device cuda: {} has compute capability {}.{}; the kernels are for 9.0 (H100, H200, H20, GH200)",
        p.name, p.major, p.minor);
  }
  CUDA_TRY(cudaSetDevice(0));
  std::unique_ptr<CudaDevice> d(new CudaDevice);
  d->chip_ = {.name = p.name,
              .units = p.multiProcessorCount,
              .memory_bytes = static_cast<i64>(p.totalGlobalMem),
              .bf16_dot = true,
              .amx = false,
              .instruction_set = "sm_90a"};
  CUDA_TRY(cudaStreamCreateWithFlags(&d->pool_stream_, cudaStreamNonBlocking));
  cudaMemPoolProps props{};
  props.allocType = cudaMemAllocationTypePinned;
  props.location = {cudaMemLocationTypeDevice, {0}};
  CUDA_TRY(cudaMemPoolCreate(&d->pool_, &props));
  d->used_at_start_ = d->chip_.memory_bytes - d->free_bytes();
  const int threads = std::clamp(static_cast<int>(std::thread::hardware_concurrency()) * 3 / 4, 1, 12);
  d->uploader_ = std::make_unique<Uploader>(0, threads);
  return d;
}

CudaDevice::CudaDevice() = default;

void CudaDevice::serve(std::unique_ptr<LinearOps> products, bool deterministic) {
  products_ = std::move(products);
  deterministic_ = deterministic;
}

CudaDevice::~CudaDevice() {
  uploader_.reset();
  products_.reset();  // may hold memory of the pool
  if (pool_ != nullptr) cudaMemPoolDestroy(pool_);
  if (pool_stream_ != nullptr) cudaStreamDestroy(pool_stream_);
}

std::unique_ptr<Stream> CudaDevice::make_stream() {
  cudaSetDevice(0);  // the calling thread may be new to CUDA
  auto s = CudaStream::create(*this);
  CHECK(s.has_value(), "{}", s ? "" : s.error().message);
  return std::move(*s);
}

Result<Buffer> CudaDevice::allocate(i64 bytes) {
  const i64 size = std::max<i64>(bytes, 1);
  void* data = nullptr;
  cudaError_t e = cudaSuccess;
  const bool pooled = size < kFromDriver;
  if (pooled) {
    e = cudaMallocFromPoolAsync(&data, static_cast<std::size_t>(size), pool_, pool_stream_);
    if (e == cudaSuccess) e = cudaStreamSynchronize(pool_stream_);  // other streams may use it at once
  } else {
    e = cudaMalloc(&data, static_cast<std::size_t>(size));
  }
  if (e == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    return fail(ErrorCode::kResourceExhausted,
                "the GPU is out of memory: {} MiB asked for, {} MiB free of {}; use a smaller "
                "--max-num-batched-tokens, "
                "--max-num-seqs or --gpu-memory-utilization, or a smaller model",
                size >> 20, free_bytes() >> 20, chip_.memory_bytes >> 20);
  }
  CUDA_TRY(e);
  std::shared_ptr<void> owner(data, [pooled, stream = pool_stream_](void* p) {
    cudaDeviceSynchronize();  // whatever stream still reads it
    if (pooled)
      cudaFreeAsync(p, stream);
    else
      cudaFree(p);
  });
  return Buffer(std::move(owner), data, size);
}

Result<Buffer> CudaDevice::allocate_host(i64 bytes) {
  void* data = nullptr;
  const cudaError_t e =
      cudaHostAlloc(&data, static_cast<std::size_t>(std::max<i64>(bytes, 1)), cudaHostAllocDefault);
  if (e == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    return fail(ErrorCode::kResourceExhausted, "the host has no {} MiB of memory to pin for the GPU",
                bytes >> 20);
  }
  CUDA_TRY(e);
  return Buffer(std::shared_ptr<void>(data, [](void* p) { cudaFreeHost(p); }), data, bytes);
}

Status CudaDevice::copy_in(void* device, const void* host, i64 bytes, Stream& stream) {
  if (bytes >= kUpload && !cuda_stream(stream).capturing()) {
    TRY(stream.synchronize());  // ordered on the stream
    uploader_->copy(device, host, bytes, nullptr);
    return uploader_->wait();
  }
  CUDA_TRY(cudaMemcpyAsync(device, host, static_cast<std::size_t>(bytes), cudaMemcpyHostToDevice,
                           handle_of(stream)));
  return {};
}

Status CudaDevice::copy_out(void* host, const void* device, i64 bytes, Stream& stream) {
  CUDA_TRY(cudaMemcpyAsync(host, device, static_cast<std::size_t>(bytes), cudaMemcpyDeviceToHost,
                           handle_of(stream)));
  return {};
}

Status CudaDevice::copy_in_rows(void* device, const void* host, i64 stride, i64 row_bytes, i64 rows,
                                Stream& stream) {
  const auto pitch = static_cast<std::size_t>(stride);
  CUDA_TRY(cudaMemcpy2DAsync(device, pitch, host, pitch, static_cast<std::size_t>(row_bytes),
                             static_cast<std::size_t>(rows), cudaMemcpyHostToDevice, handle_of(stream)));
  return {};
}

i64 CudaDevice::free_bytes() const {
  std::size_t free = 0, total = 0;
  if (cudaMemGetInfo(&free, &total) != cudaSuccess) return 0;
  return static_cast<i64>(free);
}

Result<std::unique_ptr<Graph>> CudaDevice::capture(Stream& stream, const std::function<Status()>& work) {
  const cudaStream_t s = handle_of(stream);
  cuda_stream(stream).note_recording();
  CUDA_TRY(cudaStreamBeginCapture(s, cudaStreamCaptureModeThreadLocal));
  const Status done = work();
  cudaGraph_t graph = nullptr;
  const cudaError_t ended = cudaStreamEndCapture(s, &graph);
  if (!done || ended != cudaSuccess) {
    if (graph != nullptr) cudaGraphDestroy(graph);
    cudaGetLastError();
    TRY(done);
    CUDA_TRY(ended);
  }
  cudaGraphExec_t exec = nullptr;
  const cudaError_t made = cudaGraphInstantiate(&exec, graph, 0);
  cudaGraphDestroy(graph);
  CUDA_TRY(made);
  auto out = std::make_unique<CudaGraph>(exec);
  CUDA_TRY(cudaGraphUpload(exec, s));
  return std::unique_ptr<Graph>(std::move(out));
}

std::unique_ptr<Timeline> CudaDevice::make_timeline() { return std::make_unique<CudaTimeline>(); }
void CudaDevice::range_push(const char* name) { nvtxRangePushA(name); }
void CudaDevice::range_pop() { nvtxRangePop(); }

}  // namespace trireme::cuda
