// Matrix products through cuBLASLt: BF16, and FP8 with 1x128 and 128x128 block scales
// (docs.nvidia.com/cuda/cublas, "FP8 block scaling on Hopper").
//
// Which algorithm a shape runs with is asked once and kept. Row counts share an entry by size class, so that
// a new number of rows asks nothing once its class is known. One thread at a time for each stream.
#pragma once
#include <map>
#include <memory>
#include <mutex>

#include "backends/cuda/cuda_device.h"

namespace trireme::cuda {

// out[r, :] = x[r, :] W^T (+ out), for each member of a batch.
struct LtProduct {
  i64 rows = 0, n = 0, k = 0, batch = 1;
  bool fp8 = false;           // x and w e4m3, else BF16
  bool out_f32 = false;       // else BF16
  bool accumulate = false;    // out +=
  bool w_transposed = false;  // w is stored [k, n] (BF16)
  const void *x = nullptr, *w = nullptr;
  void* out = nullptr;
  i64 x_stride = 0, w_stride = 0, out_stride = 0;  // elements from row to row
  i64 x_next = 0, w_next = 0, out_next = 0;        // elements from one member of a batch to the next
  const float* x_scale = nullptr;                  // FP8: [ceil(k/128), rows], rows % 8 == 0
  const float* w_scale = nullptr;                  // FP8: [ceil(n/128), round_up(ceil(k/128), 4)]
};

class CublasLt {
 public:
  // kNotFound without the library.
  static Result<std::unique_ptr<CublasLt>> open();
  ~CublasLt();
  CublasLt(const CublasLt&) = delete;
  CublasLt& operator=(const CublasLt&) = delete;

  // kUnsupported when no algorithm takes the shape.
  Status run(const LtProduct& p, CudaStream& stream);
  // Asks for the algorithm of every size class up to p.rows.
  Status warm(LtProduct p, CudaStream& stream);
  // FP8 as the library takes it.
  static bool takes_fp8(i64 rows, i64 n, i64 k) { return rows % 8 == 0 && n % 8 == 0 && k % 16 == 0; }

 private:
  struct Api;
  struct Plan;
  CublasLt();
  Result<Plan*> plan_for(const LtProduct& p);

  std::unique_ptr<Api> api_;
  std::mutex mutex_;
  std::map<std::string, std::unique_ptr<Plan>> plans_;
};

}  // namespace trireme::cuda
