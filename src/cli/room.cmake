find_package(CLI11 REQUIRED)
target_link_libraries(${room_target} PUBLIC CLI11::CLI11)
target_compile_definitions(${room_target} PRIVATE TRIREME_VERSION="${PROJECT_VERSION}")
# The command line's parser is most of this room's code, and runs once.
if(CMAKE_BUILD_TYPE STREQUAL "Release")
  target_compile_options(${room_target} PRIVATE -O1)
endif()
