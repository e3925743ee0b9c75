#include "formats/safetensors_writer.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <fstream>

#include "base/json.h"
#include "base/log.h"
#include "formats/safetensors_header.h"

namespace trireme::formats {
namespace {

Json header_entry(const ConstView& view, i64 begin) {
  Json shape = Json::array();
  for (int i = 0; i < view.shape.rank; ++i) shape.push_back(view.shape[i]);
  return {{"dtype", safetensors_name(view.dtype)},
          {"shape", std::move(shape)},
          {"data_offsets", {begin, begin + view.bytes()}}};
}

void write_rows(std::ofstream& out, const ConstView& view) {
  if (view.dense()) {
    out.write(static_cast<const char*>(view.data), view.bytes());
    return;
  }
  const i64 row_bytes = view.shape.cols() * size_of(view.dtype);
  for (i64 r = 0; r < view.shape.rows(); ++r) out.write(static_cast<const char*>(view.row(r)), row_bytes);
}

}  // namespace

Status write_safetensors(const std::string& path, std::vector<NamedView> tensors,
                         const std::map<std::string, std::string>& metadata) {
  std::sort(tensors.begin(), tensors.end(), [](const NamedView& a, const NamedView& b) {
    const i64 a_size = size_of(a.view.dtype), b_size = size_of(b.view.dtype);
    return a_size != b_size ? a_size > b_size : a.name < b.name;
  });
  Json header = Json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  i64 offset = 0;
  for (const auto& [name, view] : tensors) {
    if (name == "__metadata__" || header.contains(name)) {
      return invalid("{}: the tensor name \"{}\" is reserved or stands twice", path, one_line(name));
    }
    header[name] = header_entry(view, offset);
    offset += view.bytes();
  }
  std::string text = to_text(header);
  text.resize(static_cast<std::size_t>(round_up(static_cast<i64>(text.size()), 8)), ' ');
  std::array<char, 8> length{};
  for (std::size_t i = 0; i < length.size(); ++i)
    length[i] = static_cast<char>(text.size() >> (8 * i) & 0xff);

  const auto part = path + ".part";
  std::ofstream out(part, std::ios::binary | std::ios::trunc);
  out.write(length.data(), length.size());
  out.write(text.data(), static_cast<std::streamsize>(text.size()));
  for (const auto& tensor : tensors) write_rows(out, tensor.view);
  out.close();
  std::error_code error;
  if (out.fail()) {
    std::filesystem::remove(part, error);
    return fail(ErrorCode::kUnavailable, "cannot write {}: is the folder there, and the disk not full?",
                part);
  }
  std::filesystem::rename(part, path, error);
  if (error) return fail(ErrorCode::kUnavailable, "cannot rename {} to {}: {}", part, path, error.message());
  return {};
}

}  // namespace trireme::formats
