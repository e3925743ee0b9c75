#include "formats/kv_product_scale.h"

#include <gtest/gtest.h>

#include <limits>
#include <vector>

#include "base/rng.h"

namespace trireme {
namespace {

using Floats = std::vector<float>;
constexpr float kInf = std::numeric_limits<float>::infinity(), kNaN = std::numeric_limits<float>::quiet_NaN();

Floats random(Rng& rng, std::size_t n) {
  Floats v(n);
  for (float& x : v) x = static_cast<float>(rng.normal());
  return v;
}
double dot(const Floats& a, const Floats& b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  return sum;
}
// An RMS norm without its epsilon, which only makes it smaller.
Floats normed(const Floats& x, const Floats& norm) {
  const double by = std::sqrt(static_cast<double>(x.size()) / dot(x, x));
  Floats out(x.size());
  for (std::size_t i = 0; i < x.size(); ++i)
    out[i] = static_cast<float>(static_cast<double>(x[i]) * by * static_cast<double>(norm[i]));
  return out;
}
float scale_of(float weight, float norm, std::size_t n = 512) {
  return kv_product_scale(Floats{kv_product_bound(Floats(n, weight), Floats(n, norm))});
}

TEST(KvProductScale, NoLatentExceedsTheBoundAndTheWorstReachesIt) {
  Rng rng(5);
  for (const std::size_t n : {512u, 48u, 16u, 7u, 1u}) {
    for (int i = 0; i < 20; ++i) {
      const Floats row = random(rng, n);
      Floats norm = random(rng, n), worst(n);
      if (i % 2 == 1) norm[rng.below(n)] *= 100;
      for (std::size_t c = 0; c < n; ++c) worst[c] = row[c] * norm[c];
      const double bound = static_cast<double>(kv_product_bound(row, norm));
      for (int k = 0; k < 20; ++k)
        EXPECT_LE(std::abs(dot(row, normed(random(rng, n), norm))), bound * (1 + 1e-5)) << n;
      EXPECT_NEAR(dot(row, normed(worst, norm)) / bound, 1, 1e-5) << n;
    }
  }
}

TEST(KvProductScale, CoversTheLongestRowAndWhatRoundingAdds) {
  Rng rng(6);
  for (const float size : {1e-6f, 0.02f, 1.0f, 3e4f}) {
    Floats norm = random(rng, 512), bounds;
    for (float& x : norm) x *= size;
    float longest = 0;
    for (int r = 0; r < 100; ++r) {
      bounds.push_back(kv_product_bound(random(rng, 512), norm));
      longest = std::max(longest, bounds.back());
    }
    const float scale = kv_product_scale(bounds);
    EXPECT_TRUE(is_kv_scale(scale)) << scale;
    EXPECT_LE(longest * (17.0f / 16) * (17.0f / 16), 448 * scale);
    EXPECT_GT(longest * 1.25f, 223 * scale);
  }
}

TEST(KvProductScale, RowsOfNothingAndOfNonsenseHaveAScaleToo) {
  EXPECT_EQ(kv_product_scale({}), 1);
  EXPECT_EQ(scale_of(0, 1), 1);
  EXPECT_EQ(scale_of(1, 0), 1);
  for (const float bad : {kNaN, kInf, -kInf, std::numeric_limits<float>::max()}) {
    EXPECT_EQ(scale_of(bad, 1), 1) << bad;
    EXPECT_EQ(scale_of(1, bad), 1) << bad;
    EXPECT_EQ(kv_product_scale(Floats{2000, kv_product_bound(Floats(512, bad), Floats(512, 1.0f)), 3}), 1)
        << bad;
  }
  EXPECT_TRUE(is_kv_scale(scale_of(std::numeric_limits<float>::denorm_min(), 1)));
}

}  // namespace
}  // namespace trireme
