#pragma once
// What the benchmarks of small BF16 products share: medians with L2 flushed before each launch, and the same
// product by cuBLASLt.

#include <cublasLt.h>
#include <dlfcn.h>

#include <algorithm>
#include <functional>

#include "backends/cuda/sm90/gemm/gemm_testing.cuh"

namespace trireme::cuda::rival {

using gemm_testing::DeviceBuffer;
using gemm_testing::must;

class Timer {
 public:
  Timer() : flush_(std::size_t{256} << 20) {
    must(cudaEventCreate(&begin_), "event");
    must(cudaEventCreate(&end_), "event");
  }
  // Negative where it failed.
  double median_us(const std::function<bool()>& run) {
    std::vector<float> us;
    for (int i = 0; i < 23; ++i) {
      must(cudaMemsetAsync(flush_.get(), i, flush_.bytes()), "flush");
      must(cudaEventRecord(begin_), "record");
      if (!run()) return -1;
      must(cudaEventRecord(end_), "record");
      must(cudaEventSynchronize(end_), "run");
      float ms = 0;
      must(cudaEventElapsedTime(&ms, begin_, end_), "elapsed");
      if (i >= 3) us.push_back(ms * 1e3f);
    }
    std::sort(us.begin(), us.end());
    return static_cast<double>(us[us.size() / 2]);
  }

  // Of each of many launches one behind the other, as in a step; run(i) is the i-th.
  double in_a_row_us(const std::function<bool(int)>& run) {
    constexpr int kLaunches = 64;
    std::vector<float> us;
    for (int i = 0; i < 7; ++i) {
      must(cudaMemsetAsync(flush_.get(), i, flush_.bytes()), "flush");
      must(cudaEventRecord(begin_), "record");
      for (int j = 0; j < kLaunches; ++j)
        if (!run(j)) return -1;
      must(cudaEventRecord(end_), "record");
      must(cudaEventSynchronize(end_), "run");
      float ms = 0;
      must(cudaEventElapsedTime(&ms, begin_, end_), "elapsed");
      us.push_back(ms * 1e3f / kLaunches);
    }
    std::sort(us.begin(), us.end());
    return static_cast<double>(us[us.size() / 2]);
  }

 private:
  DeviceBuffer<unsigned char> flush_;
  cudaEvent_t begin_ = nullptr, end_ = nullptr;
};

// out[r, :] = x[r, :] W^T, for each member of a batch. Strides and steps from member to member in elements.
struct Product {
  std::int64_t rows;
  int n, k, batch;
  const void *x, *w;
  void* out;
  std::int64_t x_stride, x_next, w_next, out_stride, out_next;
  bool w_transposed;  // stored [k, n]
  bool out_f32;
};

class CublasLt {
 public:
  explicit CublasLt(const char* path) : lib_(dlopen(path, RTLD_NOW | RTLD_GLOBAL)), workspace_(kWorkspace) {
    if (lib_ != nullptr && call<decltype(cublasLtCreate)>("cublasLtCreate")(&handle_) != 0) lib_ = nullptr;
  }
  explicit operator bool() const { return lib_ != nullptr; }

  // Of the fastest of the first `most` algorithms that it proposes; negative where it has none.
  // copies > 1: launches in a row, that take the weights' copies in turn.
  double us(const Product& p, Timer& timer, int most, int copies = 1) {
    cublasLtMatmulDesc_t desc;
    call<decltype(cublasLtMatmulDescCreate)>("cublasLtMatmulDescCreate")(&desc, CUBLAS_COMPUTE_32F,
                                                                         CUDA_R_32F);
    const cublasOperation_t first = p.w_transposed ? CUBLAS_OP_N : CUBLAS_OP_T;
    call<decltype(cublasLtMatmulDescSetAttribute)>("cublasLtMatmulDescSetAttribute")(
        desc, CUBLASLT_MATMUL_DESC_TRANSA, &first, sizeof first);
    const int w_inner = p.w_transposed ? p.n : p.k, w_outer = p.w_transposed ? p.k : p.n;
    const auto w = layout(CUDA_R_16BF, w_inner, w_outer, w_inner, p.batch, p.w_next);
    const auto x = layout(CUDA_R_16BF, p.k, p.rows, p.x_stride, p.batch, p.x_next);
    const auto out =
        layout(p.out_f32 ? CUDA_R_32F : CUDA_R_16BF, p.n, p.rows, p.out_stride, p.batch, p.out_next);
    cublasLtMatmulPreference_t preference;
    call<decltype(cublasLtMatmulPreferenceCreate)>("cublasLtMatmulPreferenceCreate")(&preference);
    call<decltype(cublasLtMatmulPreferenceSetAttribute)>("cublasLtMatmulPreferenceSetAttribute")(
        preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &kWorkspace, sizeof kWorkspace);
    cublasLtMatmulHeuristicResult_t results[8];
    int found = 0;
    call<decltype(cublasLtMatmulAlgoGetHeuristic)>("cublasLtMatmulAlgoGetHeuristic")(
        handle_, desc, w, x, out, out, preference, most, results, &found);
    double best = -1;
    const float one = 1, zero = 0;
    for (int i = 0; i < found; ++i) {
      const auto launch = [&](int at) {
        const auto* weights =
            static_cast<const char*>(p.w) + at % copies * std::int64_t{2} * p.n * p.k * p.batch;
        return call<decltype(cublasLtMatmul)>("cublasLtMatmul")(
                   handle_, desc, &one, weights, w, p.x, x, &zero, p.out, out, p.out, out, &results[i].algo,
                   workspace_.get(), kWorkspace, nullptr) == CUBLAS_STATUS_SUCCESS;
      };
      const double us = copies > 1 ? timer.in_a_row_us(launch) : timer.median_us([&] { return launch(0); });
      if (us > 0 && (best < 0 || us < best)) best = us;
    }
    return best;
  }

 private:
  static constexpr std::uint64_t kWorkspace = 32u << 20;

  template <class F>
  F* call(const char* name) {
    return reinterpret_cast<F*>(dlsym(lib_, name));
  }
  cublasLtMatrixLayout_t layout(cudaDataType type, std::int64_t rows, std::int64_t cols, std::int64_t stride,
                                int batch, std::int64_t next) {
    cublasLtMatrixLayout_t l;
    call<decltype(cublasLtMatrixLayoutCreate)>("cublasLtMatrixLayoutCreate")(
        &l, type, static_cast<std::uint64_t>(rows), static_cast<std::uint64_t>(cols), stride);
    auto* set = call<decltype(cublasLtMatrixLayoutSetAttribute)>("cublasLtMatrixLayoutSetAttribute");
    set(l, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &batch, sizeof batch);
    set(l, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &next, sizeof next);
    return l;
  }
  void* lib_;
  cublasLtHandle_t handle_ = nullptr;
  DeviceBuffer<unsigned char> workspace_;
};

}  // namespace trireme::cuda::rival
