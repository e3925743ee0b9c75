// What the bindings of attention refuse before they launch, and how kernels take sequences.
#pragma once
#include "backends/cuda/smxx/attention_generic.h"
#include "backends/cuda/views_check.h"

namespace trireme::cuda {

inline Status check_dims(std::initializer_list<i64> dims, const char* what) {
  i64 keys = 0;
  for (const i64 d : dims) {
    if (d < 0 || d % 2 != 0)
      return fail(ErrorCode::kUnsupported, "{}: {} columns; only even numbers", what, d);
    keys += d;
  }
  if (keys > kGenericMaxDim)
    return fail(ErrorCode::kUnsupported, "{}: rows of {}; at most {}", what, keys, kGenericMaxDim);
  return {};
}

inline Status check_sequences(const SeqBatch& s, bool paged, const char* what) {
  TRY(check_count(s.q_start, s.seqs() + 1, what));
  if (paged) TRY(check_count(s.block_table, s.seqs() * s.max_blocks, what));
  return {};
}

inline PagedBatch paged(const SeqBatch& s) {
  return {s.q_start.data(), s.context_len.data(), s.block_table.data(), s.max_blocks, s.seqs()};
}

// Whether every row begins on 16 bytes, as the copy engine and wide loads need.
inline bool aligned(const ConstView& v) {
  return reinterpret_cast<std::uintptr_t>(v.data) % 16 == 0 && v.row_stride % 8 == 0;
}

}  // namespace trireme::cuda
