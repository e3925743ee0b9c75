// The header of one safetensors file: checked as a whole before any of it is believed. Pure functions.
#pragma once
#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "tensor/view.h"

namespace trireme::formats {

inline constexpr u64 kMaxHeaderBytes = 100'000'000;  // as the format's own reader has it
inline constexpr u64 kMaxTensorsPerFile = 200'000;

struct TensorEntry {
  std::string name;
  DType dtype = DType::kF32;
  Shape shape;
  u64 begin = 0, end = 0;  // bytes from the start of the file
};

// The entries in the order of their bytes. On success, for each: end - begin is the elements of the shape
// times the size of the dtype, and the entries follow one another without hole or overlap from the end of
// the header to the end of the file, as the format demands. begin need not be a multiple of the element's
// size. kDataLoss names `what` (the file) and the tensor; kUnsupported for a dtype or rank that the format
// has and this build does not.
Result<std::vector<TensorEntry>> parse_safetensors_header(std::span<const std::byte> file,
                                                          const std::string& what);

// Refuses text with more than `max` values before memory is spent on parsing it.
Status check_json_values(std::string_view text, u64 max, const std::string& what);

// "BF16"; the format's own name of a dtype.
const char* safetensors_name(DType t);

}  // namespace trireme::formats
