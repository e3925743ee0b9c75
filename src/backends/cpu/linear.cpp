#include "backends/cpu/linear.h"

#include <algorithm>

#include "backends/cpu/args_check.h"
#include "backends/cpu/onednn.h"

namespace trireme::cpu {
namespace {

constexpr i64 kRowsAPiece = 192;   // of a large product; its rows of x stay in the L2 cache beside a panel
constexpr i64 kBlockK = 4096;      // a panel of this height stays in the L2 cache
constexpr double kBytesANs = 30;   // a core's reading of weights, and
constexpr double kFlopsANs = 150;  // its arithmetic, roughly: only to judge whether waking a thread pays
constexpr double kWorthAWakeNs = 6000;

// Pieces [first, first + panels * chunks) belong to one product.
struct Plan {
  const Product* product = nullptr;
  const char* x = nullptr;  // packed rows
  i64 first = 0, chunks = 1;
};

const PackedWeight& packed(const LinearWeight& w) {
  return *static_cast<const PackedWeight*>(w.packed.get());
}

i64 x_bytes(const Kernels& kernels, const PackedWeight& w) {
  return w.wide ? kernels.wide_x_bytes : w.bf16 ? kernels.x_bytes : 4;
}

void run_piece(const Kernels& kernels, const Plan& plan, i64 piece, i64 x_stride) {
  const Product& p = *plan.product;
  const PackedWeight& w = *p.w;
  const i64 panel = piece / plan.chunks, chunk = piece % plan.chunks;
  const i64 row = p.rows * chunk / plan.chunks, rows = p.rows * (chunk + 1) / plan.chunks - row;
  const i64 column = panel * kPanel;
  const i64 element = x_bytes(kernels, w), panel_row = w.bf16 ? kPanel * 2 : kPanel * 4;
  const auto gemm = w.wide ? kernels.gemm_bf16_wide : w.bf16 ? kernels.gemm_bf16 : kernels.gemm_f32;
  const i64 block = w.scales.empty() ? kBlockK : 128;
  for (i64 k = 0; k < w.padded_k; k += block) {
    const i64 height = std::min(block, w.padded_k - k);
    const bool last = k + height == w.padded_k;
    gemm({.panel = w.panel(panel) + k * panel_row,
          .k = height,
          .x = plan.x + (row * x_stride + k) * element,
          .x_stride = x_stride,
          .m = rows,
          .out = p.out + row * p.out_stride + column,
          .out_stride = p.out_stride,
          .columns = static_cast<int>(std::min(kPanel, w.n - column)),
          .accumulate = k > 0,
          .bias = last && !w.bias.empty() ? w.bias.data() + column : nullptr,
          .scale = w.scales.empty()
                       ? 0.0f
                       : w.scales[static_cast<std::size_t>(column / 128 * w.scale_cols + k / 128)]});
  }
}

// Rows of x, in order of the products, as the kernels read them; returns where each product's rows begin.
const char* pack_rows(CpuStream& s, std::span<const Product> products, i64 rows, i64 k, i64 padded_k,
                      i64 stride) {
  const bool wide = products[0].w->wide;
  const auto pack = wide ? s.kernels.pack_wide_x : s.kernels.pack_x;
  const i64 row_bytes = stride * x_bytes(s.kernels, *products[0].w);
  char* const out = s.shared.take<char>(0, rows * row_bytes);
  std::vector<i64> first;
  i64 total = 0;
  for (const auto& p : products) {
    first.push_back(total);
    total += p.rows;
  }
  const i64 grain = std::max<i64>(1, (64 << 10) / padded_k);
  s.pool.parallel_for(rows, grain, [&](i64 begin, i64 end, int) {
    std::size_t i =
        static_cast<std::size_t>(std::upper_bound(first.begin(), first.end(), begin) - first.begin()) - 1;
    for (i64 r = begin; r < end; ++r) {
      while (r - first[i] >= products[i].rows) ++i;
      pack(products[i].x + (r - first[i]) * products[i].x_stride, k, 1.0f, padded_k, out + r * row_bytes);
    }
  });
  return out;
}

// As many leading rows of a product as make blocks for oneDNN; returns how many it did. Blocks have few
// heights, because oneDNN compiles code for each shape that it meets.
i64 multiply_by_onednn(CpuStream& s, const Product& p, const char* x) {
  const PackedWeight& w = *p.w;
  struct Rows {
    i64 first, count;
  };
  std::vector<Rows> blocks;
  i64 done = 0;
  for (const i64 height : {128, 64, 32})
    for (; p.rows - done >= height; done += height) blocks.push_back({done, height});
  if (blocks.empty()) return 0;
  const i64 panels = ceil_div(w.n, kPanel), rows = static_cast<i64>(blocks.size());
  const i64 columns_parts =
      std::clamp<i64>(ceil_div(2 * s.pool.threads(), rows), ceil_div(panels, 16), panels);
  std::atomic<bool> fine{true};
  s.pool.parallel_for(columns_parts * rows, 1, [&](i64 begin, i64 end, int worker) {
    for (i64 i = begin; i < end && fine; ++i) {
      const Rows block = blocks[i % rows];
      const i64 part = i / rows, first = panels * part / columns_parts,
                last = panels * (part + 1) / columns_parts;
      const i64 column = first * kPanel, columns = std::min(last * kPanel, w.n) - column;
      float* const y = s.worker[worker].take<float>(0, block.count * columns);
      if (!onednn_multiply(
              {w.panel(first), columns, w.padded_k, x + block.first * w.padded_k * 2, block.count, y}))
        fine = false;
      for (i64 r = 0; r < block.count; ++r) {
        float* const out = p.out + (block.first + r) * p.out_stride + column;
        std::copy_n(y + r * columns, columns, out);
        if (!w.bias.empty()) s.kernels.add(out, w.bias.data() + column, columns);
      }
    }
  });
  return fine ? done : 0;
}

// What follows a product, on rows that are worth a thread together.
template <class Body>
void each_row(CpuStream& s, i64 rows, i64 n, Body body) {
  s.pool.parallel_for(rows, std::max<i64>(1, (16 << 10) / n), [&](i64 begin, i64 end, int) {
    for (i64 r = begin; r < end; ++r) body(r);
  });
}

}  // namespace

void multiply(CpuStream& s, std::span<const Product> products) {
  i64 rows = 0;
  for (const auto& p : products) rows += p.rows;
  if (rows == 0) return;
  const PackedWeight& shape = *products[0].w;
  // Rows a multiple of 4 KiB apart would all fall into one set of the L1 cache.
  // oneDNN takes dense rows only.
  const i64 stride = shape.padded_k + (shape.padded_k % 1024 == 0 && (!s.onednn || shape.wide) ? 32 : 0);
  const char* x = shape.bf16 ? pack_rows(s, products, rows, shape.k, shape.padded_k, stride) : nullptr;

  std::vector<Product> left(products.begin(), products.end());
  std::vector<Plan> plans;
  i64 pieces = 0;
  double bytes = 0, flops = 0;
  const i64 panels = ceil_div(shape.n, kPanel);
  for (auto& p : left) {
    if (s.onednn && shape.bf16 && !shape.wide) {
      const i64 done = multiply_by_onednn(s, p, x);
      p.rows -= done;
      p.out += done * p.out_stride;
      x += done * stride * x_bytes(s.kernels, shape);
    }
    if (p.rows > 0) {
      const i64 chunks = shape.padded_k > kBlockK ? ceil_div(p.rows, 1024) : ceil_div(p.rows, kRowsAPiece);
      plans.push_back({&p, shape.bf16 ? x : reinterpret_cast<const char*>(p.x), pieces, chunks});
      pieces += panels * chunks;
      bytes += static_cast<double>(panels * p.w->panel_bytes());
      flops += 2.0 * static_cast<double>(p.rows * shape.n * shape.k);
    }
    if (shape.bf16) x += p.rows * stride * x_bytes(s.kernels, shape);
  }
  if (plans.empty()) return;
  const double ns = std::max(bytes / kBytesANs, flops / kFlopsANs);
  const i64 threads = s.pool.threads();
  // Enough pieces to even out, none too short to be worth taking; neighbours stay together.
  const i64 parts = std::clamp<i64>(static_cast<i64>(ns / kWorthAWakeNs), 1, 8 * threads);
  s.pool.parallel_for(pieces, ceil_div(pieces, parts), [&](i64 begin, i64 end, int) {
    auto plan = std::upper_bound(plans.begin(), plans.end(), begin,
                                 [](i64 v, const Plan& q) { return v < q.first; }) -
                1;
    for (i64 i = begin; i < end; ++i) {
      while (plan + 1 != plans.end() && i >= (plan + 1)->first) ++plan;
      const Product& p = *plan->product;
      run_piece(s.kernels, *plan, i - plan->first, p.w->bf16 ? stride : p.x_stride);
    }
  });
}

Status linear(const LinearArgs& a, Stream& stream) {
  TRY(check(a));
  const Product p{&packed(*a.w),    a.x.as<float>(),    a.x.row_stride,
                  a.x.shape.rows(), a.out.mut<float>(), a.out.row_stride};
  CpuStream& s = cpu(stream);
  if (!a.residual) {
    multiply(s, {&p, 1});
    return {};
  }
  // The residual may be what out holds.
  std::vector<float> sum(static_cast<std::size_t>(p.rows * a.w->n));
  Product apart = p;
  apart.out = sum.data();
  apart.out_stride = a.w->n;
  multiply(s, {&apart, 1});
  each_row(s, p.rows, a.w->n, [&](i64 r) {
    const float* const product = sum.data() + r * a.w->n;
    const auto* const residual = static_cast<const float*>(a.residual.row(r));
    float* const out = p.out + r * p.out_stride;
    for (i64 i = 0; i < a.w->n; ++i) out[i] = residual[i] + product[i];
  });
  return {};
}

Status head_linear(const HeadLinearArgs& a, Stream& stream) {
  TRY(check(a));
  std::vector<Product> products;
  const i64 heads = a.w->count(), tokens = a.x.shape[0];
  for (i64 h = 0; h < heads; ++h) {
    products.push_back({&packed(a.w->each[static_cast<std::size_t>(h)]), a.x.as<float>() + h * a.x.row_stride,
                        heads * a.x.row_stride, tokens, a.out.mut<float>() + h * a.out.row_stride,
                        heads * a.out.row_stride});
    if (!products[0].w->same_kind(*products.back().w))
      return invalid("head_linear: heads of different types");
  }
  multiply(cpu(stream), products);
  return {};
}

Status grouped_linear(const GroupedLinearArgs& a, Stream& stream) {
  TRY(check(a));
  std::vector<Product> products;
  i64 begin = 0;
  for (std::size_t e = 0; e < a.w->each.size(); ++e) {
    const i64 rows = a.expert_end[e] - begin;
    products.push_back({&packed(a.w->each[e]), static_cast<const float*>(a.x.row(begin)), a.x.row_stride,
                        rows, static_cast<float*>(a.out.mutable_row(begin)), a.out.row_stride});
    if (!products[0].w->same_kind(*products.back().w))
      return invalid("grouped_linear: experts of different types");
    begin = a.expert_end[e];
  }
  CpuStream& s = cpu(stream);
  multiply(s, products);
  if (a.row_weight.empty()) return {};
  each_row(s, begin, a.w->n, [&](i64 r) {
    auto* const out = static_cast<float*>(a.out.mutable_row(r));
    for (i64 i = 0; i < a.w->n; ++i) out[i] *= a.row_weight[static_cast<std::size_t>(r)];
  });
  return {};
}

}  // namespace trireme::cpu
