// How fast the CPU backend's parts are, beside what the machine can do.
#include <fmt/format.h>

#include <chrono>
#include <functional>
#include <string>

#include "backends/cpu/cpu_backend.h"
#include "backends/cpu/measure.h"
#include "base/rng.h"

namespace trireme::cpu {
namespace {

double seconds_of(const std::function<void()>& f, double budget = 0.4) {
  using Clock = std::chrono::steady_clock;
  double best = 1e9;
  f();
  const auto end = Clock::now() + std::chrono::duration<double>(budget);
  do {
    const auto start = Clock::now();
    f();
    best = std::min(best, std::chrono::duration<double>(Clock::now() - start).count());
  } while (Clock::now() < end);
  return best;
}

struct Bench {
  Backend& backend;
  std::unique_ptr<Stream> stream = backend.device().make_stream();
  std::vector<Buffer> held{};

  View tensor(DType t, Shape s) {
    auto buffer = backend.device().allocate(s.elements() * size_of(t));
    CHECK(buffer.has_value(), "{}", buffer.error().message);
    held.push_back(*buffer);
    View v = buffer->view(t, s);
    Rng rng(1);
    for (i64 i = 0; i < s.elements(); ++i) {
      const float f = static_cast<float>(rng.uniform()) - 0.5f;
      if (t == DType::kF32) v.mut<float>()[i] = f;
      if (t == DType::kBF16) v.mut<BF16>()[i] = BF16(f);
    }
    return v;
  }
  LinearWeight weight(i64 n, i64 k) {
    LinearWeight w;
    w.n = n;
    w.k = k;
    w.weight = tensor(DType::kBF16, {n, k});
    CHECK(backend.ops().prepare(backend.device(), w).has_value());
    held.pop_back();
    return w;
  }
};

void linear_rates(Bench& b, double bandwidth) {
  struct Row {
    const char* what;
    i64 n, k;
  };
  constexpr Row kRows[] = {
      {"llama-1b qkv", 3072, 2048},  {"llama-1b o", 2048, 2048},      {"llama-1b gate_up", 16384, 2048},
      {"llama-1b down", 2048, 8192}, {"llama-1b head", 128256, 2048}, {"demo q_b", 768, 256},
      {"demo kv_a", 576, 512},       {"demo gate_up", 2048, 512},     {"demo head", 4096, 512}};
  for (const Row& r : kRows) {
    const LinearWeight w = b.weight(r.n, r.k);
    for (const i64 m : {1, 4, 16, 64, 512, 2048}) {
      if (r.n > 100000 && m > 64) continue;
      const View x = b.tensor(DType::kF32, {m, r.k}), y = b.tensor(DType::kF32, {m, r.n});
      const double s = seconds_of([&] { CHECK(b.backend.ops().linear({x, &w, y}, *b.stream).has_value()); });
      const double flops = 2.0 * static_cast<double>(m * r.n * r.k) / s;
      const double bytes = static_cast<double>(w.stored_bytes) / s;
      const double anchor = m >= 16 ? onednn_gemm_rate(m, r.n, r.k) : 0;
      fmt::print("{:18} m={:<5} {:9.1f} us  {:7.1f} GB/s = {:5.2f} of bandwidth  {:7.1f} GFLOP/s", r.what, m,
                 s * 1e6, bytes / 1e9, bytes / bandwidth, flops / 1e9);
      if (anchor > 0) fmt::print(" = {:4.2f} of oneDNN's {:.1f}", flops / anchor, anchor / 1e9);
      fmt::print("\n");
      b.held.resize(b.held.size() - 2);
    }
  }
}

// The whole of a 1B Llama's matrices, one after the other, as a decode step reads them.
void decode_pass(Bench& b, double bandwidth) {
  std::vector<LinearWeight> ws;
  double bytes = 0;
  for (int layer = 0; layer < 16; ++layer) {
    for (const auto& [n, k] : {std::pair<i64, i64>{3072, 2048}, {2048, 2048}, {16384, 2048}, {2048, 8192}}) {
      ws.push_back(b.weight(n, k));
      bytes += static_cast<double>(ws.back().stored_bytes);
    }
  }
  const View x = b.tensor(DType::kF32, {1, 8192}), y = b.tensor(DType::kF32, {1, 16384});
  const double s = seconds_of([&] {
    for (const auto& w : ws) {
      const View xv(x.mutable_data(), DType::kF32, {1, w.k}), yv(y.mutable_data(), DType::kF32, {1, w.n});
      CHECK(b.backend.ops().linear({xv, &w, yv}, *b.stream).has_value());
    }
  });
  fmt::print("llama-1b, all layers, m=1: {:.1f} GB/s = {:.2f} of bandwidth\n", bytes / s / 1e9,
             bytes / s / bandwidth);
}

void attention_rates(Bench& b) {
  for (const i64 context : {256, 2000, 8192}) {
    const i64 blocks = ceil_div(context, kKvBlockTokens);
    std::vector<i32> table;
    for (i64 i = 0; i < blocks; ++i) table.push_back(static_cast<i32>(i));
    const std::vector<i32> lens = {static_cast<i32>(context)}, k_start = {0, lens[0]};
    for (const i64 fresh : {i64{1}, context}) {
      if (fresh > 2000) continue;
      const std::vector<i32> q_start = {0, static_cast<i32>(fresh)};
      const SeqBatch seqs{q_start, lens, table, blocks};
      const double pairs = static_cast<double>(fresh) * static_cast<double>(context - fresh) +
                           static_cast<double>(fresh * (fresh + 1)) / 2;
      const auto print = [&](const char* what, double flops, double s) {
        fmt::print("{:14} context {:5} new {:5}: {:9.1f} us {:7.1f} GFLOP/s\n", what, context, fresh, s * 1e6,
                   flops / s / 1e9);
      };
      {
        const View q = b.tensor(DType::kF32, {fresh, 4, 192}), kv = b.tensor(DType::kF32, {context, 4, 256}),
                   kr = b.tensor(DType::kF32, {context, 64}), out = b.tensor(DType::kF32, {fresh, 4, 128});
        const MlaExpandedArgs a{q, kv, kr, 128, 128, seqs, k_start, 0.07f, out};
        print("mla_expanded", pairs * 4 * 640,
              seconds_of([&] { CHECK(b.backend.ops().mla_expanded(a, *b.stream).has_value()); }));
      }
      {
        const View ql = b.tensor(DType::kF32, {fresh, 4, 512}), qr = b.tensor(DType::kF32, {fresh, 4, 64}),
                   cache = b.tensor(DType::kBF16, {blocks, 64, 576}),
                   out = b.tensor(DType::kF32, {fresh, 4, 512});
        const KvLayout l{.dtype = DType::kBF16, .layers = 1, .latent_dim = 512, .rope_dim = 64};
        const MlaAbsorbedArgs a{ql, qr, seqs, {l, cache.mutable_data(), blocks}, 0.07f, out};
        print("mla_absorbed", pairs * 4 * 2176,
              seconds_of([&] { CHECK(b.backend.ops().mla_absorbed(a, *b.stream).has_value()); }));
      }
      {
        const View q = b.tensor(DType::kF32, {fresh, 32, 64}),
                   cache = b.tensor(DType::kBF16, {blocks, 64, 1024}),
                   out = b.tensor(DType::kF32, {fresh, 32, 64});
        const KvLayout l{
            .kind = KvLayout::Kind::kGqa, .dtype = DType::kBF16, .layers = 1, .kv_heads = 8, .head_dim = 64};
        const GqaAttentionArgs a{q, seqs, {l, cache.mutable_data(), blocks}, 0.125f, 0, out};
        print("gqa 32/8x64", pairs * 32 * 256,
              seconds_of([&] { CHECK(b.backend.ops().gqa_attention(a, *b.stream).has_value()); }));
      }
      b.held.clear();
    }
  }
}

void sampling_rate(Bench& b) {
  constexpr i64 kRows = 64, kVocab = 129280;
  const View logits = b.tensor(DType::kF32, {kRows, kVocab});
  for (i64 i = 0; i < logits.shape.elements(); ++i) logits.mut<float>()[i] *= 20;
  std::vector<SampledToken> out(kRows);
  const auto measure = [&](const char* what, const SampleRow& row) {
    const std::vector<SampleRow> rows(kRows, row);
    const double s = seconds_of([&] {
      CHECK(b.backend.ops().sample({logits, rows, out}, *b.stream).has_value());
    });
    fmt::print("sample {:24} 64 x 129280: {:8.1f} us\n", what, s * 1e6);
  };
  SampleRow row;
  measure("greedy", row);
  row.logprobs = 5;
  measure("greedy, 5 logprobs", row);
  row.logprobs = -1;
  row.temperature = 1;
  measure("temperature 1", row);
  row.top_p = 0.95f;
  measure("top_p 0.95", row);
  row.top_k = 50;
  measure("top_k 50, top_p 0.95", row);
}

int bench(const std::string& what) {
  auto made = make_cpu_backend();
  CHECK(made.has_value());
  Bench b{**made};
  const Chip& chip = (*made)->device().chip();
  fmt::print("{}, {} threads, {}\n", chip.name, chip.units, chip.instruction_set);
  const auto wants = [&](const char* part) { return what.empty() || what == part; };
  const double bandwidth = measured_read_bandwidth(chip.units);
  fmt::print("read bandwidth {:.1f} GB/s\n", bandwidth / 1e9);
  if (wants("decode")) decode_pass(b, bandwidth);
  if (wants("linear")) linear_rates(b, bandwidth);
  if (wants("attention")) attention_rates(b);
  if (wants("sample")) sampling_rate(b);
  return 0;
}

}  // namespace
}  // namespace trireme::cpu

int main(int argc, char** argv) { return trireme::cpu::bench(argc > 1 ? argv[1] : ""); }
