#include "base/rng.h"

#include <cmath>
#include <numbers>

namespace trireme {

double Rng::normal() {
  const double u = 1.0 - uniform();  // in (0, 1], so that the logarithm is finite
  const double v = uniform();
  return std::sqrt(-2.0 * std::log(u)) * std::cos(2.0 * std::numbers::pi * v);
}

double Rng::exponential(double rate) { return -std::log(1.0 - uniform()) / rate; }

}  // namespace trireme
