// The demo checkpoints against the goldens that transformers computed for them. The FP8 model and the draft
// model are part of the repository; the BF16 copy and the goldens lie in ../shared/models.
#include <gtest/gtest.h>

#include <filesystem>

#include "compare.h"

namespace trireme {
namespace {

struct Case {
  const char* golden;
  bool oracle;
};
std::string name_of(const testing::TestParamInfo<Case>& info) {
  return fmt::format("{}_{}", info.param.golden, info.param.oracle ? "oracle" : "fast");
}

std::string model_dir(const std::string& golden) {
  if (golden == "bf16") return TRIREME_SHARED_MODELS "/trireme-demo-bf16";
  return std::string(TRIREME_SOURCE_DIR) +
         (golden == "draft" ? "/models/trireme-demo-draft" : "/models/trireme-demo");
}

class Golden : public testing::TestWithParam<Case> {};

TEST_P(Golden, LogitsAndGreedyTokensAgree) {
  const auto& p = GetParam();
  const std::string path = fmt::format("{}/goldens/{}.json", TRIREME_SHARED_MODELS, p.golden);
  if (!std::filesystem::exists(path))
    GTEST_SKIP()
        << path << " is not there: this test needs the reference outputs that are kept beside the repository";
  const auto golden = read_json_file(path);
  ASSERT_TRUE(golden) << golden.error().message;
  engine::RuntimeOptions options;
  options.model = model_dir(p.golden);
  options.oracle = p.oracle;
  auto runtime = engine::load_runtime(options);
  ASSERT_TRUE(runtime) << runtime.error().message;
  auto runner = engine::DirectRunner::create(*runtime, runtime->max_model_len);
  ASSERT_TRUE(runner) << runner.error().message;

  const double tolerance = p.oracle ? 2e-3 : 2e-2;
  double worst = 0;
  int compared = 0, steps_seen = 0;
  for (const auto& prompt : (*golden)["prompts"]) {
    const auto ids = prompt["ids"].get<std::vector<i32>>();
    (*runner)->restart();
    auto logits = (*runner)->prefill(ids, 512);
    ASSERT_TRUE(logits) << logits.error().message;
    std::vector<float> got, wanted;
    for (const auto& [id, value] : prompt["top20"].get<std::vector<std::pair<i32, float>>>()) {
      got.push_back((*logits)[static_cast<std::size_t>(id)]);
      wanted.push_back(value);
    }
    const double error = relative_error(got, wanted);
    worst = std::max(worst, error);
    EXPECT_LT(error, tolerance) << ids.size() << " tokens";
    double sum = 0;
    for (const float x : *logits) sum += std::abs(x);
    EXPECT_NEAR(sum, prompt["stats"]["abs_sum"].get<double>(),
                tolerance * prompt["stats"]["abs_sum"].get<double>());
    std::vector<GreedyStep> steps;
    for (const auto& s : prompt["greedy"]) steps.push_back({s["id"].get<i32>(), s["gap"].get<double>()});
    // A gap below this may be turned round by this backend's rounding.
    compared += expect_greedy(**runner, *logits, steps,
                              p.oracle                           ? 0.02
                              : std::string(p.golden) == "draft" ? 0.5
                                                                 : 0.05,
                              fmt::format("{} tokens", ids.size()));
    steps_seen += static_cast<int>(steps.size());
  }
  RecordProperty("worst_relative_error", fmt::format("{:.2e}", worst));
  fmt::print("{}: worst relative error {:.2e}, {} of {} greedy steps decided\n", name_of({p, 0}), worst,
             compared, steps_seen);
  EXPECT_GT(compared, steps_seen / 2);
}

INSTANTIATE_TEST_SUITE_P(All, Golden,
                         testing::Values(Case{"fp8", true}, Case{"fp8", false}, Case{"bf16", true},
                                         Case{"bf16", false}, Case{"draft", true}, Case{"draft", false}),
                         name_of);

}  // namespace
}  // namespace trireme
