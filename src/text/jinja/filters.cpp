#include <algorithm>
#include <cmath>
#include <map>

#include "text/jinja/interpreter.h"
#include "text/jinja/text_ops.h"
#include "text/unicode.h"

namespace trireme::text::jinja {
namespace {

using Filter = Value (*)(Interpreter&, const Value&, const Args&);

// item.a.b of "a.b"; numbers index. `otherwise` stands in for whatever is undefined on the way.
Value path_of(Interpreter& in, Value v, const Value& path, const Value* otherwise = nullptr) {
  if (!path.str()) return in.item(v, path);
  const std::string& text = path.str()->text();
  for (std::size_t at = 0; at <= text.size();) {
    const std::size_t end = std::min(text.find('.', at), text.size());
    const std::string part = text.substr(at, end - at);
    const bool number = !part.empty() && part.size() < 10 &&
                        std::all_of(part.begin(), part.end(), [](char c) { return c >= '0' && c <= '9'; });
    v = in.item(v, number ? Value::integer(std::stoi(part)) : Value::text(part));
    if (v.is_undefined() && otherwise) v = *otherwise;
    at = end + 1;
  }
  return v;
}

Args tail(const Args& args, std::size_t from) {
  Args rest;
  for (std::size_t i = from; i < args.positional.size(); ++i) rest.positional.push_back(args.positional[i]);
  rest.named = args.named;
  return rest;
}

Value map_filter(Interpreter& in, const Value& v, const Args& args) {
  std::vector<Value> out;
  const Value* attribute = args.get(~std::size_t{0}, "attribute");
  const Value* otherwise = args.get(~std::size_t{0}, "default");
  for (const Value& item : in.items_of(v)) {
    if (attribute) {
      out.push_back(path_of(in, item, *attribute, otherwise));
    } else {
      out.push_back(in.filter(str_arg(args, 0, "filter").text(), item, tail(args, 1)));
    }
  }
  return in.made_list(std::move(out));
}

template <bool kKeep, bool kAttribute>
Value select_filter(Interpreter& in, const Value& v, const Args& args) {
  std::vector<Value> out;
  const std::size_t skip = kAttribute ? 1 : 0;
  if (kAttribute && args.positional.empty()) raise("selectattr and rejectattr need the name of an attribute");
  for (const Value& item : in.items_of(v)) {
    const Value subject = kAttribute ? path_of(in, item, args.positional[0]) : item;
    const bool holds = args.positional.size() > skip
                           ? in.test(str_arg(args, skip, "test").text(), subject, tail(args, skip + 1))
                           : subject.truth();
    if (holds == kKeep) out.push_back(item);
  }
  return in.made_list(std::move(out));
}

Value sort_key(Interpreter& in, const Value& item, const Value* attribute, bool case_sensitive) {
  Value key = attribute && !attribute->is_none() ? path_of(in, item, *attribute) : item;
  if (!case_sensitive && key.str()) key = Value(map_case(*key.str(), Case::kLower));
  return key;
}

std::vector<Value> sorted(Interpreter& in, const std::vector<Value>& items, const Value* attribute,
                          bool case_sensitive, bool reverse) {
  std::vector<std::pair<Value, Value>> keyed;
  for (const Value& item : items) keyed.emplace_back(sort_key(in, item, attribute, case_sensitive), item);
  std::stable_sort(keyed.begin(), keyed.end(), [&](const auto& a, const auto& b) {
    in.spend(1);
    return (reverse ? compare(b.first, a.first) : compare(a.first, b.first)) < 0;
  });
  std::vector<Value> out;
  for (auto& [k, v] : keyed) out.push_back(std::move(v));
  return out;
}

Value sort_filter(Interpreter& in, const Value& v, const Args& args) {
  return in.made_list(sorted(in, in.items_of(v), args.get(2, "attribute"),
                             bool_arg(args, 1, "case_sensitive", false),
                             bool_arg(args, 0, "reverse", false)));
}

Value dictsort_filter(Interpreter& in, const Value& v, const Args& args) {
  if (!v.dict()) raise("dictsort needs a dict, not '{}'", v.type_name());
  const Value* by = args.get(1, "by");
  const bool values = by && by->str() && by->str()->text() == "value";
  std::vector<Value> pairs;
  for (const auto& [k, value] : v.dict()->items) pairs.push_back(Value::list({k, value}, true));
  const Value index = Value::integer(values ? 1 : 0);
  return in.made_list(sorted(in, pairs, &index, bool_arg(args, 0, "case_sensitive", false),
                             bool_arg(args, 2, "reverse", false)));
}

Value unique_filter(Interpreter& in, const Value& v, const Args& args) {
  std::vector<Value> keys, out;
  for (const Value& item : in.items_of(v)) {
    Value key = sort_key(in, item, args.get(1, "attribute"), bool_arg(args, 0, "case_sensitive", false));
    in.spend(1 + keys.size() / 4);
    if (std::any_of(keys.begin(), keys.end(), [&](const Value& k) { return equal(k, key); })) continue;
    keys.push_back(std::move(key));
    out.push_back(item);
  }
  return in.made_list(std::move(out));
}

template <int kSign>
Value extreme_filter(Interpreter& in, const Value& v, const Args& args) {
  const Value* attribute = args.get(1, "attribute");
  Value best = Value::undefined("no item"), best_key;
  for (const Value& item : in.items_of(v)) {
    Value key = sort_key(in, item, attribute, bool_arg(args, 0, "case_sensitive", false));
    if (best.is_undefined() || compare(key, best_key) * kSign > 0) best = item, best_key = key;
  }
  return best;
}

Value sum_filter(Interpreter& in, const Value& v, const Args& args) {
  Value total = args.get(1, "start") ? *args.get(1, "start") : Value::integer(0);
  const Value* attribute = args.get(0, "attribute");
  for (const Value& item : in.items_of(v)) {
    total = in.binary("+", total, attribute && !attribute->is_none() ? path_of(in, item, *attribute) : item);
  }
  return total;
}

Value join_filter(Interpreter& in, const Value& v, const Args& args) {
  const Str between = args.get(0, "d") ? to_str(*args.get(0, "d")) : Str();
  const Value* attribute = args.get(1, "attribute");
  Str out;
  bool first = true;
  for (const Value& item : in.items_of(v)) {
    if (!std::exchange(first, false)) out.append(between);
    out.append(to_str(attribute && !attribute->is_none() ? path_of(in, item, *attribute) : item));
    in.spend(1 + out.size() / (1 << 20));
  }
  return in.made(std::move(out));
}

Value length_filter(Interpreter& in, const Value& v, const Args&) {
  if (v.is_undefined()) return Value::integer(0);
  if (const Str* s = v.str()) {
    in.spend(1 + s->size() / 1024);
    return Value::integer(static_cast<i64>(count_code_points(s->text())));
  }
  if (const List* l = v.list()) return Value::integer(static_cast<i64>(l->items.size()));
  if (const Dict* d = v.dict()) return Value::integer(static_cast<i64>(d->items.size()));
  raise("a '{}' has no length", v.type_name());
}

Value tojson_filter(Interpreter& in, const Value& v, const Args& args) {
  JsonStyle style;
  style.ensure_ascii = bool_arg(args, 0, "ensure_ascii", false);
  const Value* indent = args.get(1, "indent");
  if (indent && !indent->is_none()) {
    style.indent = static_cast<int>(std::clamp<i64>(int_arg(args, 1, "indent", 0), 0, 64));
    style.item_separator = ",";
  }
  if (const Value* separators = args.get(2, "separators"); separators && separators->list()) {
    const auto& items = separators->list()->items;
    if (items.size() != 2 || !items[0].str() || !items[1].str()) raise("tojson: separators are two strings");
    style.item_separator = items[0].str()->text();
    style.key_separator = items[1].str()->text();
  }
  style.sort_keys = bool_arg(args, 3, "sort_keys", false);
  return in.made(to_json(v, style));
}

Value indent_filter(Interpreter& in, const Value& v, const Args& args) {
  const Value* width = args.get(0, "width");
  Str prefix;
  if (width && width->str()) {
    prefix = *width->str();
  } else {
    prefix.append(
        std::string(static_cast<std::size_t>(std::clamp<i64>(int_arg(args, 0, "width", 4), 0, 1000)), ' '),
        true);
  }
  const bool first = bool_arg(args, 1, "first", false), blank = bool_arg(args, 2, "blank", false);
  const Str s = to_str(v);
  Str out;
  const std::string& t = s.text();
  for (std::size_t at = 0, line = 0; at <= t.size(); ++line) {
    const std::size_t end = std::min(t.find('\n', at), t.size());
    if (line == 0 ? first : (blank || end > at)) out.append(prefix);
    out.append(s, at, std::min(end + 1, t.size()));
    in.spend(1);
    in.spend_bytes(prefix.size());
    at = end + 1;
  }
  return in.made(std::move(out));
}

Value title_filter(Interpreter& in, const Value& v, const Args&) {
  const Str s = to_str(v);
  const std::string& t = s.text();
  Str out;
  for (std::size_t at = 0; at < t.size();) {
    const auto separator = [](char c) {
      return c == '-' || c == '(' || c == '{' || c == '[' || c == '<' || c == ' ' || (c >= '\t' && c <= '\r');
    };
    std::size_t end = at;
    const bool gap = separator(t[at]);
    while (end < t.size() && separator(t[end]) == gap) ++end;
    out.append(gap ? s.substr(at, end) : capitalized(s.substr(at, end)));
    at = end;
  }
  return in.made(std::move(out));
}

// printf-style, as Python's %: %s %d %i %f %r %%, with a precision for %f.
Value format_filter(Interpreter& in, const Value& v, const Args& args) {
  const Str s = to_str(v);
  const std::string& t = s.text();
  Str out;
  std::size_t done = 0, next = 0;
  for (std::size_t at = t.find('%'); at != std::string::npos; at = t.find('%', done)) {
    out.append(s, done, at);
    std::size_t to = at + 1;
    int precision = 6;
    if (to < t.size() && t[to] == '.') {
      for (precision = 0, ++to; to < t.size() && t[to] >= '0' && t[to] <= '9' && precision < 100; ++to)
        precision = precision * 10 + t[to] - '0';
    }
    const char kind = to < t.size() ? t[to] : ' ';
    done = std::min(to + 1, t.size());
    if (kind == '%') {
      out.append("%", true);
      continue;
    }
    if (next >= args.positional.size()) raise("format: not enough arguments");
    const Value& a = args.positional[next++];
    if (kind == 's') {
      out.append(to_str(a));
    } else if (kind == 'r') {
      out.append(repr(a));
    } else if ((kind == 'd' || kind == 'i') && a.is_number()) {
      out.append(fmt::format("{:.0f}", std::trunc(a.as_real())), a.trusted);
    } else if (kind == 'f' && a.is_number()) {
      out.append(fmt::format("{:.{}f}", a.as_real(), precision), a.trusted);
    } else {
      raise("format: '%{}' is not supported for '{}'", kind, a.type_name());
    }
  }
  out.append(s, done, t.size());
  return in.made(std::move(out));
}

std::optional<double> parse_real(const std::string& text) {
  const std::string t = strip(Str(text, true), nullptr, true, true).text();
  if (t.empty() || t.size() > 400 || t.find_first_of("xXpP(") != std::string::npos) return std::nullopt;
  char* end = nullptr;
  const double d = std::strtod(t.c_str(), &end);
  if (end != t.c_str() + t.size()) return std::nullopt;
  return d;
}

Value int_filter(Interpreter&, const Value& v, const Args& args) {
  const Value otherwise = args.get(0, "default") ? *args.get(0, "default") : Value::integer(0);
  if (v.is_int() || v.is_bool()) return Value::integer(v.as_int(), v.trusted);
  double d = NAN;
  bool trusted = v.trusted;
  if (v.is_float()) d = v.as_real();
  if (const Str* s = v.str()) {
    trusted = s->trusted();
    const std::string t = strip(*s, nullptr, true, true).text();
    const i64 base = int_arg(args, 1, "base", 10);
    char* end = nullptr;
    errno = 0;
    const long long whole = std::strtoll(t.c_str(), &end, static_cast<int>(std::clamp<i64>(base, 2, 36)));
    if (!t.empty() && end == t.c_str() + t.size() && errno == 0) return Value::integer(whole, trusted);
    d = parse_real(t).value_or(NAN);
  }
  if (!std::isfinite(d) || std::abs(d) > 9e18) return otherwise;
  return Value::integer(static_cast<i64>(d), trusted);
}

Value float_filter(Interpreter&, const Value& v, const Args& args) {
  const Value otherwise = args.get(0, "default") ? *args.get(0, "default") : Value::real(0);
  if (v.is_number()) return Value::real(v.as_real(), v.trusted);
  if (const Str* s = v.str()) {
    if (const auto d = parse_real(s->text())) return Value::real(*d, s->trusted());
  }
  return otherwise;
}

Value round_filter(Interpreter&, const Value& v, const Args& args) {
  if (!v.is_number()) raise("round needs a number, not '{}'", v.type_name());
  const i64 precision = std::clamp<i64>(int_arg(args, 0, "precision", 0), -300, 300);
  const Value* method = args.get(1, "method");
  const std::string how = method && method->str() ? method->str()->text() : "common";
  const double scale = std::pow(10.0, static_cast<double>(precision)), x = v.as_real();
  if (how == "ceil") return Value::real(std::ceil(x * scale) / scale, v.trusted);
  if (how == "floor") return Value::real(std::floor(x * scale) / scale, v.trusted);
  if (how != "common") raise("round: the method is common, ceil or floor");
  if (v.is_int()) return v;
  if (precision == 0) return Value::real(std::nearbyint(x), v.trusted);
  if (precision < 0) return Value::real(std::nearbyint(x * scale) / scale, v.trusted);
  return Value::real(std::strtod(fmt::format("{:.{}f}", x, precision).c_str(), nullptr), v.trusted);
}

Value abs_filter(Interpreter&, const Value& v, const Args&) {
  if (v.is_float()) return Value::real(std::abs(v.as_real()), v.trusted);
  if (!v.is_number() || v.as_int() == INT64_MIN) raise("abs needs a number");
  return Value::integer(std::abs(v.as_int()), v.trusted);
}

Value reverse_filter(Interpreter& in, const Value& v, const Args&) {
  std::vector<Value> items = in.items_of(v);
  std::reverse(items.begin(), items.end());
  if (!v.str()) return in.made_list(std::move(items));
  Str out;
  for (const Value& c : items) out.append(*c.str());
  return in.made(std::move(out));
}

Value replace_filter(Interpreter& in, const Value& v, const Args& args) {
  if (!args.get(0, "old") || !args.get(1, "new")) raise("replace needs an old and a new text");
  const Str s = to_str(v), from = to_str(*args.get(0, "old")), to = to_str(*args.get(1, "new"));
  in.spend_bytes(s.size() + (to.size() + 1) * (from.empty() ? s.size() + 1 : s.size() / from.size() + 1));
  const Value* count = args.get(2, "count");
  return in.made(replaced(s, from, to, count && !count->is_none() ? int_arg(args, 2, "count", -1) : -1));
}

Value escape_filter(Interpreter& in, const Value& v, const Args&) {
  Str out;
  to_str(v).for_each_part([&](std::string_view part, bool trusted) {
    std::string escaped;
    for (const char c : part) {
      switch (c) {
        case '&':
          escaped += "&amp;";
          break;
        case '<':
          escaped += "&lt;";
          break;
        case '>':
          escaped += "&gt;";
          break;
        case '\'':
          escaped += "&#39;";
          break;
        case '"':
          escaped += "&#34;";
          break;
        default:
          escaped += c;
      }
    }
    out.append(escaped, trusted);
  });
  return in.made(std::move(out));
}

Value items_filter(Interpreter& in, const Value& v, const Args&) {
  if (v.is_undefined()) return in.made_list({});
  if (!v.dict()) raise("items needs a dict, not '{}'", v.type_name());
  return in.call(in.attribute(v, "items"), {});
}

Value default_filter(Interpreter&, const Value& v, const Args& args) {
  const bool use = v.is_undefined() || (bool_arg(args, 1, "boolean", false) && !v.truth());
  if (!use) return v;
  const Value* otherwise = args.get(0, "default_value");
  return otherwise ? *otherwise : Value::text("");
}

Value first_filter(Interpreter& in, const Value& v, const Args&) {
  const auto items = in.items_of(v);
  return items.empty() ? Value::undefined("the first item of nothing") : items.front();
}
Value last_filter(Interpreter& in, const Value& v, const Args&) {
  const auto items = in.items_of(v);
  return items.empty() ? Value::undefined("the last item of nothing") : items.back();
}
Value list_filter(Interpreter& in, const Value& v, const Args&) { return in.made_list(in.items_of(v)); }
Value string_filter(Interpreter& in, const Value& v, const Args&) { return in.made(to_str(v)); }
Value safe_filter(Interpreter& in, const Value& v, const Args&) { return in.made(to_str(v)); }
Value upper_filter(Interpreter& in, const Value& v, const Args&) {
  return in.made(map_case(to_str(v), Case::kUpper));
}
Value lower_filter(Interpreter& in, const Value& v, const Args&) {
  return in.made(map_case(to_str(v), Case::kLower));
}
Value capitalize_filter(Interpreter& in, const Value& v, const Args&) {
  return in.made(capitalized(to_str(v)));
}
Value trim_filter(Interpreter& in, const Value& v, const Args& args) {
  const Value* set = args.get(0, "chars");
  return in.made(strip(to_str(v), set && !set->is_none() ? &str_arg(args, 0, "chars") : nullptr, true, true));
}
Value attr_filter(Interpreter& in, const Value& v, const Args& args) {
  return in.attribute(v, str_arg(args, 0, "name").text());
}

const std::map<std::string_view, Filter>& filters() {
  static const std::map<std::string_view, Filter> kFilters = {{"abs", abs_filter},
                                                              {"attr", attr_filter},
                                                              {"capitalize", capitalize_filter},
                                                              {"count", length_filter},
                                                              {"d", default_filter},
                                                              {"default", default_filter},
                                                              {"dictsort", dictsort_filter},
                                                              {"e", escape_filter},
                                                              {"escape", escape_filter},
                                                              {"first", first_filter},
                                                              {"float", float_filter},
                                                              {"format", format_filter},
                                                              {"indent", indent_filter},
                                                              {"int", int_filter},
                                                              {"items", items_filter},
                                                              {"join", join_filter},
                                                              {"last", last_filter},
                                                              {"length", length_filter},
                                                              {"list", list_filter},
                                                              {"lower", lower_filter},
                                                              {"map", map_filter},
                                                              {"max", extreme_filter<1>},
                                                              {"min", extreme_filter<-1>},
                                                              {"replace", replace_filter},
                                                              {"reject", select_filter<false, false>},
                                                              {"rejectattr", select_filter<false, true>},
                                                              {"reverse", reverse_filter},
                                                              {"round", round_filter},
                                                              {"safe", safe_filter},
                                                              {"select", select_filter<true, false>},
                                                              {"selectattr", select_filter<true, true>},
                                                              {"sort", sort_filter},
                                                              {"string", string_filter},
                                                              {"sum", sum_filter},
                                                              {"title", title_filter},
                                                              {"tojson", tojson_filter},
                                                              {"trim", trim_filter},
                                                              {"unique", unique_filter},
                                                              {"upper", upper_filter}};
  return kFilters;
}

}  // namespace

Value Interpreter::filter(const std::string& name, const Value& input, const Args& args) {
  spend(1);
  if (input.str()) spend(input.str()->size() / 256);
  const auto found = filters().find(name);
  if (found == filters().end()) raise("there is no filter '{}'", name);
  return found->second(*this, input, args);
}

}  // namespace trireme::text::jinja
