#include "formats/safetensors_header.h"

#include <algorithm>
#include <optional>
#include <tuple>

#include "base/json.h"
#include "base/log.h"

namespace trireme::formats {
namespace {

struct DTypeName {
  std::string_view name;
  DType dtype;
};
constexpr DTypeName kDTypes[] = {
    {"F32", DType::kF32}, {"BF16", DType::kBF16}, {"F16", DType::kF16}, {"F8_E4M3", DType::kF8E4M3},
    {"I32", DType::kI32}, {"I64", DType::kI64},   {"U8", DType::kU8},
};
// In the format, but nothing here computes with them.
constexpr std::string_view kOtherDTypes[] = {"BOOL",    "I8",  "I16",     "U16",         "U32",
                                             "U64",     "F64", "F8_E5M2", "F8_E8M0",     "F6_E2M3",
                                             "F6_E3M2", "F4",  "C64",     "F8_E4M3FNUZ", "F8_E5M2FNUZ"};
constexpr std::size_t kMaxRank = std::tuple_size_v<decltype(Shape::dim)>;

template <class... Args>
tl::unexpected<Error> corrupt(fmt::format_string<Args...> format, Args&&... args) {
  return fail(ErrorCode::kDataLoss, format, std::forward<Args>(args)...);
}

Result<DType> parse_dtype(const Json& entry, const std::string& where) {
  const auto it = entry.find("dtype");
  if (it == entry.end() || !it->is_string()) return corrupt("{}: \"dtype\" must be a string", where);
  const auto& name = it->get_ref<const std::string&>();
  for (const auto& known : kDTypes) {
    if (known.name == name) return known.dtype;
  }
  if (std::find(std::begin(kOtherDTypes), std::end(kOtherDTypes), name) != std::end(kOtherDTypes)) {
    return fail(ErrorCode::kUnsupported,
                "{}: dtype {} is not supported; convert the tensor to F32, BF16, F16 or F8_E4M3", where,
                name);
  }
  return corrupt("{}: \"{}\" is not a dtype of the format", where, one_line(name, 32));
}

Result<Shape> parse_shape(const Json& entry, const std::string& where) {
  const auto it = entry.find("shape");
  if (it == entry.end() || !it->is_array()) return corrupt("{}: \"shape\" must be an array", where);
  if (it->size() > kMaxRank) {
    return fail(ErrorCode::kUnsupported, "{}: {} dimensions; at most {} are supported", where, it->size(),
                kMaxRank);
  }
  Shape shape;
  for (const auto& dim : *it) {
    if (!dim.is_number_unsigned() || dim.get<u64>() > static_cast<u64>(INT64_MAX)) {
      return corrupt("{}: the dimension {} is not an integer from 0 to 2^63-1", where,
                     one_line(to_text(dim), 32));
    }
    shape.dim[static_cast<std::size_t>(shape.rank++)] = static_cast<i64>(dim.get<u64>());
  }
  return shape;
}

// Bytes of a tensor, or nothing when the product does not fit.
std::optional<u64> byte_size(const Shape& shape, DType dtype) {
  i64 bytes = size_of(dtype);
  for (int i = 0; i < shape.rank; ++i) {
    if (__builtin_mul_overflow(bytes, shape[i], &bytes)) return std::nullopt;
  }
  return static_cast<u64>(bytes);
}

Result<TensorEntry> parse_entry(const std::string& name, const Json& json, u64 data_begin, u64 data_bytes,
                                const std::string& where) {
  if (!json.is_object()) return corrupt("{}: its header entry must be an object", where);
  TensorEntry entry;
  entry.name = name;
  ASSIGN(entry.dtype, parse_dtype(json, where));
  ASSIGN(entry.shape, parse_shape(json, where));
  const auto bytes = byte_size(entry.shape, entry.dtype);
  if (!bytes) {
    return corrupt("{}: the size of shape {} overflows 64 bits", where, to_string(entry.shape));
  }
  const auto offsets = json.find("data_offsets");
  if (offsets == json.end() || !offsets->is_array() || offsets->size() != 2 ||
      !(*offsets)[0].is_number_unsigned() || !(*offsets)[1].is_number_unsigned()) {
    return corrupt("{}: \"data_offsets\" must be two integers, [begin, end]", where);
  }
  const u64 begin = (*offsets)[0].get<u64>(), end = (*offsets)[1].get<u64>();
  if (end < begin) return corrupt("{}: data_offsets [{}, {}] are reversed", where, begin, end);
  if (end > data_bytes) {
    return corrupt(
        "{}: data_offsets [{}, {}] reach past the file's {} bytes of data; it is cut short or wrong", where,
        begin, end, data_bytes);
  }
  if (end - begin != *bytes) {
    return corrupt("{}: data_offsets [{}, {}] span {} bytes, but {} of {} takes {}", where, begin, end,
                   end - begin, safetensors_name(entry.dtype), to_string(entry.shape), *bytes);
  }
  entry.begin = data_begin + begin;
  entry.end = data_begin + end;
  return entry;
}

Status check_metadata(const Json& metadata, const std::string& what) {
  bool ok = metadata.is_object();
  for (const auto& value : metadata) ok = ok && value.is_string();
  if (!ok) return corrupt("{}: __metadata__ must be an object of strings", what);
  return {};
}

// The format has no padding: whatever bytes no tensor owns could hide anything.
Status check_coverage(const std::vector<TensorEntry>& entries, u64 data_begin, u64 file_bytes,
                      const std::string& what) {
  u64 reached = data_begin;
  std::string previous = "the header";
  for (const auto& entry : entries) {
    if (entry.begin != reached) {
      return corrupt("{}: tensor \"{}\" {} {} (it starts at byte {} of the data, not {})", what,
                     one_line(entry.name), entry.begin < reached ? "overlaps" : "leaves a hole after",
                     previous, entry.begin - data_begin, reached - data_begin);
    }
    reached = entry.end;
    previous = "tensor \"" + one_line(entry.name) + "\"";
  }
  if (reached != file_bytes) {
    return corrupt("{}: {} bytes at its end belong to no tensor", what, file_bytes - reached);
  }
  return {};
}

}  // namespace

const char* safetensors_name(DType t) {
  for (const auto& known : kDTypes) {
    if (known.dtype == t) return known.name.data();
  }
  return "?";
}

Status check_json_values(std::string_view text, u64 max, const std::string& what) {
  u64 separators = 0;
  bool in_string = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      in_string = c != '"';
    } else if (c == '"') {
      in_string = true;
    } else if (c == ',' || c == '[' || c == '{') {
      ++separators;
    }
  }
  if (separators > max) return corrupt("{}: more than {} values in its JSON", what, max);
  return {};
}

Result<std::vector<TensorEntry>> parse_safetensors_header(std::span<const std::byte> file,
                                                          const std::string& what) {
  constexpr u64 kLengthBytes = 8;
  if (file.size() < kLengthBytes) {
    return corrupt("{}: {} bytes; a safetensors file has at least {}", what, file.size(), kLengthBytes);
  }
  u64 header_bytes = 0;
  for (std::size_t i = kLengthBytes; i-- > 0;)
    header_bytes = header_bytes << 8 | std::to_integer<u64>(file[i]);
  if (header_bytes > kMaxHeaderBytes) {
    return corrupt("{}: the header claims {} bytes; at most {} are allowed (is it a safetensors file?)", what,
                   header_bytes, kMaxHeaderBytes);
  }
  if (header_bytes > file.size() - kLengthBytes) {
    return corrupt("{}: the header claims {} bytes, but the file has only {}; it is cut short", what,
                   header_bytes, file.size());
  }
  const std::string_view text(reinterpret_cast<const char*>(file.data()) + kLengthBytes, header_bytes);
  if (text.empty() || text.front() != '{') return corrupt("{}: the header does not start with '{{'", what);
  TRY(check_json_values(text, 16 * kMaxTensorsPerFile, what));
  auto json = parse_json(text, what, {.max_bytes = kMaxHeaderBytes, .max_depth = 8});
  if (!json) return corrupt("{}", one_line(json.error().message, 512));
  if (!json->is_object()) return corrupt("{}: the header is not a JSON object", what);
  if (json->size() > kMaxTensorsPerFile) {
    return corrupt("{}: {} tensors; at most {} are allowed", what, json->size(), kMaxTensorsPerFile);
  }

  const u64 data_begin = kLengthBytes + header_bytes;
  std::vector<TensorEntry> entries;
  entries.reserve(json->size());
  for (const auto& [name, value] : json->items()) {
    if (name == "__metadata__") {
      TRY(check_metadata(value, what));
      continue;
    }
    const auto where = fmt::format("{}: tensor \"{}\"", what, one_line(name));
    ASSIGN(auto entry, parse_entry(name, value, data_begin, file.size() - data_begin, where));
    entries.push_back(std::move(entry));
  }
  std::sort(entries.begin(), entries.end(), [](const TensorEntry& a, const TensorEntry& b) {
    return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
  });
  TRY(check_coverage(entries, data_begin, file.size(), what));
  return entries;
}

}  // namespace trireme::formats
