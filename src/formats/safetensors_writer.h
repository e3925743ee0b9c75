// Writes one safetensors file.
#pragma once
#include <map>
#include <string>
#include <vector>

#include "base/result.h"
#include "tensor/view.h"

namespace trireme::formats {

struct NamedView {
  std::string name;
  ConstView view;  // host memory; rows may be padded, the file's are not
};

// Largest element size first and then by name, the header padded to 8 bytes, so that every tensor is
// aligned in the file. The file appears under `path` only when it is complete.
// kInvalidArgument for a name that stands twice or is reserved; kUnavailable when the disk refuses.
Status write_safetensors(const std::string& path, std::vector<NamedView> tensors,
                         const std::map<std::string, std::string>& metadata = {});

}  // namespace trireme::formats
