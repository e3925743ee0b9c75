// Tiny random checkpoints of each family, with public names and odd sizes, against transformers
// (tools/make_tiny_models.py) and, row by row, against the oracle.
#include <gtest/gtest.h>

#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "compare.h"
#include "devices.h"

namespace trireme {
namespace {

struct Case {
  const char* model;
  Mode mode;
  i64 chunk;
};
void PrintTo(const Case& c, std::ostream* out) {
  *out << c.model << " on " << c.mode.name << " in chunks of " << c.chunk;
}
std::string name_of(const testing::TestParamInfo<Case>& info) {
  return fmt::format("{}_{}_chunk{}", info.param.model, info.param.mode.name, info.param.chunk);
}

std::string dir_of(const char* model) { return fmt::format("{}/tests/oracle/data/{}", source_dir(), model); }

// The same weights with every expert chosen: rounding cannot choose another one.
std::string with_every_expert(const char* model) {
  namespace fs = std::filesystem;
  const fs::path from = dir_of(model),
                 to = fs::path(testing::TempDir()) / fmt::format("trireme_{}_{}", model, getpid());
  fs::create_directories(to);
  fs::copy(from / "model.safetensors", to / "model.safetensors", fs::copy_options::overwrite_existing);
  Json config = read_json_file((from / "config.json").string()).value();
  for (const char* name : {"num_local_experts", "n_routed_experts"})
    if (config.contains(name)) config["num_experts_per_tok"] = config[name];
  if (config.contains("n_group")) config["topk_group"] = config["n_group"];
  std::ofstream(to / "config.json") << config.dump();
  return to.string();
}

double tolerance_of(const Mode& mode) { return mode.oracle ? 2e-5 : mode.cuda ? 3e-2 : 2e-2; }

class TinyModel : public testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    SKIP_IF_MISSING(GetParam().mode);
    auto read = read_json_file(dir_of(GetParam().model) + "/expected.json");
    ASSERT_TRUE(read) << read.error().message;
    expected = std::move(*read);
  }
  // A runner of this mode; its runtime goes into `into`.
  static std::unique_ptr<engine::DirectRunner> runner_of(const Mode& mode, engine::Runtime& into,
                                                         int sequences = 1, const std::string& dir = {}) {
    auto loaded = engine::load_runtime(mode.options(dir.empty() ? dir_of(GetParam().model) : dir));
    EXPECT_TRUE(loaded) << loaded.error().message;
    if (!loaded) return nullptr;
    into = std::move(*loaded);
    auto runner = engine::DirectRunner::create(into, into.max_model_len, sequences);
    EXPECT_TRUE(runner) << runner.error().message;
    if (!runner) return nullptr;
    if (mode.graphs) {
      const auto recorded = (*runner)->record({});
      EXPECT_TRUE(recorded) << recorded.error().message;
    }
    return std::move(*runner);
  }
  Json expected;
};

TEST_P(TinyModel, AgreesWithTransformers) {
  const auto& p = GetParam();
  engine::Runtime runtime;
  const auto runner = runner_of(p.mode, runtime);
  ASSERT_TRUE(runner);
  for (const auto& c : expected["cases"]) {
    const auto ids = c["ids"].get<std::vector<i32>>();
    const auto logits = c["logits"].get<std::vector<float>>();
    runner->restart();
    auto got = runner->prefill(ids, p.chunk);
    ASSERT_TRUE(got) << got.error().message;
    // A single row that may have chosen another expert; the tests below look at all of them.
    const bool may_turn = p.mode.cuda && runtime.config.moe.experts > 0;
    EXPECT_LT(relative_error(*got, logits), (may_turn ? 4 : 1) * tolerance_of(p.mode))
        << ids.size() << " tokens";
    std::vector<GreedyStep> steps;
    for (const auto& s : c["greedy"]) steps.push_back({s[0].get<i32>(), s[1].get<double>()});
    const double spread = *std::max_element(logits.begin(), logits.end());
    expect_greedy(*runner, *got, steps, (p.mode.oracle ? 1e-3 : 0.1) * spread,
                  fmt::format("{} tokens", ids.size()));
  }
}

// How far rows are from the oracle's. In a routed model, rounding may turn a row to another expert where two
// are nearly alike: such a row is far off, later rows that attend to it are so a little, and all are right.
// So of routed models most rows are held to the tolerance; with every expert chosen, all of them.
struct Rows {
  double tolerance;
  int seen = 0, off = 0;
  double worst = 0;
  double difference = 0, norm = 0;  // of all rows together, squared
  void add(std::span<const float> got, std::span<const float> wanted) {
    const double error = relative_error(got, wanted);
    double square = 0;
    for (const float x : wanted) square += static_cast<double>(x) * static_cast<double>(x);
    ++seen;
    difference += error * error * square;
    norm += square;
    worst = std::max(worst, error);
    if (!(error <= tolerance)) ++off;
  }
  void expect(bool routed, const std::string& what) const {
    const double all = std::sqrt(difference / norm);
    fmt::print("{}: {} rows, off by {:.2e} together, {:.2e} at worst, {} by more than {:.0e}\n", what, seen,
               all, worst, off, tolerance);
    if (routed) {
      EXPECT_LE(off, seen / 3) << what << ": of " << seen << " rows; the worst is off by " << worst;
      EXPECT_LT(all, 1) << what;  // also refuses what is not a number
    } else {
      EXPECT_LE(all, tolerance) << what;
      EXPECT_LE(worst, 2 * tolerance) << what;
    }
  }
};

// Prefill in chunks, and decode steps.
void expect_every_row(engine::DirectRunner& runner, engine::DirectRunner& oracle, const Json& cases,
                      i64 chunk, double tolerance, bool routed, const std::string& what) {
  Rows prefill{tolerance}, decode{tolerance};
  for (const auto& c : cases) {
    const auto ids = c["ids"].get<std::vector<i32>>();
    std::vector<std::vector<float>> wanted(ids.size());
    oracle.restart();
    runner.restart();
    ASSERT_TRUE(oracle.prefill(ids, 1000, [&](i64 at, std::span<const float> row) {
      wanted[static_cast<std::size_t>(at)].assign(row.begin(), row.end());
    }));
    const auto done = runner.prefill(ids, chunk, [&](i64 at, std::span<const float> row) {
      prefill.add(row, wanted[static_cast<std::size_t>(at)]);
    });
    ASSERT_TRUE(done) << done.error().message;
    for (const auto& s : c["greedy"]) {
      const auto a = runner.decode_one(s[0].get<i32>()), b = oracle.decode_one(s[0].get<i32>());
      ASSERT_TRUE(a && b) << (a ? "" : a.error().message);
      decode.add(*a, *b);
    }
  }
  prefill.expect(routed, what + ", prefill");
  decode.expect(routed, what + ", decode");
}

TEST_P(TinyModel, EveryRowAgreesWithTheOracle) {
  const auto& p = GetParam();
  if (p.mode.oracle) GTEST_SKIP() << "the oracle itself";
  engine::Runtime runtime, exact;
  const auto runner = runner_of(p.mode, runtime), oracle = runner_of(kOracle, exact);
  ASSERT_TRUE(runner && oracle);
  expect_every_row(*runner, *oracle, expected["cases"], p.chunk, tolerance_of(p.mode),
                   runtime.config.moe.experts > 0, p.model);
}

TEST_P(TinyModel, EveryRowAgreesWhereEveryExpertIsChosen) {
  const auto& p = GetParam();
  if (p.mode.oracle) GTEST_SKIP() << "the oracle itself";
  const std::string dir = with_every_expert(p.model);
  engine::Runtime runtime, exact;
  const auto runner = runner_of(p.mode, runtime, 1, dir), oracle = runner_of(kOracle, exact, 1, dir);
  std::filesystem::remove_all(dir);
  ASSERT_TRUE(runner && oracle);
  if (runtime.config.moe.experts == 0) GTEST_SKIP() << "a model without experts";
  expect_every_row(*runner, *oracle, expected["cases"], p.chunk, tolerance_of(p.mode), false,
                   std::string(p.model) + " with every expert");
}

TEST_P(TinyModel, ABatchOfSequencesAgreesWithTheOracle) {
  // Five sequences of different lengths, of which fewer and fewer go on: a graph of the next larger size has
  // rows that belong to nobody.
  const auto& p = GetParam();
  constexpr int kSequences = 5;
  engine::Runtime runtime, exact;
  const auto runner = runner_of(p.mode, runtime, kSequences), oracle = runner_of(kOracle, exact, kSequences);
  ASSERT_TRUE(runner && oracle);
  const auto ids = expected["cases"].back()["ids"].get<std::vector<i32>>();
  for (int s = 0; s < kSequences; ++s) {
    const auto prompt = std::span(ids).subspan(static_cast<std::size_t>(s), s == 1 ? 1 : 20u + 32u * s);
    ASSERT_TRUE(runner->prefill(prompt, p.chunk, {}, s));
    ASSERT_TRUE(oracle->prefill(prompt, 1000, {}, s));
  }
  Rows rows{tolerance_of(p.mode)};
  const auto vocab = static_cast<std::size_t>(runtime.config.vocab_size);
  for (std::size_t n = kSequences, step = 0; n > 0; step += 2, --n) {
    for (std::size_t twice = 0; twice < 2; ++twice) {
      const auto tokens = std::span(ids).subspan(step + twice, n);
      const auto got = runner->decode(tokens), wanted = oracle->decode(tokens);
      ASSERT_TRUE(got && wanted) << (got ? "" : got.error().message);
      ASSERT_EQ(got->shape.rows(), static_cast<i64>(n));
      std::vector<float> a(n * vocab);
      ASSERT_TRUE(runtime.backend->device().copy_out(a.data(), got->data, static_cast<i64>(a.size()) * 4,
                                                     runner->stream()));
      ASSERT_TRUE(runner->stream().synchronize());
      const auto* const b = wanted->as<float>();
      for (std::size_t r = 0; r < n; ++r) rows.add({a.data() + r * vocab, vocab}, {b + r * vocab, vocab});
    }
  }
  rows.expect(runtime.config.moe.experts > 0, std::string(p.model) + ", batch");
}

std::vector<Case> cases() {
  std::vector<Case> out;
  for (const char* model : {"llama", "mixtral", "deepseek"}) {
    for (const Mode& mode :
         {kOracle, kCpu, kCpuDeterministic, kCudaBf16, kCudaBf16Eager, kCudaDeterministicBf16}) {
      for (const i64 chunk : {1000, 64, 7}) out.push_back({model, mode, chunk});
    }
    out.push_back({model, {.name = "oracle_deterministic", .oracle = true, .deterministic = true}, 7});
  }
  return out;
}
INSTANTIATE_TEST_SUITE_P(All, TinyModel, testing::ValuesIn(cases()), name_of);

}  // namespace
}  // namespace trireme
