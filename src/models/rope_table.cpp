// Sources: transformers' modeling_rope_utils; YaRN, https://arxiv.org/abs/2309.00071; DeepSeek-V3's
// published modelling code for its use of mscale.
#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/check.h"
#include "models/config.h"

namespace trireme::models {
namespace {

using Kind = RopeScaling::Kind;

i64 rope_dim(const ModelConfig& c) {
  return c.architecture == Architecture::kDeepseekV3 ? c.mla.qk_rope_head_dim : c.head_dim;
}

double yarn_mscale(double factor, double mscale) {
  return factor <= 1 ? 1.0 : 0.1 * mscale * std::log(factor) + 1.0;
}

// What cosines and sines are multiplied with.
double attention_factor(const ModelConfig& c) {
  const auto& s = c.rope_scaling;
  if (s.kind != Kind::kYarn) return 1;
  if (s.attention_factor) return *s.attention_factor;
  // DeepSeek's own code takes a missing mscale for 1 and a missing mscale_all_dim for 0; transformers looks
  // at the two only when both are there.
  const bool both = s.mscale != 0 && s.mscale_all_dim != 0;
  if (!both && c.architecture != Architecture::kDeepseekV3) return yarn_mscale(s.factor, 1);
  return yarn_mscale(s.factor, s.mscale != 0 ? s.mscale : 1) / yarn_mscale(s.factor, s.mscale_all_dim);
}

// Frequencies whose wavelength is beyond the trained context are slowed down by the factor, short ones are
// kept, those between are mixed.
double llama3_frequency(const RopeScaling& s, double frequency) {
  const double turns =
      static_cast<double>(s.original_max_position_embeddings) * frequency / (2 * std::numbers::pi);
  if (turns < s.low_freq_factor) return frequency / s.factor;
  if (turns > s.high_freq_factor) return frequency;
  const double keep = (turns - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor);
  return (1 - keep) * frequency / s.factor + keep * frequency;
}

// The pairs [low, high] over which YaRN goes from keeping a frequency to dividing it by the factor.
struct YarnRange {
  double low = 0, high = 0;
};

YarnRange yarn_range(const ModelConfig& c) {
  const auto& s = c.rope_scaling;
  const auto dim = static_cast<double>(rope_dim(c));
  const auto pair_of = [&](double turns) {
    return dim *
           std::log(static_cast<double>(s.original_max_position_embeddings) /
                    (turns * 2 * std::numbers::pi)) /
           (2 * std::log(c.rope_theta));
  };
  YarnRange range{pair_of(s.beta_fast), pair_of(s.beta_slow)};
  if (s.truncate) range = {std::floor(range.low), std::ceil(range.high)};
  range = {std::max(range.low, 0.0), std::min(range.high, dim - 1)};
  if (range.low == range.high) range.high += 0.001;
  return range;
}

std::vector<double> frequencies(const ModelConfig& c) {
  const auto& s = c.rope_scaling;
  const i64 dim = rope_dim(c);
  const YarnRange range = s.kind == Kind::kYarn ? yarn_range(c) : YarnRange{};
  std::vector<double> out;
  for (i64 i = 0; i < dim / 2; ++i) {
    const double plain = std::pow(c.rope_theta, -2.0 * static_cast<double>(i) / static_cast<double>(dim));
    switch (s.kind) {
      case Kind::kNone:
      case Kind::kDynamic:  // parse_config refuses it
        out.push_back(plain);
        break;
      case Kind::kLinear:
        out.push_back(plain / s.factor);
        break;
      case Kind::kLlama3:
        out.push_back(llama3_frequency(s, plain));
        break;
      case Kind::kYarn: {
        const double slow =
            std::clamp((static_cast<double>(i) - range.low) / (range.high - range.low), 0.0, 1.0);
        out.push_back(plain / s.factor * slow + plain * (1 - slow));
        break;
      }
    }
  }
  return out;
}

}  // namespace

double softmax_scale(const ModelConfig& c) {
  if (c.architecture != Architecture::kDeepseekV3) return 1 / std::sqrt(static_cast<double>(c.head_dim));
  const auto& s = c.rope_scaling;
  const double scale = 1 / std::sqrt(static_cast<double>(c.mla.qk_head_dim()));
  if (s.kind != Kind::kYarn || s.mscale_all_dim == 0) return scale;
  const double mscale = yarn_mscale(s.factor, s.mscale_all_dim);
  return scale * mscale * mscale;
}

std::vector<float> rope_table(const ModelConfig& c, i64 positions) {
  CHECK(positions >= 0 && positions <= i64{1} << 26, "a rope table of {} positions", positions);
  CHECK(c.rope_scaling.kind != Kind::kDynamic);
  const auto frequency = frequencies(c);
  const double factor = attention_factor(c);
  const std::size_t half = frequency.size();
  std::vector<float> table(static_cast<std::size_t>(positions) * 2 * half);
  for (std::size_t p = 0; p < static_cast<std::size_t>(positions); ++p) {
    float* row = table.data() + p * 2 * half;
    for (std::size_t i = 0; i < half; ++i) {
      const double angle = static_cast<double>(p) * frequency[i];
      row[i] = static_cast<float>(factor * std::cos(angle));
      row[half + i] = static_cast<float>(factor * std::sin(angle));
    }
  }
  return table;
}

}  // namespace trireme::models
