#include "text/jinja/value.h"

#include <unicode/uchar.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

#include "text/unicode.h"

namespace trireme::text::jinja {
namespace {

constexpr int kMaxDepth = 100;  // of nested lists and dicts; bounds every recursion over values

int depth_of(const Value& v) {
  if (const List* l = v.list()) return l->depth;
  if (const Dict* d = v.dict()) return d->depth;
  return 0;
}

int checked_depth(int deepest_item) {
  if (deepest_item + 1 > kMaxDepth) raise("values nested deeper than {} levels", kMaxDepth);
  return deepest_item + 1;
}

bool printable(u32 c) {
  if (c == ' ') return true;
  const u32 mask = U_GET_GC_MASK(static_cast<UChar32>(c));
  return (mask & (U_GC_C_MASK | U_GC_Z_MASK)) == 0;
}

void append_repr(Str& out, const Str& s) {
  const std::string& t = s.text();
  const bool single = t.find('\'') != std::string::npos && t.find('"') == std::string::npos;
  const std::string_view quote = single ? "\"" : "'";
  out.append(quote, true);
  s.for_each_part([&](std::string_view part, bool trusted) {
    std::string escaped;
    for (std::size_t at = 0; at < part.size();) {
      const CodePoint c = decode_at(part, at);
      if (c.value == static_cast<u32>(quote[0]) || c.value == '\\') {
        escaped += '\\';
        escaped += static_cast<char>(c.value);
      } else if (c.value == '\n' || c.value == '\r' || c.value == '\t') {
        escaped += c.value == '\n' ? "\\n" : c.value == '\r' ? "\\r" : "\\t";
      } else if (!printable(c.value)) {
        escaped += c.value < 0x100     ? fmt::format("\\x{:02x}", c.value)
                   : c.value < 0x10000 ? fmt::format("\\u{:04x}", c.value)
                                       : fmt::format("\\U{:08x}", c.value);
      } else {
        escaped += part.substr(at, c.bytes);
      }
      at += c.bytes;
    }
    out.append(escaped, trusted);
  });
  out.append(quote, true);
}

void append_json_string(Str& out, const Str& s, bool ascii) {
  out.append("\"", true);
  s.for_each_part([&](std::string_view part, bool trusted) {
    std::string escaped;
    escaped.reserve(part.size());
    for (std::size_t at = 0; at < part.size();) {
      const CodePoint c = decode_at(part, at);
      switch (c.value) {
        case '"':
          escaped += "\\\"";
          break;
        case '\\':
          escaped += "\\\\";
          break;
        case '\n':
          escaped += "\\n";
          break;
        case '\r':
          escaped += "\\r";
          break;
        case '\t':
          escaped += "\\t";
          break;
        case '\b':
          escaped += "\\b";
          break;
        case '\f':
          escaped += "\\f";
          break;
        default:
          if (c.value < 0x20 || (ascii && c.value > 0x7E && c.value < 0x10000)) {
            escaped += fmt::format("\\u{:04x}", c.value);
          } else if (ascii && c.value >= 0x10000) {
            const u32 v = c.value - 0x10000;
            escaped += fmt::format("\\u{:04x}\\u{:04x}", 0xD800 + (v >> 10), 0xDC00 + (v & 0x3FF));
          } else {
            escaped += part.substr(at, c.bytes);
          }
      }
      at += c.bytes;
    }
    out.append(escaped, trusted);
  });
  out.append("\"", true);
}

struct JsonWriter {
  const JsonStyle& style;
  Str out;

  void line(int depth) {
    if (style.indent < 0) return;
    out.append("\n" + std::string(static_cast<std::size_t>(style.indent * depth), ' '), true);
  }
  void separate(bool first) {
    if (!first) out.append(style.item_separator, true);
  }
  static Str key_of(const Value& key) {
    if (const Str* s = key.str()) return *s;
    if (key.is_bool()) return Str(key.truth() ? "true" : "false", key.trusted);
    if (key.is_none()) return Str("null", true);
    if (key.is_number()) return to_str(key);
    raise("tojson: a key must be a string, a number, true, false or none, not {}", key.type_name());
  }
  void write(const Value& v, int depth) {
    if (const Str* s = v.str()) return append_json_string(out, *s, style.ensure_ascii);
    if (v.is_none()) return out.append("null", true);
    if (v.is_bool()) return out.append(v.truth() ? "true" : "false", v.trusted);
    if (v.is_float() && !std::isfinite(v.as_real())) {
      return out.append(std::isnan(v.as_real()) ? "NaN"
                        : v.as_real() < 0       ? "-Infinity"
                                                : "Infinity",
                        v.trusted);
    }
    if (v.is_number()) return out.append(to_str(v));
    if (const List* l = v.list()) {
      if (l->items.empty()) return out.append("[]", true);
      out.append("[", true);
      for (std::size_t i = 0; i < l->items.size(); ++i) {
        separate(i == 0);
        line(depth + 1);
        write(l->items[i], depth + 1);
      }
      line(depth);
      return out.append("]", true);
    }
    if (const Dict* d = v.dict()) {
      if (d->items.empty()) return out.append("{}", true);
      auto items = d->items;
      if (style.sort_keys) {
        std::stable_sort(items.begin(), items.end(),
                         [](const auto& a, const auto& b) { return compare(a.first, b.first) < 0; });
      }
      out.append("{", true);
      for (std::size_t i = 0; i < items.size(); ++i) {
        separate(i == 0);
        line(depth + 1);
        append_json_string(out, key_of(items[i].first), style.ensure_ascii);
        out.append(style.key_separator, true);
        write(items[i].second, depth + 1);
      }
      line(depth);
      return out.append("}", true);
    }
    raise("tojson: a value of type {} is not JSON", v.type_name());
  }
};

constexpr std::array<std::string_view, 7> kRoles = {"system",    "user",     "assistant", "tool",
                                                    "developer", "function", "ipython"};

}  // namespace

const Value* Dict::find(const Value& key) const {
  if (const Str* s = key.str()) return find(s->text());
  for (const auto& [k, v] : items) {
    if (equal(k, key)) return &v;
  }
  return nullptr;
}
const Value* Dict::find(std::string_view key) const {
  for (const auto& [k, v] : items) {
    const Str* s = k.str();
    if (s != nullptr && s->text() == key) return &v;
  }
  return nullptr;
}

Value Value::list(std::vector<Value> items, bool tuple) {
  int deepest = 0;
  for (const Value& v : items) deepest = std::max(deepest, depth_of(v));
  return Value(Rep(std::make_shared<const List>(List{std::move(items), tuple, checked_depth(deepest)})));
}
Value Value::dict(std::vector<std::pair<Value, Value>> items) {
  int deepest = 0;
  for (const auto& [k, v] : items) deepest = std::max({deepest, depth_of(k), depth_of(v)});
  return Value(Rep(std::make_shared<const Dict>(Dict{std::move(items), checked_depth(deepest)})));
}

i64 Value::as_int() const { return is_bool() ? std::get<bool>(rep) : std::get<i64>(rep); }
double Value::as_real() const { return is_float() ? std::get<double>(rep) : static_cast<double>(as_int()); }

bool Value::truth() const {
  if (is_undefined() || is_none()) return false;
  if (is_bool()) return std::get<bool>(rep);
  if (is_int()) return as_int() != 0;
  if (is_float()) return as_real() != 0;
  if (const Str* s = str()) return !s->empty();
  if (const List* l = list()) return !l->items.empty();
  if (const Dict* d = dict()) return !d->items.empty();
  return true;
}

const char* Value::type_name() const {
  if (is_undefined()) return "undefined";
  if (is_none()) return "NoneType";
  if (is_bool()) return "bool";
  if (is_int()) return "int";
  if (is_float()) return "float";
  if (str()) return "str";
  if (const List* l = list()) return l->tuple ? "tuple" : "list";
  if (dict()) return "dict";
  if (names()) return "namespace";
  if (loop()) return "loop";
  return "function";
}

const Value* Args::get(std::size_t index, std::string_view name) const {
  if (index < positional.size()) return &positional[index];
  for (const auto& [n, v] : named) {
    if (n == name) return &v;
  }
  return nullptr;
}

bool equal(const Value& a, const Value& b) {
  if (a.is_number() && b.is_number()) {
    if (a.is_float() || b.is_float()) return a.as_real() == b.as_real();
    return a.as_int() == b.as_int();
  }
  if (a.str() && b.str()) return a.str()->text() == b.str()->text();
  if (const List* x = a.list(), *y = b.list(); x && y) {
    return x->tuple == y->tuple &&
           std::equal(x->items.begin(), x->items.end(), y->items.begin(), y->items.end(), equal);
  }
  if (const Dict* x = a.dict(), *y = b.dict(); x && y) {
    if (x->items.size() != y->items.size()) return false;
    return std::all_of(x->items.begin(), x->items.end(), [y](const auto& item) {
      const Value* other = y->find(item.first);
      return other != nullptr && equal(item.second, *other);
    });
  }
  if (a.names() || b.names()) return a.names() == b.names();
  return (a.is_none() && b.is_none()) || (a.is_undefined() && b.is_undefined());
}

int compare(const Value& a, const Value& b) {
  if (a.is_number() && b.is_number()) {
    if (a.is_float() || b.is_float()) return a.as_real() < b.as_real() ? -1 : a.as_real() > b.as_real();
    return a.as_int() < b.as_int() ? -1 : a.as_int() > b.as_int();
  }
  if (a.str() && b.str()) return a.str()->text().compare(b.str()->text());
  if (const List* x = a.list(), *y = b.list(); x && y && x->tuple == y->tuple) {
    for (std::size_t i = 0; i < x->items.size() && i < y->items.size(); ++i) {
      if (!equal(x->items[i], y->items[i])) return compare(x->items[i], y->items[i]);
    }
    return x->items.size() < y->items.size() ? -1 : x->items.size() > y->items.size();
  }
  if (a.is_undefined() || b.is_undefined()) {
    raise("'{}' is undefined", std::get<Undefined>(a.is_undefined() ? a.rep : b.rep).name);
  }
  raise("'{}' and '{}' cannot be ordered", a.type_name(), b.type_name());
}

std::string float_repr(double d) {
  if (std::isnan(d)) return "nan";
  if (std::isinf(d)) return d < 0 ? "-inf" : "inf";
  // The shortest digits that read back equal, laid out as Python does: an exponent below 1e-4 and from 1e16
  // on.
  char buffer[64];
  const auto science = std::to_chars(buffer, buffer + sizeof(buffer), d, std::chars_format::scientific);
  const std::string text(buffer, science.ptr);
  const std::size_t e = text.find('e');
  const int exponent = std::stoi(text.substr(e + 1));
  if (exponent < -4 || exponent >= 16) {
    return fmt::format("{}e{}{:02}", text.substr(0, e), exponent < 0 ? '-' : '+', std::abs(exponent));
  }
  const auto fixed = std::to_chars(buffer, buffer + sizeof(buffer), d, std::chars_format::fixed);
  std::string out(buffer, fixed.ptr);
  if (out.find('.') == std::string::npos) out += ".0";
  return out;
}

Str to_str(const Value& v) {
  if (const Str* s = v.str()) return *s;
  if (v.is_undefined()) return {};
  return repr(v);
}

Str repr(const Value& v) {
  if (v.is_undefined()) return Str("Undefined", true);
  if (v.is_none()) return Str("None", true);
  if (v.is_bool()) return Str(v.truth() ? "True" : "False", v.trusted);
  if (v.is_int()) return Str(std::to_string(v.as_int()), v.trusted);
  if (v.is_float()) return Str(float_repr(v.as_real()), v.trusted);
  Str out;
  if (const Str* s = v.str()) {
    append_repr(out, *s);
  } else if (const List* l = v.list()) {
    out.append(l->tuple ? "(" : "[", true);
    for (std::size_t i = 0; i < l->items.size(); ++i) {
      if (i > 0) out.append(", ", true);
      out.append(repr(l->items[i]));
    }
    if (l->tuple && l->items.size() == 1) out.append(",", true);
    out.append(l->tuple ? ")" : "]", true);
  } else if (const Dict* d = v.dict()) {
    out.append("{", true);
    for (std::size_t i = 0; i < d->items.size(); ++i) {
      if (i > 0) out.append(", ", true);
      out.append(repr(d->items[i].first));
      out.append(": ", true);
      out.append(repr(d->items[i].second));
    }
    out.append("}", true);
  } else {
    out.append(fmt::format("<{}>", v.type_name()), true);
  }
  return out;
}

Str to_json(const Value& v, const JsonStyle& style) {
  JsonWriter writer{style, {}};
  writer.write(v, 0);
  return std::move(writer.out);
}

Value from_json(const OrderedJson& json) {
  switch (json.type()) {
    case OrderedJson::value_t::null:
      return Value::none();
    case OrderedJson::value_t::boolean:
      return Value::boolean(json.get<bool>(), false);
    case OrderedJson::value_t::number_integer:
      return Value::integer(json.get<i64>(), false);
    case OrderedJson::value_t::number_unsigned:
      if (json.get<u64>() > static_cast<u64>(INT64_MAX)) return Value::real(json.get<double>(), false);
      return Value::integer(json.get<i64>(), false);
    case OrderedJson::value_t::number_float:
      return Value::real(json.get<double>(), false);
    case OrderedJson::value_t::string: {
      const auto& text = json.get_ref<const std::string&>();
      if (!valid_utf8(text)) raise("a string is not valid UTF-8");
      return Value(Str(text, false));
    }
    case OrderedJson::value_t::array: {
      std::vector<Value> items;
      for (const auto& item : json) items.push_back(from_json(item));
      return Value::list(std::move(items));
    }
    case OrderedJson::value_t::object: {
      std::vector<std::pair<Value, Value>> items;
      for (const auto& [key, item] : json.items()) {
        if (!valid_utf8(key)) raise("a key is not valid UTF-8");
        items.emplace_back(Value(Str(key, false)), from_json(item));
      }
      return Value::dict(std::move(items));
    }
    default:
      raise("a JSON value of a type that templates do not know");
  }
}

Value messages_from_json(const OrderedJson& json) {
  if (!json.is_array()) raise("messages must be a list");
  std::vector<Value> messages;
  for (const auto& message : json) {
    Value value = from_json(message);
    if (const Dict* d = value.dict()) {
      auto items = d->items;
      for (auto& [k, v] : items) {
        const bool known =
            v.str() && std::find(kRoles.begin(), kRoles.end(), v.str()->text()) != kRoles.end();
        if (k.str()->text() == "role" && known) v = Value::text(v.str()->text());
      }
      value = Value::dict(std::move(items));
    }
    messages.push_back(std::move(value));
  }
  return Value::list(std::move(messages));
}

}  // namespace trireme::text::jinja
