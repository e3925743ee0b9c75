#include "formats/safetensors.h"

#include <filesystem>
#include <set>

#include "base/log.h"
#include "formats/mapped_file.h"
#include "formats/safetensors_header.h"
#include "formats/shard_index.h"

namespace trireme::formats {
namespace {

constexpr const char* kSingle = "model.safetensors";
constexpr const char* kIndex = "model.safetensors.index.json";

// What a checkpoint's views point into.
struct Files {
  std::vector<MappedFile> mapped;
  std::vector<std::unique_ptr<std::byte[]>> copies;
};

// Where a tensor's bytes are readable as its dtype. Usual writers align them; a file that does not is still
// valid, and its misaligned tensors are copied once, so that no reader has to care.
const std::byte* aligned(const std::byte* data, const TensorEntry& entry, Files& files) {
  if (reinterpret_cast<std::uintptr_t>(data) % static_cast<u64>(size_of(entry.dtype)) == 0) return data;
  const u64 bytes = entry.end - entry.begin;
  auto copy = std::make_unique<std::byte[]>(bytes + 1);
  if (bytes) std::memcpy(copy.get(), data, bytes);
  files.copies.push_back(std::move(copy));
  return files.copies.back().get();
}

}  // namespace

const ConstView* Checkpoint::find(const std::string& name) const {
  const auto it = tensors_.find(name);
  return it == tensors_.end() ? nullptr : &it->second;
}

Result<Checkpoint> Checkpoint::open(const std::string& dir) {
  namespace fs = std::filesystem;
  std::error_code ignored;
  const fs::path folder(dir);
  if (!fs::is_directory(folder, ignored)) {
    return fail(ErrorCode::kNotFound, "{} is not a folder; name the folder that holds the model", dir);
  }

  WeightMap index;
  std::vector<std::string> shards;
  if (fs::exists(fs::symlink_status(folder / kSingle, ignored))) {
    shards = {kSingle};
  } else if (fs::exists(fs::symlink_status(folder / kIndex, ignored))) {
    ASSIGN(const auto path, resolve_model_file(dir, kIndex));
    ASSIGN(const auto file, MappedFile::open(path, kMaxHeaderBytes));
    ASSIGN(index, parse_weight_map(file.text(), (folder / kIndex).string()));
    std::set<std::string> names;
    for (const auto& [tensor, shard] : index) names.insert(shard);
    shards.assign(names.begin(), names.end());
  } else {
    ASSIGN(shards, list_safetensors(dir));
  }

  Checkpoint checkpoint;
  auto files = std::make_shared<Files>();
  std::map<std::string, const std::string*> shard_of;
  for (const auto& shard : shards) {
    const auto what = (folder / shard).string();
    ASSIGN(const auto path, resolve_model_file(dir, shard));
    ASSIGN(auto file, MappedFile::open(path));
    ASSIGN(const auto entries, parse_safetensors_header(file.bytes(), what));
    const auto copies_before = files->copies.size();
    for (const auto& entry : entries) {
      if (const auto [it, fresh] = shard_of.emplace(entry.name, &shard); !fresh) {
        return fail(ErrorCode::kDataLoss, "{}: tensor \"{}\" is also in {}", what, one_line(entry.name),
                    *it->second);
      }
      const auto* data = aligned(file.bytes().data() + entry.begin, entry, *files);
      checkpoint.tensors_.emplace(entry.name, ConstView(data, entry.dtype, entry.shape));
      checkpoint.total_bytes_ += static_cast<i64>(entry.end - entry.begin);
    }
    if (files->copies.size() > copies_before) {
      spdlog::warn("{}: {} tensors are not aligned in the file and were copied to memory", one_line(what),
                   files->copies.size() - copies_before);
    }
    files->mapped.push_back(std::move(file));
  }
  for (const auto& [tensor, shard] : index) {
    const auto it = shard_of.find(tensor);
    if (it != shard_of.end() && *it->second == shard) continue;
    return fail(ErrorCode::kDataLoss, "{}: tensor \"{}\" is not in {}, where the index says it is; it is {}",
                (folder / kIndex).string(), one_line(tensor), shard,
                it == shard_of.end() ? "in no shard" : "in " + *it->second);
  }
  checkpoint.files_ = std::move(files);
  return checkpoint;
}

}  // namespace trireme::formats
