// A backend that computes nothing and allocates nothing, and counts what the real one would take: a model
// loaded on it has every shape and no bytes, a forward pass leaves only the mark of its workspace.
#pragma once
#include <memory>

#include "ops/ops.h"

namespace trireme::engine {

std::unique_ptr<Backend> make_shape_backend(Backend& real);

}  // namespace trireme::engine
