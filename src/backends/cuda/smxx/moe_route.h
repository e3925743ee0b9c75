// Around the experts: choosing them, ordering rows by expert, summing what comes back.
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>

#include "backends/cuda/smxx/quantise.h"

namespace trireme::cuda::smxx {

inline constexpr int kMaxGateExperts = 512, kMaxGateGroups = 32, kMaxTopK = 32;

// Scores are sigmoid(logit), or a softmax over all experts. The choice is by score + bias, among the
// top_groups groups whose two best add up to most; ties go to the lower index; NaN counts as the lowest.
struct GateArgs {
  const float* logits = nullptr;  // [tokens, experts]
  int64_t logits_stride = 0;      // elements between rows
  const float* bias = nullptr;    // [experts], or null
  bool sigmoid = true, normalise = true;
  float routed_scale = 1;
  int64_t tokens = 0;
  int experts = 0, groups = 1, top_groups = 1, top_k = 1;
  const int32_t* place = nullptr;  // [experts]: written instead of the expert's number; or null
  int32_t* expert = nullptr;       // [tokens, top_k], best first
  float* weight = nullptr;         // [tokens, top_k]
};
cudaError_t gate(const GateArgs&, cudaStream_t);

// Orders pairs by expert, within an expert by token: pair i goes to row row_of[i]. Pairs of no expert
// (outside [0, experts)) go nowhere: row_of is -1.
struct OrderArgs {
  const int32_t* expert = nullptr;  // [pairs]
  int64_t pairs = 0;
  int experts = 0;
  int32_t* row_of = nullptr;      // [pairs]
  int32_t* expert_end = nullptr;  // [experts]: one past the last row of each
};
cudaError_t order(const OrderArgs&, cudaStream_t);

// Copies each token's row to the rows of its pairs: BF16 rows, quantised rows, or both; and each pair's
// weight.
struct ScatterArgs {
  const int32_t* row_of = nullptr;     // [tokens, top_k]; negative: nowhere
  const int32_t* rows_used = nullptr;  // on the device: rows that pairs went to, from 0 on
  int64_t tokens = 0;
  int top_k = 1;
  int64_t n = 0;
  const uint16_t* x = nullptr;  // [tokens, n] BF16, or null
  int64_t x_stride = 0;         // elements between rows
  uint16_t* rows = nullptr;     // [tokens * top_k, n]
  int64_t rows_stride = 0;
  const uint8_t* codes = nullptr;  // [tokens, n] e4m3 dense, or null
  const float* scale = nullptr;    // [ceil(n/128), scale_stride]
  int64_t scale_stride = 0;
  QuantOut rows_q = {};           // [tokens * top_k, n]
  const float* weight = nullptr;  // [tokens, top_k], where row_weight is given
  float* row_weight = nullptr;    // [tokens * top_k]: the weight of each row's pair; or null
};
cudaError_t scatter(const ScatterArgs&, cudaStream_t);

// out (+)= sum over the choices of weight * rows[row_of], in their order, in float32; -1 is left out.
struct CombineArgs {
  const uint16_t* rows = nullptr;   // [.., n] BF16
  int64_t rows_stride = 0;          // elements between rows
  const int32_t* row_of = nullptr;  // [tokens, top_k]
  const float* weight = nullptr;    // [tokens, top_k], or null: all 1
  int top_k = 1;
  bool accumulate = false;
  uint16_t* out = nullptr;  // [tokens, n] BF16
  int64_t out_stride = 0;
  int64_t tokens = 0, n = 0;
};
cudaError_t combine(const CombineArgs&, cudaStream_t);

}  // namespace trireme::cuda::smxx
