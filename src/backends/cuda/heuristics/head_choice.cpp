#include "backends/cuda/heuristics/head_choice.h"

namespace trireme::cuda {

bool head_gemm_is_faster(const HeadProblem& p) { return head_gemm_takes(p.n, p.k); }

}  // namespace trireme::cuda
