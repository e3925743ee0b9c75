#include "backends/cuda/elementwise.h"

#include <algorithm>

#include "backends/cuda/cuda_device.h"
#include "backends/cuda/smxx/norm.h"
#include "backends/cuda/smxx/rows.h"
#include "backends/cuda/smxx/swiglu.h"
#include "backends/cuda/views_check.h"

namespace trireme::cuda {
namespace {

const u16* bits(const ConstView& v) { return static_cast<const u16*>(v.data); }
u16* bits(const View& v) { return static_cast<u16*>(v.mutable_data()); }

smxx::QuantOut target(const Quantised& q) {
  if (!q) return {};
  return {.codes = static_cast<u8*>(q.codes.mutable_data()),
          .scale = static_cast<float*>(q.scale.mutable_data()),
          .scale_stride = q.scale.row_stride};
}

Status check_norm(const ConstView& weight, i64 n) {
  TRY(check_weight(weight, n, "the norm's weight"));
  if (n > smxx::kMaxNormColumns)
    return fail(ErrorCode::kUnsupported, "a norm of {} columns; at most {}", n, smxx::kMaxNormColumns);
  return {};
}

}  // namespace

Status embedding(const EmbeddingArgs& a, Stream& stream) {
  const i64 n = a.out.shape.cols(), tokens = static_cast<i64>(a.ids.size());
  TRY(check_weight(a.table, n, "the embedding table"));
  TRY(check_matrix(a.out, tokens, n, "embedding out"));
  return status_of(smxx::gather({.x = a.table.data,
                                 .x_f32 = a.table.dtype == DType::kF32,
                                 .x_stride = a.table.row_stride,
                                 .x_rows = a.table.shape.rows(),
                                 .rows = a.ids.data(),
                                 .out = bits(a.out),
                                 .out_stride = a.out.row_stride,
                                 .picked = tokens,
                                 .n = n},
                                handle_of(stream)),
                   "embedding");
}

Status gather_rows(const GatherRowsArgs& a, Stream& stream) {
  const i64 n = a.x.shape.cols(), picked = static_cast<i64>(a.rows.size());
  TRY(check_act(a.x, "gather_rows x"));
  TRY(check_matrix(a.out, picked, n, "gather_rows out"));
  return status_of(smxx::gather({.x = a.x.data,
                                 .x_stride = a.x.row_stride,
                                 .x_rows = a.x.shape.rows(),
                                 .rows = a.rows.data(),
                                 .out = bits(a.out),
                                 .out_stride = a.out.row_stride,
                                 .picked = picked,
                                 .n = n},
                                handle_of(stream)),
                   "gather_rows");
}

Status rms_norm(const RmsNormArgs& a, Stream& stream) {
  const i64 rows = a.x.shape.rows(), n = a.x.shape.cols();
  TRY(check_act(a.x, "rms_norm x"));
  TRY(check_norm(a.weight, n));
  TRY(check_matrix(a.out, rows, n, "rms_norm out"));
  return status_of(smxx::norm({.x = const_cast<u16*>(bits(a.x)),  // written only where there is a y
                               .x_stride = a.x.row_stride,
                               .weight = a.weight.data,
                               .weight_bf16 = a.weight.dtype == DType::kBF16,
                               .out = bits(a.out),
                               .out_stride = a.out.row_stride,
                               .rows = rows,
                               .n = n,
                               .eps = a.eps},
                              handle_of(stream)),
                   "rms_norm");
}

Status add_rms_norm(const AddRmsNormArgs& a, Stream& stream) {
  const i64 rows = a.x.shape.rows(), n = a.x.shape.cols();
  TRY(check_act(a.x, "add_rms_norm x"));
  if (a.y) TRY(check_matrix(a.y, rows, n, "add_rms_norm y"));
  TRY(check_norm(a.weight, n));
  if (a.out) TRY(check_matrix(a.out, rows, n, "add_rms_norm out"));
  if (a.q) TRY(check_quantised(a.q, rows, n, "add_rms_norm q"));
  return status_of(smxx::norm({.x = bits(a.x),
                               .x_stride = a.x.row_stride,
                               .y = bits(a.y),
                               .y_stride = a.y.row_stride,
                               .weight = a.weight.data,
                               .weight_bf16 = a.weight.dtype == DType::kBF16,
                               .out = bits(a.out),
                               .out_stride = a.out.row_stride,
                               .q = target(a.q),
                               .rows = rows,
                               .n = n,
                               .eps = a.eps},
                              handle_of(stream)),
                   "add_rms_norm");
}

Status add(const AddArgs& a, Stream& stream) {
  const i64 rows = a.x.shape.rows(), n = a.x.shape.cols();
  TRY(check_act(a.x, "add x"));
  TRY(check_matrix(a.y, rows, n, "add y"));
  return status_of(smxx::add({.x = bits(a.x),
                              .x_stride = a.x.row_stride,
                              .y = bits(a.y),
                              .y_stride = a.y.row_stride,
                              .rows = rows,
                              .n = n},
                             handle_of(stream)),
                   "add");
}

Status quantise(const QuantiseArgs& a, Stream& stream) {
  const i64 rows = a.x.shape.rows(), k = a.x.shape.cols();
  TRY(check_act(a.x, "quantise x"));
  TRY(check_quantised(a.q, rows, k, "quantise q"));
  return status_of(
      smxx::quantise({.x = bits(a.x), .x_stride = a.x.row_stride, .rows = rows, .k = k, .q = target(a.q)},
                     handle_of(stream)),
      "quantise");
}

Status swiglu(const SwigluArgs& a, Stream& stream) {
  const i64 rows = a.gate_up.shape.rows(), n = a.gate_up.shape.cols() / 2;
  TRY(check_act(a.gate_up, "swiglu gate_up"));
  if (a.gate_up.shape.cols() % 2 != 0)
    return invalid("swiglu gate_up has an odd number of columns, {}", a.gate_up.shape.cols());
  if (!a.out && !a.q && rows > 0) return invalid("swiglu: neither out nor q is given");
  if (a.out) TRY(check_matrix(a.out, rows, n, "swiglu out"));
  if (a.q) TRY(check_quantised(a.q, rows, n, "swiglu q"));
  return status_of(smxx::swiglu({.gate_up = bits(a.gate_up),
                                 .gate_up_stride = a.gate_up.row_stride,
                                 .out = bits(a.out),
                                 .out_stride = a.out.row_stride,
                                 .q = target(a.q),
                                 .rows = rows,
                                 .n = n,
                                 .rows_used = a.rows_used.empty() ? nullptr : &a.rows_used.back()},
                                handle_of(stream)),
                   "swiglu");
}

Status kv_copy(const KvCopyArgs& a, Stream& stream) {
  for (const auto& l : a.layers) {
    if (l.data == nullptr) return invalid("kv_copy: a layer without memory");
    if (l.layout.token_bytes() % 2 != 0)
      return fail(ErrorCode::kUnsupported, "kv_copy: tokens of {} bytes", l.layout.token_bytes());
    for (const auto& c : a.copies) {
      if (std::min(c.from, c.to) < 0 || std::max(c.from, c.to) >= l.blocks)
        return invalid("kv_copy: block {} to {} of {}", c.from, c.to, l.blocks);
      if (c.tokens < 0 || c.tokens > kKvBlockTokens)
        return invalid("kv_copy: {} tokens of a block", c.tokens);
    }
  }
  smxx::BlockCopyArgs launch;
  launch.block_tokens = kKvBlockTokens;
  const auto flush = [&]() -> Status {
    for (std::size_t first = 0; first < a.layers.size() && launch.copies > 0; first += launch.kMost) {
      launch.layers = static_cast<int>(std::min<std::size_t>(a.layers.size() - first, launch.kMost));
      for (std::size_t l = 0; l < static_cast<std::size_t>(launch.layers); ++l) {
        const KvCacheLayer& layer = a.layers[first + l];
        launch.layer[l] = {static_cast<char*>(layer.data), layer.layout.token_bytes()};
      }
      CUDA_TRY(smxx::copy_blocks(launch, handle_of(stream)));
    }
    launch.copies = 0;
    return {};
  };
  for (const auto& c : a.copies) {
    if (c.from == c.to || c.tokens == 0) continue;
    // Copies are in order: one that touches what an earlier one touched waits for another launch.
    const bool apart = std::none_of(launch.copy, launch.copy + launch.copies, [&](const auto& earlier) {
      return earlier.to == c.from || earlier.to == c.to || earlier.from == c.to;
    });
    if (!apart || launch.copies == launch.kMost) TRY(flush());
    launch.copy[launch.copies++] = {c.from, c.to, c.tokens};
  }
  return flush();
}

}  // namespace trireme::cuda
