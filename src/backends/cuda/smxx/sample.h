// Choosing tokens on the GPU: the launchers. No allocation, no synchronisation: they may be recorded.
//
// A row's draw reads its logits from memory once: a cluster of blocks holds the row in its shared memory.
// Weights exp((x - best) / temperature) are whole numbers of 2^-44, so that every sum is exact and the
// result does not depend on the order of the additions, on the launch or on other rows.
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>

namespace trireme::cuda {

enum SampleStatus : int32_t {
  kSampled = 0,
  kLogitsNaN = 1,
  kLogitsInfinite = 2,
  kLogitsAllMinusInfinity = 3,
  kAllBanned = 4,  // nothing finite is left after bias and bans
};

// How one row is drawn. Edits are its entries of DrawArgs::edits.
struct SampleRowParams {
  double uniform;                         // of [0, 1)
  float inverse_temperature;              // 0: the best token, ties to the lower id
  float top_p, min_p;                     // 1 and 0: off
  int32_t top_k;                          // 0: off
  float repetition, presence, frequency;  // penalties
  int32_t edit_begin, edit_end;
  int32_t unused;
};
static_assert(sizeof(SampleRowParams) == 48);

// What happens to one token's logit. At most one a token and row.
struct SampleEdit {
  int32_t id;
  float bias;    // -infinity: banned
  int32_t made;  // how often it is in the output so far; negative: the penalties do not apply to it
};

struct DrawArgs {
  const float* logits = nullptr;            // [rows, vocab], rows row_stride apart
  int64_t row_stride = 0;                   // in elements
  int32_t rows = 0, vocab = 0;              // vocab <= kMaxSampleVocab
  const SampleRowParams* params = nullptr;  // [rows]
  const SampleEdit* edits = nullptr;        // of all rows
  int32_t* ids = nullptr;                   // [rows] out
  int32_t* status = nullptr;                // [rows] out: SampleStatus; other than kSampled: the id is 0
};
inline constexpr int32_t kMaxSampleVocab = 8 * 43 * 1024;
cudaError_t sample_draw(const DrawArgs&, cudaStream_t);

// The best token of every row; params and edits are not read.
cudaError_t sample_argmax(const DrawArgs&, cudaStream_t);

// Log-probabilities of the raw distribution, for some of the rows.
struct LogprobArgs {
  const float* logits = nullptr;  // as DrawArgs
  int64_t row_stride = 0;
  int32_t vocab = 0;
  int32_t wanted = 0;            // how many rows
  const int32_t* row = nullptr;  // [wanted]
  const int32_t* top = nullptr;  // [wanted]: how many of the best to list, <= kMaxTopLogprobs and <= vocab
  const int32_t* ids = nullptr;  // by row: the token that was chosen
  float* logprob = nullptr;      // [wanted] out: of the chosen token
  int64_t top_stride = 0;        // at least the largest of `top`
  int32_t* top_id = nullptr;     // [wanted, top_stride] out, best first
  float* top_logprob = nullptr;  // [wanted, top_stride] out
};
inline constexpr int32_t kMaxTopLogprobs = 1024;
cudaError_t sample_logprobs(const LogprobArgs&, cudaStream_t);

}  // namespace trireme::cuda
