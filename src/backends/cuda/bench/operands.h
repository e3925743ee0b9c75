// What the benches of matrix products have in common: a product's operands in random memory, and how our
// kernels and cuBLASLt take them.
#pragma once
#include "backends/cuda/bench/session.h"
#include "backends/cuda/linear.h"
#include "backends/cuda/sm90/gemm/gemm.h"

namespace trireme::cuda {

// `count` products of `rows` rows in all: weights, inputs (with scales) and BF16 or float32 outputs once.
KernelTime product_row(std::string kernel, std::string shape, bool fp8, i64 count, i64 rows, i64 n, i64 k,
                       i64 out_size = 2);

// As LinearOps::prepare would leave it.
std::shared_ptr<PackedWeight> random_weight(RowMemory& m, bool fp8, i64 count, i64 n, i64 k,
                                            bool transposed = false);

// Rows of each expert when all have the same number; and where each one's rows end when they lie one behind
// the other.
std::vector<i32> even_sizes(i64 experts, i64 rows);
std::vector<i32> ends_of(const std::vector<i32>& sizes);

// Of one product, or of several with one weight each. BF16 has x, FP8 has xq.
struct Operands {
  ConstView x;
  Quantised xq;
  const PackedWeight& w;
  View out;
};
// For our kernels; which rows belong to whom is left to the caller.
GemmFp8Args fp8_args(BenchSession& s, const Operands& o);
GemmBf16Args bf16_args(BenchSession& s, const Operands& o);
// Each expert has room for twice the rows that it has. counts: [experts], on the GPU
GemmRows masked_rows(i64 experts, i64 rows, In<i32> counts);
// Null where the library is missing or does not take the shape. REQUIRES: one product.
Launch by_cublaslt(BenchSession& s, const Operands& o);

}  // namespace trireme::cuda
