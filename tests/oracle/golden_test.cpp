// The demo checkpoints against the goldens that transformers computed for them. The FP8 model and the draft
// model are part of the repository; the BF16 copy and the goldens lie in ../shared/models.
#include <gtest/gtest.h>

#include <filesystem>

#include "compare.h"
#include "devices.h"

namespace trireme {
namespace {

struct Case {
  const char* golden;
  Mode mode;
  double tolerance;  // of the logits, relative
  double gap;        // of the golden's two best logits: below it, rounding may turn their order round
};
void PrintTo(const Case& c, std::ostream* out) { *out << c.golden << " on " << c.mode.name; }
std::string name_of(const testing::TestParamInfo<Case>& info) {
  return fmt::format("{}_{}", info.param.golden, info.param.mode.name);
}

std::string model_dir(const std::string& golden) {
  if (golden == "bf16") return shared_models() + "/trireme-demo-bf16";
  return source_dir() + (golden == "draft" ? "/models/trireme-demo-draft" : "/models/trireme-demo");
}

// Two logits that are each off by the tolerance (of logits of about 12) may change places where the golden
// holds them closer than that together. The draft model is small and less sure of itself.
constexpr double kBf16 = 2e-2, kFp8 = 8e-2, kBf16Gap = 0.5, kFp8Gap = 2;

class Golden : public testing::TestWithParam<Case> {};

TEST_P(Golden, LogitsAndGreedyTokensAgree) {
  const auto& p = GetParam();
  SKIP_IF_MISSING(p.mode);
  const std::string path = fmt::format("{}/goldens/{}.json", shared_models(), p.golden);
  for (const auto& needed : {path, model_dir(p.golden)}) {
    if (!std::filesystem::exists(needed))
      GTEST_SKIP() << needed << " is not there: this test needs what is kept beside the repository";
  }
  const auto golden = read_json_file(path);
  ASSERT_TRUE(golden) << golden.error().message;
  auto runtime = engine::load_runtime(p.mode.options(model_dir(p.golden)));
  ASSERT_TRUE(runtime) << runtime.error().message;
  auto runner = engine::DirectRunner::create(*runtime, runtime->max_model_len);
  ASSERT_TRUE(runner) << runner.error().message;
  if (p.mode.graphs) {
    const auto recorded = (*runner)->record({});
    ASSERT_TRUE(recorded) << recorded.error().message;
  }

  double worst = 0, sum_of_errors = 0;
  int steps_seen = 0, off = 0;
  // Where activations round to FP8, one step in some hundreds goes to other experts, and its logits are
  // further off than any bound on the others. So it is where attention multiplies an FP8 cache as it lies, or
  // prompts in FP8; more of them where both do.
  const bool fp8_attention = p.mode.fp8_cache || p.mode.fp8_prefill_attention;
  const bool fp8 = (p.mode.fp8_activations || fp8_attention) && p.tolerance >= kFp8;
  const bool both_fp8 = p.mode.fp8_activations && fp8_attention;
  GreedyOutcome all;
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
    sum_of_errors += error;
    // One of the prompts may end in a step that goes to other experts.
    off += error >= p.tolerance;
    EXPECT_LT(error, both_fp8 ? 4 * p.tolerance : p.tolerance) << ids.size() << " tokens";
    double sum = 0;
    for (const float x : *logits) sum += std::abs(x);
    EXPECT_NEAR(sum, prompt["stats"]["abs_sum"].get<double>(),
                (both_fp8 ? 2 : 1) * p.tolerance * prompt["stats"]["abs_sum"].get<double>());
    std::vector<GreedyStep> steps;
    for (const auto& s : prompt["greedy"]) steps.push_back({s["id"].get<i32>(), s["gap"].get<double>()});
    const auto one =
        expect_greedy(**runner, *logits, steps, p.gap, fmt::format("{} tokens", ids.size()), !fp8);
    all.compared += one.compared;
    all.wrong += one.wrong;
    all.other += one.other;
    all.other_gap = std::max(all.other_gap, one.other_gap);
    steps_seen += static_cast<int>(steps.size());
  }
  RecordProperty("worst_relative_error", fmt::format("{:.2e}", worst));
  fmt::print(
      "{}: relative error {:.2e}, at worst {:.2e}; {} of {} greedy steps decided; {} chose otherwise, at "
      "gaps up to {:.3f}\n",
      name_of({p, 0}), sum_of_errors / static_cast<double>((*golden)["prompts"].size()), worst, all.compared,
      steps_seen, all.other, all.other_gap);
  EXPECT_LE(off, both_fp8 ? 1 : 0);
  EXPECT_LT(sum_of_errors / static_cast<double>((*golden)["prompts"].size()), p.tolerance / 2);
  EXPECT_LE(all.wrong, both_fp8 ? all.compared / 100 : fp8 ? all.compared / 500 : 0);
  EXPECT_GT(all.compared, steps_seen / 2);
}

INSTANTIATE_TEST_SUITE_P(
    All, Golden,
    testing::Values(
        Case{"fp8", kOracle, 2e-3, 0.02}, Case{"fp8", kCpu, 2e-2, 0.05}, Case{"bf16", kOracle, 2e-3, 0.02},
        Case{"bf16", kCpu, 2e-2, 0.05}, Case{"draft", kOracle, 2e-3, 0.02}, Case{"draft", kCpu, 2e-2, 0.5},
        Case{"fp8", kCuda, kFp8, kFp8Gap}, Case{"fp8", kCudaEager, kFp8, kFp8Gap},
        Case{"fp8", kCudaDeterministic, kFp8, kFp8Gap},
        Case{"fp8", kCudaDeterministicFp8Cache, kFp8, kFp8Gap}, Case{"fp8", kCudaFp8Cache, kFp8, kFp8Gap},
        Case{"fp8", kCudaBf16, kBf16, kBf16Gap}, Case{"fp8", kCudaDeterministicBf16, kBf16, kBf16Gap},
        Case{"fp8", kCudaBf16Fp8Cache, kFp8, kFp8Gap}, Case{"fp8", kCudaFp8Prefill, kFp8, kFp8Gap},
        Case{"fp8", kCudaBf16Fp8Prefill, kFp8, kFp8Gap}, Case{"fp8", kCudaFp8CachePrefill, kFp8, kFp8Gap},
        Case{"bf16", kCuda, kBf16, kBf16Gap}, Case{"bf16", kCudaEager, kBf16, kBf16Gap},
        Case{"bf16", kCudaDeterministic, kBf16, kBf16Gap}, Case{"draft", kCuda, kBf16, kBf16Gap},
        Case{"draft", kCudaDeterministic, kBf16, kBf16Gap}),
    name_of);

}  // namespace
}  // namespace trireme
