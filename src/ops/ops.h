// What the mathematics of serving is, and the table that a backend fills. No loops here.
//
// Conventions. Views are on the backend's device. "act" is the backend's activation type (Backend::act):
// float32 for the oracle, BF16 or float32 for fast paths. Outputs never alias inputs unless it is said.
// Index arrays (spans) are on the device as well. A call queues work on the stream and returns; on a CPU it
// has happened on return. An error is a refusal (an unsupported shape or type, by name), never a crash.
//
// Results must not depend on what else is in the batch: each output row is computed in an order that depends
// on its own inputs alone (unless Backend::batch_invariant() says otherwise).
#pragma once
#include <memory>
#include <span>
#include <vector>

#include "formats/kv_layout.h"
#include "tensor/device.h"

namespace trireme {

template <class T>
using In = std::span<const T>;
template <class T>
using Out = std::span<T>;

// A matrix y = x W^T as a checkpoint stores it, and what the backend made of it.
struct LinearWeight {
  i64 n = 0, k = 0;
  ConstView weight;  // [n, k] float32, BF16, F16 or F8E4M3
  ConstView scale;   // F8E4M3: [ceil(n/128), ceil(k/128)] float32, value = code * scale
  ConstView bias;    // [n] or empty
  // A hint for backends that round activations to BF16: keep them (nearly) float32, and FP8 weights exact,
  // where that costs little beside reading the weight.
  bool precise = false;
  std::shared_ptr<const void> packed;  // the backend's own form; only the backend reads it
  i64 stored_bytes = 0;                // what one pass over the prepared weight reads
};

struct EmbeddingArgs {
  In<i32> ids;      // [tokens]; each in [0, vocab)
  ConstView table;  // [vocab, hidden] float32 or BF16
  View out;         // [tokens, hidden] act
};

struct RmsNormArgs {
  ConstView x;       // [rows, n] act (rows may be strided)
  ConstView weight;  // [n] float32 or BF16
  View out;          // [rows, n] act
  float eps = 1e-6f;
};

struct AddArgs {
  View x;       // [rows, n] act; x += y
  ConstView y;  // [rows, n] act
};

struct LinearArgs {
  ConstView x;                      // [rows, k] act
  const LinearWeight* w = nullptr;  // [n, k]
  View out;                         // [rows, n] act or float32
};

// One matrix a head: out[t, h, :] = x[t, h, :] W[h]^T. MLA's absorbed W_UK and W_UV.
struct HeadLinearArgs {
  ConstView x;                      // [tokens, heads, k] act; a row is one (token, head)
  std::span<const LinearWeight> w;  // [heads] of [n, k]
  View out;                         // [tokens, heads, n] act
};

struct SwigluArgs {
  ConstView gate_up;  // [rows, 2 n] act: gate, then up
  View out;           // [rows, n] act: silu(gate) * up
};

// Rotary embedding in place. `interleaved` rotates the pairs (2i, 2i+1) as DeepSeek does and leaves them
// where they are; otherwise the pairs are (i, i + dim/2) as in Llama.
struct RopeArgs {
  View x;             // [tokens, heads, dim] act, the first `dim` values at `offset` of each head's row
  i64 offset = 0;     // where the rotated part of a row begins
  i64 dim = 0;        // its length
  In<i32> positions;  // [tokens]
  ConstView cos_sin;  // [max_position, dim] float32: dim/2 cosines, then dim/2 sines (mscale included)
  bool interleaved = false;
};

// The sequences of one step. Rows of q are the new tokens of sequence 0, then of sequence 1, ...
struct SeqBatch {
  In<i32> q_start;      // [seqs + 1]: row of the first new token of each
  In<i32> context_len;  // [seqs]: tokens in the cache once this step's are written
  In<i32> block_table;  // [seqs, max_blocks]: physical block of each 64 tokens
  i64 max_blocks = 0;
  int seqs() const { return static_cast<int>(context_len.size()); }
};

// One layer of the paged cache: [blocks, 64, token_elements] in layout.dtype.
struct KvCacheLayer {
  KvLayout layout;
  void* data = nullptr;
  i64 blocks = 0;
};

struct MlaAppendArgs {
  ConstView latent;  // [tokens, latent_dim] act, normalised
  ConstView rope;    // [tokens, rope_dim] act, rotated
  In<i32> slots;     // [tokens]: block * 64 + offset
  KvCacheLayer cache;
};

struct GqaAppendArgs {
  ConstView k, v;  // [tokens, kv_heads, head_dim] act; k rotated
  In<i32> slots;   // [tokens]
  KvCacheLayer cache;
};

// Absorbed MLA: scores against the latents themselves, one KV head for all query heads. Causal.
struct MlaAbsorbedArgs {
  ConstView q_latent;  // [tokens, heads, latent_dim] act: q_nope W_UK
  ConstView q_rope;    // [tokens, heads, rope_dim] act
  SeqBatch seqs;
  KvCacheLayer cache;
  float scale = 1;
  View out;  // [tokens, heads, latent_dim] act; times W_UV gives the values
};

// Copies the cached latents of each sequence side by side, for the expanded form.
struct MlaGatherArgs {
  SeqBatch seqs;
  In<i32> k_start;  // [seqs + 1]: row of the first context token of each sequence in the outputs
  KvCacheLayer cache;
  View latent;  // [sum of context_len, latent_dim] act
  View rope;    // [sum of context_len, rope_dim] act
};

// Expanded MLA: ordinary multi-head attention with keys (nope | shared rope) and values of another width.
// Causal: the last query row of a sequence sees its whole context.
struct MlaExpandedArgs {
  ConstView q;       // [tokens, heads, nope + rope] act
  ConstView kv;      // [sum of context_len, heads, nope + v] act: kv_b_proj of the latents
  ConstView k_rope;  // [sum of context_len, rope] act
  i64 nope = 0, v = 0;
  SeqBatch seqs;    // block_table unused
  In<i32> k_start;  // [seqs + 1]
  float scale = 1;
  View out;  // [tokens, heads, v] act
};

struct GqaAttentionArgs {
  ConstView q;  // [tokens, heads, head_dim] act
  SeqBatch seqs;
  KvCacheLayer cache;
  float scale = 1;
  i64 window = 0;  // sliding window in tokens; 0 is none
  View out;        // [tokens, heads, head_dim] act
};

enum class Scoring : u8 {
  kSigmoidBias,  // DeepSeek-V3 noaux_tc: the bias steers the choice, never the weight
  kSoftmaxTopK,  // Mixtral: softmax over all experts, the chosen ones normalised to 1
};

// Chooses experts. Ties go to the lower index; a group's score is the sum of its two best.
struct MoeGateArgs {
  ConstView logits;  // [tokens, experts] float32
  ConstView bias;    // [experts] float32, or empty
  Scoring scoring = Scoring::kSigmoidBias;
  int groups = 1, top_groups = 1, top_k = 1;
  bool normalise = true;
  float routed_scale = 1;
  Out<i32> expert;    // [tokens, top_k], best first
  Out<float> weight;  // [tokens, top_k]
};

// Orders (token, choice) pairs by expert. Within an expert the order is that of the tokens.
struct MoePermuteArgs {
  ConstView x;     // [tokens, hidden] act
  In<i32> expert;  // [tokens, top_k]
  int top_k = 1, experts = 1;
  View rows;            // [tokens * top_k, hidden] act
  Out<i32> row_of;      // [tokens, top_k]: where each pair went
  Out<i32> expert_end;  // [experts]: one past the last row of each expert
};

// Rows [expert_end[e-1], expert_end[e]) times expert e's matrix.
struct GroupedLinearArgs {
  ConstView x;                      // [rows, k] act
  In<i32> expert_end;               // [experts]
  std::span<const LinearWeight> w;  // [experts] of [n, k]
  View out;                         // [rows, n] act
};

struct MoeCombineArgs {
  ConstView rows;    // [tokens * top_k, hidden] act
  In<i32> row_of;    // [tokens, top_k]
  In<float> weight;  // [tokens, top_k]
  int top_k = 1;
  bool accumulate = false;  // out += the weighted sum, else out = it; summed in the order of the choices
  View out;                 // [tokens, hidden] act
};

struct GatherRowsArgs {
  ConstView x;   // [rows, n] act
  In<i32> rows;  // [picked]
  View out;      // [picked, n] act
};

struct CopyBlock {
  i32 from = 0, to = 0, tokens = 0;
};
// Copies the first `tokens` of whole blocks within the cache (copy-on-write), in all layers given.
struct KvCopyArgs {
  std::span<const CopyBlock> copies;
  std::span<const KvCacheLayer> layers;
};

// One row of logits to sample from. Host memory: the backend brings over what it needs.
struct SampleRow {
  float temperature = 0;  // 0: greedy, ties to the lower id
  float top_p = 1, min_p = 0;
  int top_k = -1;
  float repetition_penalty = 1, presence_penalty = 0, frequency_penalty = 0;
  In<i32> prompt, output;  // history for the penalties; may be empty when all three are off
  std::span<const std::pair<i32, float>> logit_bias;
  In<i32> banned;              // tokens that may not be chosen (min_tokens)
  u64 seed = 0, position = 0;  // the draw is keyed_uniform(seed, position)
  int logprobs = -1;           // as SamplingParams::logprobs
};

struct SampledToken {
  i32 id = 0;
  float logprob = 0;                       // of the raw model distribution, when asked for
  std::vector<std::pair<i32, float>> top;  // (id, logprob), best first
};

// Order, as in the field: bias and bans, penalties, temperature, then top-k, top-p, min-p on probabilities.
struct SampleArgs {
  ConstView logits;  // [rows, vocab] float32
  std::span<const SampleRow> rows;
  std::span<SampledToken> out;
};

// One row a function; a backend that leaves one out cannot load a model that needs it.
struct Ops {
  // Turns a stored weight into the form the linear functions read. The view's memory must outlive the result
  // only if the backend says so by keeping it in `packed`.
  Status (*prepare)(Device&, LinearWeight&) = nullptr;
  Status (*embedding)(const EmbeddingArgs&, Stream&) = nullptr;
  Status (*rms_norm)(const RmsNormArgs&, Stream&) = nullptr;
  Status (*add)(const AddArgs&, Stream&) = nullptr;
  Status (*linear)(const LinearArgs&, Stream&) = nullptr;
  Status (*head_linear)(const HeadLinearArgs&, Stream&) = nullptr;
  Status (*swiglu)(const SwigluArgs&, Stream&) = nullptr;
  Status (*rope)(const RopeArgs&, Stream&) = nullptr;
  Status (*mla_append)(const MlaAppendArgs&, Stream&) = nullptr;
  Status (*mla_gather)(const MlaGatherArgs&, Stream&) = nullptr;
  Status (*mla_absorbed)(const MlaAbsorbedArgs&, Stream&) = nullptr;
  Status (*mla_expanded)(const MlaExpandedArgs&, Stream&) = nullptr;
  Status (*gqa_append)(const GqaAppendArgs&, Stream&) = nullptr;
  Status (*gqa_attention)(const GqaAttentionArgs&, Stream&) = nullptr;
  Status (*moe_gate)(const MoeGateArgs&, Stream&) = nullptr;
  Status (*moe_permute)(const MoePermuteArgs&, Stream&) = nullptr;
  Status (*grouped_linear)(const GroupedLinearArgs&, Stream&) = nullptr;
  Status (*moe_combine)(const MoeCombineArgs&, Stream&) = nullptr;
  Status (*gather_rows)(const GatherRowsArgs&, Stream&) = nullptr;
  Status (*kv_copy)(const KvCopyArgs&, Stream&) = nullptr;
  Status (*sample)(const SampleArgs&, Stream&) = nullptr;
};

// A device and its mathematics.
class Backend {
 public:
  virtual ~Backend() = default;
  virtual const char* name() const = 0;  // "cpu", "cpu-oracle", "cuda"
  virtual Device& device() = 0;
  virtual const Ops& ops() const = 0;
  virtual DType act() const = 0;       // of activations
  virtual DType kv_dtype() const = 0;  // of the cache when the user does not choose
  virtual bool batch_invariant() const = 0;
  // Type of a weight that the loader has to take out of its stored form (to transpose or to slice it).
  virtual DType dequantised() const { return kv_dtype(); }
  // What prepare() makes of an [n, k] matrix stored as `stored`, in bytes.
  virtual i64 prepared_bytes(i64 n, i64 k, DType stored) const = 0;
};

}  // namespace trireme
