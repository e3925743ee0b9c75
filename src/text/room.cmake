# PCRE2 for split patterns that have no scanner of their own, ICU for NFC and character classes.
find_package(PkgConfig REQUIRED)
pkg_check_modules(PCRE2 REQUIRED IMPORTED_TARGET libpcre2-8)
find_package(ICU REQUIRED COMPONENTS uc)
target_link_libraries(${room_target} PUBLIC PkgConfig::PCRE2 ICU::uc)

add_executable(trireme_text_bench EXCLUDE_FROM_ALL ${dir}/tokenizer_bench.cpp)
target_link_libraries(trireme_text_bench PRIVATE ${room_target})
trireme_compile_options(trireme_text_bench)
