// Operations on texts that both filters and methods of strings offer.
#pragma once
#include "text/jinja/str.h"

namespace trireme::text::jinja {

enum class Case { kUpper, kLower };
Str map_case(const Str& s, Case how);
Str capitalized(const Str& s);
// The first `most` occurrences of `from`; all when it is negative.
Str replaced(const Str& s, const Str& from, const Str& to, i64 most);

}  // namespace trireme::text::jinja
