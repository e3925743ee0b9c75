// Which files make up a checkpoint, and which of them may be opened: nothing outside the model's own folder.
#pragma once
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace trireme::formats {

// model.safetensors.index.json: tensor name -> shard's file name. Every file name is plain: no separator,
// no "..", ends in .safetensors. kDataLoss names `what` and the tensor.
using WeightMap = std::map<std::string, std::string>;
Result<WeightMap> parse_weight_map(std::string_view text, const std::string& what);

// The real path of `file` (a plain name) in the folder `dir`. A symbolic link may lead to another place in
// the folder, or, where the folder is a snapshot of the Hugging Face hub's cache
// (.../<repo>/snapshots/<revision>), into .../<repo>/blobs. kDataLoss for any other link; kNotFound.
Result<std::string> resolve_model_file(const std::string& dir, const std::string& file);

// All *.safetensors of a folder, sorted. kNotFound without any.
Result<std::vector<std::string>> list_safetensors(const std::string& dir);

}  // namespace trireme::formats
