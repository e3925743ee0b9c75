// What the tests of this room share.
#pragma once
#include <gtest/gtest.h>

#include <string>

#include "base/json.h"
#include "text/tokenizer.h"

namespace trireme::text {

inline std::string demo_dir() { return TRIREME_SOURCE_DIR "/models/trireme-demo"; }
inline std::string testdata(const std::string& name) {
  return TRIREME_SOURCE_DIR "/src/text/testdata/" + name;
}

inline const Tokenizer& demo_tokenizer() {
  static const auto tokenizer = Tokenizer::load(demo_dir());
  if (!tokenizer) ADD_FAILURE() << tokenizer.error().message;
  return **tokenizer;
}

inline Json json_of(const std::string& path) {
  auto json = read_json_file(path);
  if (!json) ADD_FAILURE() << json.error().message;
  return json ? *json : Json();
}

}  // namespace trireme::text

// Reads a golden of the shared folder, or skips the test.
#define READ_GOLDEN(variable, name)                                                                        \
  const auto variable##_result = ::trireme::read_json_file(TRIREME_SHARED_MODELS "/goldens/" name);        \
  if (!variable##_result) GTEST_SKIP() << "needs ../shared/models/goldens/" name " beside the repository"; \
  const ::trireme::Json variable = *variable##_result
