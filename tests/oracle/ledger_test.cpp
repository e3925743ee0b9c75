#include <gtest/gtest.h>

#include "engine/runtime.h"
#include "models/ledger.h"

namespace trireme {
namespace {

class Ledger : public testing::TestWithParam<const char*> {};

TEST_P(Ledger, ForetellsWhatLoadingTakes) {
  for (const bool oracle : {true, false}) {
    engine::RuntimeOptions options;
    options.model = std::string(TRIREME_SOURCE_DIR) + GetParam();
    options.oracle = oracle;
    const auto runtime = engine::load_runtime(options);
    ASSERT_TRUE(runtime) << runtime.error().message;
    i64 foretold = 0;
    for (const auto& g :
         models::weight_groups(runtime->config, runtime->max_model_len, runtime->backend->dequantised())) {
      const bool later = g.use == models::WeightGroup::Use::kFuture || g.part.starts_with("MTP");
      if (later) continue;  // weight_bytes() is of what a step uses
      foretold += models::loaded_bytes(
          g, [&](i64 n, i64 k, DType stored) { return runtime->backend->prepared_bytes(n, k, stored); });
    }
    EXPECT_EQ(foretold, runtime->model->weight_bytes())
        << GetParam() << (oracle ? " on the oracle" : " on the fast path");
  }
}

INSTANTIATE_TEST_SUITE_P(All, Ledger,
                         testing::Values("/models/trireme-demo", "/models/trireme-demo-draft",
                                         "/tests/oracle/data/llama", "/tests/oracle/data/mixtral",
                                         "/tests/oracle/data/deepseek"));

}  // namespace
}  // namespace trireme
