#include <unicode/locid.h>
#include <unicode/uchar.h>
#include <unicode/unistr.h>

#include <algorithm>

#include "text/jinja/interpreter.h"
#include "text/jinja/text_ops.h"
#include "text/unicode.h"

namespace trireme::text::jinja {
namespace {

bool all_of_class(const Str& s, bool (*is)(u32)) {
  if (s.empty()) return false;
  const std::string_view t = s.text();
  for (std::size_t at = 0; at < t.size();) {
    const CodePoint c = decode_at(t, at);
    if (!is(c.value)) return false;
    at += c.bytes;
  }
  return true;
}

// str.startswith / endswith take one text or a tuple of them.
bool affix(const Str& s, const Args& args, bool end) {
  const Value* what = args.get(0, "prefix");
  const auto fits = [&](const Value& v) {
    if (!v.str()) raise("startswith and endswith take strings");
    const std::string& t = v.str()->text();
    return end ? s.text().ends_with(t) : s.text().starts_with(t);
  };
  if (what && what->list()) return std::any_of(what->list()->items.begin(), what->list()->items.end(), fits);
  return fits(what ? *what : Value::none());
}

}  // namespace

Str map_case(const Str& s, Case how) {
  Str out;
  s.for_each_part([&](std::string_view part, bool trusted) {
    icu::UnicodeString text =
        icu::UnicodeString::fromUTF8(icu::StringPiece(part.data(), static_cast<int32_t>(part.size())));
    if (how == Case::kUpper) {
      text.toUpper(icu::Locale::getRoot());
    } else {
      text.toLower(icu::Locale::getRoot());
    }
    std::string mapped;
    text.toUTF8String(mapped);
    out.append(mapped, trusted);
  });
  return out;
}

Str capitalized(const Str& s) {
  if (s.empty()) return {};
  const std::size_t first = decode_at(s.text(), 0).bytes;
  Str out = map_case(s.substr(0, first), Case::kUpper);
  out.append(map_case(s.substr(first, s.size()), Case::kLower));
  return out;
}

Str strip(const Str& s, const Str* set, bool left, bool right) {
  const std::string_view t = s.text();
  const auto drop = [&](std::size_t at, std::size_t bytes) {
    if (set == nullptr) return is_python_space(decode_at(t, at).value);
    return find_bytes(set->text(), t.substr(at, bytes), 0) != std::string_view::npos;
  };
  std::size_t begin = 0, end = t.size();
  while (left && begin < end) {
    const std::size_t bytes = decode_at(t, begin).bytes;
    if (!drop(begin, bytes)) break;
    begin += bytes;
  }
  while (right && end > begin) {
    std::size_t at = end - 1;
    while (at > begin && (t[at] & 0xC0) == 0x80) --at;
    if (!drop(at, end - at)) break;
    end = at;
  }
  return s.substr(begin, end);
}

Str replaced(const Str& s, const Str& from, const Str& to, i64 most) {
  const std::string_view t = s.text();
  Str out;
  std::size_t done = 0;
  for (std::size_t at = 0; most != 0; --most) {
    at = find_bytes(t, from.text(), at);
    if (at == std::string_view::npos) break;
    out.append(s, done, at);
    out.append(to);
    done = at + from.size();
    at = done;
    if (from.empty()) {
      if (at >= t.size()) break;
      at += decode_at(t, at).bytes;
    }
  }
  out.append(s, done, t.size());
  return out;
}

namespace {

std::vector<Str> split_by(const Str& s, const Str& by, i64 most) {
  if (by.empty()) raise("split: the separator must not be empty");
  std::vector<Str> parts;
  std::size_t at = 0;
  while (most != 0) {
    const std::size_t next = find_bytes(s.text(), by.text(), at);
    if (next == std::string_view::npos) break;
    parts.push_back(s.substr(at, next));
    at = next + by.size();
    --most;
  }
  parts.push_back(s.substr(at, s.size()));
  return parts;
}

std::vector<Str> rsplit_by(const Str& s, const Str& by, i64 most) {
  if (by.empty()) raise("rsplit: the separator must not be empty");
  std::vector<Str> parts;
  std::size_t end = s.size();
  while (most != 0 && end >= by.size()) {
    const std::size_t at = s.text().rfind(by.text(), end - by.size());
    if (at == std::string::npos) break;
    parts.push_back(s.substr(at + by.size(), end));
    end = at;
    --most;
  }
  parts.push_back(s.substr(0, end));
  std::reverse(parts.begin(), parts.end());
  return parts;
}

std::vector<Str> split_spaces(const Str& s, i64 most) {
  std::vector<Str> parts;
  const std::string_view t = s.text();
  std::size_t at = 0;
  const auto skip = [&](bool spaces) {
    while (at < t.size() && is_python_space(decode_at(t, at).value) == spaces) at += decode_at(t, at).bytes;
  };
  skip(true);
  while (at < t.size()) {
    if (most-- == 0) {
      parts.push_back(strip(s.substr(at, t.size()), nullptr, false, true));
      break;
    }
    const std::size_t begin = at;
    skip(false);
    parts.push_back(s.substr(begin, at));
    skip(true);
  }
  return parts;
}

std::vector<Str> split_lines(const Str& s, bool keep) {
  std::vector<Str> lines;
  const std::string& t = s.text();
  for (std::size_t at = 0; at < t.size();) {
    std::size_t end = std::min(t.find_first_of("\n\r\v\f", at), t.size());
    std::size_t next = end + (end < t.size());
    if (end + 1 < t.size() && t[end] == '\r' && t[end + 1] == '\n') ++next;
    lines.push_back(s.substr(at, keep ? next : end));
    at = next;
  }
  return lines;
}

// "{}", "{0}", "{name}", "{{" and "}}"; no conversions or format specifications.
Str formatted(const Str& s, const Args& args) {
  const std::string& t = s.text();
  Str out;
  std::size_t done = 0, automatic = 0;
  for (std::size_t at = 0; at < t.size(); ++at) {
    if (t[at] != '{' && t[at] != '}') continue;
    out.append(s, done, at);
    if (at + 1 < t.size() && t[at + 1] == t[at]) {
      out.append(s, at, at + 1);
      done = ++at + 1;
      continue;
    }
    const std::size_t close = t.find('}', at);
    if (t[at] == '}' || close == std::string::npos) raise("format: a single '{}'", t[at]);
    const std::string field = t.substr(at + 1, close - at - 1);
    const Value* v = nullptr;
    if (field.empty()) {
      v = args.get(automatic++, "");
    } else if (std::all_of(field.begin(), field.end(), [](char c) { return c >= '0' && c <= '9'; }) &&
               field.size() < 4) {
      const auto index = static_cast<std::size_t>(std::stoi(field));
      if (index < args.positional.size()) v = &args.positional[index];
    } else {
      v = args.get(~std::size_t{0}, field);
    }
    if (v == nullptr) raise("format: there is no argument for '{{{}}}'", field);
    out.append(to_str(*v));
    done = close + 1;
    at = close;
  }
  out.append(s, done, t.size());
  return out;
}

Str titled(const Str& s) {
  Str out;
  bool inside = false;
  const std::string_view t = s.text();
  for (std::size_t at = 0; at < t.size();) {
    const CodePoint c = decode_at(t, at);
    const Str one = s.substr(at, at + c.bytes);
    const bool cased = u_hasBinaryProperty(static_cast<UChar32>(c.value), UCHAR_CASED);
    out.append(cased ? map_case(one, inside ? Case::kLower : Case::kUpper) : one);
    inside = cased;
    at += c.bytes;
  }
  return out;
}

}  // namespace

Value Interpreter::call_str_method(const Str& s, const std::string& name, const Args& args) {
  spend(1 + s.size() / 256);
  const auto list_of = [this](std::vector<Str> parts, bool tuple = false) {
    std::vector<Value> items;
    for (Str& p : parts) items.push_back(made(std::move(p)));
    return made_list(std::move(items), tuple);
  };
  const Value* first = args.get(0, "chars");
  if (name == "strip" || name == "lstrip" || name == "rstrip") {
    const Str* set = first && !first->is_none() ? &str_arg(args, 0, "chars") : nullptr;
    return made(strip(s, set, name != "rstrip", name != "lstrip"));
  }
  if (name == "split" || name == "rsplit") {
    const Value* by = args.get(0, "sep");
    const i64 most = int_arg(args, 1, "maxsplit", -1);
    if (by == nullptr || by->is_none()) {
      if (name == "rsplit" && most >= 0) raise("rsplit by white space with a limit is not supported");
      return list_of(split_spaces(s, most));
    }
    return list_of(name == "split" ? split_by(s, str_arg(args, 0, "sep"), most)
                                   : rsplit_by(s, str_arg(args, 0, "sep"), most));
  }
  if (name == "splitlines") return list_of(split_lines(s, bool_arg(args, 0, "keepends", false)));
  if (name == "startswith" || name == "endswith") return Value::boolean(affix(s, args, name == "endswith"));
  if (name == "replace") {
    const Str &from = str_arg(args, 0, "old"), &to = str_arg(args, 1, "new");
    spend_bytes(s.size() + (to.size() + 1) * (from.empty() ? s.size() + 1 : s.size() / from.size() + 1));
    return made(replaced(s, from, to, int_arg(args, 2, "count", -1)));
  }
  if (name == "upper") return made(map_case(s, Case::kUpper));
  if (name == "lower") return made(map_case(s, Case::kLower));
  if (name == "capitalize") return made(capitalized(s));
  if (name == "title") return made(titled(s));
  if (name == "format") return made(formatted(s, args));
  if (name == "join") {
    Args joined;
    joined.positional.push_back(Value(s));
    return filter("join", args.get(0, "iterable") ? *args.get(0, "iterable") : Value(), joined);
  }
  if (name == "count") {
    const Str& what = str_arg(args, 0, "sub");
    if (what.empty()) return Value::integer(static_cast<i64>(count_code_points(s.text())) + 1);
    return Value::integer(static_cast<i64>(split_by(s, what, -1).size()) - 1);
  }
  if (name == "find" || name == "rfind" || name == "index") {
    const Str& what = str_arg(args, 0, "sub");
    const std::size_t at =
        name == "rfind" ? s.text().rfind(what.text()) : find_bytes(s.text(), what.text(), 0);
    if (at == std::string::npos) {
      if (name == "index") raise("index: the text is not there");
      return Value::integer(-1);
    }
    return Value::integer(static_cast<i64>(count_code_points(std::string_view(s.text()).substr(0, at))));
  }
  if (name == "partition" || name == "rpartition") {
    const Str& by = str_arg(args, 0, "sep");
    auto parts = name == "partition" ? split_by(s, by, 1) : rsplit_by(s, by, 1);
    if (parts.size() == 2) return list_of({parts[0], by, parts[1]}, true);
    return name == "partition" ? list_of({s, {}, {}}, true) : list_of({{}, {}, s}, true);
  }
  if (name == "removeprefix" || name == "removesuffix") {
    const std::string& affix_text = str_arg(args, 0, "prefix").text();
    if (name == "removeprefix" && s.text().starts_with(affix_text))
      return made(s.substr(affix_text.size(), s.size()));
    if (name == "removesuffix" && s.text().ends_with(affix_text))
      return made(s.substr(0, s.size() - affix_text.size()));
    return Value(s);
  }
  if (name == "isdigit")
    return Value::boolean(all_of_class(s, [](u32 c) { return u_isdigit(static_cast<UChar32>(c)) != 0; }));
  if (name == "isalpha")
    return Value::boolean(all_of_class(s, [](u32 c) { return u_isalpha(static_cast<UChar32>(c)) != 0; }));
  if (name == "isalnum")
    return Value::boolean(all_of_class(s, [](u32 c) { return u_isalnum(static_cast<UChar32>(c)) != 0; }));
  if (name == "isspace") return Value::boolean(all_of_class(s, is_python_space));
  const Str mapped = map_case(s, name == "isupper" ? Case::kUpper : Case::kLower);
  const Str other = map_case(s, name == "isupper" ? Case::kLower : Case::kUpper);
  return Value::boolean(mapped.text() == s.text() && other.text() != s.text());
}

Value Interpreter::call_method(const Value& self, const std::string& name, const Args& args) {
  if (const Str* s = self.str()) return call_str_method(*s, name, args);
  if (const Loop* l = self.loop()) {
    if (args.positional.empty()) raise("loop.cycle needs values");
    return args.positional[l->index % args.positional.size()];
  }
  if (const Dict* d = self.dict()) {
    spend(1 + d->items.size());
    std::vector<Value> out;
    if (name == "get") {
      const Value* key = args.get(0, "key");
      if (key == nullptr) raise("get needs a key");
      if (const Value* v = d->find(*key)) return *v;
      const Value* otherwise = args.get(1, "default");
      return otherwise ? *otherwise : Value::none();
    }
    if (name == "copy") return self;
    for (const auto& [k, v] : d->items) {
      if (name == "items") {
        out.push_back(Value::list({k, v}, true));
      } else if (name == "keys") {
        out.push_back(k);
      } else if (name == "values") {
        out.push_back(v);
      }
    }
    if (name == "items" || name == "keys" || name == "values") return made_list(std::move(out));
  }
  if (const List* l = self.list()) {
    const Value* what = args.get(0, "value");
    spend(1 + l->items.size());
    if (what && name == "count") {
      return Value::integer(
          std::count_if(l->items.begin(), l->items.end(), [&](const Value& v) { return equal(v, *what); }));
    }
    if (what && name == "index") {
      for (std::size_t i = 0; i < l->items.size(); ++i) {
        if (equal(l->items[i], *what)) return Value::integer(static_cast<i64>(i));
      }
      raise("index: the value is not there");
    }
    if (name == "copy") return self;
  }
  raise("the method '{}' would change a '{}'; templates may not", name, self.type_name());
}

}  // namespace trireme::text::jinja
