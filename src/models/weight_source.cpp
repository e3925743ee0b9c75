#include <algorithm>
#include <cstring>
#include <map>

#include "base/rng.h"
#include "models/weights.h"

namespace trireme::models {
namespace {

std::string scale_name(const std::string& weight) { return weight + "_scale_inv"; }

class CheckpointSource final : public WeightSource {
 public:
  CheckpointSource(formats::Checkpoint checkpoint, bool fp8)
      : checkpoint_(std::move(checkpoint)), fp8_(fp8) {}

  Result<RawTensor> tensor(const std::string& name, Shape shape) override {
    const ConstView* found = checkpoint_.find(name);
    if (!found) return fail(ErrorCode::kNotFound, "the checkpoint has no tensor {}", name);
    if (!(found->shape == shape)) {
      return invalid("{} has shape {}, config.json asks for {}", name, to_string(found->shape),
                     to_string(shape));
    }
    return RawTensor{*found, checkpoint_.keep_alive()};
  }

  Result<RawTensor> matrix(const std::string& name, i64 n, i64 k, RawTensor& scale) override {
    ASSIGN(auto stored, tensor(name, {n, k}));
    if (stored.view.dtype == DType::kF8E4M3) {
      if (!fp8_) return invalid("{} is FP8, but config.json has no quantization_config", name);
      ASSIGN(scale, tensor(scale_name(name), {ceil_div(n, 128), ceil_div(k, 128)}));
      if (scale.view.dtype != DType::kF32)
        return invalid("{} is {}, not float32", scale_name(name), to_string(scale.view.dtype));
    } else if (stored.view.dtype != DType::kBF16 && stored.view.dtype != DType::kF32 &&
               stored.view.dtype != DType::kF16) {
      return fail(ErrorCode::kUnsupported, "{} is {}; weights must be float32, bfloat16, float16 or FP8 e4m3",
                  name, to_string(stored.view.dtype));
    }
    return stored;
  }

  bool has(const std::string& name) const override { return checkpoint_.find(name) != nullptr; }
  i64 total_bytes() const override { return checkpoint_.total_bytes(); }

 private:
  formats::Checkpoint checkpoint_;
  bool fp8_;
};

// Random BF16 (or FP8 codes with one small scale), from a pool that is written once: what a kernel's speed
// depends on is the shape, and filling 671 billion weights one by one would take longer than the measurement.
class DummySource final : public WeightSource {
 public:
  DummySource(bool fp8, bool shapes_only) : fp8_(fp8), shapes_only_(shapes_only) {}

  Result<RawTensor> tensor(const std::string& name, Shape shape) override {
    if (name.find("norm") != std::string::npos) return filled(shape, DType::kF32, 1.0f);
    if (name.ends_with("e_score_correction_bias")) return filled(shape, DType::kF32, 0.0f);
    return random(shape, DType::kBF16);
  }

  Result<RawTensor> matrix(const std::string& name, i64 n, i64 k, RawTensor& scale) override {
    const bool plain =
        name.find("embed_tokens") != std::string::npos || name.find("head") != std::string::npos ||
        name.find("mlp.gate.weight") != std::string::npos || name.find("eh_proj") != std::string::npos;
    if (!fp8_ || plain) return random({n, k}, DType::kBF16);
    ASSIGN(scale, filled({ceil_div(n, 128), ceil_div(k, 128)}, DType::kF32, 1e-3f));
    return random({n, k}, DType::kF8E4M3);
  }

  bool has(const std::string&) const override { return true; }
  bool shapes_only() const override { return shapes_only_; }
  i64 total_bytes() const override { return 0; }

 private:
  Result<RawTensor> filled(Shape shape, DType type, float value) {
    auto data = std::make_shared<std::vector<float>>(static_cast<std::size_t>(shape.elements()), value);
    return RawTensor{ConstView(data->data(), type, shape), data};
  }

  Result<RawTensor> random(Shape shape, DType type) {
    if (shapes_only_ && shape.rank > 1) return RawTensor{ConstView(this, type, shape), nullptr};
    const std::size_t bytes = static_cast<std::size_t>(shape.elements() * size_of(type));
    auto& pool = pools_[type];
    if (!pool || pool->size() < bytes) {
      pool = std::make_shared<std::vector<u8>>(bytes);
      Rng rng(7);
      const std::size_t drawn = std::min<std::size_t>(bytes, 32 << 20);  // the rest repeats it
      for (std::size_t i = 0; i < drawn; i += 2) {
        if (type == DType::kBF16) {
          const BF16 v(static_cast<float>(rng.uniform() - 0.5) * 0.07f);  // deviation 0.02
          std::memcpy(pool->data() + i, &v, 2);
        } else {
          (*pool)[i] = static_cast<u8>(rng.next() % 0x58 | (rng.next() & 0x80));  // finite codes of up to 16
          if (i + 1 < drawn) (*pool)[i + 1] = static_cast<u8>(rng.next() % 0x58 | (rng.next() & 0x80));
        }
      }
      for (std::size_t at = drawn; at < bytes; at += std::min(drawn, bytes - at))
        std::memcpy(pool->data() + at, pool->data(), std::min(drawn, bytes - at));
    }
    return RawTensor{ConstView(pool->data(), type, shape), pool};
  }

  bool fp8_, shapes_only_;
  std::map<DType, std::shared_ptr<std::vector<u8>>> pools_;
};

}  // namespace

std::unique_ptr<WeightSource> checkpoint_source(formats::Checkpoint checkpoint, const ModelConfig& config) {
  return std::make_unique<CheckpointSource>(std::move(checkpoint), config.fp8.has_value());
}
std::unique_ptr<WeightSource> dummy_source(const ModelConfig& config) {
  return std::make_unique<DummySource>(config.fp8.has_value(), false);
}
std::unique_ptr<WeightSource> shape_source(const ModelConfig& config) {
  return std::make_unique<DummySource>(config.fp8.has_value(), true);
}

}  // namespace trireme::models
