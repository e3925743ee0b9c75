// The byte-level alphabet of GPT-2: each byte is spelled as one printable character in a vocabulary.
#pragma once
#include <optional>
#include <string>
#include <string_view>

#include "base/types.h"

namespace trireme::text {

// The bytes that `token` spells, or nothing when a character is outside of the alphabet.
std::optional<std::string> byte_level_bytes(std::string_view token);
// The spelling of one byte.
u32 byte_level_character(u8 byte);
// The byte of "<0xNN>", or -1.
int byte_fallback_value(std::string_view token);

}  // namespace trireme::text
