// Tests of attention kernels: skipped without a GPU; fresh numbers each run, whose seed the report has.
#pragma once
#include <gtest/gtest.h>

#include <random>

#include "backends/cuda/attention_test_util.h"

namespace trireme::cuda::testing_attention {

class GpuTest : public testing::Test {
 protected:
  void SetUp() override {
    int n = 0;
    if (cudaGetDeviceCount(&n) != cudaSuccess || n == 0) GTEST_SKIP() << "no NVIDIA GPU";
    const auto seed = std::random_device{}();
    RecordProperty("seed", static_cast<int>(seed % 1000000));
    rng.seed(seed % 1000000);
  }
  Rng rng;
};

}  // namespace trireme::cuda::testing_attention
