// libFuzzer: any bytes as a safetensors file and as an index; what is accepted must keep its promises.
#include <cstdlib>

#include "formats/safetensors_header.h"
#include "formats/shard_index.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace trireme;
  const std::span file(reinterpret_cast<const std::byte*>(data), size);
  if (const auto entries = formats::parse_safetensors_header(file, "input")) {
    for (const auto& entry : *entries) {
      const bool inside = entry.begin <= entry.end && entry.end <= size;
      const auto bytes = static_cast<u64>(entry.shape.elements() * size_of(entry.dtype));
      if (!inside || entry.end - entry.begin != bytes) std::abort();
    }
  }
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  if (const auto map = formats::parse_weight_map(text, "input")) {
    for (const auto& [tensor, file_name] : *map) {
      if (file_name.find('/') != std::string::npos || file_name.starts_with(".")) std::abort();
    }
  }
  return 0;
}
