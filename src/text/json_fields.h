// Fields of tokenizer.json and its neighbours, with errors that name the field.
#pragma once
#include <string>
#include <string_view>

#include "base/json.h"

namespace trireme::text {

inline Result<std::string> string_field(const Json& json, const char* key, std::string_view what) {
  if (!json.is_object()) return invalid("{} must be an object", what);
  const auto it = json.find(key);
  if (it == json.end() || !it->is_string()) return invalid("{}: \"{}\" must be a string", what, key);
  return it->get<std::string>();
}

inline Result<bool> bool_field(const Json& json, const char* key, bool otherwise, std::string_view what) {
  const auto it = json.find(key);
  if (it == json.end() || it->is_null()) return otherwise;
  if (!it->is_boolean()) return invalid("{}: \"{}\" must be true or false", what, key);
  return it->get<bool>();
}

inline Result<const Json*> array_field(const Json& json, const char* key, std::string_view what) {
  const auto it = json.find(key);
  if (it == json.end() || !it->is_array()) return invalid("{}: \"{}\" must be a list", what, key);
  return &*it;
}

}  // namespace trireme::text
