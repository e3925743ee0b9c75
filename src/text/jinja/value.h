// Values of a template, as Jinja2 has them: those of Python that JSON can hold, and a few that templates
// make. Lists and dicts never change once made; a namespace does, and an interpreter owns it.
#pragma once
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "base/json.h"
#include "text/jinja/str.h"

namespace trireme::text::jinja {

// How evaluation stops. Never leaves this folder.
struct TemplateError : std::runtime_error {
  using std::runtime_error::runtime_error;
};
template <class... Args>
[[noreturn]] void raise(fmt::format_string<Args...> format, Args&&... args) {
  throw TemplateError(fmt::format(format, std::forward<Args>(args)...));
}

struct Value;
struct MacroNode;

struct Undefined {
  std::string name;
};
struct None {};
struct List {
  std::vector<Value> items;
  bool tuple = false;
  int depth = 1;
};
struct Dict {
  std::vector<std::pair<Value, Value>> items;  // in the order of insertion
  int depth = 1;
  const Value* find(const Value& key) const;
  const Value* find(std::string_view key) const;
};
struct Namespace {
  std::vector<std::pair<std::string, Value>> members;
};
struct Loop;
struct Callable;

struct Value {
  using Rep =
      std::variant<Undefined, None, bool, i64, double, std::shared_ptr<const Str>,
                   std::shared_ptr<const List>, std::shared_ptr<const Dict>, std::shared_ptr<Namespace>,
                   std::shared_ptr<const Loop>, std::shared_ptr<const Callable>>;
  Rep rep = Undefined{};
  bool trusted = true;  // of a number or bool: whether it came from the template

  Value() = default;
  Value(Rep r, bool t = true) : rep(std::move(r)), trusted(t) {}
  Value(Str s) : rep(std::make_shared<const Str>(std::move(s))) {}
  static Value text(std::string_view s) { return Value(Str(s, true)); }
  static Value undefined(std::string name) { return Value(Rep(Undefined{std::move(name)})); }
  static Value none() { return Value(Rep(None{})); }
  static Value boolean(bool b, bool trusted = true) { return Value(Rep(b), trusted); }
  static Value integer(i64 i, bool trusted = true) { return Value(Rep(i), trusted); }
  static Value real(double d, bool trusted = true) { return Value(Rep(d), trusted); }
  static Value list(std::vector<Value> items, bool tuple = false);  // raises when too deep
  static Value dict(std::vector<std::pair<Value, Value>> items);    // the same

  bool is_undefined() const { return std::holds_alternative<Undefined>(rep); }
  bool is_none() const { return std::holds_alternative<None>(rep); }
  bool is_bool() const { return std::holds_alternative<bool>(rep); }
  bool is_int() const { return std::holds_alternative<i64>(rep); }
  bool is_float() const { return std::holds_alternative<double>(rep); }
  bool is_number() const { return is_bool() || is_int() || is_float(); }
  const Str* str() const { return ptr<const Str>(); }
  const List* list() const { return ptr<const List>(); }
  const Dict* dict() const { return ptr<const Dict>(); }
  const Loop* loop() const { return ptr<const Loop>(); }
  Namespace* names() const { return ptr<Namespace>(); }
  const Callable* callable() const { return ptr<const Callable>(); }
  i64 as_int() const;      // of a bool or int. REQUIRES: one of them
  double as_real() const;  // REQUIRES: is_number()
  bool truth() const;
  const char* type_name() const;  // Python's

 private:
  template <class T>
  T* ptr() const {
    const auto* p = std::get_if<std::shared_ptr<T>>(&rep);
    return p ? p->get() : nullptr;
  }
};

// What `loop` is inside a for.
struct Loop {
  std::shared_ptr<const List> items;
  std::size_t index = 0;
  int depth = 1;
};

// A macro, a built-in function or a method of `self`.
struct Callable {
  std::string name;
  const MacroNode* macro = nullptr;
  Value self;
  bool method = false;
};

struct Args {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;
  // The argument at `index` or called `name`, or null.
  const Value* get(std::size_t index, std::string_view name) const;
};

bool equal(const Value& a, const Value& b);
// Below 0, 0, above 0; raises when Python cannot order them.
int compare(const Value& a, const Value& b);

Str to_str(const Value& v);  // Python's str()
Str repr(const Value& v);    // Python's repr()
std::string float_repr(double d);

struct JsonStyle {
  int indent = -1;  // below 0: on one line
  std::string item_separator = ", ", key_separator = ": ";
  bool ensure_ascii = false, sort_keys = false;
};
Str to_json(const Value& v, const JsonStyle& style);

// Values from outside: their text is not trusted, except a `role` of a message that is one of the usual
// names.
Value from_json(const OrderedJson& json);
Value messages_from_json(const OrderedJson& json);

}  // namespace trireme::text::jinja
