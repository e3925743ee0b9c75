# Kernels are compiled once for each instruction set; only the table in kernels.h leaves these files.
set(cpu_dir ${PROJECT_SOURCE_DIR}/src/backends/cpu)
set_source_files_properties(${cpu_dir}/kernels_generic.cpp PROPERTIES COMPILE_OPTIONS "-O3")
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  set_source_files_properties(${cpu_dir}/kernels_avx2.cpp PROPERTIES COMPILE_OPTIONS "-O3;-mavx2;-mfma")
  set_source_files_properties(${cpu_dir}/kernels_avx512_bf16.cpp PROPERTIES
    COMPILE_OPTIONS "-O3;-mavx512f;-mavx512bw;-mavx512vl;-mavx512dq;-mavx512bf16;-mprefer-vector-width=512")
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")  # GCC 12's own avx512fintrin.h sets them off
    set_property(SOURCE ${cpu_dir}/kernels_avx512_bf16.cpp APPEND PROPERTY
      COMPILE_OPTIONS "-Wno-uninitialized;-Wno-maybe-uninitialized")
  endif()
endif()
set_source_files_properties(${cpu_dir}/oracle_math.cpp PROPERTIES COMPILE_OPTIONS "-O3")

# Not find_package(dnnl): Debian's package file asks for OpenCL's development files, which nothing here needs.
find_library(TRIREME_DNNL dnnl REQUIRED)
find_package(OpenMP REQUIRED COMPONENTS CXX)  # oneDNN's threads; we only ever tell it how many
target_link_libraries(${room_target} PRIVATE ${TRIREME_DNNL} OpenMP::OpenMP_CXX)

add_executable(trireme_cpu_bench EXCLUDE_FROM_ALL ${cpu_dir}/cpu_bench.cpp)
target_link_libraries(trireme_cpu_bench PRIVATE ${room_target})
trireme_compile_options(trireme_cpu_bench)
