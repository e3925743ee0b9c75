// Reads the protobuf wire format, field by field, from bytes that may be hostile. No recursion, no copies.
// https://protobuf.dev/programming-guides/encoding/
#pragma once
#include <optional>
#include <string_view>

#include "base/result.h"
#include "base/types.h"

namespace trireme::text {

struct ProtoField {
  u32 number = 0;
  int wire_type = 0;       // 0 varint, 1 eight bytes, 2 bytes, 5 four bytes
  u64 value = 0;           // wire types 0, 1 and 5
  std::string_view bytes;  // wire type 2; a view of the input
  float as_float() const;  // REQUIRES: wire_type == 5
};

class ProtoReader {
 public:
  explicit ProtoReader(std::string_view bytes) : rest_(bytes) {}
  // The next field, or nothing at the end. An error for a truncated or malformed one.
  Result<std::optional<ProtoField>> next();

 private:
  Result<u64> varint();
  Result<u64> fixed(std::size_t size);
  std::string_view rest_;
};

}  // namespace trireme::text
