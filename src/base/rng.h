// Small random generators with fixed results on every platform (the standard distributions have none).
#pragma once
#include "base/types.h"

namespace trireme {

// One step of splitmix64 (Steele, Lea, Flood 2014): a bijective mix of 64 bits.
constexpr u64 mix64(u64 x) {
  x += 0x9e3779b97f4a7c15ULL;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

class Rng {
 public:
  explicit constexpr Rng(u64 seed) : state_(seed) {}
  constexpr u64 next() {
    const u64 out = mix64(state_);
    state_ += 0x9e3779b97f4a7c15ULL;
    return out;
  }
  // In [0, n). REQUIRES: 0 < n <= 2^32. The bias is below n / 2^32.
  constexpr u64 below(u64 n) { return ((next() >> 32) * n) >> 32; }
  // In [0, 1), with 53 random bits.
  constexpr double uniform() { return static_cast<double>(next() >> 11) * 0x1.0p-53; }
  double normal();                  // mean 0, deviation 1
  double exponential(double rate);  // mean 1/rate

 private:
  u64 state_;
};

// A random number that depends on nothing but its keys: the same request draws the same numbers in any batch.
constexpr double keyed_uniform(u64 seed, u64 position) {
  return static_cast<double>(mix64(mix64(seed) ^ mix64(position + 0x632be59bd9b4e019ULL)) >> 11) * 0x1.0p-53;
}

}  // namespace trireme
