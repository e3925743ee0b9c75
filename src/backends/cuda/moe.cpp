#include "backends/cuda/moe.h"

#include "backends/cuda/cuda_device.h"
#include "backends/cuda/smxx/moe_route.h"
#include "backends/cuda/views_check.h"

namespace trireme::cuda {
namespace {

const u16* bits(const ConstView& v) { return static_cast<const u16*>(v.data); }

}  // namespace

Status moe_gate(const MoeGateArgs& a, Stream& stream) {
  const i64 tokens = a.logits.shape.rows(), experts = a.logits.shape.cols();
  if (a.logits.dtype != DType::kF32 || (a.logits.data == nullptr && tokens > 0))
    return invalid("moe_gate: the logits are not float32");
  if (a.bias && (a.bias.dtype != DType::kF32 || a.bias.shape.elements() != experts))
    return invalid("moe_gate: the bias is not {} of float32", experts);
  if (a.groups < 1 || experts % a.groups != 0 || a.top_groups < 1 || a.top_groups > a.groups)
    return invalid("moe_gate: {} of {} groups over {} experts", a.top_groups, a.groups, experts);
  if (a.top_k < 1 || a.top_k > experts / a.groups * a.top_groups)
    return invalid("moe_gate: {} experts to choose from {} groups of {}", a.top_k, a.top_groups,
                   experts / a.groups);
  if (experts > smxx::kMaxGateExperts || a.groups > smxx::kMaxGateGroups || a.top_k > smxx::kMaxTopK)
    return fail(ErrorCode::kUnsupported, "moe_gate: {} of {} experts in {} groups; at most {} of {} in {}",
                a.top_k, experts, a.groups, smxx::kMaxTopK, smxx::kMaxGateExperts, smxx::kMaxGateGroups);
  if (!a.place.empty()) TRY(check_count(a.place, experts, "moe_gate place"));
  TRY(check_count(a.expert, tokens * a.top_k, "moe_gate expert"));
  TRY(check_count(a.weight, tokens * a.top_k, "moe_gate weight"));
  return status_of(smxx::gate({.logits = static_cast<const float*>(a.logits.data),
                               .logits_stride = a.logits.row_stride,
                               .bias = static_cast<const float*>(a.bias.data),
                               .sigmoid = a.scoring == Scoring::kSigmoidBias,
                               .normalise = a.normalise,
                               .routed_scale = a.routed_scale,
                               .tokens = tokens,
                               .experts = static_cast<int>(experts),
                               .groups = a.groups,
                               .top_groups = a.top_groups,
                               .top_k = a.top_k,
                               .place = a.place.empty() ? nullptr : a.place.data(),
                               .expert = a.expert.data(),
                               .weight = a.weight.data()},
                              handle_of(stream)),
                   "moe_gate");
}

Status moe_permute(const MoePermuteArgs& a, Stream& stream) {
  const bool plain = static_cast<bool>(a.rows), quantised = static_cast<bool>(a.rows_q);
  const i64 tokens = a.xq ? a.xq.codes.shape.rows() : a.x.shape.rows();
  const i64 n = a.xq ? a.xq.codes.shape.cols() : a.x.shape.cols(), pairs = tokens * a.top_k;
  if (a.top_k < 1 || a.experts < 1) return invalid("moe_permute: {} of {} experts", a.top_k, a.experts);
  if (a.top_k > smxx::kMaxTopK)
    return fail(ErrorCode::kUnsupported, "moe_permute: {} choices a token; at most {}", a.top_k,
                smxx::kMaxTopK);
  if (!plain && !quantised && pairs > 0) return invalid("moe_permute: neither rows nor rows_q is given");
  TRY(check_count(a.expert, pairs, "moe_permute expert"));
  TRY(check_count(a.row_of, pairs, "moe_permute row_of"));
  TRY(check_count(a.expert_end, a.experts, "moe_permute expert_end"));
  smxx::ScatterArgs move{.row_of = a.row_of.data(),
                         .rows_used = a.expert_end.data() + a.experts - 1,
                         .tokens = tokens,
                         .top_k = a.top_k,
                         .n = n};
  if (!a.row_weight.empty()) {
    TRY(check_count(a.row_weight, pairs, "moe_permute row_weight"));
    TRY(check_count(a.weight, pairs, "moe_permute weight"));
    move.weight = a.weight.data();
    move.row_weight = a.row_weight.data();
  }
  if (plain) {
    TRY(check_matrix(a.x, tokens, n, "moe_permute x"));
    TRY(check_matrix(a.rows, pairs, n, "moe_permute rows"));
    move.x = bits(a.x);
    move.x_stride = a.x.row_stride;
    move.rows = static_cast<u16*>(a.rows.mutable_data());
    move.rows_stride = a.rows.row_stride;
  }
  if (quantised) {
    TRY(check_quantised(a.xq, tokens, n, "moe_permute xq"));
    TRY(check_quantised(a.rows_q, pairs, n, "moe_permute rows_q"));
    move.codes = static_cast<const u8*>(a.xq.codes.data);
    move.scale = static_cast<const float*>(a.xq.scale.data);
    move.scale_stride = a.xq.scale.row_stride;
    move.rows_q = {.codes = static_cast<u8*>(a.rows_q.codes.mutable_data()),
                   .scale = static_cast<float*>(a.rows_q.scale.mutable_data()),
                   .scale_stride = a.rows_q.scale.row_stride};
  }
  CUDA_TRY(smxx::order({.expert = a.expert.data(),
                        .pairs = pairs,
                        .experts = a.experts,
                        .row_of = a.row_of.data(),
                        .expert_end = a.expert_end.data()},
                       handle_of(stream)));
  return status_of(smxx::scatter(move, handle_of(stream)), "moe_permute");
}

Status moe_combine(const MoeCombineArgs& a, Stream& stream) {
  const i64 tokens = a.out.shape.rows(), n = a.out.shape.cols();
  TRY(check_act(a.rows, "moe_combine rows"));
  TRY(check_act(a.out, "moe_combine out"));
  if (a.top_k < 1) return invalid("moe_combine: {} choices a token", a.top_k);
  if (a.top_k > smxx::kMaxTopK)
    return fail(ErrorCode::kUnsupported, "moe_combine: {} choices a token; at most {}", a.top_k,
                smxx::kMaxTopK);
  TRY(check_count(a.row_of, tokens * a.top_k, "moe_combine row_of"));
  if (!a.weight.empty()) TRY(check_count(a.weight, tokens * a.top_k, "moe_combine weight"));
  if (a.rows.shape.cols() != n) return invalid("moe_combine: rows of {} into {}", a.rows.shape.cols(), n);
  return status_of(smxx::combine({.rows = bits(a.rows),
                                  .rows_stride = a.rows.row_stride,
                                  .row_of = a.row_of.data(),
                                  .weight = a.weight.empty() ? nullptr : a.weight.data(),
                                  .top_k = a.top_k,
                                  .accumulate = a.accumulate,
                                  .out = static_cast<u16*>(a.out.mutable_data()),
                                  .out_stride = a.out.row_stride,
                                  .tokens = tokens,
                                  .n = n},
                                 handle_of(stream)),
                   "moe_combine");
}

}  // namespace trireme::cuda
