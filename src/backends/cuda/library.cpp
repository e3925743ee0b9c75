#include "backends/cuda/library.h"

#include <dlfcn.h>

#include <cstdlib>
#include <filesystem>
#include <sstream>
#include <vector>

namespace trireme::cuda {

Result<void*> open_library(const std::string& soname) {
  std::vector<std::string> folders;
  if (const char* given = std::getenv("TRIREME_CUDA_LIBS")) {
    std::stringstream list(given);
    for (std::string folder; std::getline(list, folder, ':');)
      if (!folder.empty()) folders.push_back(folder);
  }
  std::error_code ignored;
  const auto self = std::filesystem::read_symlink("/proc/self/exe", ignored);
  if (!ignored) folders.push_back(self.parent_path().string());
#ifdef TRIREME_CUDA_LIBRARY_DIR
  folders.emplace_back(TRIREME_CUDA_LIBRARY_DIR);
#endif
  folders.emplace_back("/usr/local/cuda/lib64");
  if (void* found = dlopen(soname.c_str(), RTLD_NOW | RTLD_LOCAL)) return found;
  std::string looked = "the loader's path";
  for (const auto& folder : folders) {
    if (void* found = dlopen((folder + "/" + soname).c_str(), RTLD_NOW | RTLD_LOCAL)) return found;
    looked += ", " + folder;
  }
  return fail(
      ErrorCode::kNotFound,
      "{} is not on this machine (looked in {}); install it with tools/install_cuda, or name its folder in "
      "TRIREME_CUDA_LIBS",
      soname, looked);
}

Status find_symbol(void* library, const char* name, void** out) {
  *out = dlsym(library, name);
  if (*out == nullptr) return fail(ErrorCode::kUnsupported, "{} is missing: the library is too old", name);
  return {};
}

}  // namespace trireme::cuda
