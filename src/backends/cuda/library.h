// CUDA's libraries, opened when a backend starts: one program runs on machines with and without them.
#pragma once
#include <string>

#include "base/result.h"

namespace trireme::cuda {

// dlopen by soname ("libcublasLt.so.13"): the loader's own path first, then TRIREME_CUDA_LIBS (folders, colon
// separated), the program's folder, and the toolkit it was built with. kNotFound says where it looked.
Result<void*> open_library(const std::string& soname);

// dlsym; kUnsupported names the library's symbol that is missing.
Status find_symbol(void* library, const char* name, void** out);

}  // namespace trireme::cuda
