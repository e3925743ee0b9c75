// Tiny random checkpoints of each family, with public names and odd sizes, against transformers
// (tools/make_tiny_models.py).
#include <gtest/gtest.h>

#include "compare.h"

namespace trireme {
namespace {

struct Case {
  const char* model;
  bool oracle;
  bool deterministic;  // MLA: every token in the absorbed form
  i64 chunk;
};
std::string name_of(const testing::TestParamInfo<Case>& info) {
  return fmt::format("{}_{}_{}_chunk{}", info.param.model, info.param.oracle ? "oracle" : "fast",
                     info.param.deterministic ? "deterministic" : "default", info.param.chunk);
}

class TinyModel : public testing::TestWithParam<Case> {};

TEST_P(TinyModel, AgreesWithTransformers) {
  const auto& p = GetParam();
  const std::string dir = fmt::format("{}/tests/oracle/data/{}", TRIREME_SOURCE_DIR, p.model);
  engine::RuntimeOptions options;
  options.model = dir;
  options.oracle = p.oracle;
  options.deterministic = p.deterministic;
  auto runtime = engine::load_runtime(options);
  ASSERT_TRUE(runtime) << runtime.error().message;
  auto runner = engine::DirectRunner::create(*runtime, runtime->max_model_len);
  ASSERT_TRUE(runner) << runner.error().message;
  const auto expected = read_json_file(dir + "/expected.json");
  ASSERT_TRUE(expected) << expected.error().message;

  const double tolerance = p.oracle ? 2e-5 : 2e-2;
  for (const auto& c : (*expected)["cases"]) {
    const auto ids = c["ids"].get<std::vector<i32>>();
    const auto logits = c["logits"].get<std::vector<float>>();
    (*runner)->restart();
    auto got = (*runner)->prefill(ids, p.chunk);
    ASSERT_TRUE(got) << got.error().message;
    EXPECT_LT(relative_error(*got, logits), tolerance) << ids.size() << " tokens";
    std::vector<GreedyStep> steps;
    for (const auto& s : c["greedy"]) steps.push_back({s[0].get<i32>(), s[1].get<double>()});
    const double spread = *std::max_element(logits.begin(), logits.end());
    expect_greedy(**runner, *got, steps, (p.oracle ? 1e-3 : 0.1) * spread,
                  fmt::format("{} tokens", ids.size()));
  }
}

std::vector<Case> cases() {
  std::vector<Case> out;
  for (const char* model : {"llama", "mixtral", "deepseek"}) {
    for (const bool oracle : {true, false}) {
      for (const bool deterministic : {false, true}) {
        for (const i64 chunk : {1000, 7}) out.push_back({model, oracle, deterministic, chunk});
      }
    }
  }
  return out;
}
INSTANTIATE_TEST_SUITE_P(All, TinyModel, testing::ValuesIn(cases()), name_of);

}  // namespace
}  // namespace trireme
