// Evaluates a parsed template within a budget. Lives for one rendering.
#pragma once
#include <functional>
#include <optional>

#include "text/jinja/ast.h"

namespace trireme::text::jinja {

struct Limits {
  u64 steps = 5'000'000;           // nodes evaluated and items touched
  std::size_t bytes = 256u << 20;  // of all strings and lists ever made
  std::size_t output = 32u << 20;  // bytes of the rendered text
  int depth = 400;                 // of nested evaluation; macros calling macros included
};

class Interpreter {
 public:
  // now: what strftime_now formats, seconds since 1970.
  Interpreter(const Limits& limits, std::optional<i64> now) : limits_(limits), now_(now) {}
  ~Interpreter();
  Interpreter(const Interpreter&) = delete;
  Interpreter& operator=(const Interpreter&) = delete;

  void define(std::string name, Value value);
  // Raises TemplateError.
  Str render(const Body& body);

  // For the filters, tests and methods.
  void spend(u64 steps);
  void spend_bytes(std::size_t bytes);
  Value made(Str s);  // accounted
  Value made_list(std::vector<Value> items, bool tuple = false);
  std::vector<Value> items_of(const Value& v);  // iterates as Python does; raises when it cannot
  Value call(const Value& callee, Args args);
  Value filter(const std::string& name, const Value& input, const Args& args);
  bool test(const std::string& name, const Value& input, const Args& args);
  Value attribute(const Value& object, const std::string& name);  // object.name
  Value item(const Value& object, const Value& key);              // object[key]
  Value binary(const std::string& op, const Value& a, const Value& b);
  bool contains(const Value& container, const Value& needle);

 private:
  enum class Flow { kNormal, kBreak, kContinue };
  using Frame = std::vector<std::pair<std::string_view, Value>>;
  struct Deeper;

  Value evaluate(const Expr& e);
  Value evaluate_binary(const Expr& e);
  Value evaluate_compare(const Expr& e);
  Value evaluate_call(const Expr& e);
  Value slice(const Value& object, const Value* parts[3]);
  Args evaluate_args(const Expr& e);
  Flow run(const Body& body);
  Flow run_node(const Node& node);
  Flow run_for(const ForNode& node);
  void run_set(const SetNode& node);
  Str captured(const Body& body);
  Value call_macro(const MacroNode& macro, const Args& args);
  Value call_function(const std::string& name, const Args& args);
  Value call_method(const Value& self, const std::string& name, const Args& args);
  Value call_str_method(const Str& self, const std::string& name, const Args& args);
  void emit(const Str& s);
  const Value* find(std::string_view name) const;
  void assign(std::string_view name, Value value);
  void unpack(const std::vector<std::string>& targets, const Value& value);

  Limits limits_;
  std::optional<i64> now_;
  u64 steps_ = 0;
  std::size_t bytes_ = 0;
  int depth_ = 0;
  std::vector<std::pair<std::string, Value>> globals_;
  std::vector<Frame> frames_;
  std::size_t visible_from_ = 1;  // frames_[0] and those from here on are seen; a macro hides its caller's
  Str* out_ = nullptr;
  std::vector<std::shared_ptr<Namespace>> namespaces_;  // emptied at the end, so that cycles do not live on
};

// Code-point helpers of strings, for slices and indices as Python counts them.
std::vector<std::size_t> code_point_starts(std::string_view text);  // with text.size() at the end
bool is_python_space(u32 code_point);
// Strips white space, or the characters in `set`, at the chosen ends.
Str strip(const Str& s, const Str* set, bool left, bool right);
std::size_t find_bytes(std::string_view text, std::string_view what, std::size_t from);  // linear time
// An integer argument or `otherwise`; raises for another type.
i64 int_arg(const Args& args, std::size_t index, std::string_view name, i64 otherwise);
bool bool_arg(const Args& args, std::size_t index, std::string_view name, bool otherwise);
// A text argument. Raises when it is missing or of another type.
const Str& str_arg(const Args& args, std::size_t index, std::string_view name);

}  // namespace trireme::text::jinja
