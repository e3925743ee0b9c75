#include "backends/cpu/attention_core.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

namespace trireme::cpu {
namespace {

constexpr i64 kSplit = 512;    // keys
constexpr i64 kTileRows = 96;  // query rows, a row being one head of one token
constexpr float kNone = -std::numeric_limits<float>::infinity();

// Rows [begin, end) of one sequence and KV head; row r is head r % group of new token r / group.
struct Tile {
  int seq = 0;
  i64 kv_head = 0, begin = 0, end = 0;
  i64 first_key = 0, end_key = 0;  // that any of its rows sees
  i64 first_split() const { return first_key / kSplit; }
  i64 splits() const { return ceil_div(end_key, kSplit) - first_split(); }
  double cost() const { return static_cast<double>((end - begin + 8) * (end_key - first_key)); }
};

struct Context {
  const Kernels& kernels;
  const AttentionSource& source;
  const AttentionShape& shape;
  const SeqBatch& seqs;
  View out;
  i64 group() const { return shape.heads / shape.kv_heads; }
  PanelMaker maker() const { return {kernels, shape.bf16}; }
  // The position of a tile's row in its sequence.
  i64 position(const Tile& t, i64 row) const {
    const i64 fresh = seqs.q_start[t.seq + 1] - seqs.q_start[t.seq];
    return seqs.context_len[t.seq] - fresh + row / group();
  }
  i64 first_visible(i64 position) const {
    return shape.window > 0 ? std::max<i64>(0, position - shape.window + 1) : 0;
  }
};

// Sums over one split or over all so far: out [rows][dv] is the weighted sum of values relative to the
// maximum m.
struct Partial {
  float* out;
  float* m;
  float* sum;
};

std::vector<Tile> make_tiles(const Context& c) {
  std::vector<Tile> tiles;
  for (int s = 0; s < c.seqs.seqs(); ++s) {
    const i64 rows = (c.seqs.q_start[s + 1] - c.seqs.q_start[s]) * c.group();
    const i64 count = ceil_div(rows, kTileRows);
    for (i64 h = 0; h < c.shape.kv_heads; ++h) {
      for (i64 i = 0; i < count; ++i) {
        Tile t{s, h, rows * i / count, rows * (i + 1) / count, 0, 0};
        t.first_key = c.first_visible(c.position(t, t.begin));
        t.end_key = c.position(t, t.end - 1) + 1;
        tiles.push_back(t);
      }
    }
  }
  std::stable_sort(tiles.begin(), tiles.end(),
                   [](const Tile& a, const Tile& b) { return a.cost() > b.cost(); });
  return tiles;
}

const char* pack_queries(const Context& c, const Tile& t, Scratch& scratch) {
  const i64 row_bytes = c.shape.dk * c.maker().query_bytes();
  char* const q = scratch.take<char>(kSlotQ, (t.end - t.begin) * row_bytes);
  for (i64 r = t.begin; r < t.end; ++r) {
    c.source.query(c.seqs.q_start[t.seq] + r / c.group(), t.kv_head * c.group() + r % c.group(),
                   q + (r - t.begin) * row_bytes);
  }
  return q;
}

// One tile against one split of keys.
void run_split(const Context& c, const Tile& t, i64 split, const char* q, const Partial& result,
               Scratch& scratch) {
  const auto& [heads, kv_heads, dk, dv, bf16, scale, window] = c.shape;
  const i64 rows = t.end - t.begin, x_bytes = c.maker().query_bytes();
  const i64 begin = std::max(split * kSplit, t.first_key / kPanel * kPanel);
  const i64 end = std::min((split + 1) * kSplit, t.end_key);
  const i64 width = round_up(end - begin, kPanel);
  const auto gemm = bf16 ? c.kernels.gemm_bf16 : c.kernels.gemm_f32;

  float* const scores = scratch.take<float>(kSlotScores, rows * kSplit);
  u32* const keys = scratch.take<u32>(kSlotKeys, dk * kPanel);
  for (i64 key = begin; key < end; key += kPanel) {
    const int tokens = static_cast<int>(std::min(kPanel, end - key));
    c.source.keys(t.seq, t.kv_head, key / kPanel, tokens, keys, scratch);
    gemm({keys, dk, q, dk, rows, scores + (key - begin), kSplit, static_cast<int>(kPanel), false, nullptr});
  }

  char* const weights = scratch.take<char>(kSlotWeights, rows * kSplit * x_bytes);
  for (i64 r = 0; r < rows; ++r) {
    const i64 position = c.position(t, t.begin + r);
    (bf16 ? c.kernels.softmax : c.kernels.softmax_f32)(
        scores + r * kSplit, width, std::clamp<i64>(c.first_visible(position) - begin, 0, width),
        std::clamp<i64>(position + 1 - begin, 0, width), scale, weights + r * kSplit * x_bytes, result.m + r,
        result.sum + r);
  }

  u32* const values = scratch.take<u32>(kSlotValues, round_up(dv, kPanel) * kPanel);
  const i64 panel_words = kPanel * kPanel / (bf16 ? 2 : 1);
  for (i64 key = begin; key < end; key += kPanel) {
    const int tokens = static_cast<int>(std::min(kPanel, end - key));
    c.source.values(t.seq, t.kv_head, key / kPanel, tokens, values, scratch);
    for (i64 d = 0; d < dv; d += kPanel) {
      gemm({values + d / kPanel * panel_words, kPanel, weights + (key - begin) * x_bytes, kSplit, rows,
            result.out + d, dv, static_cast<int>(std::min(kPanel, dv - d)), key > begin, nullptr});
    }
  }
}

void merge(const Context& c, i64 rows, const Partial& part, const Partial& sum) {
  const i64 dv = c.shape.dv;
  for (i64 r = 0; r < rows; ++r) {
    if (part.m[r] == kNone) continue;
    const float m = std::max(sum.m[r], part.m[r]);
    const float a = std::exp(sum.m[r] - m), b = std::exp(part.m[r] - m);
    c.kernels.scale_add(sum.out + r * dv, a, part.out + r * dv, b, dv);
    sum.sum[r] = sum.sum[r] * a + part.sum[r] * b;
    sum.m[r] = m;
  }
}

void write_out(const Context& c, const Tile& t, const Partial& sum) {
  for (i64 r = 0; r < t.end - t.begin; ++r) {
    const i64 row = t.begin + r;
    const i64 token = c.seqs.q_start[t.seq] + row / c.group(), head = t.kv_head * c.group() + row % c.group();
    auto* const out = static_cast<float*>(c.out.mutable_row(token * c.shape.heads + head));
    const float scale = 1.0f / sum.sum[r];
    for (i64 d = 0; d < c.shape.dv; ++d) out[d] = sum.out[r * c.shape.dv + d] * scale;
  }
}

i64 partial_floats(const Context& c, i64 rows) { return round_up(rows * (c.shape.dv + 2), 16); }
Partial partial_at(const Context& c, float* p, i64 rows) {
  return {p, p + rows * c.shape.dv, p + rows * (c.shape.dv + 1)};
}
Partial empty_sum(const Context& c, Scratch& scratch, i64 rows) {
  const Partial p = partial_at(c, scratch.take<float>(kSlotSum, partial_floats(c, rows)), rows);
  std::fill(p.out, p.out + rows * c.shape.dv, 0.0f);
  std::fill(p.m, p.m + rows, kNone);
  std::fill(p.sum, p.sum + rows, 0.0f);
  return p;
}

// Splits of one tile one after the other: nothing to keep, for when there are tiles enough.
void run_tiles(CpuStream& s, const Context& c, std::span<const Tile> tiles, i64 grain) {
  s.pool.parallel_for(static_cast<i64>(tiles.size()), grain, [&](i64 begin, i64 end, int worker) {
    Scratch& scratch = s.worker[static_cast<std::size_t>(worker)];
    for (i64 i = begin; i < end; ++i) {
      const Tile& t = tiles[static_cast<std::size_t>(i)];
      const i64 rows = t.end - t.begin;
      const char* q = pack_queries(c, t, scratch);
      const Partial sum = empty_sum(c, scratch, rows);
      const Partial part = partial_at(c, scratch.take<float>(kSlotPart, partial_floats(c, rows)), rows);
      for (i64 k = 0; k < t.splits(); ++k) {
        run_split(c, t, t.first_split() + k, q, part, scratch);
        merge(c, rows, part, sum);
      }
      write_out(c, t, sum);
    }
  });
}

// Every split on its own, merged in order afterwards: for few queries over long contexts.
void run_splits(CpuStream& s, const Context& c, std::span<const Tile> tiles) {
  struct Unit {
    const Tile* tile;
    i64 split;
    Partial part;
  };
  i64 floats = 0;
  for (const Tile& t : tiles) floats += t.splits() * partial_floats(c, t.end - t.begin);
  float* p = s.shared.take<float>(0, floats);
  std::vector<Unit> units;
  std::vector<std::size_t> first;
  for (const Tile& t : tiles) {
    first.push_back(units.size());
    for (i64 k = 0; k < t.splits(); ++k, p += partial_floats(c, t.end - t.begin))
      units.push_back({&t, t.first_split() + k, partial_at(c, p, t.end - t.begin)});
  }
  s.pool.parallel_for(static_cast<i64>(units.size()), 1, [&](i64 begin, i64 end, int worker) {
    Scratch& scratch = s.worker[static_cast<std::size_t>(worker)];
    for (i64 i = begin; i < end; ++i) {
      const Unit& u = units[static_cast<std::size_t>(i)];
      run_split(c, *u.tile, u.split, pack_queries(c, *u.tile, scratch), u.part, scratch);
    }
  });
  for (std::size_t i = 0; i < tiles.size(); ++i) {
    const i64 rows = tiles[i].end - tiles[i].begin;
    const Partial sum = empty_sum(c, s.worker[0], rows);
    for (i64 k = 0; k < tiles[i].splits(); ++k)
      merge(c, rows, units[first[i] + static_cast<std::size_t>(k)].part, sum);
    write_out(c, tiles[i], sum);
  }
}

}  // namespace

void attend(CpuStream& s, const AttentionSource& source, const AttentionShape& shape, const SeqBatch& seqs,
            View out) {
  const Context c{s.kernels, source, shape, seqs, out};
  const std::vector<Tile> tiles = make_tiles(c);
  double work = 0;
  i64 splits = 0;
  for (const Tile& t : tiles) {
    work += t.cost() * static_cast<double>(shape.dk + shape.dv);
    splits += t.splits();
  }
  const i64 count = static_cast<i64>(tiles.size()), threads = s.pool.threads();
  constexpr double kWorthAWake = 1e6;  // multiplications
  if (work < kWorthAWake) return run_tiles(s, c, tiles, count);
  if (count < 4 * threads && splits > count) return run_splits(s, c, tiles);
  run_tiles(s, c, tiles, 1);
}

void PanelMaker::keys(const void* rows, i64 stride, int tokens, i64 cols, u32* panel) const {
  const i64 each = bf16 ? 2 : 1;
  kernels.transpose(static_cast<const u32*>(rows), stride / each, tokens, cols / each, panel);
}

void PanelMaker::values(const void* rows, i64 stride, int tokens, i64 cols, u32* panels) const {
  if (bf16)
    return kernels.pack_values(static_cast<const u16*>(rows), stride, tokens, cols,
                               reinterpret_cast<u16*>(panels));
  const auto* const from = static_cast<const u32*>(rows);
  for (i64 d = 0; d < cols; d += kPanel) {
    const i64 width = std::min(kPanel, cols - d);
    for (i64 t = 0; t < kPanel; ++t, panels += kPanel) {
      std::fill(panels, panels + kPanel, 0u);
      if (t < tokens) std::memcpy(panels, from + t * stride + d, static_cast<std::size_t>(width) * 4);
    }
  }
}

void PanelMaker::query(const float* x, i64 n, char* out) const {
  if (bf16)
    kernels.pack_x(x, n, 1.0f, n, out);
  else
    std::memcpy(out, x, static_cast<std::size_t>(n) * 4);
}

}  // namespace trireme::cpu
