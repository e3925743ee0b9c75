#include <cstring>

#include "models/weights.h"

namespace trireme::models {
namespace {

float element(const ConstView& v, i64 i) {
  switch (v.dtype) {
    case DType::kF32:
      return v.as<float>()[i];
    case DType::kBF16:
      return static_cast<float>(v.as<BF16>()[i]);
    case DType::kF16:
      return f16_to_float(v.as<u16>()[i]);
    default:
      return f8e4m3_to_float(v.as<u8>()[i]);
  }
}

}  // namespace

Result<Buffer> Loader::host(i64 bytes) {
  try {
    auto data = std::make_shared<std::vector<u64>>(static_cast<std::size_t>(ceil_div(bytes, 8)));
    return Buffer(data, data->data(), bytes);
  } catch (const std::bad_alloc&) {
    return fail(ErrorCode::kResourceExhausted, "not enough memory for {} MiB of weights", bytes >> 20);
  }
}

Result<LinearWeight> Loader::prepare(LinearWeight w, i64 read_bytes) {
  w.precise = precise_;
  TRY(backend_.ops().prepare(backend_.device(), w));
  weight_bytes_ += w.stored_bytes;
  done_bytes_ += read_bytes;
  if (progress_) progress_(done_bytes_, source_.total_bytes());
  return w;
}

Result<LinearWeight> Loader::linear(const std::string& name, i64 n, i64 k, bool bias) {
  RawTensor scale;
  ASSIGN(auto stored, source_.matrix(name + ".weight", n, k, scale));
  LinearWeight w;
  w.n = n, w.k = k;
  w.weight = stored.view, w.scale = scale.view;
  if (bias) {
    ASSIGN(w.bias, vector_f32(name + ".bias", n));
  }
  return prepare(std::move(w), stored.view.bytes());
}

Result<LinearWeight> Loader::stacked(const std::vector<std::string>& names, i64 n_each, i64 k) {
  const i64 n = n_each * static_cast<i64>(names.size());
  std::vector<RawTensor> parts(names.size()), scales(names.size());
  bool alike = true;
  for (std::size_t i = 0; i < names.size(); ++i) {
    ASSIGN(parts[i], source_.matrix(names[i] + ".weight", n_each, k, scales[i]));
    alike &= parts[i].view.dtype == parts[0].view.dtype;
  }
  const DType type = parts[0].view.dtype;
  // Blocks of 128 rows must not straddle two matrices for their scales to be stacked as they are.
  if (!alike || (type == DType::kF8E4M3 && n_each % 128 != 0)) {
    ASSIGN(auto storage, host(n * k * size_of(DType::kF32)));
    auto* to = static_cast<float*>(storage.data());
    for (const auto& name : names) {
      ASSIGN(auto part, floats(name + ".weight", n_each, k));
      std::memcpy(to, part.data(), static_cast<std::size_t>(n_each * k) * sizeof(float));
      to += n_each * k;
    }
    LinearWeight w = dense(static_cast<const float*>(storage.data()), n, k, storage, backend_.dequantised());
    return prepare(std::move(w), n * k);
  }
  const i64 bytes = n_each * k * size_of(type);
  ASSIGN(auto storage, host(n * k * size_of(type)));
  for (std::size_t i = 0; i < parts.size(); ++i) {
    std::memcpy(static_cast<char*>(storage.data()) + static_cast<i64>(i) * bytes, parts[i].view.data,
                static_cast<std::size_t>(bytes));
  }
  LinearWeight w{
      .n = n, .k = k, .weight = storage.view(type, {n, k}), .scale = {}, .bias = {}, .packed = nullptr};
  Buffer scale_storage;
  if (type == DType::kF8E4M3) {
    const i64 rows = n_each / 128, cols = ceil_div(k, 128);
    ASSIGN(scale_storage, host(rows * static_cast<i64>(parts.size()) * cols * 4));
    for (std::size_t i = 0; i < parts.size(); ++i) {
      std::memcpy(static_cast<float*>(scale_storage.data()) + static_cast<i64>(i) * rows * cols,
                  scales[i].view.data, static_cast<std::size_t>(rows * cols) * 4);
    }
    w.scale = scale_storage.view(DType::kF32, {rows * static_cast<i64>(parts.size()), cols});
  }
  return prepare(std::move(w), bytes * static_cast<i64>(parts.size()));
}

Result<Buffer> Loader::floats(const std::string& name, i64 n, i64 k) {
  RawTensor scale;
  ASSIGN(auto stored, source_.matrix(name, n, k, scale));
  ASSIGN(auto out, host(n * k * 4));
  auto* to = static_cast<float*>(out.data());
  const i64 scale_cols = ceil_div(k, 128);
  for (i64 r = 0; r < n; ++r) {
    for (i64 c = 0; c < k; ++c) {
      const float s = scale.view ? scale.view.as<float>()[(r / 128) * scale_cols + c / 128] : 1.0f;
      to[r * k + c] = element(stored.view, r * k + c) * s;
    }
  }
  return out;
}

// A LinearWeight over `values`, in `type`; `storage` becomes what its view lies in.
LinearWeight Loader::dense(const float* values, i64 n, i64 k, Buffer& storage, DType type) {
  if (type == DType::kBF16) {
    // In place: element i is read at 4 i before 2 i is written.
    auto* to = static_cast<BF16*>(storage.data());
    for (i64 i = 0; i < n * k; ++i) to[i] = BF16(values[i]);
  }
  return LinearWeight{
      .n = n, .k = k, .weight = storage.view(type, {n, k}), .scale = {}, .bias = {}, .packed = nullptr};
}

Result<LinearWeight> Loader::linear_f32(const std::string& name, i64 n, i64 k) {
  ASSIGN(auto values, floats(name + ".weight", n, k));
  return prepare(dense(static_cast<const float*>(values.data()), n, k, values, DType::kF32), n * k * 2);
}

// Stored elements of one head, copied as they are, and for FP8 the scales of its blocks. REQUIRES: for FP8,
// `first` and n whole blocks of 128.
Result<LinearWeight> Loader::head(const RawTensor& stored, const RawTensor& scale, i64 first, i64 n,
                                  bool transpose) {
  const i64 k = stored.view.shape[1], size = size_of(stored.view.dtype);
  const auto copy = [&](const void* from, i64 rows, i64 cols, i64 bytes, void* to) {
    const auto* in = static_cast<const char*>(from);
    auto* out = static_cast<char*>(to);
    for (i64 r = 0; r < rows; ++r) {
      for (i64 c = 0; c < cols; ++c) {
        const i64 at = transpose ? c * rows + r : r * cols + c;
        std::memcpy(out + at * bytes, in + (r * cols + c) * bytes, static_cast<std::size_t>(bytes));
      }
    }
  };
  LinearWeight w;
  w.n = transpose ? k : n;
  w.k = transpose ? n : k;
  ASSIGN(auto storage, host(n * k * size));
  copy(stored.view.row(first), n, k, size, storage.data());
  w.weight = storage.view(stored.view.dtype, {w.n, w.k});
  Buffer scales;
  if (scale.view) {
    const i64 rows = n / 128, cols = scale.view.shape.cols();
    ASSIGN(scales, host(rows * cols * 4));
    copy(scale.view.row(first / 128), rows, cols, 4, scales.data());
    w.scale = scales.view(DType::kF32, transpose ? Shape{cols, rows} : Shape{rows, cols});
  }
  return prepare(std::move(w), 0);
}

Result<std::vector<LinearWeight>> Loader::heads(const std::string& name, i64 rows, i64 k, int heads,
                                                i64 stride, i64 begin, i64 n, bool transpose) {
  RawTensor scale;
  ASSIGN(auto stored, source_.matrix(name + ".weight", rows, k, scale));
  std::vector<LinearWeight> out;
  const bool in_blocks = stride % 128 == 0 && begin % 128 == 0 && n % 128 == 0;
  Buffer values;
  if (stored.view.dtype == DType::kF8E4M3 && !in_blocks) {
    // Blocks straddle heads: the whole matrix leaves its stored form first.
    ASSIGN(values, floats(name + ".weight", rows, k));
    const auto w = dense(static_cast<const float*>(values.data()), rows, k, values, backend_.dequantised());
    stored.view = w.weight;
    scale = {};
  }
  for (int h = 0; h < heads; ++h) {
    ASSIGN(auto one, head(stored, scale, h * stride + begin, n, transpose));
    out.push_back(std::move(one));
  }
  return out;
}

Result<ConstView> Loader::vector_f32(const std::string& name, i64 n) {
  ASSIGN(auto stored, source_.tensor(name, {n}));
  std::vector<float> values(static_cast<std::size_t>(n));
  for (i64 i = 0; i < n; ++i) values[static_cast<std::size_t>(i)] = element(stored.view, i);
  return upload_f32(values, {n});
}

Result<ConstView> Loader::upload_f32(const std::vector<float>& values, Shape shape) {
  const i64 bytes = static_cast<i64>(values.size()) * 4;
  ASSIGN(auto buffer, backend_.device().allocate(bytes));
  auto stream = backend_.device().make_stream();
  TRY(backend_.device().copy_in(buffer.data(), values.data(), bytes, *stream));
  TRY(stream->synchronize());
  weight_bytes_ += bytes;
  const ConstView view = buffer.view(DType::kF32, shape);
  buffers_.push_back(std::move(buffer));
  return view;
}

Result<ConstView> Loader::table(const std::string& name, i64 rows, i64 cols) {
  RawTensor none;
  ASSIGN(auto stored, source_.matrix(name, rows, cols, none));
  if (stored.view.dtype != DType::kBF16 && stored.view.dtype != DType::kF32) {
    return fail(ErrorCode::kUnsupported, "{} is {}; an embedding must be float32 or bfloat16", name,
                to_string(stored.view.dtype));
  }
  const i64 bytes = stored.view.bytes();
  ASSIGN(auto buffer, backend_.device().allocate(bytes));
  auto stream = backend_.device().make_stream();
  TRY(backend_.device().copy_in(buffer.data(), stored.view.data, bytes, *stream));
  TRY(stream->synchronize());
  weight_bytes_ += bytes;
  done_bytes_ += bytes;
  const ConstView view = buffer.view(stored.view.dtype, {rows, cols});
  buffers_.push_back(std::move(buffer));
  return view;
}

}  // namespace trireme::models
