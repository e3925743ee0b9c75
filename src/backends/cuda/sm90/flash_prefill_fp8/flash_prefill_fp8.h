// flash_mla with its products on e4m3: scores of the columns without position, and values. Rope columns stay
// BF16, softmax and sums float32. Two launches: keys and values leave their rows for tiles of codes, values
// turned over as the tensor cores want them; then attention, over tiles that the copy engine brings whole.
#pragma once
#include "backends/cuda/sm90/flash_prefill/flash_prefill.h"

namespace trireme::cuda {

struct FlashMlaFp8Args {
  FlashMlaArgs mla;
  // Keys (without position) and values are codes times these: powers of two; what is beyond 448 times them is
  // cut off there.
  float k_scale = 1, v_scale = 1;
  void* room = nullptr;  // flash_mla_fp8_room_bytes() of device memory, 128-byte aligned
};

std::int64_t flash_mla_fp8_room_bytes(std::int64_t rows, int seqs, int heads);

// As flash_mla, of any min_tokens; queries are codes times a power of two of each row's own.
cudaError_t flash_mla_fp8(const FlashMlaFp8Args& a, cudaStream_t stream);

}  // namespace trireme::cuda
