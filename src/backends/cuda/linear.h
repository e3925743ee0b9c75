// Matrix products of the Ops table: weights as they lie on the GPU, and which kernel multiplies with them.
#pragma once
#include <map>
#include <set>

#include "backends/cuda/cublaslt/cublaslt.h"
#include "backends/cuda/cuda_device.h"
#include "ops/ops.h"

namespace trireme::cuda {

// A matrix, or several of one shape one after the other, on the GPU.
struct PackedWeight {
  i64 n = 0, k = 0, count = 1;
  bool fp8 = false;         // e4m3 codes with block scales, else BF16
  bool transposed = false;  // each is stored [k, n] (BF16)
  // float32 weights are kept as up to three BF16 terms, largest first, whose sum they are (24 bits): term i
  // at i * n * k.
  int terms = 1;
  Buffer data;
  Buffer scale;  // FP8: [count][ceil(n/128)][round_up(ceil(k/128), 4)] float32
  Buffer bound;  // [count] float32 (head_bounds), of matrices into the latent
  i64 scale_stride() const { return round_up(ceil_div(k, 128), i64{4}); }
  const char* member(i64 i) const {
    return static_cast<const char*>(data.data()) + i * n * k * (fp8 ? 1 : 2);
  }
};

struct GemmFinish;
struct GemmWorkspace;

// What the products of one backend share.
class LinearOps {
 public:
  LinearOps(std::unique_ptr<CublasLt> lt, bool fp8_activations, bool deterministic)
      : lt_(std::move(lt)), fp8_(fp8_activations), deterministic_(deterministic) {}

  Status prepare(CudaDevice& device, LinearWeight& w);
  Status prepare_group(CudaDevice& device, GroupWeight& g);
  Status linear(const LinearArgs& a, CudaStream& stream);
  // Has cuBLASLt choose its algorithms for the shapes prepared so far, for every size class of rows of a
  // step.
  Status warm(CudaStream& stream);
  Status head_linear(const HeadLinearArgs& a, CudaStream& stream);
  Status mla_query(const MlaQueryArgs& a, CudaStream& stream);
  Status grouped_linear(const GroupedLinearArgs& a, CudaStream& stream);
  Status linear_swiglu(const LinearSwigluArgs& a, CudaStream& stream);
  Status grouped_linear_swiglu(const GroupedLinearSwigluArgs& a, CudaStream& stream);

 private:
  // Where CTAs that share a tile meet, of this stream.
  Result<GemmWorkspace> meeting_place(CudaStream& stream);
  bool by_cublaslt(const PackedWeight& w, i64 rows) const;
  Status fp8_linear(const LinearArgs& a, const PackedWeight& w, const GemmFinish& finish, CudaStream& stream);
  Status bf16_linear(const LinearArgs& a, const PackedWeight& w, CudaStream& stream);

  std::unique_ptr<CublasLt> lt_;  // null where the library is missing: our own kernels do it all
  bool fp8_, deterministic_;
  struct Shape {
    i64 n, k;
    bool fp8;
    auto operator<=>(const Shape&) const = default;
  };
  std::set<Shape> shapes_;                       // of matrices, each multiplied alone
  std::map<const CudaStream*, Buffer> meeting_;  // meeting_place of each stream
};

// Whether an [n, k] matrix stored as `stored` is kept as FP8 codes.
bool keeps_fp8(i64 n, i64 k, DType stored, bool fp8_activations);

}  // namespace trireme::cuda
