#include <array>
#include <cstring>

#include "formats/kv_product_scale.h"
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

// Row r of a stored matrix, as a model's numbers: with its scales, where it has them.
void read_row(const ConstView& m, const ConstView& scale, i64 r, float* to) {
  static const auto kCodes = [] {
    std::array<float, 256> values{};
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = f8e4m3_to_float(static_cast<u8>(i));
    return values;
  }();
  const i64 k = m.shape.cols();
  if (m.dtype == DType::kBF16) {
    const auto* const from = m.as<BF16>() + r * k;
    for (i64 c = 0; c < k; ++c) to[c] = static_cast<float>(from[c]);
  } else if (m.dtype == DType::kF8E4M3) {
    const auto* const codes = m.as<u8>() + r * k;
    const auto* const scales = scale.as<float>() + r / 128 * scale.shape.cols();
    for (i64 c = 0; c < k; ++c) to[c] = kCodes[codes[c]] * scales[c / 128];
  } else {
    for (i64 c = 0; c < k; ++c) to[c] = element(m, r * k + c);
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

void Loader::count(i64 device_bytes, i64 read_bytes) {
  weight_bytes_ += device_bytes;
  done_bytes_ += read_bytes;
  if (progress_) progress_(done_bytes_, source_.total_bytes());
}

Result<LinearWeight> Loader::prepare(LinearWeight w, i64 read_bytes) {
  w.precise = precise_;
  TRY(backend_.ops().prepare(backend_.device(), w));
  w.owners.clear();
  count(w.stored_bytes, read_bytes);
  return w;
}

Result<GroupWeight> Loader::prepare_group(GroupWeight g, i64 read_bytes) {
  TRY(backend_.ops().prepare_group(backend_.device(), g));
  for (auto& w : g.each) w.owners.clear();
  count(g.stored_bytes, read_bytes);
  return g;
}

// The matrices of `parts` as one, not yet prepared: their views where the backend stacks by itself, else a
// copy.
Result<LinearWeight> Loader::stored(const Parts& parts, i64 k) {
  LinearWeight w;
  w.k = k;
  std::vector<RawTensor> weights(parts.size()), scales(parts.size());
  bool whole = true;  // the parts can stand one below the other as they are
  for (std::size_t i = 0; i < parts.size(); ++i) {
    ASSIGN(weights[i], source_.matrix(parts[i].name + ".weight", parts[i].n, k, scales[i]));
    w.n += parts[i].n;
    const DType type = weights[i].view.dtype;
    whole &= type == weights[0].view.dtype;
    // Blocks of 128 rows must not straddle two matrices.
    whole &= type != DType::kF8E4M3 || parts[i].n % 128 == 0 || i + 1 == parts.size();
  }
  if (parts.size() == 1) {
    w.weight = weights[0].view, w.scale = scales[0].view;
    w.owners = {weights[0].owner, scales[0].owner};
    return w;
  }
  if (!whole) {
    ASSIGN(auto storage, host(w.n * k * size_of(DType::kF32)));
    auto* to = static_cast<float*>(storage.data());
    for (const auto& part : parts) {
      ASSIGN(auto values, floats(part.name + ".weight", part.n, k));
      std::memcpy(to, values.data(), static_cast<std::size_t>(part.n * k) * sizeof(float));
      to += part.n * k;
    }
    return dense(static_cast<const float*>(storage.data()), w.n, k, storage, backend_.dequantised());
  }
  if (backend_.stacks()) {
    for (std::size_t i = 0; i < parts.size(); ++i) {
      w.parts.push_back({weights[i].view, scales[i].view});
      w.owners.push_back(weights[i].owner);
      w.owners.push_back(scales[i].owner);
    }
    return w;
  }
  const auto stack = [&](const std::vector<RawTensor>& from, DType type, i64 cols) -> Result<ConstView> {
    i64 rows = 0;
    for (const auto& t : from) rows += t.view.shape.rows();
    ASSIGN(auto storage, host(rows * cols * size_of(type)));
    auto* to = static_cast<char*>(storage.data());
    for (const auto& t : from) {
      std::memcpy(to, t.view.data, static_cast<std::size_t>(t.view.bytes()));
      to += t.view.bytes();
    }
    w.owners.push_back(storage.owner());
    return ConstView(storage.view(type, {rows, cols}));
  };
  ASSIGN(w.weight, stack(weights, weights[0].view.dtype, k));
  if (scales[0].view) {
    ASSIGN(w.scale, stack(scales, DType::kF32, ceil_div(k, 128)));
  }
  return w;
}

Result<LinearWeight> Loader::stacked(const Parts& parts, i64 k, bool bias) {
  ASSIGN(LinearWeight w, stored(parts, k));
  if (bias) {
    std::vector<float> values;
    for (const auto& part : parts) {
      ASSIGN(auto t, source_.tensor(part.name + ".bias", {part.n}));
      for (i64 i = 0; i < part.n; ++i) values.push_back(element(t.view, i));
    }
    ASSIGN(w.bias, upload_f32(values, {w.n}));
  }
  i64 bytes = w.weight.bytes();
  for (const auto& part : w.parts) bytes += part.weight.bytes();
  return prepare(std::move(w), bytes);
}

Result<GroupWeight> Loader::group(i64 size, i64 k, const std::function<Parts(i64)>& parts_of) {
  GroupWeight g;
  i64 bytes = 0;
  for (i64 i = 0; i < size; ++i) {
    if (backend_.ops().prepare_group == nullptr) {
      ASSIGN(auto one, stacked(parts_of(i), k));
      g.stored_bytes += one.stored_bytes;
      g.each.push_back(std::move(one));
    } else {
      ASSIGN(auto one, stored(parts_of(i), k));
      bytes += one.n * k * size_of(one.parts.empty() ? one.weight.dtype : one.parts[0].weight.dtype);
      g.each.push_back(std::move(one));
    }
  }
  CHECK(size > 0);
  g.n = g.each[0].n, g.k = k;
  if (backend_.ops().prepare_group == nullptr) return g;
  return prepare_group(std::move(g), bytes);
}

Result<Buffer> Loader::floats(const std::string& name, i64 n, i64 k) {
  RawTensor scale;
  ASSIGN(auto stored, source_.matrix(name, n, k, scale));
  ASSIGN(auto out, host(n * k * 4));
  if (source_.shapes_only()) return out;
  auto* to = static_cast<float*>(out.data());
  for (i64 r = 0; r < n; ++r) read_row(stored.view, scale.view, r, to + r * k);
  return out;
}

// A LinearWeight over `values`, in `type`; `storage` becomes what its view lies in.
LinearWeight Loader::dense(const float* values, i64 n, i64 k, Buffer& storage, DType type) {
  if (type == DType::kBF16) {
    // In place: element i is read at 4 i before 2 i is written.
    auto* to = static_cast<BF16*>(storage.data());
    for (i64 i = 0; i < n * k; ++i) to[i] = BF16(values[i]);
  }
  LinearWeight w;
  w.n = n, w.k = k;
  w.weight = storage.view(type, {n, k});
  w.owners = {storage.owner()};
  return w;
}

Result<LinearWeight> Loader::linear_f32(const std::string& name, i64 n, i64 k) {
  RawTensor scale;
  ASSIGN(const auto stored, source_.matrix(name + ".weight", n, k, scale));
  // Where activations are BF16, a BF16 matrix is multiplied exactly as it is.
  if (backend_.act() == DType::kBF16 && stored.view.dtype == DType::kBF16) return linear(name, n, k);
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

Result<GroupWeight> Loader::heads(const std::string& name, i64 rows, i64 k, int heads, i64 stride, i64 begin,
                                  i64 n, bool transpose) {
  RawTensor scale;
  ASSIGN(auto stored, source_.matrix(name + ".weight", rows, k, scale));
  const bool in_blocks = stride % 128 == 0 && begin % 128 == 0 && n % 128 == 0;
  Buffer values;
  if (stored.view.dtype == DType::kF8E4M3 && !in_blocks) {
    // Blocks straddle heads: the whole matrix leaves its stored form first.
    ASSIGN(values, floats(name + ".weight", rows, k));
    const auto w = dense(static_cast<const float*>(values.data()), rows, k, values, backend_.dequantised());
    stored.view = w.weight;
    stored.owner = values.owner();
    scale = {};
  }
  GroupWeight g{.n = transpose ? k : n, .k = transpose ? n : k, .per_head = true, .transposed = transpose};
  for (int h = 0; h < heads; ++h) {
    const i64 first = h * stride + begin;
    if (backend_.ops().prepare_group == nullptr) {
      ASSIGN(auto one, head(stored, scale, first, n, transpose));
      g.stored_bytes += one.stored_bytes;
      g.each.push_back(std::move(one));
      continue;
    }
    LinearWeight one;
    one.n = g.n, one.k = g.k;
    one.weight = ConstView(stored.view.row(first), stored.view.dtype, {n, k});
    if (scale.view)
      one.scale = ConstView(scale.view.row(first / 128), DType::kF32, {n / 128, ceil_div(k, 128)});
    one.owners = {stored.owner, scale.owner};
    g.each.push_back(std::move(one));
  }
  if (backend_.ops().prepare_group == nullptr) return g;
  return prepare_group(std::move(g), 0);
}

Result<float> Loader::product_scale(const std::string& name, i64 rows, int heads, i64 stride, i64 begin,
                                    i64 n, std::span<const float> norm) {
  const auto k = static_cast<i64>(norm.size());
  RawTensor scale;
  ASSIGN(const auto stored, source_.matrix(name + ".weight", rows, k, scale));
  if (source_.shapes_only()) return 1.0f;
  std::vector<float> row(norm.size()), bounds;
  for (int h = 0; h < heads; ++h) {
    for (i64 r = h * stride + begin; r < h * stride + begin + n; ++r) {
      read_row(stored.view, scale.view, r, row.data());
      bounds.push_back(kv_product_bound(row, norm));
    }
  }
  return kv_product_scale(bounds);
}

Result<ConstView> Loader::vector_f32(const std::string& name, i64 n, std::vector<float>* kept) {
  ASSIGN(auto stored, source_.tensor(name, {n}));
  std::vector<float> values(static_cast<std::size_t>(n));
  for (i64 i = 0; i < n; ++i) values[static_cast<std::size_t>(i)] = element(stored.view, i);
  if (kept != nullptr) *kept = values;
  return upload_f32(values, {n});
}

Result<ConstView> Loader::upload(const void* values, DType type, Shape shape) {
  const i64 bytes = shape.elements() * size_of(type);
  ASSIGN(auto buffer, backend_.device().allocate(bytes));
  if (!stream_) stream_ = backend_.device().make_stream();
  TRY(backend_.device().copy_in(buffer.data(), values, bytes, *stream_));
  TRY(stream_->synchronize());
  const ConstView view = buffer.view(type, shape);
  buffers_.push_back(std::move(buffer));
  count(bytes, 0);
  return view;
}

Result<ConstView> Loader::upload_f32(const std::vector<float>& values, Shape shape) {
  return upload(values.data(), DType::kF32, shape);
}

Result<ConstView> Loader::upload_i32(const std::vector<i32>& values, Shape shape) {
  return upload(values.data(), DType::kI32, shape);
}

Result<ConstView> Loader::table(const std::string& name, i64 rows, i64 cols) {
  RawTensor none;
  ASSIGN(auto stored, source_.matrix(name, rows, cols, none));
  if (stored.view.dtype != DType::kBF16 && stored.view.dtype != DType::kF32) {
    return fail(ErrorCode::kUnsupported, "{} is {}; an embedding must be float32 or bfloat16", name,
                to_string(stored.view.dtype));
  }
  ASSIGN(auto view, upload(stored.view.data, stored.view.dtype, {rows, cols}));
  count(0, view.bytes());
  return view;
}

}  // namespace trireme::models
