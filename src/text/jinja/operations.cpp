#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <ctime>

#include "text/jinja/interpreter.h"
#include "text/unicode.h"

namespace trireme::text::jinja {
namespace {

constexpr i64 kMaxRange = 100'000;
constexpr i64 kMaxRepeat = 10'000'000;

constexpr std::array<std::string_view, 11> kDictMethods = {
    "items", "keys", "values", "get", "copy", "pop", "popitem", "update", "clear", "setdefault", "fromkeys"};
constexpr std::array<std::string_view, 11> kListMethods = {
    "append", "index", "count", "extend", "insert", "pop", "remove", "reverse", "sort", "clear", "copy"};
constexpr std::array<std::string_view, 29> kStrMethods = {
    "split",      "rsplit",    "strip",      "lstrip",       "rstrip",      "startswith",
    "endswith",   "replace",   "upper",      "lower",        "title",       "format",
    "join",       "count",     "find",       "rfind",        "index",       "capitalize",
    "isdigit",    "isalpha",   "isalnum",    "isspace",      "isupper",     "islower",
    "splitlines", "partition", "rpartition", "removeprefix", "removesuffix"};

template <std::size_t N>
bool has(const std::array<std::string_view, N>& names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

Value method_of(const Value& self, const std::string& name) {
  return Value(Value::Rep(std::make_shared<const Callable>(Callable{name, nullptr, self, true})));
}

i64 integer_power(i64 base, i64 exponent) {
  i64 value = 1;
  for (i64 i = 0; i < exponent; ++i) {
    if (base == 0 || base == 1) return base;
    if (base == -1) return exponent % 2 == 0 ? 1 : -1;
    const bool overflow = __builtin_mul_overflow(value, base, &value);
    if (overflow) raise("integer overflow");
  }
  return value;
}

Value arithmetic(const std::string& op, const Value& a, const Value& b) {
  const bool trusted = a.trusted && b.trusted;
  const bool zero = b.as_real() == 0;
  if (zero && (op == "/" || op == "//" || op == "%")) raise("division by zero");
  if (op == "/") return Value::real(a.as_real() / b.as_real(), trusted);
  if (a.is_float() || b.is_float() || (op == "**" && b.as_int() < 0)) {
    const double x = a.as_real(), y = b.as_real();
    double r = 0;
    if (op == "+") r = x + y;
    if (op == "-") r = x - y;
    if (op == "*") r = x * y;
    if (op == "//") r = std::floor(x / y);
    if (op == "%") r = x - y * std::floor(x / y);
    if (op == "**") r = std::pow(x, y);
    return Value::real(r, trusted);
  }
  const i64 x = a.as_int(), y = b.as_int();
  i64 r = 0;
  bool overflow = false;
  if (op == "+") overflow = __builtin_add_overflow(x, y, &r);
  if (op == "-") overflow = __builtin_sub_overflow(x, y, &r);
  if (op == "*") overflow = __builtin_mul_overflow(x, y, &r);
  if (op == "**") r = integer_power(x, y);
  if (op == "//" || op == "%") {
    if (y == -1) {
      overflow = op == "//" && __builtin_sub_overflow(i64{0}, x, &r);
    } else {
      i64 quotient = x / y, rest = x % y;
      if (rest != 0 && (rest < 0) != (y < 0)) --quotient, rest += y;
      r = op == "%" ? rest : quotient;
    }
  }
  // Python's integers do not overflow; ours say so.
  if (overflow) raise("integer overflow");
  return Value::integer(r, trusted);
}

// How long `index` (maybe negative, from the end) is in a sequence of n; clamped for slices.
i64 clamped(i64 index, i64 n, i64 low, i64 high) {
  if (index < 0) index += n;
  return std::clamp(index, low, high);
}

std::string format_time(const std::string& format, std::optional<i64> now) {
  if (format.size() > 256) raise("strftime_now: the format is too long");
  const std::time_t at = now ? static_cast<std::time_t>(*now) : std::time(nullptr);
  std::tm parts{};
  localtime_r(&at, &parts);
  char buffer[1024];
  const std::size_t n = std::strftime(buffer, sizeof(buffer), format.c_str(), &parts);
  return lossy_utf8({buffer, n});
}

}  // namespace

std::vector<std::size_t> code_point_starts(std::string_view text) {
  std::vector<std::size_t> starts;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if ((text[i] & 0xC0) != 0x80) starts.push_back(i);
  }
  starts.push_back(text.size());
  return starts;
}

bool is_python_space(u32 c) { return is_space(c) || (c >= 0x1C && c <= 0x1F); }

std::size_t find_bytes(std::string_view text, std::string_view what, std::size_t from) {
  if (from > text.size()) return std::string_view::npos;
  if (what.empty()) return from;
  const void* found = memmem(text.data() + from, text.size() - from, what.data(), what.size());
  return found ? static_cast<std::size_t>(static_cast<const char*>(found) - text.data())
               : std::string_view::npos;
}

std::vector<Value> Interpreter::items_of(const Value& v) {
  if (v.is_undefined()) return {};
  if (const List* l = v.list()) {
    spend(l->items.size());
    spend_bytes(l->items.size() * sizeof(Value));
    return l->items;
  }
  std::vector<Value> items;
  if (const Dict* d = v.dict()) {
    spend(d->items.size());
    spend_bytes(d->items.size() * sizeof(Value));
    for (const auto& [k, value] : d->items) items.push_back(k);
    return items;
  }
  if (const Str* s = v.str()) {
    const auto starts = code_point_starts(s->text());
    spend(starts.size());
    spend_bytes(starts.size() * 96);
    for (std::size_t i = 0; i + 1 < starts.size(); ++i)
      items.emplace_back(s->substr(starts[i], starts[i + 1]));
    return items;
  }
  raise("a '{}' cannot be iterated", v.type_name());
}

Value Interpreter::attribute(const Value& object, const std::string& name) {
  if (object.is_undefined()) raise("'{}' is undefined", std::get<Undefined>(object.rep).name);
  if (const Dict* d = object.dict()) {
    if (has(kDictMethods, name)) return method_of(object, name);
    spend(1 + d->items.size() / 16);
    if (const Value* v = d->find(name)) return *v;
    return Value::undefined(name);
  }
  if (const Namespace* n = object.names()) {
    for (const auto& [member, v] : n->members) {
      if (member == name) return v;
    }
    return Value::undefined(name);
  }
  if (const Loop* l = object.loop()) {
    const auto& items = l->items->items;
    const i64 i = static_cast<i64>(l->index), n = static_cast<i64>(items.size());
    if (name == "index") return Value::integer(i + 1);
    if (name == "index0") return Value::integer(i);
    if (name == "revindex") return Value::integer(n - i);
    if (name == "revindex0") return Value::integer(n - i - 1);
    if (name == "first") return Value::boolean(i == 0);
    if (name == "last") return Value::boolean(i + 1 == n);
    if (name == "length") return Value::integer(n);
    if (name == "depth") return Value::integer(l->depth);
    if (name == "depth0") return Value::integer(l->depth - 1);
    if (name == "previtem")
      return i > 0 ? items[l->index - 1] : Value::undefined("there is no previous item");
    if (name == "nextitem")
      return i + 1 < n ? items[l->index + 1] : Value::undefined("there is no next item");
    if (name == "cycle") return method_of(object, name);
    return Value::undefined(name);
  }
  if (object.str() && has(kStrMethods, name)) return method_of(object, name);
  if (object.list() && has(kListMethods, name)) return method_of(object, name);
  return Value::undefined(name);
}

Value Interpreter::item(const Value& object, const Value& key) {
  if (object.is_undefined()) raise("'{}' is undefined", std::get<Undefined>(object.rep).name);
  const auto position = [&key](std::size_t size) -> std::optional<std::size_t> {
    i64 i = key.as_int();
    if (i < 0) i += static_cast<i64>(size);
    if (i < 0 || i >= static_cast<i64>(size)) return std::nullopt;
    return static_cast<std::size_t>(i);
  };
  const bool index = key.is_int() || key.is_bool();
  if (const Dict* d = object.dict()) {
    spend(1 + d->items.size() / 16);
    if (const Value* v = d->find(key)) return *v;
  } else if (const List* l = object.list(); l && index) {
    if (const auto i = position(l->items.size())) return l->items[*i];
  } else if (const Str* s = object.str(); s && index) {
    const auto starts = code_point_starts(s->text());
    spend(1 + starts.size() / 64);
    if (const auto i = position(starts.size() - 1)) return Value(s->substr(starts[*i], starts[*i + 1]));
  }
  if (const Str* name = key.str()) return attribute(object, name->text());
  return Value::undefined(to_str(key).text());
}

Value Interpreter::slice(const Value& object, const Value* parts[3]) {
  i64 numbers[3] = {0, 0, 1};
  for (std::size_t i = 0; i < 3; ++i) {
    if (parts[i] == nullptr) continue;
    if (!parts[i]->is_int() && !parts[i]->is_bool()) raise("slice indices must be integers");
    numbers[i] = parts[i]->as_int();
  }
  const i64 step = numbers[2];
  if (step == 0) raise("a slice step cannot be zero");
  const Str* s = object.str();
  const List* l = object.list();
  if (object.is_undefined()) raise("'{}' is undefined", std::get<Undefined>(object.rep).name);
  if (!s && !l) raise("a '{}' cannot be sliced", object.type_name());
  const std::vector<std::size_t> starts = s ? code_point_starts(s->text()) : std::vector<std::size_t>();
  const i64 n = static_cast<i64>(s ? starts.size() - 1 : l->items.size());
  spend(1 + static_cast<u64>(n) / 16);
  const i64 low = step > 0 ? 0 : -1, high = step > 0 ? n : n - 1;
  const i64 begin = parts[0] ? clamped(numbers[0], n, low, high) : (step > 0 ? low : high);
  const i64 end = parts[1] ? clamped(numbers[1], n, low, high) : (step > 0 ? high : low);
  if (s && step == 1) {
    if (begin >= end) return made({});
    return made(s->substr(starts[static_cast<std::size_t>(begin)], starts[static_cast<std::size_t>(end)]));
  }
  Str text;
  std::vector<Value> items;
  for (i64 i = begin; step > 0 ? i < end : i > end;) {
    const std::size_t at = static_cast<std::size_t>(i);
    if (s) {
      text.append(*s, starts[at], starts[at + 1]);
    } else {
      items.push_back(l->items[at]);
    }
    if (__builtin_add_overflow(i, step, &i)) break;
  }
  return s ? made(std::move(text)) : made_list(std::move(items), l->tuple);
}

Value Interpreter::binary(const std::string& op, const Value& a, const Value& b) {
  if (op == "~") {
    Str text = to_str(a);
    text.append(to_str(b));
    return made(std::move(text));
  }
  for (const Value* v : {&a, &b}) {
    if (v->is_undefined()) raise("'{}' is undefined", std::get<Undefined>(v->rep).name);
  }
  if (a.is_number() && b.is_number()) return arithmetic(op, a, b);
  if (op == "+" && a.str() && b.str()) {
    Str text = *a.str();
    text.append(*b.str());
    return made(std::move(text));
  }
  if (op == "+" && a.list() && b.list() && a.list()->tuple == b.list()->tuple) {
    std::vector<Value> items = a.list()->items;
    items.insert(items.end(), b.list()->items.begin(), b.list()->items.end());
    return made_list(std::move(items), a.list()->tuple);
  }
  if (op == "%" && a.str()) {
    Args args;
    if (b.list() && b.list()->tuple) {
      args.positional = b.list()->items;
    } else {
      args.positional.push_back(b);
    }
    return filter("format", a, args);
  }
  const Value& sequence = a.str() || a.list() ? a : b;
  const Value& times = &sequence == &a ? b : a;
  if (op == "*" && (sequence.str() || sequence.list()) && (times.is_int() || times.is_bool())) {
    const i64 n = std::max<i64>(0, times.as_int());
    const std::size_t size = sequence.str() ? sequence.str()->size() : sequence.list()->items.size();
    if (n > kMaxRepeat || static_cast<i64>(size) * n > kMaxRepeat)
      raise("a repetition of more than {} parts", kMaxRepeat);
    spend_bytes(size * static_cast<std::size_t>(n));
    Str text;
    std::vector<Value> items;
    for (i64 i = 0; i < n && size > 0; ++i) {
      if (sequence.str()) {
        text.append(*sequence.str());
      } else {
        items.insert(items.end(), sequence.list()->items.begin(), sequence.list()->items.end());
      }
    }
    return sequence.str() ? made(std::move(text)) : made_list(std::move(items), sequence.list()->tuple);
  }
  raise("'{}' and '{}' have no operator {}", a.type_name(), b.type_name(), op);
}

bool Interpreter::contains(const Value& container, const Value& needle) {
  if (const Str* s = container.str()) {
    if (needle.is_undefined()) raise("'{}' is undefined", std::get<Undefined>(needle.rep).name);
    if (!needle.str()) raise("'in' a string needs a string on its left, not '{}'", needle.type_name());
    spend(1 + s->size() / 1024);
    return find_bytes(s->text(), needle.str()->text(), 0) != std::string_view::npos;
  }
  if (const Dict* d = container.dict()) {
    spend(1 + d->items.size() / 16);
    return d->find(needle) != nullptr;
  }
  const std::vector<Value> items = items_of(container);
  return std::any_of(items.begin(), items.end(), [&](const Value& v) { return equal(v, needle); });
}

Value Interpreter::call_function(const std::string& name, const Args& args) {
  if (name == "raise_exception") {
    const Value* message = args.get(0, "message");
    throw TemplateError("the template refuses: " +
                        (message ? to_str(*message).text() : std::string("no reason given")));
  }
  if (name == "strftime_now") return made(Str(format_time(str_arg(args, 0, "format").text(), now_), true));
  if (name == "range") {
    i64 numbers[3] = {0, 0, 1};
    const std::size_t n = args.positional.size();
    if (n < 1 || n > 3 || !args.named.empty()) raise("range takes one to three numbers");
    for (std::size_t i = 0; i < n; ++i) numbers[n == 1 ? 1 : i] = int_arg(args, i, "", 0);
    const auto [begin, end, step] = numbers;
    if (step == 0) raise("range: the step cannot be zero");
    std::vector<Value> items;
    for (i64 i = begin; step > 0 ? i < end : i > end;) {
      if (static_cast<i64>(items.size()) >= kMaxRange) raise("range: more than {} numbers", kMaxRange);
      items.push_back(Value::integer(i));
      if (__builtin_add_overflow(i, step, &i)) break;
    }
    return made_list(std::move(items));
  }
  std::vector<std::pair<Value, Value>> items;
  if (const Value* from = args.get(0, ""); from != nullptr) {
    if (!from->dict()) raise("{}: the argument must be a dict", name);
    items = from->dict()->items;
  }
  for (const auto& [key, value] : args.named) {
    const auto same = std::find_if(items.begin(), items.end(), [&k = key](const auto& p) {
      return p.first.str() && p.first.str()->text() == k;
    });
    if (same != items.end()) {
      same->second = value;
    } else {
      items.emplace_back(Value::text(key), value);
    }
  }
  if (name == "dict") return Value::dict(std::move(items));
  auto made_names = std::make_shared<Namespace>();
  for (auto& [key, value] : items) made_names->members.emplace_back(to_str(key).text(), std::move(value));
  spend_bytes(sizeof(Namespace));
  namespaces_.push_back(made_names);
  return Value(Value::Rep(std::move(made_names)));
}

i64 int_arg(const Args& args, std::size_t index, std::string_view name, i64 otherwise) {
  const Value* v = args.get(index, name);
  if (v == nullptr) return otherwise;
  if (!v->is_int() && !v->is_bool())
    raise("the argument '{}' must be an integer, not '{}'", name, v->type_name());
  return v->as_int();
}
bool bool_arg(const Args& args, std::size_t index, std::string_view name, bool otherwise) {
  const Value* v = args.get(index, name);
  return v ? v->truth() : otherwise;
}
const Str& str_arg(const Args& args, std::size_t index, std::string_view name) {
  const Value* v = args.get(index, name);
  if (v == nullptr || !v->str()) raise("the argument '{}' must be a string", name);
  return *v->str();
}

}  // namespace trireme::text::jinja
