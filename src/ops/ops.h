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

// Rows of e4m3 codes and their scales, one for each 128 values of a row: value = code * scale (DeepSeek-V3's
// recipe, arXiv:2412.19437: scale = max |x| / 448). The scales of one column of blocks lie side by side, as
// the matrix kernels read them. Empty: not quantised.
struct Quantised {
  View codes;  // [rows, k] F8E4M3, dense
  View scale;  // [ceil(k/128), padded] float32, padded = quantised_rows(rows)
  explicit operator bool() const { return codes.data != nullptr; }
};
constexpr i64 quantised_rows(i64 rows) { return (rows + 7) / 8 * 8; }

// A matrix as a checkpoint stores it.
struct StoredMatrix {
  ConstView weight;  // [n, k] float32, BF16, F16 or F8E4M3
  ConstView scale;   // F8E4M3: [ceil(n/128), ceil(k/128)] float32, value = code * scale
};

// A matrix y = x W^T as a checkpoint stores it, and what the backend made of it.
struct LinearWeight {
  i64 n = 0, k = 0;
  ConstView weight;  // [n, k] float32, BF16, F16 or F8E4M3
  ConstView scale;   // F8E4M3: [ceil(n/128), ceil(k/128)] float32, value = code * scale
  ConstView bias{};  // [n] float32 on the device, or empty
  // For backends that stack by themselves (Backend::stacks): the matrices one below the other, with `weight`
  // and `scale` empty. FP8 parts, all but the last, have whole blocks of rows.
  std::vector<StoredMatrix> parts{};
  // What keeps the stored bytes alive while a backend still copies them; cleared after loading.
  std::vector<std::shared_ptr<const void>> owners{};
  // A hint for backends that round activations to BF16: keep them (nearly) float32, and FP8 weights exact,
  // where that costs little beside reading the weight.
  bool precise = false;
  std::shared_ptr<const void> packed{};  // the backend's own form; only the backend reads it
  i64 stored_bytes = 0;                  // what one pass over the prepared weight reads
  bool fp8_input = false;                // prepared to be multiplied with Quantised rows
};

// Matrices of one shape that one call multiplies with: a layer's experts, or one a head.
struct GroupWeight {
  i64 n = 0, k = 0;                      // of each
  bool per_head = false;                 // to be used by head_linear, else by grouped_linear
  bool transposed = false;               // to prepare_group: each is stored as [k, n]
  std::vector<LinearWeight> each{};      // prepared one by one, unless the backend prepares groups
  std::shared_ptr<const void> packed{};  // Ops::prepare_group's
  i64 stored_bytes = 0;
  bool fp8_input = false;
  i64 count() const { return static_cast<i64>(each.size()); }
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

// x += y, then out and q are its norm, for each that is given; y may be empty. One pass over memory.
struct AddRmsNormArgs {
  View x;            // [rows, n] act (rows may be strided; not written where y is empty)
  ConstView y;       // [rows, n] act, or empty
  ConstView weight;  // [n] float32
  View out;          // [rows, n] act, or empty
  Quantised q{};     // [rows, n], or empty
  float eps = 1e-6f;
};

struct QuantiseArgs {
  ConstView x;    // [rows, k] act (rows may be strided)
  Quantised q{};  // [rows, k]
};

struct AddArgs {
  View x;       // [rows, n] act; x += y
  ConstView y;  // [rows, n] act
};

struct LinearArgs {
  ConstView x;                      // [rows, k] act; empty if xq is given
  const LinearWeight* w = nullptr;  // [n, k]
  View out;                         // [rows, n] act or float32
  Quantised xq{};                   // where w->fp8_input
  ConstView residual{};  // [rows, n] of out's type, added to the product; may be out itself; or empty
};

// silu(gate) * up of the product with a stacked matrix, in one. Gate and up may stay float32, where the parts
// round them to act in between; quantised are the products rounded to act, as by SwigluArgs.
struct LinearSwigluArgs {
  ConstView x;                      // [rows, k] act; empty if xq is given
  const LinearWeight* w = nullptr;  // [2 n, k]: gate rows, then up rows
  View gate_up;                     // [rows, 2 n] act: room for the parts; holds nothing afterwards
  View out{};                       // [rows, n] act; empty if only q is wanted
  Quantised q{};                    // [rows, n], or empty
  Quantised xq{};                   // where w->fp8_input
};

// One matrix a head: out[t, h, :] = x[t, h, :] W[h]^T. MLA's absorbed W_UK and W_UV.
struct HeadLinearArgs {
  ConstView x;                     // [tokens, heads, k] act; a row is one (token, head)
  const GroupWeight* w = nullptr;  // [heads] of [n, k]
  View out;                        // [tokens, heads, n] act
};

struct SwigluArgs {
  ConstView gate_up;  // [rows, 2 n] act: gate, then up
  View out;           // [rows, n] act: silu(gate) * up; empty if only q is wanted
  Quantised q{};      // [rows, n], or empty
  // Where given, only the first rows_used[last] rows are computed: routed rows whose number only the device
  // knows.
  In<i32> rows_used{};
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
  i64 max_tokens = 0;    // bound on the new tokens of one sequence, known to the host
  i64 max_context = 0;   // bound on context_len, likewise
  void* plan = nullptr;  // what Ops::plan_attention made of this batch; shared by all layers
  int seqs() const { return static_cast<int>(context_len.size()); }
};

// One layer of the paged cache: [blocks, 64, token_bytes], see KvLayout.
struct KvCacheLayer {
  KvLayout layout;
  void* data = nullptr;
  i64 blocks = 0;
  float latent_scale = 1;  // MLA in FP8: latents are codes times it; a power of two (kv_latent_scale)
};

struct MlaAppendArgs {
  ConstView latent;  // [tokens, latent_dim] act, normalised
  ConstView rope;    // [tokens, rope_dim] act, rotated
  In<i32> slots;     // [tokens]: block * 64 + offset
  KvCacheLayer cache;
};

// What lies between MLA's projections and its attention, in one pass: rotates the rope part of each query
// head in place, norms the latent, rotates the shared key, and writes both to the cache.
struct MlaRopeAppendArgs {
  View q;          // [tokens, heads, nope + rope] act
  ConstView kv_a;  // [tokens, latent + rope] act (rows may be strided)
  ConstView norm;  // [latent] float32
  float eps = 1e-6f;
  i64 nope = 0;
  In<i32> positions;  // [tokens]
  ConstView cos_sin;  // [max_position, rope] float32
  bool interleaved = true;
  In<i32> slots;  // [tokens]; negative: the token's KV is not kept
  KvCacheLayer cache;
};

// The same for grouped-query attention: rotates q and k in place and writes k and v.
struct GqaRopeAppendArgs {
  View q;             // [tokens, heads, head_dim] act
  View k;             // [tokens, kv_heads, head_dim] act
  ConstView v;        // [tokens, kv_heads, head_dim] act
  In<i32> positions;  // [tokens]
  ConstView cos_sin;  // [max_position, head_dim] float32
  In<i32> slots;      // [tokens]; negative: not kept
  KvCacheLayer cache;
};

// Divides a batch's attention among the units of the chip, once a step for all layers.
struct PlanAttentionArgs {
  SeqBatch seqs;
  KvLayout layout;
  i64 tokens = 0;  // rows of q
  int heads = 0;
  void* plan = nullptr;  // Backend::attention_plan_bytes() of device memory
};

struct GqaAppendArgs {
  ConstView k, v;  // [tokens, kv_heads, head_dim] act; k rotated
  In<i32> slots;   // [tokens]
  KvCacheLayer cache;
};

// Queries as mla_absorbed multiplies them over this cache: their product with W_UK in act, or, where that is
// another form, whatever the backend likes of these bytes.
struct MlaQueryArgs {
  ConstView q;  // [tokens, heads, nope + rope] act, rope values rotated
  i64 nope = 0;
  const GroupWeight* w_uk = nullptr;  // [heads] of [latent, nope]
  SeqBatch seqs;
  KvCacheLayer cache;
  View out;  // [tokens, heads, latent] act, dense
};

// Absorbed MLA: scores against the latents themselves, one KV head for all query heads. Causal.
struct MlaAbsorbedArgs {
  ConstView q_latent;  // [tokens, heads, latent_dim] act: q_nope W_UK
  ConstView q_rope;    // [tokens, heads, rope_dim] act
  SeqBatch seqs;
  KvCacheLayer cache;
  float scale = 1;
  View out;           // [tokens, heads, latent_dim] act; times W_UV gives the values
  bool made = false;  // q_latent is what mla_query made of the same q, sequences and cache
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
  // A permission, not a duty: where k_scale > 0 a backend may round the keys' columns without position, and
  // the values, to e4m3 codes times these powers of two (what is beyond 448 times them is cut off there), and
  // the queries' columns without position and the probabilities as coarsely.
  struct Fp8Products {
    float k_scale = 0, v_scale = 0;
    View room{};  // Backend::mla_expanded_room_bytes() of device memory, on 128 bytes; may hold anything
  };
  ConstView q;       // [tokens, heads, nope + rope] act
  ConstView kv;      // [sum of context_len, heads, nope + v] act: kv_b_proj of the latents
  ConstView k_rope;  // [sum of context_len, rope] act
  i64 nope = 0, v = 0;
  SeqBatch seqs;    // block_table unused
  In<i32> k_start;  // [seqs + 1]
  float scale = 1;
  View out;  // [tokens, heads, v] act
  Fp8Products fp8{};
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
  In<i32> place{};  // [experts]: where each expert's weights lie, written instead of its number; may be empty
  Out<i32> expert;  // [tokens, top_k], best first
  Out<float> weight;  // [tokens, top_k]
};

// Orders (token, choice) pairs by expert. Within an expert the order is that of the tokens.
struct MoePermuteArgs {
  ConstView x;     // [tokens, hidden] act; empty if xq is given
  Quantised xq{};  // [tokens, hidden]: codes and scales are moved instead
  In<i32> expert;  // [tokens, top_k]; negative: the pair goes nowhere, row_of becomes -1
  int top_k = 1, experts = 1;
  View rows;                // [tokens * top_k, hidden] act, or empty
  Quantised rows_q{};       // [tokens * top_k, hidden], or empty
  Out<i32> row_of;          // [tokens, top_k]: where each pair went
  Out<i32> expert_end;      // [experts]: one past the last row of each expert
  In<float> weight{};       // [tokens, top_k], where row_weight is given
  Out<float> row_weight{};  // [tokens * top_k]: the weight of each row's pair; or empty
};

// Rows [expert_end[e-1], expert_end[e]) times expert e's matrix.
struct GroupedLinearArgs {
  ConstView x;                     // [rows, k] act; empty if xq is given
  In<i32> expert_end;              // [experts]
  const GroupWeight* w = nullptr;  // [experts] of [n, k]
  View out;                        // [rows, n] act
  Quantised xq{};                  // where w->fp8_input
  In<float> row_weight{};          // [rows]: what each row's product is multiplied with; or empty
};

// LinearSwigluArgs for the rows of experts.
struct GroupedLinearSwigluArgs {
  ConstView x;                     // [rows, k] act; empty if xq is given
  In<i32> expert_end;              // [experts]
  const GroupWeight* w = nullptr;  // [experts] of [2 n, k]: gate rows, then up rows
  View gate_up;                    // [rows, 2 n] act: room for the parts; holds nothing afterwards
  View out{};                      // [rows, n] act; empty if only q is wanted
  Quantised q{};                   // [rows, n], or empty
  Quantised xq{};                  // where w->fp8_input
};

struct MoeCombineArgs {
  ConstView rows;    // [tokens * top_k, hidden] act
  In<i32> row_of;    // [tokens, top_k]; negative: a pair that went nowhere adds nothing
  In<float> weight;  // [tokens, top_k]; empty: all 1, for rows that were weighted before
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
  // The same for a group; a backend without it prepares `each`. each[i] holds the stored matrices.
  Status (*prepare_group)(Device&, GroupWeight&) = nullptr;
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

  // Fused forms; where a backend leaves them out, the layers call the parts.
  Status (*add_rms_norm)(const AddRmsNormArgs&, Stream&) = nullptr;
  Status (*mla_rope_append)(const MlaRopeAppendArgs&, Stream&) = nullptr;
  Status (*mla_query)(const MlaQueryArgs&, Stream&) = nullptr;
  Status (*gqa_rope_append)(const GqaRopeAppendArgs&, Stream&) = nullptr;
  Status (*quantise)(const QuantiseArgs&, Stream&) = nullptr;  // needed where a weight has fp8_input
  Status (*plan_attention)(const PlanAttentionArgs&, Stream&) = nullptr;
  Status (*linear_swiglu)(const LinearSwigluArgs&, Stream&) = nullptr;
  Status (*grouped_linear_swiglu)(const GroupedLinearSwigluArgs&, Stream&) = nullptr;
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
  // Whether attention gives the same bits only to tokens that come as sequences of one.
  virtual bool tokens_apart() const { return false; }
  // Type of a weight that the loader has to take out of its stored form (to transpose or to slice it).
  virtual DType dequantised() const { return kv_dtype(); }
  // What prepare() makes of an [n, k] matrix stored as `stored`, in bytes.
  virtual i64 prepared_bytes(i64 n, i64 k, DType stored) const = 0;
  // Whether prepare() gives such a matrix fp8_input.
  virtual bool fp8_inputs(i64 /*n*/, i64 /*k*/, DType /*stored*/) const { return false; }
  // Whether prepare() takes LinearWeight::parts.
  virtual bool stacks() const { return false; }
  // Waits until every weight is where it belongs; stored bytes may go away then.
  virtual Status finish_loading() { return {}; }
  // Device memory for Ops::plan_attention, for up to `tokens` rows of `seqs` sequences.
  virtual i64 attention_plan_bytes(const PlanAttentionArgs&) const { return 0; }
  // What MlaExpandedArgs::Fp8Products::room has to hold; 0 where the permission is not made use of. Follows
  // from shapes and scales; grows with rows and sequences.
  virtual i64 mla_expanded_room_bytes(const MlaExpandedArgs&) const { return 0; }
};

}  // namespace trireme
