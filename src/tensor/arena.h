// Working memory of one step: taken piece by piece, given back all at once. A steady state allocates nothing.
//
// Not thread-safe; the executor thread owns it.
#pragma once
#include <vector>

#include "base/result.h"
#include "tensor/device.h"

namespace trireme {

class Arena {
 public:
  explicit Arena(Device& device) : device_(device) {}

  // Uninitialised, 256-byte aligned (what TMA and vector loads like), valid until the reset or the release of
  // an earlier mark.
  Result<View> take(DType dtype, Shape shape);
  template <class T>
  Result<T*> take_array(DType dtype, i64 n) {
    ASSIGN(View v, take(dtype, Shape{n}));
    return v.mut<T>();
  }

  struct Mark {
    std::size_t chunk;
    i64 used;
  };
  Mark mark() const { return {chunk_, used_}; }
  void release(Mark m) { chunk_ = m.chunk, used_ = m.used; }
  // Gives everything back. If the last round needed several chunks, the next one gets a single larger one.
  void reset();
  i64 reserved_bytes() const;
  // The most that was taken at any time, and room for so much in one piece before it is needed.
  i64 peak_bytes() const { return peak_; }
  Status reserve(i64 bytes);

 private:
  Device& device_;
  std::vector<Buffer> chunks_;
  std::size_t chunk_ = 0;  // the one being filled
  i64 used_ = 0;           // of it
  i64 peak_ = 0;
  bool planned_ = false;  // its size was reserved: what is missing is little
};

// Gives back what was taken in a scope.
class ArenaScope {
 public:
  explicit ArenaScope(Arena& arena) : arena_(arena), mark_(arena.mark()) {}
  ~ArenaScope() { arena_.release(mark_); }
  ArenaScope(const ArenaScope&) = delete;
  ArenaScope& operator=(const ArenaScope&) = delete;

 private:
  Arena& arena_;
  Arena::Mark mark_;
};

}  // namespace trireme
