#include "text/protobuf.h"

#include <bit>

namespace trireme::text {

float ProtoField::as_float() const { return std::bit_cast<float>(static_cast<u32>(value)); }

Result<u64> ProtoReader::varint() {
  u64 value = 0;
  for (int shift = 0; shift < 64; shift += 7) {
    if (rest_.empty()) return fail(ErrorCode::kDataLoss, "protobuf: the bytes end inside a number");
    const u8 b = static_cast<u8>(rest_[0]);
    rest_.remove_prefix(1);
    value |= u64{b & 0x7Fu} << shift;
    if (b < 0x80) return value;
  }
  return fail(ErrorCode::kDataLoss, "protobuf: a number longer than ten bytes");
}

Result<u64> ProtoReader::fixed(std::size_t size) {
  if (rest_.size() < size) return fail(ErrorCode::kDataLoss, "protobuf: the bytes end inside a field");
  u64 value = 0;
  for (std::size_t i = 0; i < size; ++i) value |= u64{static_cast<u8>(rest_[i])} << (8 * i);
  rest_.remove_prefix(size);
  return value;
}

Result<std::optional<ProtoField>> ProtoReader::next() {
  if (rest_.empty()) return std::optional<ProtoField>();
  ASSIGN(const u64 key, varint());
  ProtoField field;
  field.number = static_cast<u32>(key >> 3);
  field.wire_type = static_cast<int>(key & 7);
  if (key >> 3 == 0 || key >> 32 != 0)
    return fail(ErrorCode::kDataLoss, "protobuf: a field number out of range");
  switch (field.wire_type) {
    case 0: {
      ASSIGN(field.value, varint());
      break;
    }
    case 1: {
      ASSIGN(field.value, fixed(8));
      break;
    }
    case 5: {
      ASSIGN(field.value, fixed(4));
      break;
    }
    case 2: {
      ASSIGN(const u64 size, varint());
      if (size > rest_.size())
        return fail(ErrorCode::kDataLoss, "protobuf: a field is longer than the bytes that are left");
      field.bytes = rest_.substr(0, size);
      rest_.remove_prefix(size);
      break;
    }
    default:
      return fail(ErrorCode::kDataLoss, "protobuf: wire type {} is not used", field.wire_type);
  }
  return field;
}

}  // namespace trireme::text
