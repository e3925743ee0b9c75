// The gate and up product with SwiGLU behind it: in one kernel where that is faster, else in two.
#include "backends/cuda/elementwise.h"
#include "backends/cuda/linear.h"

namespace trireme::cuda {

Status LinearOps::linear_swiglu(const LinearSwigluArgs& a, CudaStream& stream) {
  if (a.w == nullptr || !a.w->packed) return invalid("linear_swiglu: the weight is not prepared");
  TRY(linear({.x = a.x, .w = a.w, .out = a.gate_up, .xq = a.xq}, stream));
  return swiglu({.gate_up = a.gate_up, .out = a.out, .q = a.q}, stream);
}

Status LinearOps::grouped_linear_swiglu(const GroupedLinearSwigluArgs& a, CudaStream& stream) {
  if (a.w == nullptr || !a.w->packed) return invalid("grouped_linear_swiglu: the weight is not prepared");
  TRY(grouped_linear({.x = a.x, .expert_end = a.expert_end, .w = a.w, .out = a.gate_up, .xq = a.xq}, stream));
  return swiglu({.gate_up = a.gate_up, .out = a.out, .q = a.q, .rows_used = a.expert_end}, stream);
}

}  // namespace trireme::cuda
