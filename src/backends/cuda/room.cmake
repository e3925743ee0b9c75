# The driver is found at run time through the (static) runtime library; no other CUDA library is linked.
target_link_libraries(${room_target} PUBLIC CUDA::cudart_static ${CMAKE_DL_LIBS})
target_include_directories(${room_target} SYSTEM PUBLIC ${CUDAToolkit_INCLUDE_DIRS})
target_compile_definitions(${room_target} PUBLIC TRIREME_CUDA=1)
# Where the toolkit that compiled this has cuBLASLt; library.cpp looks there after the loader's own path.
set_property(SOURCE ${dir}/library.cpp APPEND PROPERTY
  COMPILE_DEFINITIONS TRIREME_CUDA_LIBRARY_DIR="${CUDAToolkit_LIBRARY_DIR}")
