// The road of the weights: from mapped files through pinned memory to the GPU, on several threads, since one
// thread's memcpy is slower than the bus.
//
// copy() and wait() from any thread, finish() when no other thread copies. Jobs are taken in order; what a
// job reads stays alive through its owner.
#pragma once
#include <cuda_runtime_api.h>

#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "base/result.h"
#include "base/types.h"

namespace trireme::cuda {

class Uploader {
 public:
  Uploader(int device, int threads) : device_(device), thread_count_(threads) {}
  ~Uploader() { stop(); }
  Uploader(const Uploader&) = delete;
  Uploader& operator=(const Uploader&) = delete;

  // Host bytes to device bytes, some time before wait() returns.
  void copy(void* device, const void* host, i64 bytes, std::shared_ptr<const void> owner);
  // Waits for all copies so far; the first error of any of them.
  Status wait();
  // Waits, ends the threads and gives their pinned memory back; the next copy() starts them again.
  Status finish();

 private:
  struct Job {
    char* to;
    const char* from;
    i64 bytes;
    std::shared_ptr<const void> owner;
  };
  void work();
  cudaError_t run(cudaStream_t stream, char* pinned, cudaEvent_t* free, int& slot, const Job& job);
  void stop();

  const int device_, thread_count_;
  mutable std::mutex mutex_;
  std::condition_variable more_, done_;
  std::deque<Job> jobs_;
  int pending_ = 0;  // queued, or copied by the host and not yet known to have arrived
  bool stopping_ = false;
  cudaError_t error_ = cudaSuccess;
  std::vector<std::thread> threads_;
};

}  // namespace trireme::cuda
