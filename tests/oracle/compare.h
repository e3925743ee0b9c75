// Logits against logits, and greedy tokens where the reference's own gap decides them.
#pragma once
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/json.h"
#include "engine/direct.h"

namespace trireme {

// |a - b| / |b|, in the Euclidean norm.
inline double relative_error(std::span<const float> a, std::span<const float> b) {
  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < b.size(); ++i) {
    difference += std::pow(static_cast<double>(a[i]) - static_cast<double>(b[i]), 2);
    norm += std::pow(static_cast<double>(b[i]), 2);
  }
  return std::sqrt(difference / norm);
}

inline i32 argmax(std::span<const float> v) {
  return static_cast<i32>(std::max_element(v.begin(), v.end()) - v.begin());
}

struct GreedyStep {
  i32 id;
  double gap;  // between the reference's best and second-best logit
};

struct GreedyOutcome {
  int compared = 0;      // steps whose gap was large enough to decide
  int wrong = 0;         // of those: another token came first
  int other = 0;         // steps of any gap at which another token came first
  double other_gap = 0;  // the largest gap of those
};

// Follows the reference's tokens, and asks for its choice wherever its gap exceeds what rounding may change.
// strict: any other choice there fails the test; else the caller judges their number.
inline GreedyOutcome expect_greedy(engine::DirectRunner& runner, std::vector<float> logits,
                                   const std::vector<GreedyStep>& steps, double allowed_gap,
                                   const std::string& what, bool strict = true) {
  GreedyOutcome out;
  for (std::size_t i = 0; i < steps.size(); ++i) {
    const i32 best = argmax(logits);
    if (steps[i].gap > allowed_gap) {
      if (strict) {
        EXPECT_EQ(best, steps[i].id) << what << ", step " << i << ", gap " << steps[i].gap;
      }
      out.wrong += best != steps[i].id;
      ++out.compared;
    }
    if (best != steps[i].id) {
      ++out.other;
      out.other_gap = std::max(out.other_gap, steps[i].gap);
    }
    if (i + 1 == steps.size()) break;
    auto next = runner.decode_one(steps[i].id);
    if (!next) {
      ADD_FAILURE() << next.error().message;
      return out;
    }
    logits = std::move(*next);
  }
  return out;
}

}  // namespace trireme
