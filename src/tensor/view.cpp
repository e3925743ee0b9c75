#include "tensor/view.h"

namespace trireme {

std::string to_string(const Shape& shape) {
  std::string out = "[";
  for (int i = 0; i < shape.rank; ++i) out += (i ? ", " : "") + std::to_string(shape.dim[i]);
  return out + "]";
}

}  // namespace trireme
