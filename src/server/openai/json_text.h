// JSON written straight into a string: a stream makes a chunk a token, and building a tree for each would
// cost more than all else that is done for it.
#pragma once
#include <string>
#include <string_view>

namespace trireme::server {

// `text` quoted and escaped; bytes that are not UTF-8 become U+FFFD.
void append_json_string(std::string& out, std::string_view text);
// A finite number; anything else becomes the lowest float, as JSON has no infinity.
void append_json_number(std::string& out, double value);
// Length of the UTF-8 character that starts at text[0]; 0 if none does. REQUIRES: text is not empty.
std::size_t utf8_length(std::string_view text);
bool is_utf8(std::string_view text);

}  // namespace trireme::server
