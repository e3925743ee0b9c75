# Whether the CUDA room is built: TRIREME_CUDA=ON asks for it, AUTO takes it when nvcc and a GPU are there.
# Kernels are for Hopper (sm_90a), compiled ahead of time; cuBLASLt is opened when the backend starts, so that
# the same program runs on machines without it.

# Whether find_program's candidate is CUDA 13 or newer: an older one on the PATH is passed over.
function(trireme_is_cuda_13 result nvcc)
  execute_process(COMMAND ${nvcc} --version OUTPUT_VARIABLE version ERROR_QUIET)
  if(NOT version MATCHES "release (1[3-9]|[2-9][0-9])\\.")
    set(${result} FALSE PARENT_SCOPE)
  endif()
endfunction()
find_program(TRIREME_NVCC nvcc VALIDATOR trireme_is_cuda_13
  HINTS ${PROJECT_SOURCE_DIR}/.cuda/bin $ENV{CUDA_HOME}/bin /usr/local/cuda/bin)
set(TRIREME_CUDA_ENABLED OFF)
if(TRIREME_CUDA STREQUAL "ON" OR (TRIREME_CUDA STREQUAL "AUTO" AND TRIREME_NVCC AND EXISTS /proc/driver/nvidia/version))
  if(NOT TRIREME_NVCC)
    message(FATAL_ERROR "TRIREME_CUDA=ON needs nvcc (CUDA 13): run tools/install_cuda, or put nvcc on the PATH.")
  endif()
  set(CMAKE_CUDA_COMPILER ${TRIREME_NVCC})
  set(CMAKE_CUDA_ARCHITECTURES OFF)  # CMake 3.25 knows neither 90a nor CUDA 13's C++20: the flags below say both
  set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
  enable_language(CUDA)
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
  set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION -std=c++20)
  # CMake 3.25's FindCUDAToolkit marks this target without looking for it, and CUDA 13 has it no more.
  add_library(CUDA::nvToolsExt INTERFACE IMPORTED)
  find_package(CUDAToolkit REQUIRED)
  set(CMAKE_CUDA_FLAGS_RELEASE "-O3 -DNDEBUG")
  set(TRIREME_CUDA_FLAGS -gencode=arch=compute_90a,code=sm_90a --expt-relaxed-constexpr -lineinfo)
  if(CCACHE)
    set(CMAKE_CUDA_COMPILER_LAUNCHER ${CCACHE})
  endif()
  set(TRIREME_CUDA_ENABLED ON)
endif()
