# The driver is found at run time through the (static) runtime library; no other CUDA library is linked.
target_link_libraries(${room_target} PUBLIC CUDA::cudart_static ${CMAKE_DL_LIBS})
target_include_directories(${room_target} SYSTEM PUBLIC ${CUDAToolkit_INCLUDE_DIRS})
target_compile_definitions(${room_target} PUBLIC TRIREME_CUDA=1)
# Where the toolkit that compiled this has cuBLASLt; library.cpp looks there after the loader's own path.
set_property(SOURCE ${dir}/library.cpp APPEND PROPERTY
  COMPILE_DEFINITIONS TRIREME_CUDA_LIBRARY_DIR="${CUDAToolkit_LIBRARY_DIR}")

# trireme_cuda_NAME_bench, built on demand; trireme_cuda_benches: all of them.
add_custom_target(trireme_cuda_benches)
file(GLOB_RECURSE cuda_benches CONFIGURE_DEPENDS ${dir}/*_bench.cpp ${dir}/*_bench.cu)
foreach(bench ${cuda_benches})
  get_filename_component(bench_name ${bench} NAME_WE)
  set(bench_target trireme_cuda_${bench_name})
  add_executable(${bench_target} EXCLUDE_FROM_ALL ${bench})
  target_link_libraries(${bench_target} PRIVATE ${room_target})
  trireme_compile_options(${bench_target})
  add_dependencies(trireme_cuda_benches ${bench_target})
endforeach()
