#include <map>

#include "text/jinja/interpreter.h"
#include "text/jinja/text_ops.h"

namespace trireme::text::jinja {
namespace {

const Value& other(const Args& args) {
  if (args.positional.empty()) raise("this test needs an argument");
  return args.positional[0];
}
i64 whole(const Value& v) {
  if (!v.is_int() && !v.is_bool()) raise("this test needs an integer, not '{}'", v.type_name());
  return v.as_int();
}

using Test = bool (*)(const Value&, const Args&);

// "in" is not here: it iterates, so the interpreter counts its steps.
const std::map<std::string_view, Test>& tests() {
  static const Test kEqual = [](const Value& v, const Args& a) { return equal(v, other(a)); };
  static const Test kUnequal = [](const Value& v, const Args& a) { return !equal(v, other(a)); };
  static const Test kLess = [](const Value& v, const Args& a) { return compare(v, other(a)) < 0; };
  static const Test kLessEqual = [](const Value& v, const Args& a) { return compare(v, other(a)) <= 0; };
  static const Test kGreater = [](const Value& v, const Args& a) { return compare(v, other(a)) > 0; };
  static const Test kGreaterEqual = [](const Value& v, const Args& a) { return compare(v, other(a)) >= 0; };
  static const std::map<std::string_view, Test> kTests = {
      {"defined", [](const Value& v, const Args&) { return !v.is_undefined(); }},
      {"undefined", [](const Value& v, const Args&) { return v.is_undefined(); }},
      {"none", [](const Value& v, const Args&) { return v.is_none(); }},
      {"string", [](const Value& v, const Args&) { return v.str() != nullptr; }},
      {"mapping", [](const Value& v, const Args&) { return v.dict() != nullptr; }},
      {"number", [](const Value& v, const Args&) { return v.is_number(); }},
      {"integer", [](const Value& v, const Args&) { return v.is_int(); }},
      {"float", [](const Value& v, const Args&) { return v.is_float(); }},
      {"boolean", [](const Value& v, const Args&) { return v.is_bool(); }},
      {"true", [](const Value& v, const Args&) { return v.is_bool() && v.truth(); }},
      {"false", [](const Value& v, const Args&) { return v.is_bool() && !v.truth(); }},
      {"iterable",
       [](const Value& v, const Args&) { return v.str() || v.list() || v.dict() || v.is_undefined(); }},
      {"sequence",
       [](const Value& v, const Args&) { return v.str() || v.list() || v.dict() || v.is_undefined(); }},
      {"callable", [](const Value& v, const Args&) { return v.callable() != nullptr; }},
      {"even", [](const Value& v, const Args&) { return whole(v) % 2 == 0; }},
      {"odd", [](const Value& v, const Args&) { return whole(v) % 2 != 0; }},
      {"divisibleby",
       [](const Value& v, const Args& a) {
         const i64 by = whole(other(a));
         if (by == 0) raise("division by zero");
         return by == -1 || whole(v) % by == 0;
       }},
      {"lower",
       [](const Value& v, const Args&) {
         return v.str() && map_case(*v.str(), Case::kLower).text() == v.str()->text();
       }},
      {"upper",
       [](const Value& v, const Args&) {
         return v.str() && map_case(*v.str(), Case::kUpper).text() == v.str()->text();
       }},
      {"sameas",
       [](const Value& v, const Args& a) {
         return v.rep.index() == other(a).rep.index() && (v.is_number() || v.is_none()) && equal(v, other(a));
       }},
      {"==", kEqual},
      {"eq", kEqual},
      {"equalto", kEqual},
      {"!=", kUnequal},
      {"ne", kUnequal},
      {"<", kLess},
      {"lt", kLess},
      {"lessthan", kLess},
      {"<=", kLessEqual},
      {"le", kLessEqual},
      {">", kGreater},
      {"gt", kGreater},
      {"greaterthan", kGreater},
      {">=", kGreaterEqual},
      {"ge", kGreaterEqual}};
  return kTests;
}

}  // namespace

bool Interpreter::test(const std::string& name, const Value& input, const Args& args) {
  spend(1);
  if (input.str()) spend(input.str()->size() / 1024);
  if (name == "in") return contains(other(args), input);
  const auto found = tests().find(name);
  if (found == tests().end()) raise("there is no test '{}'", name);
  return found->second(input, args);
}

}  // namespace trireme::text::jinja
