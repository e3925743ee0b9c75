// Where a model's weights come from: a checkpoint, or random numbers of the right shapes.
#pragma once
#include <atomic>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "formats/safetensors.h"
#include "models/config.h"
#include "ops/ops.h"

namespace trireme::models {

// A tensor as stored, and what keeps it alive.
struct RawTensor {
  ConstView view;
  std::shared_ptr<const void> owner;
};

// Gives stored tensors by Hugging Face name.
class WeightSource {
 public:
  virtual ~WeightSource() = default;
  // kNotFound by name; kInvalidArgument when the shape is not the expected one.
  virtual Result<RawTensor> tensor(const std::string& name, Shape shape) = 0;
  // A matrix that a quantised checkpoint may store as FP8 codes; then its block scales are filled in.
  virtual Result<RawTensor> matrix(const std::string& name, i64 n, i64 k, RawTensor& scale) = 0;
  virtual bool has(const std::string& name) const = 0;
  virtual i64 total_bytes() const = 0;                // of all tensors, for progress
  virtual bool shapes_only() const { return false; }  // matrices have no bytes behind them
};

std::unique_ptr<WeightSource> checkpoint_source(formats::Checkpoint checkpoint, const ModelConfig& config);
// --load-format dummy: the same numbers on every run.
std::unique_ptr<WeightSource> dummy_source(const ModelConfig& config);
// Shapes and types alone, as a checkpoint of this config would have them.
std::unique_ptr<WeightSource> shape_source(const ModelConfig& config);

// Turns stored tensors into what the ops read. Takes from the source, prepares on the backend, counts bytes.
class Loader {
 public:
  using Progress = std::function<void(i64 done_bytes, i64 total_bytes)>;
  // precise: LinearWeight::precise of every matrix.
  Loader(WeightSource& source, Backend& backend, bool precise, Progress progress)
      : source_(source), backend_(backend), precise_(precise), progress_(std::move(progress)) {}

  // A matrix to be stacked with others over the same input: its name without ".weight", and its rows.
  struct Part {
    std::string name;
    i64 n = 0;
  };
  using Parts = std::vector<Part>;

  // A matrix as it is stored.
  Result<LinearWeight> linear(const std::string& name, i64 n, i64 k, bool bias = false) {
    return stacked({{name, n}}, k, bias);
  }
  // Several matrices one below the other: gate and up, say.
  Result<LinearWeight> stacked(const Parts& parts, i64 k, bool bias = false);
  // `count` matrices that one call multiplies with; parts_of(i) names what matrix i is stacked from.
  Result<GroupWeight> group(i64 count, i64 k, const std::function<Parts(i64)>& parts_of);
  // In float32 whatever it was stored as (routers).
  Result<LinearWeight> linear_f32(const std::string& name, i64 n, i64 k);
  // Rows of a stored matrix, or their transpose, one matrix a head: MLA's absorbed matrices.
  // Head h covers rows [h * stride + begin, + n) of the [rows, k] matrix.
  Result<GroupWeight> heads(const std::string& name, i64 rows, i64 k, int heads, i64 stride, i64 begin, i64 n,
                            bool transpose);
  // kv_product_scale of the same rows of every head, for latents behind a norm with these weights.
  Result<float> product_scale(const std::string& name, i64 rows, int heads, i64 stride, i64 begin, i64 n,
                              std::span<const float> norm);
  // A norm weight or router bias, float32 on the device.
  // kept: where given, gets the values as well.
  Result<ConstView> vector_f32(const std::string& name, i64 n, std::vector<float>* kept = nullptr);
  // The embedding table as stored (float32 or BF16).
  Result<ConstView> table(const std::string& name, i64 rows, i64 cols);
  // A table of our own making, moved to the device.
  Result<ConstView> upload_f32(const std::vector<float>& values, Shape shape);
  Result<ConstView> upload_i32(const std::vector<i32>& values, Shape shape);

  bool has(const std::string& name) const { return source_.has(name); }
  i64 weight_bytes() const { return weight_bytes_; }
  // Memory that the loaded views lie in; the model keeps it.
  std::vector<Buffer> take_buffers() { return std::move(buffers_); }

 private:
  Result<LinearWeight> stored(const Parts& parts, i64 k);
  Result<LinearWeight> prepare(LinearWeight w, i64 read_bytes);
  Result<GroupWeight> prepare_group(GroupWeight group, i64 read_bytes);
  void count(i64 device_bytes, i64 read_bytes);
  Result<ConstView> upload(const void* values, DType type, Shape shape);
  Result<LinearWeight> head(const RawTensor& stored, const RawTensor& scale, i64 first, i64 n,
                            bool transpose);
  Result<Buffer> floats(const std::string& name, i64 n, i64 k);  // a matrix on the host as float32
  Result<Buffer> host(i64 bytes);
  LinearWeight dense(const float* values, i64 n, i64 k, Buffer& storage, DType type);

  WeightSource& source_;
  Backend& backend_;
  bool precise_;
  Progress progress_;
  std::vector<Buffer> buffers_;
  std::unique_ptr<Stream> stream_;
  i64 weight_bytes_ = 0, done_bytes_ = 0;
};

}  // namespace trireme::models
