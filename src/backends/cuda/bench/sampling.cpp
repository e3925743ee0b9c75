// Choosing tokens, without the copies to and from the host that Ops::sample adds.
#include "backends/cuda/bench/session.h"
#include "backends/cuda/bench/shapes.h"
#include "backends/cuda/smxx/sample.h"
#include "base/rng.h"

namespace trireme::cuda {
namespace {

struct Choice {
  const char* what;
  bool greedy;
  float temperature, top_p;
  i32 top_k;
};
constexpr Choice kChoices[] = {
    {"greedy", true, 1, 1, 0},
    {"temperature 1", false, 1, 1, 0},
    {"top-p 0.95, temperature 0.7", false, 0.7f, 0.95f, 0},
    {"top-k 50, top-p 0.9", false, 1, 0.9f, 50},
};

Status sampling(BenchSession& s, const Choice& c, i64 rows) {
  const KernelTime row{.kernel = "sample",
                       .shape = fmt::format("{} x {} {}", rows, V3::vocab, c.what),
                       .bytes = 4 * static_cast<double>(rows) * static_cast<double>(V3::vocab)};
  if (!s.wanted(row)) return {};
  std::vector<SampleRowParams> params(static_cast<std::size_t>(rows));
  for (std::size_t i = 0; i < params.size(); ++i) {
    params[i] = {};
    params[i].uniform = keyed_uniform(7, i);
    params[i].inverse_temperature = 1 / c.temperature;
    params[i].top_p = c.top_p;
    params[i].top_k = c.top_k;
    params[i].repetition = 1;
  }
  RowMemory m(s);
  DrawArgs a;
  a.logits = m.f32({rows, V3::vocab}).as<float>();
  a.row_stride = V3::vocab;
  a.rows = static_cast<i32>(rows);
  a.vocab = static_cast<i32>(V3::vocab);
  a.params = m.copy(params).data();
  a.ids = m.room<i32>(rows).data();
  a.status = m.room<i32>(rows).data();
  TRY(m.status());
  return s.measure(row, [&] {
    const cudaStream_t stream = s.stream().handle();
    return status_of(c.greedy ? sample_argmax(a, stream) : sample_draw(a, stream), "sample");
  });
}

}  // namespace

Status bench_sampling(BenchSession& s) {
  for (const auto& c : kChoices) TRY(sampling(s, c, 128));
  return {};
}

}  // namespace trireme::cuda
