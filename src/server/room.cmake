# The chat page's files become bytes of the library, so that the program is one file.
target_compile_definitions(${room_target} PRIVATE TRIREME_VERSION="${PROJECT_VERSION}")
set(page_source ${PROJECT_BINARY_DIR}/generated/chat_page.cpp)
set(page_files "index.html|/|text/html" "chat.css|/chat.css|text/css" "chat.js|/chat.js|text/javascript")
set(page_arrays "")
set(page_rows "")
foreach(row IN LISTS page_files)
  string(REPLACE "|" ";" row "${row}")
  list(GET row 0 file)
  list(GET row 1 path)
  list(GET row 2 type)
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${dir}/page/${file})
  file(READ ${dir}/page/${file} hex HEX)
  string(REGEX REPLACE "([0-9a-f][0-9a-f])" "'\\\\x\\1'," bytes "${hex}")
  string(MAKE_C_IDENTIFIER ${file} name)
  string(APPEND page_arrays "constexpr char ${name}[] = {${bytes}};\n")
  string(APPEND page_rows "    {\"${path}\", \"${type}; charset=utf-8\", {${name}, sizeof ${name}}},\n")
endforeach()
file(CONFIGURE OUTPUT ${page_source} CONTENT "// Made from src/server/page.
#include \"server/service.h\"

namespace trireme::server {
namespace {
@page_arrays@
constexpr PageFile kFiles[] = {
@page_rows@};
}  // namespace
std::span<const PageFile> page_files() { return kFiles; }
}  // namespace trireme::server
" @ONLY)
target_sources(${room_target} PRIVATE ${page_source})

# ThreadSanitizer knows no fences; Asio's own are beside the locks that it does know.
if(TRIREME_SANITIZE MATCHES "thread")
  file(GLOB asio_sources ${dir}/http/connection*.cpp ${dir}/server.cpp)
  set_source_files_properties(${asio_sources} PROPERTIES COMPILE_DEFINITIONS BOOST_ASIO_DISABLE_FENCED_BLOCK)
endif()
