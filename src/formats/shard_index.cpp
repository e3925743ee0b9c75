#include "formats/shard_index.h"

#include <algorithm>
#include <filesystem>

#include "base/json.h"
#include "base/log.h"
#include "formats/safetensors_header.h"

namespace trireme::formats {
namespace {

namespace fs = std::filesystem;

constexpr u64 kMaxIndexEntries = 1'000'000;  // the largest public checkpoints have about 150,000
constexpr std::size_t kMaxShards = 10'000;
constexpr std::string_view kSuffix = ".safetensors";

bool is_plain_name(std::string_view name) {
  return name.size() > kSuffix.size() && name.size() <= 255 && name.ends_with(kSuffix) &&
         name.front() != '.' && std::all_of(name.begin(), name.end(), [](char c) {
           return static_cast<unsigned char>(c) >= 0x20 && c != 0x7f && c != '/' && c != '\\';
         });
}

bool is_inside(const fs::path& file, const fs::path& folder) {
  const auto [rest, _] = std::mismatch(folder.begin(), folder.end(), file.begin(), file.end());
  return rest == folder.end();
}

}  // namespace

Result<WeightMap> parse_weight_map(std::string_view text, const std::string& what) {
  TRY(check_json_values(text, kMaxIndexEntries, what));
  auto json = parse_json(text, what, {.max_bytes = kMaxHeaderBytes, .max_depth = 8});
  if (!json) return fail(ErrorCode::kDataLoss, "{}", one_line(json.error().message, 512));
  const auto map = json->is_object() ? json->find("weight_map") : json->end();
  if (map == json->end() || !map->is_object() || map->empty()) {
    return fail(ErrorCode::kDataLoss, "{}: \"weight_map\" must be an object that names each tensor's file",
                what);
  }
  WeightMap out;
  for (const auto& [tensor, file] : map->items()) {
    if (!file.is_string() || !is_plain_name(file.get_ref<const std::string&>())) {
      return fail(ErrorCode::kDataLoss,
                  "{}: tensor \"{}\" is said to be in {}, which is not the plain name of a .safetensors file",
                  what, one_line(tensor), one_line(to_text(file)));
    }
    out.emplace(tensor, file.get<std::string>());
  }
  return out;
}

Result<std::string> resolve_model_file(const std::string& dir, const std::string& file) {
  std::error_code error;
  const auto folder = fs::canonical(dir, error);
  if (error) return fail(ErrorCode::kNotFound, "cannot open the folder {}: {}", dir, error.message());
  const auto target = fs::canonical(folder / file, error);
  if (error) return fail(ErrorCode::kNotFound, "cannot open {}/{}: {}", dir, file, error.message());
  if (is_inside(target, folder)) return target.string();
  const auto snapshots = folder.parent_path();
  if (snapshots.filename() == "snapshots" && is_inside(target, snapshots.parent_path() / "blobs")) {
    return target.string();
  }
  return fail(ErrorCode::kDataLoss,
              "{}/{} is a symbolic link that leaves the model's folder (to {}); put the file itself there",
              dir, file, one_line(target.string()));
}

Result<std::vector<std::string>> list_safetensors(const std::string& dir) {
  std::error_code error;
  std::vector<std::string> files;
  for (fs::directory_iterator it(dir, error), end; !error && it != end; it.increment(error)) {
    auto name = it->path().filename().string();
    if (is_plain_name(name)) files.push_back(std::move(name));
    if (files.size() > kMaxShards) {
      return fail(ErrorCode::kDataLoss, "{}: more than {} .safetensors files", dir, kMaxShards);
    }
  }
  if (error) return fail(ErrorCode::kNotFound, "cannot read the folder {}: {}", dir, error.message());
  if (files.empty()) return fail(ErrorCode::kNotFound, "{}: no .safetensors file in this folder", dir);
  std::sort(files.begin(), files.end());
  return files;
}

}  // namespace trireme::formats
