#include "backends/cuda/sample.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "backends/cuda/cuda_device.h"
#include "backends/cuda/smxx/sample.h"
#include "base/rng.h"

namespace trireme::cuda {
namespace {

constexpr float kBanned = -std::numeric_limits<float>::infinity();

bool penalised(const SampleRow& r) {
  return r.repetition_penalty != 1 || r.presence_penalty != 0 || r.frequency_penalty != 0;
}
bool edited(const SampleRow& r) { return !r.logit_bias.empty() || !r.banned.empty() || penalised(r); }
bool greedy(const SampleRow& r) { return r.temperature <= 0 || r.top_k == 1; }

Status check_row(const SampleRow& r, i64 index, i64 vocab) {
  const auto known = [vocab](i32 id) { return id >= 0 && id < vocab; };
  const auto all_known = [known](In<i32> ids) { return std::all_of(ids.begin(), ids.end(), known); };
  bool fine = all_known(r.banned) && std::all_of(r.logit_bias.begin(), r.logit_bias.end(),
                                                 [known](const auto& b) { return known(b.first); });
  if (penalised(r)) fine = fine && all_known(r.prompt) && all_known(r.output);
  if (!fine) return invalid("row {}: a token id is outside [0, {})", index, vocab);
  if (!(r.temperature >= 0) || !(r.top_p > 0) || !(r.repetition_penalty > 0)) {
    return invalid("row {}: temperature {}, top_p {}, repetition_penalty {}", index, r.temperature, r.top_p,
                   r.repetition_penalty);
  }
  return {};
}

// Collects what happens to single tokens, one entry a token and row.
class Edits {
 public:
  explicit Edits(i64 vocab) : entry_(static_cast<std::size_t>(vocab), 0) {}

  void add(const SampleRow& r) {
    const std::size_t begin = all.size();
    const auto of = [this, begin](i32 id) -> SampleEdit& {
      i32& entry = entry_[static_cast<std::size_t>(id)];
      if (entry == 0) {
        all.push_back({id, 0.0f, -1});
        entry = static_cast<i32>(all.size() - begin);
      }
      return all[begin + static_cast<std::size_t>(entry) - 1];
    };
    for (const auto& [id, bias] : r.logit_bias) of(id).bias += bias;
    for (const i32 id : r.banned) of(id).bias = kBanned;
    if (penalised(r)) {
      for (const i32 id : r.output) {
        SampleEdit& e = of(id);
        e.made = std::max(e.made, 0) + 1;
      }
      for (const i32 id : r.prompt) {
        SampleEdit& e = of(id);
        e.made = std::max(e.made, 0);
      }
    }
    for (std::size_t i = begin; i < all.size(); ++i) entry_[static_cast<std::size_t>(all[i].id)] = 0;
  }

  std::vector<SampleEdit> all;

 private:
  std::vector<i32> entry_;  // of the row at work: where each token's edit is, from 1; 0: it has none
};

SampleRowParams params_of(const SampleRow& r, i64 vocab) {
  SampleRowParams p = {};
  p.uniform = keyed_uniform(r.seed, r.position);
  // The bounds keep (x - best) / temperature a number for every x.
  p.inverse_temperature = greedy(r) ? 0.0f : std::clamp(1.0f / r.temperature, 1e-30f, 1e30f);
  p.top_p = r.top_p;
  p.min_p = r.min_p;
  p.top_k = r.top_k > 0 && r.top_k < vocab ? r.top_k : 0;
  p.repetition = r.repetition_penalty;
  p.presence = r.presence_penalty;
  p.frequency = r.frequency_penalty;
  return p;
}

// Rows whose log-probabilities are asked for.
struct Wanted {
  std::vector<i32> row, top;
  i64 most = 0;  // of `top`
};

Wanted wanted_of(std::span<const SampleRow> rows, i64 vocab) {
  Wanted w;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    if (rows[i].logprobs < 0) continue;
    w.row.push_back(static_cast<i32>(i));
    w.top.push_back(static_cast<i32>(std::min<i64>({rows[i].logprobs, vocab, kMaxTopLogprobs})));
    w.most = std::max<i64>(w.most, w.top.back());
  }
  return w;
}

// Arrays one after the other in one piece of memory, so that one copy moves them all.
class Layout {
 public:
  template <class T>
  i64 place(i64 n) {
    const i64 at = round_up(bytes_, 16);
    bytes_ = at + n * static_cast<i64>(sizeof(T));
    return at;
  }
  i64 bytes() const { return bytes_; }

 private:
  i64 bytes_ = 0;
};

template <class T>
T* at(void* base, i64 offset) {
  return reinterpret_cast<T*>(static_cast<char*>(base) + offset);
}
template <class T>
void fill(void* base, i64 offset, const std::vector<T>& from) {
  if (!from.empty()) std::memcpy(at<T>(base, offset), from.data(), from.size() * sizeof(T));
}

Status refusal(i64 row, i32 status) {
  if (status == kAllBanned) return invalid("row {}: every token is banned", row);
  return invalid("row {}: the logits hold {}; the model's weights or its input are broken", row,
                 status == kLogitsNaN        ? "NaN"
                 : status == kLogitsInfinite ? "infinity"
                                             : "nothing but -infinity");
}

Status check(const SampleArgs& a) {
  const i64 rows = static_cast<i64>(a.rows.size()), vocab = a.logits.shape.cols();
  if (a.logits.dtype != DType::kF32 || a.logits.shape.rows() != rows ||
      static_cast<i64>(a.out.size()) != rows) {
    return invalid("sample: {} rows from logits of {} {}", rows, to_string(a.logits.dtype),
                   to_string(a.logits.shape));
  }
  if (vocab < 1 || vocab > kMaxSampleVocab)
    return fail(ErrorCode::kUnsupported, "sample: a vocabulary of {}; at most {}", vocab, kMaxSampleVocab);
  for (i64 i = 0; i < rows; ++i) TRY(check_row(a.rows[static_cast<std::size_t>(i)], i, vocab));
  return {};
}

}  // namespace

Status sample(const SampleArgs& a, Stream& stream) {
  TRY(check(a));
  const i64 rows = static_cast<i64>(a.rows.size()), vocab = a.logits.shape.cols();
  if (rows == 0) return {};
  CudaStream& s = cuda_stream(stream);
  const bool simple =
      std::all_of(a.rows.begin(), a.rows.end(), [](const auto& r) { return greedy(r) && !edited(r); });
  const Wanted wanted = wanted_of(a.rows, vocab);
  const i64 n = static_cast<i64>(wanted.row.size());

  std::vector<SampleRowParams> params;
  std::vector<SampleEdit> edits;
  if (!simple) {
    const bool any = std::any_of(a.rows.begin(), a.rows.end(), edited);
    Edits all(any ? vocab : 0);
    for (const SampleRow& r : a.rows) {
      SampleRowParams p = params_of(r, vocab);
      p.edit_begin = static_cast<i32>(all.all.size());
      if (edited(r)) all.add(r);
      p.edit_end = static_cast<i32>(all.all.size());
      params.push_back(p);
    }
    edits = std::move(all.all);
  }

  Layout up;
  const i64 params_at = up.place<SampleRowParams>(static_cast<i64>(params.size())),
            edits_at = up.place<SampleEdit>(static_cast<i64>(edits.size())), row_at = up.place<i32>(n),
            top_at = up.place<i32>(n);
  Layout down;
  const i64 ids_at = down.place<i32>(rows), status_at = down.place<i32>(rows),
            logprob_at = down.place<float>(n), top_id_at = down.place<i32>(n * wanted.most),
            top_logprob_at = down.place<float>(n * wanted.most);
  const i64 down_begin = round_up(up.bytes(), 256);
  ASSIGN(void* const device, s.scratch(Scratch::kSample, down_begin + down.bytes()));
  ASSIGN(void* const host, s.pinned(Scratch::kSample, down_begin + down.bytes()));
  void* const out = at<char>(device, down_begin);
  void* const result = at<char>(host, down_begin);
  fill(host, params_at, params);
  fill(host, edits_at, edits);
  fill(host, row_at, wanted.row);
  fill(host, top_at, wanted.top);
  if (up.bytes() > 0) {
    CUDA_TRY(cudaMemcpyAsync(device, host, static_cast<std::size_t>(up.bytes()), cudaMemcpyHostToDevice,
                             s.handle()));
  }

  DrawArgs draw;
  draw.logits = static_cast<const float*>(a.logits.data);
  draw.row_stride = a.logits.row_stride;
  draw.rows = static_cast<i32>(rows);
  draw.vocab = static_cast<i32>(vocab);
  draw.params = at<SampleRowParams>(device, params_at);
  draw.edits = at<SampleEdit>(device, edits_at);
  draw.ids = at<i32>(out, ids_at);
  draw.status = at<i32>(out, status_at);
  CUDA_TRY(simple ? sample_argmax(draw, s.handle()) : sample_draw(draw, s.handle()));
  if (n > 0) {
    LogprobArgs l;
    l.logits = draw.logits;
    l.row_stride = draw.row_stride;
    l.vocab = draw.vocab;
    l.wanted = static_cast<i32>(n);
    l.row = at<i32>(device, row_at);
    l.top = at<i32>(device, top_at);
    l.ids = draw.ids;
    l.logprob = at<float>(out, logprob_at);
    l.top_stride = wanted.most;
    l.top_id = at<i32>(out, top_id_at);
    l.top_logprob = at<float>(out, top_logprob_at);
    CUDA_TRY(sample_logprobs(l, s.handle()));
  }
  CUDA_TRY(cudaMemcpyAsync(result, out, static_cast<std::size_t>(down.bytes()), cudaMemcpyDeviceToHost,
                           s.handle()));
  TRY(s.synchronize());

  for (i64 i = 0; i < rows; ++i) {
    if (const i32 status = at<i32>(result, status_at)[i]; status != kSampled) return refusal(i, status);
    a.out[static_cast<std::size_t>(i)] = {};
    a.out[static_cast<std::size_t>(i)].id = at<i32>(result, ids_at)[i];
  }
  for (i64 i = 0; i < n; ++i) {
    const auto w = static_cast<std::size_t>(i);
    SampledToken& t = a.out[static_cast<std::size_t>(wanted.row[w])];
    t.logprob = at<float>(result, logprob_at)[i];
    for (i64 j = 0; j < wanted.top[w]; ++j) {
      t.top.emplace_back(at<i32>(result, top_id_at)[i * wanted.most + j],
                         at<float>(result, top_logprob_at)[i * wanted.most + j]);
    }
  }
  return {};
}

}  // namespace trireme::cuda
