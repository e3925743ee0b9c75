// Short names for sized numbers, and integers that must not be mixed up.
#pragma once
#include <compare>
#include <cstddef>
#include <cstdint>
#include <functional>

namespace trireme {

using i8 = std::int8_t;
using i16 = std::int16_t;
using i32 = std::int32_t;
using i64 = std::int64_t;
using u8 = std::uint8_t;
using u16 = std::uint16_t;
using u32 = std::uint32_t;
using u64 = std::uint64_t;

using TokenId = i32;

// Two integers that must not meet are two types: using SeqId = Id<struct SeqTag, u64>.
template <class Tag, class Rep>
struct Id {
  Rep value{};
  constexpr Id() = default;
  constexpr explicit Id(Rep v) : value(v) {}
  constexpr auto operator<=>(const Id&) const = default;
};

constexpr i64 ceil_div(i64 a, i64 b) { return (a + b - 1) / b; }
constexpr i64 round_up(i64 a, i64 b) { return ceil_div(a, b) * b; }

}  // namespace trireme

template <class Tag, class Rep>
struct std::hash<trireme::Id<Tag, Rep>> {
  std::size_t operator()(const trireme::Id<Tag, Rep>& id) const noexcept {
    return std::hash<Rep>{}(id.value);
  }
};
