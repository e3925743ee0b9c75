#include "backends/cuda/uploader.h"

#include <algorithm>
#include <cstring>

#include "backends/cuda/cuda_check.h"

namespace trireme::cuda {
namespace {

constexpr i64 kPiece = 8 << 20;  // of a copy: large enough for the bus, small enough to spread over threads
constexpr int kSlots = 2;        // pieces of a thread in flight: one is filled while the other travels

}  // namespace

void Uploader::copy(void* device, const void* host, i64 bytes, std::shared_ptr<const void> owner) {
  const std::lock_guard lock(mutex_);
  if (threads_.empty()) {
    stopping_ = false;
    for (int i = 0; i < thread_count_; ++i) threads_.emplace_back([this] { work(); });
  }
  for (i64 at = 0; at < bytes; at += kPiece) {
    jobs_.push_back({static_cast<char*>(device) + at, static_cast<const char*>(host) + at,
                     std::min(kPiece, bytes - at), owner});
    ++pending_;
  }
  more_.notify_all();
}

cudaError_t Uploader::run(cudaStream_t stream, char* pinned, cudaEvent_t* free, int& slot, const Job& job) {
  char* const stage = pinned + slot * kPiece;
  // Not before the piece that lay here has left.
  if (const auto e = cudaEventSynchronize(free[slot]); e != cudaSuccess) return e;
  std::memcpy(stage, job.from, static_cast<std::size_t>(job.bytes));
  const auto n = static_cast<std::size_t>(job.bytes);
  if (const auto e = cudaMemcpyAsync(job.to, stage, n, cudaMemcpyHostToDevice, stream); e != cudaSuccess)
    return e;
  if (const auto e = cudaEventRecord(free[slot], stream); e != cudaSuccess) return e;
  slot = (slot + 1) % kSlots;
  return cudaSuccess;
}

void Uploader::work() {
  cudaStream_t stream = nullptr;
  cudaEvent_t free[kSlots] = {};
  void* pinned = nullptr;
  cudaError_t e = cudaSetDevice(device_);
  if (e == cudaSuccess) e = cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
  for (auto& event : free)
    if (e == cudaSuccess) e = cudaEventCreateWithFlags(&event, cudaEventDisableTiming);
  if (e == cudaSuccess) e = cudaHostAlloc(&pinned, kSlots * kPiece, cudaHostAllocDefault);
  int slot = 0, carried = 0;  // carried: pieces handed to the bus since the last wait
  std::unique_lock lock(mutex_);
  while (true) {
    if (jobs_.empty() && carried > 0) {
      // Nothing left to fill: see that what was handed over arrives before it is counted as done.
      lock.unlock();
      if (e == cudaSuccess) e = cudaStreamSynchronize(stream);
      lock.lock();
      pending_ -= carried;
      carried = 0;
      if (e != cudaSuccess && error_ == cudaSuccess) error_ = e;
      done_.notify_all();
    }
    more_.wait(lock, [&] { return stopping_ || !jobs_.empty(); });
    if (jobs_.empty()) break;
    const Job job = std::move(jobs_.front());
    jobs_.pop_front();
    lock.unlock();
    if (e == cudaSuccess) e = run(stream, static_cast<char*>(pinned), free, slot, job);
    lock.lock();
    ++carried;
    if (e != cudaSuccess && error_ == cudaSuccess) error_ = e;
  }
  lock.unlock();
  for (auto& event : free)
    if (event != nullptr) cudaEventDestroy(event);
  if (pinned != nullptr) cudaFreeHost(pinned);
  if (stream != nullptr) cudaStreamDestroy(stream);
}

Status Uploader::wait() {
  std::unique_lock lock(mutex_);
  done_.wait(lock, [&] { return pending_ == 0; });
  return status_of(error_, "copying weights to the GPU");
}

Status Uploader::finish() {
  const Status s = wait();
  stop();
  return s;
}

void Uploader::stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    more_.notify_all();
  }
  for (auto& t : threads_) t.join();
  threads_.clear();
}

}  // namespace trireme::cuda
