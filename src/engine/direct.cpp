#include "engine/direct.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "base/rng.h"

namespace trireme::engine {

DirectRunner::DirectRunner(const Runtime& runtime, i64 max_tokens, int sequences)
    : runtime_(runtime),
      max_tokens_(max_tokens),
      blocks_each_(ceil_div(max_tokens, kKvBlockTokens)),
      length_(static_cast<std::size_t>(sequences)) {
  tables_.resize(static_cast<std::size_t>(blocks_each_ * sequences));
  std::iota(tables_.begin(), tables_.end(), 0);
}

Result<std::unique_ptr<DirectRunner>> DirectRunner::create(const Runtime& runtime, i64 max_tokens,
                                                           int sequences) {
  CHECK(max_tokens > 0 && sequences > 0);
  std::unique_ptr<DirectRunner> d(new DirectRunner(runtime, max_tokens, sequences));
  ASSIGN(d->cache_, KvCache::create(runtime.model->kv_layout(runtime.kv_dtype), d->blocks_each_ * sequences,
                                    runtime.backend->device()));
  d->runner_ = std::make_unique<StepRunner>(*runtime.model, *runtime.backend, d->cache_.layers());
  return d;
}

Status DirectRunner::pretend(i64 tokens) {
  // One block of random tokens in the cache's own form, repeated: what attention costs does not depend on
  // more.
  const KvLayout& l = cache_.layers()[0].layout;
  const i64 token = l.token_bytes(), block = kKvBlockTokens * token;
  std::vector<char> pattern(static_cast<std::size_t>(block * std::max<i64>(1, (16 << 20) / block)));
  Rng rng(3);
  for (std::size_t at = 0; at < pattern.size(); at += static_cast<std::size_t>(token)) {
    char* const to = pattern.data() + at;
    const bool fp8 = l.dtype == DType::kF8E4M3, wide = l.dtype == DType::kF32;
    const i64 codes = fp8 ? l.latent_dim : 0;
    for (i64 i = 0; i < codes; ++i)
      to[i] = static_cast<char>(float_to_f8e4m3(static_cast<float>(rng.normal()) * 16));
    for (i64 i = codes; i < token; i += wide ? 4 : 2) {
      const float value = static_cast<float>(rng.normal());
      const BF16 narrow(value);
      if (wide)
        std::memcpy(to + i, &value, 4);
      else
        std::memcpy(to + i, &narrow, 2);
    }
  }
  for (const auto& layer : cache_.layers()) {
    const i64 bytes = layer.blocks * block, piece = static_cast<i64>(pattern.size());
    for (i64 at = 0; at < bytes; at += piece) {
      TRY(runtime_.backend->device().copy_in(static_cast<char*>(layer.data) + at, pattern.data(),
                                             std::min(piece, bytes - at), runner_->stream()));
    }
  }
  std::fill(length_.begin(), length_.end(), tokens);
  return runner_->stream().synchronize();
}

Status DirectRunner::record(GraphOptions options) {
  options.max_seqs = static_cast<i64>(length_.size());
  options.max_context = blocks_each_ * kKvBlockTokens;
  return runner_->record(options);
}

Result<std::vector<float>> DirectRunner::to_host(const View& row) {
  std::vector<float> out(static_cast<std::size_t>(row.shape.elements()));
  TRY(runtime_.backend->device().copy_out(out.data(), row.data, row.bytes(), runner_->stream()));
  TRY(runner_->stream().synchronize());
  return out;
}

Result<std::vector<float>> DirectRunner::prefill(std::span<const i32> tokens, i64 chunk, const EachRow& each,
                                                 int s) {
  auto& length = length_[static_cast<std::size_t>(s)];
  const i64 n = static_cast<i64>(tokens.size()), vocab = runtime_.config.vocab_size;
  if (n == 0) return invalid("no tokens to compute");
  if (length + n > max_tokens_)
    return invalid("{} tokens are more than the {} that there is room for", length + n, max_tokens_);
  const i64 prompt_tokens = length + n;
  std::vector<float> last;
  for (i64 at = 0; at < n; at += chunk) {
    const i64 count = std::min(chunk, n - at);
    const bool final = at + count == n;
    Slice slice{.tokens = tokens.subspan(static_cast<std::size_t>(at), static_cast<std::size_t>(count)),
                .start = length,
                .blocks = table(s)};
    slice.logits = each ? Slice::Logits::kAll : final ? Slice::Logits::kLast : Slice::Logits::kNone;
    std::vector<Slice> slices;
    append_slices(slices, slice, prompt_tokens);
    ASSIGN(auto out, runner_->run(slices));
    if (each) {
      ASSIGN(auto rows, to_host(out.logits));
      for (std::size_t i = 0; i < slices.size(); ++i) {
        const float* row = rows.data() + out.first_row[i] * vocab;
        for (std::size_t t = 0; t < slices[i].tokens.size(); ++t, row += vocab) {
          each(slices[i].start + static_cast<i64>(t), {row, static_cast<std::size_t>(vocab)});
          if (final && i + 1 == slices.size() && t + 1 == slices[i].tokens.size())
            last.assign(row, row + vocab);
        }
      }
    } else if (final) {
      ASSIGN(last, to_host(out.logits));
    }
    length += count;
  }
  return last;
}

Result<View> DirectRunner::decode(std::span<const i32> tokens) {
  CHECK(tokens.size() <= length_.size());
  std::vector<Slice> slices(tokens.size());
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    if (length_[i] + 1 > max_tokens_) return invalid("sequence {} is full at {} tokens", i, max_tokens_);
    slices[i] = {.tokens = tokens.subspan(i, 1),
                 .start = length_[i],
                 .blocks = table(static_cast<int>(i)),
                 .absorbed = true,
                 .logits = Slice::Logits::kLast};
  }
  ASSIGN(auto out, runner_->run(slices));
  for (std::size_t i = 0; i < tokens.size(); ++i) ++length_[i];
  return out.logits;
}

Result<std::vector<float>> DirectRunner::decode_one(i32 token, int s) {
  auto& length = length_[static_cast<std::size_t>(s)];
  if (length + 1 > max_tokens_) return invalid("the sequence is full at {} tokens", max_tokens_);
  const Slice slice{.tokens = {&token, 1},
                    .start = length,
                    .blocks = table(s),
                    .absorbed = true,
                    .logits = Slice::Logits::kLast};
  ASSIGN(auto out, runner_->run({&slice, 1}));
  ++length;
  return to_host(out.logits);
}

}  // namespace trireme::engine
