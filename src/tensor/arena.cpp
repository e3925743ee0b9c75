#include "tensor/arena.h"

#include <algorithm>

namespace trireme {
namespace {
constexpr i64 kSmallestChunk = 4 << 20;
}

Result<View> Arena::take(DType dtype, Shape shape) {
  const i64 bytes = round_up(std::max<i64>(shape.elements() * size_of(dtype), 1), 256);
  while (chunk_ < chunks_.size() && used_ + bytes > chunks_[chunk_].bytes()) {
    ++chunk_;
    used_ = 0;
  }
  if (chunk_ == chunks_.size()) {
    ASSIGN(auto chunk, device_.allocate(std::max({bytes, kSmallestChunk, planned_ ? 0 : reserved_bytes()})));
    chunks_.push_back(std::move(chunk));
    used_ = 0;
  }
  char* at = static_cast<char*>(chunks_[chunk_].data()) + used_;
  used_ += bytes;
  i64 taken = used_;
  for (std::size_t i = 0; i < chunk_; ++i) taken += chunks_[i].bytes();
  peak_ = std::max(peak_, taken);
  return View(at, dtype, shape);
}

Status Arena::reserve(i64 bytes) {
  CHECK(chunk_ == 0 && used_ == 0, "an arena in use");
  if (reserved_bytes() >= bytes) return {};
  chunks_.clear();
  planned_ = true;
  ASSIGN(auto chunk, device_.allocate(bytes));
  chunks_.push_back(std::move(chunk));
  return {};
}

void Arena::reset() {
  if (chunks_.size() > 1) {
    const i64 all = reserved_bytes();
    chunks_.clear();
    if (auto one = device_.allocate(all)) chunks_.push_back(std::move(*one));
  }
  chunk_ = 0;
  used_ = 0;
}

i64 Arena::reserved_bytes() const {
  i64 n = 0;
  for (const auto& c : chunks_) n += c.bytes();
  return n;
}

}  // namespace trireme
