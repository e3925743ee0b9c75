#include "kv/block_hash.h"

#include <xxhash.h>

#include <memory>
#include <utility>

#include "base/check.h"

namespace trireme::kv {

namespace {

class Digest {
 public:
  Digest() : state_(XXH3_createState()) {
    CHECK(state_ != nullptr);
    XXH3_128bits_reset(state_.get());
  }
  void add(const void* bytes, std::size_t size) { XXH3_128bits_update(state_.get(), bytes, size); }
  void add_number(u64 n) { add(&n, sizeof n); }
  XXH128_hash_t take() const { return XXH3_128bits_digest(state_.get()); }
  void reset() { XXH3_128bits_reset(state_.get()); }

 private:
  struct Free {
    void operator()(XXH3_state_t* s) const { XXH3_freeState(s); }
  };
  std::unique_ptr<XXH3_state_t, Free> state_;
};

}  // namespace

BlockHasher::BlockHasher(std::string model_id, i32 bits) : model_id_(std::move(model_id)), bits_(bits) {
  CHECK(bits >= 1 && bits <= 128);
}

BlockHash BlockHasher::root(std::string_view salt) const {
  Digest digest;
  // Lengths go in too: ("ab", "c") and ("a", "bc") are different roots.
  digest.add_number(model_id_.size());
  digest.add(model_id_.data(), model_id_.size());
  digest.add(salt.data(), salt.size());
  const XXH128_hash_t h = digest.take();
  return cut(h.low64, h.high64);
}

BlockHash BlockHasher::next(const BlockHash& parent, std::span<const TokenId> tokens,
                            i32 generated_from) const {
  thread_local Digest digest;  // its state is 576 bytes: made once, not once a block
  digest.reset();
  digest.add_number(parent.low);
  digest.add_number(parent.high);
  digest.add_number(static_cast<u64>(generated_from));
  digest.add(tokens.data(), tokens.size_bytes());
  const XXH128_hash_t h = digest.take();
  return cut(h.low64, h.high64);
}

BlockHash BlockHasher::cut(u64 low, u64 high) const {
  if (bits_ < 64) return {low & ((u64{1} << bits_) - 1), 0};
  if (bits_ < 128) return {low, bits_ == 64 ? 0 : high & ((u64{1} << (bits_ - 64)) - 1)};
  return {low, high};
}

}  // namespace trireme::kv
