// Shapes that bench_kernels measures, and the anchors it holds them against: the fastest of DeepGEMM,
// FlashMLA, cuDNN and cuBLASLt on one H200 (driver 580.159, CUDA 13.0), measured in the same way.
#pragma once
#include "backends/cuda/bench/bench_kernels.h"

namespace trireme::cuda {

// y [m, n] = x [m, k] W^T.
struct DenseShape {
  const char* what;
  i64 m, n, k;
  KernelAnchor anchor{};
};

inline constexpr DenseShape kDenseFp8[] = {
    {"V3 q_a+kv_a", 256, 2112, 7168, {"DeepGEMM", 15.5}},
    {"V3 q_b", 64, 24576, 1536, {"DeepGEMM", 19.8}},
    {"V3 q_b", 256, 24576, 1536, {"DeepGEMM", 24.5}},
    {"V3 q_b", 512, 24576, 1536, {"DeepGEMM", 37.0}},
    {"V3 o_proj", 64, 7168, 16384, {"DeepGEMM", 43.9}},
    {"V3 o_proj", 256, 7168, 16384, {"cuBLASLt", 56.8}},
    {"V3 o_proj", 512, 7168, 16384, {"DeepGEMM", 122}},
    {"V3 shared gate+up", 4096, 4096, 7168, {"DeepGEMM", 168.9}},
    {"V3 o_proj", 4096, 7168, 16384, {"DeepGEMM", 654}},
    {"V3 q_a+kv_a", 128, 2112, 7168},
    {"V3 q_b", 128, 24576, 1536},
    {"V3 o_proj", 128, 7168, 16384},
    {"V3 shared gate+up", 128, 4096, 7168},
    {"V3 shared down", 128, 7168, 2048},
    {"V3 dense gate+up", 128, 36864, 7168},
    {"V3 dense down", 128, 7168, 18432},
    {"V3 q_b", 4096, 24576, 1536},
    {"V3 kv_b", 4096, 32768, 512},
};

inline constexpr DenseShape kDenseBf16[] = {
    {"V3 head", 128, 129280, 7168},           {"V3 router", 128, 256, 7168},
    {"Llama-70B q+k+v", 64, 10240, 8192},     {"Llama-70B o_proj", 64, 8192, 8192},
    {"Llama-70B gate+up", 64, 57344, 8192},   {"Llama-70B down", 64, 8192, 28672},
    {"Llama-70B q+k+v", 4096, 10240, 8192},   {"Llama-70B o_proj", 4096, 8192, 8192},
    {"Llama-70B gate+up", 4096, 57344, 8192}, {"Llama-70B down", 4096, 8192, 28672},
};

// `experts` such products with `m` rows each.
struct GroupedShape {
  const char* what;
  bool masked;  // rows of an expert begin at a fixed place, else behind those of the expert before
  bool fp8;
  i64 experts, m, n, k;
  KernelAnchor anchor{};
};

inline constexpr GroupedShape kGrouped[] = {
    {"V3 gate+up", true, true, 4, 512, 4096, 7168, {"DeepGEMM", 101.9}},
    {"V3 down", true, true, 4, 512, 7168, 2048, {"DeepGEMM", 55.4}},
    {"V3 gate+up", true, true, 32, 128, 4096, 7168, {"DeepGEMM", 276}},
    {"V3 gate+up", true, true, 64, 32, 4096, 7168, {"DeepGEMM", 488}},
    {"V3 down", true, true, 64, 32, 7168, 2048, {"DeepGEMM", 254}},
    {"V3 gate+up", false, true, 8, 1024, 4096, 7168, {"DeepGEMM", 348}},
    {"V3 down", false, true, 8, 1024, 7168, 2048, {"DeepGEMM", 200}},
    {"V3 gate+up", false, true, 4, 512, 4096, 7168, {"DeepGEMM masked", 101.9}},
    {"V3 down", false, true, 4, 512, 7168, 2048, {"DeepGEMM masked", 55.4}},
    {"V3 gate+up", false, true, 32, 128, 4096, 7168, {"DeepGEMM masked", 276}},
    {"Mixtral gate+up", false, false, 8, 16, 28672, 4096},
    {"Mixtral down", false, false, 8, 16, 4096, 14336},
    {"Mixtral gate+up", false, false, 8, 1024, 28672, 4096},
    {"Mixtral down", false, false, 8, 1024, 4096, 14336},
};

// FP8 products of experts that have `rows` rows together, by Zipf's law.
struct SkewedShape {
  const char* what;
  i64 experts, rows, n, k;
};

inline constexpr u64 kSkewSeed = 5;  // of the order in which the experts have their loads
inline constexpr SkewedShape kSkewed[] = {
    {"V3 gate+up", 4, 1024, 4096, 7168},   {"V3 down", 4, 1024, 7168, 2048},
    {"V3 gate+up", 4, 2048, 4096, 7168},   {"V3 down", 4, 2048, 7168, 2048},
    {"V3 gate+up", 9, 2304, 4096, 7168},   {"V3 down", 9, 2304, 7168, 2048},
    {"V3 gate+up", 32, 8192, 4096, 7168},  {"V3 down", 32, 8192, 7168, 2048},
    {"V3 gate+up", 64, 16384, 4096, 7168}, {"V3 down", 64, 16384, 7168, 2048},
};

// A matrix of DeepSeek-V3, or one a local expert, over any number of rows.
struct Projection {
  const char *group, *what;
  bool fp8;
  i64 experts;  // 0: one matrix for all rows
  i64 n, k;
  bool out_f32 = false;
  i64 most_rows = 8192;  // the head sees one token of each sequence
};

inline constexpr Projection kProjections[] = {
    {"attention", "q_a+kv_a", true, 0, 2112, 7168},
    {"attention", "q_b", true, 0, 24576, 1536},
    {"attention", "kv_b", true, 0, 32768, 512},
    {"attention", "o_proj", true, 0, 7168, 16384},
    {"shared expert", "shared gate+up", true, 0, 4096, 7168},
    {"shared expert", "shared down", true, 0, 7168, 2048},
    {"dense layers", "dense gate+up", true, 0, 36864, 7168},
    {"dense layers", "dense down", true, 0, 7168, 18432},
    {"experts gate+up", "gate+up", true, 4, 4096, 7168},
    {"experts gate+up", "gate+up", true, 9, 4096, 7168},
    {"experts gate+up", "gate+up", true, 32, 4096, 7168},
    {"experts down", "down", true, 4, 7168, 2048},
    {"experts down", "down", true, 9, 7168, 2048},
    {"experts down", "down", true, 32, 7168, 2048},
    {"BF16", "head", false, 0, 129280, 7168, true, 512},
    {"BF16", "router", false, 0, 256, 7168, true},
};

// Rows (of each expert, where there are several) that a sweep takes; and that tuning takes beside the rows of
// the tables above, as long as all experts together have no more than kMostTuneRows: beyond, nothing changes.
inline constexpr i64 kSweepRows[] = {1,   2,   4,   8,   16,   24,   32,   48,   64,   96,   128, 192,
                                     256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192};
inline constexpr i64 kTuneRows[] = {1, 16, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 2048, 4096, 8192};
inline constexpr i64 kMostTuneRows = 16384;

// y [tokens, heads, n] = x [tokens, heads, k] times one matrix a head.
struct HeadShape {
  const char* what;
  i64 tokens, heads, n, k;
  bool transposed;  // stored [k, n]
};

inline constexpr HeadShape kHeads[] = {
    {"V3 W_UK", 128, 128, 512, 128, true},
    {"V3 W_UV", 128, 128, 128, 512, false},
    {"V3 W_UK", 256, 128, 512, 128, true},
    {"V3 W_UV", 256, 128, 128, 512, false},
};

// `fresh` new tokens for each of `seqs` sequences that then have `context`.
struct AttentionShape {
  i64 seqs, fresh, context;
  KernelAnchor anchor{};
};

inline constexpr AttentionShape kMlaDecode[] = {
    // 128 heads
    {16, 1, 4096, {"FlashMLA", 48}},   {64, 1, 2048, {"FlashMLA", 67}},   {64, 1, 8192, {"FlashMLA", 249}},
    {256, 1, 2048, {"FlashMLA", 265}}, {256, 1, 4096, {"FlashMLA", 521}}, {128, 2, 2048, {"FlashMLA", 263}},
};
inline constexpr AttentionShape kMlaPrefill[] = {
    // 128 heads, keys of 192, values of 128
    {1, 4096, 4096, {"cuDNN", 1166}},
    {1, 8192, 8192, {"cuDNN", 4765}},
    {8, 1024, 1024, {"cuDNN", 754}},
    {1, 1024, 16384},
};

struct GqaShape {
  const char* what;
  i64 heads, kv_heads, dim;
  AttentionShape batch;
};

inline constexpr GqaShape kGqa[] = {
    {"Llama-70B", 64, 8, 128, {64, 1, 4096}},   {"Llama-70B", 64, 8, 128, {256, 1, 1024}},
    {"Llama-70B", 64, 8, 128, {1, 1, 32768}},   {"Mixtral", 32, 8, 128, {64, 1, 4096}},
    {"Llama-70B", 64, 8, 128, {1, 4096, 4096}}, {"Llama-70B", 64, 8, 128, {8, 1024, 1024}},
    {"Mixtral", 32, 8, 128, {1, 8192, 8192}},
};

inline constexpr i64 kGlueTokens[] = {128, 4096};

// DeepSeek-V3, as the elementwise kernels meet it.
struct V3 {
  static constexpr i64 hidden = 7168, heads = 128, nope = 128, rope = 64, latent = 512, q_lora = 1536,
                       kv_a_stride = 2112, experts = 256, top_k = 8, groups = 8, top_groups = 4,
                       expert = 2048, dense = 18432, vocab = 129280;
};

}  // namespace trireme::cuda
