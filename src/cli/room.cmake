find_package(CLI11 REQUIRED)
target_link_libraries(${room_target} PUBLIC CLI11::CLI11)
target_compile_definitions(${room_target} PRIVATE TRIREME_VERSION="${PROJECT_VERSION}")
