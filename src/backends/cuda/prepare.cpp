// Stored weights to the GPU: as they are where a kernel reads them so, else taken apart on the GPU.
#include <algorithm>
#include <bit>
#include <cstring>

#include "backends/cuda/cuda_backend.h"
#include "backends/cuda/heuristics/head_choice.h"
#include "backends/cuda/linear.h"
#include "backends/cuda/sm90/head_gemm/head_gemm.h"
#include "backends/cuda/sm90/head_gemm/turn_codes.h"
#include "backends/cuda/smxx/matrix.h"

namespace trireme::cuda {
namespace {

std::vector<StoredMatrix> parts_of(const LinearWeight& w) {
  if (!w.parts.empty()) return w.parts;
  return {{w.weight, w.scale}};
}

Status check(const std::vector<StoredMatrix>& parts, i64 k) {
  for (const auto& p : parts) {
    const DType t = p.weight.dtype;
    if (t != DType::kF32 && t != DType::kBF16 && t != DType::kF16 && t != DType::kF8E4M3)
      return fail(ErrorCode::kUnsupported, "prepare: weights of type {}", to_string(t));
    if (t != parts[0].weight.dtype) return invalid("prepare: parts of different types");
    if (p.weight.shape.rank != 2 || p.weight.shape[1] != k || !p.weight.dense())
      return invalid("prepare: a part is not a dense [n, {}] matrix", k);
    const i64 n = p.weight.shape[0];
    if (t == DType::kF8E4M3 && (!p.scale || p.scale.dtype != DType::kF32 ||
                                p.scale.shape.elements() != ceil_div(n, 128) * ceil_div(k, 128)))
      return invalid("prepare: an FP8 matrix without its [{}, {}] scales", ceil_div(n, 128),
                     ceil_div(k, 128));
    if (t == DType::kF8E4M3 && &p != &parts.back() && n % 128 != 0)
      return invalid("prepare: an FP8 part of {} rows is not whole blocks", n);
  }
  return {};
}

std::shared_ptr<const void> owner_of(const LinearWeight& w) {
  if (w.owners.empty()) return nullptr;
  return std::make_shared<std::vector<std::shared_ptr<const void>>>(w.owners);
}

// The scales of every part of every member, with rows padded to the stride that the kernels read.
Result<Buffer> upload_scales(CudaDevice& device, std::span<const LinearWeight> members, i64 n, i64 k) {
  const i64 cols = ceil_div(k, 128), stride = round_up(cols, i64{4}), rows = ceil_div(n, 128);
  auto host =
      std::make_shared<std::vector<float>>(members.size() * static_cast<std::size_t>(rows * stride), 0.0f);
  float* to = host->data();
  for (const auto& w : members) {
    for (const auto& part : parts_of(w)) {
      const auto* from = static_cast<const float*>(part.scale.data);
      for (i64 r = 0; r < ceil_div(part.weight.shape[0], 128);
           ++r, to += stride, from += part.scale.row_stride)
        std::memcpy(to, from, static_cast<std::size_t>(cols) * 4);
    }
  }
  const i64 bytes = static_cast<i64>(host->size()) * 4;
  ASSIGN(auto buffer, device.allocate(bytes));
  device.uploader().copy(buffer.data(), host->data(), bytes, host);
  return buffer;
}

// float32 as a sum of BF16 terms, each the rounded remainder of those before it; as few as are exact, at
// most 3.
std::vector<std::vector<BF16>> split(const LinearWeight& w, i64 elements) {
  std::vector<float> rest;
  for (const auto& part : parts_of(w)) {
    const auto* from = static_cast<const float*>(part.weight.data);
    rest.insert(rest.end(), from, from + part.weight.shape.elements());
  }
  CHECK(static_cast<i64>(rest.size()) == elements);
  std::vector<std::vector<BF16>> terms;
  bool more = true;
  while (more && terms.size() < 3) {
    more = false;
    auto& term = terms.emplace_back(rest.size());
    for (std::size_t i = 0; i < rest.size(); ++i) {
      term[i] = BF16(rest[i]);
      rest[i] -= static_cast<float>(term[i]);
      more |= rest[i] != 0;
    }
  }
  return terms;
}

// Members one after the other, converted as `packed` asks.
Status pack(CudaDevice& device, std::span<const LinearWeight> members, DType stored, PackedWeight& packed) {
  const i64 elements = packed.n * packed.k;
  const bool from_fp8 = stored == DType::kF8E4M3 && !packed.fp8;
  ASSIGN(packed.data, device.allocate(packed.count * elements * (packed.fp8 ? 1 : 2)));
  // Nothing may be freed while pieces of it are still on their way, whatever fails below.
  struct Arrived {
    Uploader& uploader;
    bool needed = true;
    ~Arrived() {
      if (needed) static_cast<void>(uploader.wait());
    }
  } arrived{device.uploader()};
  const bool turned = packed.fp8 && packed.transposed;
  Buffer codes;  // of FP8 that is to become BF16, or to be turned
  if (from_fp8 || turned) {
    ASSIGN(codes, device.allocate(packed.count * elements));
  }
  auto* to = static_cast<char*>(codes.data() != nullptr ? codes.data() : packed.data.data());
  for (const auto& w : members) {
    for (const auto& part : parts_of(w)) {
      device.uploader().copy(to, part.weight.data, part.weight.bytes(), owner_of(w));
      to += part.weight.bytes();
    }
  }
  if (stored == DType::kF8E4M3) {
    // Stored shapes: a transposed group keeps its members as [k, n].
    const i64 rows = packed.transposed ? packed.k : packed.n, cols = packed.transposed ? packed.n : packed.k;
    ASSIGN(auto scale, upload_scales(device, members, rows, cols));
    if (turned) {
      const i64 stride = round_up(ceil_div(cols, i64{128}), i64{4});
      ASSIGN(packed.scale, device.allocate(packed.count * (packed.n / 128) * packed.scale_stride() * 4));
      TRY(device.uploader().wait());
      auto stream = device.make_stream();
      CUDA_TRY(turn_codes({.codes = codes.data(),
                           .scale = static_cast<const float*>(scale.data()),
                           .scale_stride = stride,
                           .out = packed.data.data(),
                           .out_scale = static_cast<float*>(packed.scale.data()),
                           .out_scale_stride = packed.scale_stride(),
                           .count = static_cast<int>(packed.count),
                           .rows = static_cast<int>(rows),
                           .cols = static_cast<int>(cols)},
                          handle_of(*stream)));
      packed.transposed = false;
      return stream->synchronize();
    }
    if (packed.fp8) {
      packed.scale = std::move(scale);
      arrived.needed = false;
      return {};
    }
    TRY(device.uploader().wait());
    auto stream = device.make_stream();
    const i64 stride = round_up(ceil_div(cols, 128), i64{4});
    for (i64 i = 0; i < packed.count; ++i) {
      CUDA_TRY(dequantise_blocks(
          {.codes = static_cast<const char*>(codes.data()) + i * elements,
           .scale = static_cast<const float*>(scale.data()) + i * ceil_div(rows, 128) * stride,
           .scale_stride = stride,
           .out = static_cast<char*>(packed.data.data()) + i * elements * 2,
           .n = rows,
           .k = cols},
          handle_of(*stream)));
    }
    return stream->synchronize();
  }
  if (stored == DType::kF16) {
    TRY(device.uploader().wait());
    auto stream = device.make_stream();
    CUDA_TRY(f16_to_bf16(packed.data.data(), packed.count * elements, handle_of(*stream)));
    return stream->synchronize();
  }
  arrived.needed = false;
  return {};
}

// What the largest value of a product is known by before it is computed.
Status add_bounds(CudaDevice& device, PackedWeight& packed) {
  ASSIGN(packed.bound, device.allocate(packed.count * 4));
  TRY(device.uploader().wait());
  auto stream = device.make_stream();
  CUDA_TRY(head_bounds(packed.data.data(), static_cast<int>(packed.count), static_cast<int>(packed.k),
                       static_cast<int>(packed.n), static_cast<float*>(packed.bound.data()),
                       handle_of(*stream)));
  return stream->synchronize();
}

Result<std::shared_ptr<PackedWeight>> packed_f32(CudaDevice& device, const LinearWeight& w) {
  auto packed = std::make_shared<PackedWeight>();
  packed->n = w.n, packed->k = w.k;
  const auto terms = split(w, w.n * w.k);
  packed->terms = static_cast<int>(terms.size());
  const i64 bytes = w.n * w.k * 2;
  ASSIGN(packed->data, device.allocate(bytes * packed->terms));
  for (std::size_t i = 0; i < terms.size(); ++i) {
    auto keep = std::make_shared<std::vector<BF16>>(terms[i]);
    device.uploader().copy(static_cast<char*>(packed->data.data()) + static_cast<i64>(i) * bytes,
                           keep->data(), bytes, keep);
  }
  return packed;
}

}  // namespace

bool keeps_fp8(i64 n, i64 k, DType stored, bool fp8_activations) {
  return stored == DType::kF8E4M3 && fp8_activations && n % 8 == 0 && k % 16 == 0;
}

i64 prepared_bytes(i64 n, i64 k, DType stored, bool fp8_activations) {
  if (keeps_fp8(n, k, stored, fp8_activations))
    return n * k + ceil_div(n, 128) * round_up(ceil_div(k, 128), i64{4}) * 4;
  return n * k * 2 * (stored == DType::kF32 ? 3 : 1);
}

Status LinearOps::prepare(CudaDevice& device, LinearWeight& w) {
  const auto parts = parts_of(w);
  TRY(check(parts, w.k));
  const DType stored = parts[0].weight.dtype;
  std::shared_ptr<PackedWeight> packed;
  if (stored == DType::kF32) {
    ASSIGN(packed, packed_f32(device, w));
  } else {
    packed = std::make_shared<PackedWeight>();
    packed->n = w.n, packed->k = w.k;
    packed->fp8 = keeps_fp8(w.n, w.k, stored, fp8_);
    TRY(pack(device, {&w, 1}, stored, *packed));
  }
  shapes_.insert({w.n, w.k, packed->fp8});
  w.fp8_input = packed->fp8;
  w.stored_bytes = packed->data.bytes() + packed->scale.bytes();
  w.packed = std::move(packed);
  return {};
}

Status LinearOps::prepare_group(CudaDevice& device, GroupWeight& g) {
  if (g.each.empty()) return invalid("prepare: an empty group");
  const DType stored = parts_of(g.each[0])[0].weight.dtype;
  for (auto& w : g.each) {
    const auto parts = parts_of(w);
    TRY(check(parts, g.transposed ? g.n : g.k));
    if (parts[0].weight.dtype != stored) return invalid("prepare: a group of different types");
  }
  if (stored == DType::kF32)
    return fail(ErrorCode::kUnsupported,
                "experts stored in float32: convert the checkpoint to bfloat16, or use --device cpu");
  auto packed = std::make_shared<PackedWeight>();
  packed->n = g.n, packed->k = g.k, packed->count = g.count(), packed->transposed = g.transposed;
  packed->fp8 = keeps_fp8(g.n, g.k, stored, fp8_) && (!g.per_head || heads_keep_fp8(g.n, g.k));
  TRY(pack(device, g.each, stored, *packed));
  if (g.per_head && packed->transposed && packed->k == 128) TRY(add_bounds(device, *packed));
  g.fp8_input = packed->fp8 && !g.per_head;  // the product of heads makes its own codes
  g.stored_bytes = packed->data.bytes() + packed->scale.bytes();
  for (auto& w : g.each) w.fp8_input = g.fp8_input;
  g.packed = std::move(packed);
  return {};
}

}  // namespace trireme::cuda
