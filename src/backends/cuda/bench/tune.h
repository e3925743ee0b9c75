// Every variant of the matrix kernels on every shape: what `choose_gemm_tile` should choose, and what it
// does.
#pragma once
#include <optional>

#include "backends/cuda/bench/bench_kernels.h"

namespace trireme::cuda {

// As RowLayout in sm90/gemm/gemm.h; kZipf, kDrawn: packed, with zipf_sizes and drawn_sizes of judge.h.
enum class ProductRows : u8 { kDense, kPacked, kMasked, kZipf, kDrawn };
const char* to_string(ProductRows);

struct TuneShape {
  std::string what{};
  bool fp8 = true;
  ProductRows layout = ProductRows::kDense;
  i64 experts = 1, m = 0, n = 0, k = 0;  // m: rows of each expert, of kZipf and kDrawn in the mean
  bool out_f32 = false;

  std::string kernel() const;  // "gemm_fp8 packed"
  std::string text() const;    // "V3 gate+up 4 x m512 n4096 k7168"
};

// Each shape of the tables in bench/shapes.h, and DeepSeek-V3's projections at kTuneRows, those of experts
// also with skewed loads and drawn ones; none twice. With `rows`, only those numbers of rows.
std::vector<TuneShape> tune_shapes(const std::vector<i64>& rows);

// A variant as the table of tiles has it.
struct VariantTile {
  int bm = 0, bn = 0, cluster = 1, split = 1;
  std::string text() const;  // "128 x 192 c2 s1"
};
std::vector<VariantTile> variant_tiles(bool fp8);

struct VariantTime {
  int variant = 0;  // an index into variant_tiles
  double us = 0;
};

struct TuneRow {
  TuneShape shape;
  double floor_us = 0, cublaslt_us = 0;  // cublaslt_us 0: it does not take the shape
  std::vector<VariantTime> times;        // of the variants that take the shape
  int chosen = 0;                        // by choose_gemm_tile
  bool serving_cublaslt = false;         // Ops::linear has cuBLASLt multiply this shape

  const VariantTime* best() const;            // null when no variant takes the shape
  std::optional<double> chosen_us() const;    // none where the chosen variant refuses the shape
  std::optional<double> choice_loss() const;  // time over that of the best variant, less 1
  // The same for what serving runs, cuBLASLt or the chosen variant, against the fastest of all.
  std::optional<double> serving_loss() const;
};

struct LossSummary {
  i64 shapes = 0;
  double mean = 0, worst = 0;
  std::string worst_at;
};
struct TuneSummary {
  LossSummary choice, serving;
  std::vector<std::string> refused;  // shapes that the chosen variant does not take
};
TuneSummary summary_of(const std::vector<TuneRow>& rows);

struct TuneBench {
  BenchYardsticks yardsticks;
  std::vector<TuneRow> rows;
};

// options.measured is not called; `measured` is. REQUIRES: as bench_kernels.
Result<TuneBench> tune_kernels(Backend& backend, const KernelBenchOptions& options,
                               const std::function<void(const TuneRow&)>& measured);

}  // namespace trireme::cuda
