#include <gtest/gtest.h>

#include "devices.h"
#include "engine/runtime.h"
#include "models/ledger.h"

namespace trireme {
namespace {

struct Case {
  const char* model;
  Mode mode;
};
void PrintTo(const Case& c, std::ostream* out) { *out << c.model << " on " << c.mode.name; }

class Ledger : public testing::TestWithParam<Case> {};

TEST_P(Ledger, ForetellsWhatLoadingTakes) {
  const auto& p = GetParam();
  SKIP_IF_MISSING(p.mode);
  const auto runtime = engine::load_runtime(p.mode.options(source_dir() + p.model));
  ASSERT_TRUE(runtime) << runtime.error().message;
  i64 foretold = 0;
  for (const auto& g : models::weight_groups(runtime->config, runtime->max_model_len, *runtime->backend)) {
    const bool later = g.use == models::WeightGroup::Use::kFuture || g.part.starts_with("MTP");
    if (later) continue;  // weight_bytes() is of what a step uses
    foretold += models::loaded_bytes(
        g, [&](i64 n, i64 k, DType stored) { return runtime->backend->prepared_bytes(n, k, stored); });
  }
  EXPECT_EQ(foretold, runtime->model->weight_bytes());
}

std::vector<Case> cases() {
  std::vector<Case> out;
  for (const char* model : {"/models/trireme-demo", "/models/trireme-demo-draft", "/tests/oracle/data/llama",
                            "/tests/oracle/data/mixtral", "/tests/oracle/data/deepseek"}) {
    for (const Mode& mode : {kOracle, kCpu, kCudaEager, kCudaBf16Eager}) out.push_back({model, mode});
  }
  return out;
}

std::string name_of(const testing::TestParamInfo<Case>& info) {
  std::string name = info.param.model;
  name = name.substr(name.rfind('/') + 1) + "_" + info.param.mode.name;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

INSTANTIATE_TEST_SUITE_P(All, Ledger, testing::ValuesIn(cases()), name_of);

}  // namespace
}  // namespace trireme
