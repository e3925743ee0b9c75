# The fuzzer needs libFuzzer, which comes with clang. Built on demand:
#   cmake --build BUILD --target safetensors_fuzz && BUILD/safetensors_fuzz
# The parsers are compiled into it once more, because coverage guides only what is instrumented.
if(CMAKE_CXX_COMPILER_ID MATCHES "Clang")
  add_executable(safetensors_fuzz EXCLUDE_FROM_ALL
    ${dir}/safetensors_fuzz.cpp ${dir}/safetensors_header.cpp ${dir}/shard_index.cpp)
  target_link_libraries(safetensors_fuzz PRIVATE ${room_target})
  trireme_compile_options(safetensors_fuzz)
  target_compile_options(safetensors_fuzz PRIVATE -fsanitize=fuzzer,address,undefined -g)
  target_link_options(safetensors_fuzz PRIVATE -fsanitize=fuzzer,address,undefined)
endif()
