// The plan of a step, as its launchers lay it out.
#pragma once
#include "backends/cuda/sm90/mla_decode/config.cuh"
#include "backends/cuda/sm90/mla_decode/mla_decode.h"

namespace trireme::cuda::mla {

inline constexpr std::size_t round_up(std::size_t n, std::size_t to) { return (n + to - 1) / to * to; }

inline PlanLayout plan_layout(const MlaDecodeShape& s) {
  PlanLayout l{};
  l.tiles = s.heads * s.max_query_tokens > kTileRows ? 2 : 1;
  l.parts = s.multiprocessors / l.tiles;
  const long long rows = static_cast<long long>(s.tokens) * s.heads;
  l.max_units = s.seqs + static_cast<int>(rows / (kTileRows * l.tiles));
  return l;
}

}  // namespace trireme::cuda::mla
