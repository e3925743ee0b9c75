#include "text/jinja/interpreter.h"

#include <algorithm>
#include <cmath>

#include "text/unicode.h"

namespace trireme::text::jinja {

struct Interpreter::Deeper {
  explicit Deeper(Interpreter& i) : interpreter(i) {
    interpreter.spend(1);
    if (++interpreter.depth_ > interpreter.limits_.depth) {
      raise("the template nests or recurses deeper than {} levels", interpreter.limits_.depth);
    }
  }
  ~Deeper() { --interpreter.depth_; }
  Deeper(const Deeper&) = delete;
  Deeper& operator=(const Deeper&) = delete;
  Interpreter& interpreter;
};

Interpreter::~Interpreter() {
  for (const auto& n : namespaces_) n->members.clear();
}

void Interpreter::define(std::string name, Value value) {
  globals_.emplace_back(std::move(name), std::move(value));
}

void Interpreter::spend(u64 steps) {
  steps_ += steps;
  if (steps_ > limits_.steps) raise("the template needs more than {} steps", limits_.steps);
}
void Interpreter::spend_bytes(std::size_t bytes) {
  spend(1 + bytes / 4096);
  bytes_ += bytes;
  if (bytes_ > limits_.bytes) raise("the template makes more than {} bytes of values", limits_.bytes);
}
Value Interpreter::made(Str s) {
  spend_bytes(s.size() + s.outside().size() * sizeof(ByteRange));
  return Value(std::move(s));
}
Value Interpreter::made_list(std::vector<Value> items, bool tuple) {
  spend(items.size());
  spend_bytes(items.size() * sizeof(Value));
  return Value::list(std::move(items), tuple);
}

Str Interpreter::render(const Body& body) {
  Str out;
  out_ = &out;
  frames_.assign(1, {});
  run(body);
  return out;
}

void Interpreter::emit(const Str& s) {
  spend(1 + s.size() / 4096);
  if (out_->size() + s.size() > limits_.output)
    raise("the template writes more than {} bytes", limits_.output);
  out_->append(s);
}

const Value* Interpreter::find(std::string_view name) const {
  const auto in = [name](const Frame& frame) -> const Value* {
    for (const auto& [n, v] : frame) {
      if (n == name) return &v;
    }
    return nullptr;
  };
  for (std::size_t i = frames_.size(); i-- > visible_from_;) {
    if (const Value* v = in(frames_[i])) return v;
  }
  if (const Value* v = in(frames_[0])) return v;
  for (const auto& [n, v] : globals_) {
    if (n == name) return &v;
  }
  return nullptr;
}

void Interpreter::assign(std::string_view name, Value value) {
  for (auto& [n, v] : frames_.back()) {
    if (n == name) {
      v = std::move(value);
      return;
    }
  }
  frames_.back().emplace_back(name, std::move(value));
}

void Interpreter::unpack(const std::vector<std::string>& targets, const Value& value) {
  if (targets.size() == 1) return assign(targets[0], value);
  const std::vector<Value> items = items_of(value);
  if (items.size() != targets.size())
    raise("cannot unpack {} values into {} names", items.size(), targets.size());
  for (std::size_t i = 0; i < items.size(); ++i) assign(targets[i], items[i]);
}

Interpreter::Flow Interpreter::run(const Body& body) {
  const Deeper deeper(*this);
  for (const NodePtr& node : body) {
    const Flow flow = run_node(*node);
    if (flow != Flow::kNormal) return flow;
  }
  return Flow::kNormal;
}

Interpreter::Flow Interpreter::run_node(const Node& node) {
  spend(1);
  switch (node.type) {
    case NodeType::kText:
      emit(Str(static_cast<const TextNode&>(node).text, true));
      break;
    case NodeType::kOutput:
      emit(to_str(evaluate(*static_cast<const OutputNode&>(node).value)));
      break;
    case NodeType::kIf:
      for (const auto& [condition, body] : static_cast<const IfNode&>(node).branches) {
        if (!condition || evaluate(*condition).truth()) return run(body);
      }
      break;
    case NodeType::kFor:
      return run_for(static_cast<const ForNode&>(node));
    case NodeType::kSet:
    case NodeType::kBlockSet:
      run_set(static_cast<const SetNode&>(node));
      break;
    case NodeType::kMacro: {
      const auto& macro = static_cast<const MacroNode&>(node);
      assign(macro.name,
             Value(Value::Rep(std::make_shared<const Callable>(Callable{macro.name, &macro, {}, false}))));
      break;
    }
    case NodeType::kBreak:
      return Flow::kBreak;
    case NodeType::kContinue:
      return Flow::kContinue;
    case NodeType::kScope: {
      const auto& scope = static_cast<const ScopeNode&>(node);
      Frame frame;
      for (const auto& [name, value] : scope.names) frame.emplace_back(name, evaluate(*value));
      frames_.push_back(std::move(frame));
      const Flow flow = run(scope.body);
      frames_.pop_back();
      return flow;
    }
  }
  return Flow::kNormal;
}

Interpreter::Flow Interpreter::run_for(const ForNode& node) {
  std::vector<Value> items = items_of(evaluate(*node.items));
  if (node.condition) {
    std::vector<Value> chosen;
    for (Value& v : items) {
      spend(1);
      frames_.emplace_back();
      unpack(node.targets, v);
      const bool keep = evaluate(*node.condition).truth();
      frames_.pop_back();
      if (keep) chosen.push_back(std::move(v));
    }
    items = std::move(chosen);
  }
  if (items.empty()) {
    frames_.emplace_back();
    const Flow flow = run(node.otherwise);
    frames_.pop_back();
    return flow;
  }
  int depth = 1;
  if (const Value* outer = find("loop"); outer && outer->loop()) depth = outer->loop()->depth + 1;
  const auto all = std::make_shared<const List>(List{std::move(items), false, 1});
  for (std::size_t i = 0; i < all->items.size(); ++i) {
    spend(1);
    frames_.emplace_back();
    frames_.back().emplace_back("loop", Value(Value::Rep(std::make_shared<const Loop>(Loop{all, i, depth}))));
    unpack(node.targets, all->items[i]);
    const Flow flow = run(node.body);
    frames_.pop_back();
    if (flow == Flow::kBreak) break;
  }
  return Flow::kNormal;
}

Str Interpreter::captured(const Body& body) {
  Str text;
  Str* const outer = std::exchange(out_, &text);
  frames_.emplace_back();
  run(body);
  frames_.pop_back();
  out_ = outer;
  spend_bytes(text.size());
  return text;
}

void Interpreter::run_set(const SetNode& node) {
  Value value;
  if (node.type == NodeType::kSet) {
    value = evaluate(*node.value);
  } else {
    value = Value(captured(node.body));
    for (const ExprPtr& f : node.filters) value = filter(f->name, value, evaluate_args(*f));
  }
  if (node.member.empty()) return unpack(node.targets, value);
  const Value* object = find(node.targets[0]);
  if (object == nullptr || object->names() == nullptr) {
    raise("line {}: '{}' is not a namespace; only those take new members", node.line, node.targets[0]);
  }
  for (auto& [n, v] : object->names()->members) {
    if (n == node.member) {
      v = std::move(value);
      return;
    }
  }
  object->names()->members.emplace_back(node.member, std::move(value));
}

Args Interpreter::evaluate_args(const Expr& e) {
  Args args;
  for (const ExprPtr& a : e.args) args.positional.push_back(evaluate(*a));
  for (const auto& [name, a] : e.named) args.named.emplace_back(name, evaluate(*a));
  return args;
}

Value Interpreter::evaluate(const Expr& e) {
  const Deeper deeper(*this);
  switch (e.type) {
    case ExprType::kLiteral:
      return e.literal;
    case ExprType::kName: {
      if (const Value* v = find(e.name)) return *v;
      static const std::vector<std::string> kFunctions = {"range", "namespace", "dict", "raise_exception",
                                                          "strftime_now"};
      if (std::find(kFunctions.begin(), kFunctions.end(), e.name) != kFunctions.end()) {
        return Value(Value::Rep(std::make_shared<const Callable>(Callable{e.name, nullptr, {}, false})));
      }
      return Value::undefined(e.name);
    }
    case ExprType::kList:
    case ExprType::kTuple: {
      std::vector<Value> items;
      for (const ExprPtr& p : e.parts) items.push_back(evaluate(*p));
      return made_list(std::move(items), e.type == ExprType::kTuple);
    }
    case ExprType::kDict: {
      std::vector<std::pair<Value, Value>> items;
      for (std::size_t i = 0; i < e.parts.size(); i += 2) {
        Value key = evaluate(*e.parts[i]), value = evaluate(*e.parts[i + 1]);
        const auto same =
            std::find_if(items.begin(), items.end(), [&](const auto& p) { return equal(p.first, key); });
        spend(1 + items.size() / 8);
        if (same != items.end()) {
          same->second = std::move(value);
        } else {
          items.emplace_back(std::move(key), std::move(value));
        }
      }
      return Value::dict(std::move(items));
    }
    case ExprType::kAttribute:
      return attribute(evaluate(*e.parts[0]), e.name);
    case ExprType::kItem: {
      const Value object = evaluate(*e.parts[0]);
      return item(object, evaluate(*e.parts[1]));
    }
    case ExprType::kSlice: {
      const Value object = evaluate(*e.parts[0]);
      Value values[3];
      const Value* parts[3] = {};
      for (std::size_t i = 0; i < 3; ++i) {
        if (!e.parts[i + 1]) continue;
        values[i] = evaluate(*e.parts[i + 1]);
        if (!values[i].is_none()) parts[i] = &values[i];
      }
      return slice(object, parts);
    }
    case ExprType::kCall:
      return evaluate_call(e);
    case ExprType::kFilter: {
      const Value input = evaluate(*e.parts[0]);
      return filter(e.name, input, evaluate_args(e));
    }
    case ExprType::kTest: {
      const Value input = evaluate(*e.parts[0]);
      return Value::boolean(test(e.name, input, evaluate_args(e)) != e.negated);
    }
    case ExprType::kUnary: {
      const Value v = evaluate(*e.parts[0]);
      if (e.name == "not") return Value::boolean(!v.truth());
      if (!v.is_number()) raise("line {}: a bad operand for unary {}: '{}'", e.line, e.name, v.type_name());
      if (v.is_float()) return Value::real(e.name == "-" ? -v.as_real() : v.as_real(), v.trusted);
      if (e.name == "-" && v.as_int() == INT64_MIN) raise("line {}: integer overflow", e.line);
      return Value::integer(e.name == "-" ? -v.as_int() : v.as_int(), v.trusted);
    }
    case ExprType::kBinary:
      return evaluate_binary(e);
    case ExprType::kCompare:
      return evaluate_compare(e);
    case ExprType::kCondition:
      if (evaluate(*e.parts[0]).truth()) return evaluate(*e.parts[1]);
      return e.parts[2] ? evaluate(*e.parts[2]) : Value::undefined("an inline if without an else");
  }
  return {};
}

Value Interpreter::evaluate_binary(const Expr& e) {
  Value left = evaluate(*e.parts[0]);
  if (e.name == "and") return left.truth() ? evaluate(*e.parts[1]) : left;
  if (e.name == "or") return left.truth() ? left : evaluate(*e.parts[1]);
  return binary(e.name, left, evaluate(*e.parts[1]));
}

Value Interpreter::evaluate_compare(const Expr& e) {
  Value left = evaluate(*e.parts[0]);
  for (std::size_t i = 0; i < e.names.size(); ++i) {
    Value right = evaluate(*e.parts[i + 1]);
    const std::string& op = e.names[i];
    for (const Value* v : {&left, &right}) {
      if (v->str()) spend(v->str()->size() / 4096);
      if (v->list()) spend(v->list()->items.size());
    }
    bool holds = false;
    if (op == "==") {
      holds = equal(left, right);
    } else if (op == "!=") {
      holds = !equal(left, right);
    } else if (op == "in" || op == "not in") {
      holds = contains(right, left) == (op == "in");
    } else {
      const int order = compare(left, right);
      holds = op == "<" ? order < 0 : op == "<=" ? order <= 0 : op == ">" ? order > 0 : order >= 0;
    }
    if (!holds) return Value::boolean(false);
    left = std::move(right);
  }
  return Value::boolean(true);
}

Value Interpreter::evaluate_call(const Expr& e) {
  const Value callee = evaluate(*e.parts[0]);
  if (callee.callable() == nullptr) {
    if (callee.is_undefined())
      raise("line {}: '{}' is undefined", e.line, std::get<Undefined>(callee.rep).name);
    raise("line {}: a '{}' cannot be called", e.line, callee.type_name());
  }
  return call(callee, evaluate_args(e));
}

Value Interpreter::call(const Value& callee, Args args) {
  const Callable& c = *callee.callable();
  if (c.macro != nullptr) return call_macro(*c.macro, args);
  if (c.method) return call_method(c.self, c.name, args);
  return call_function(c.name, args);
}

Value Interpreter::call_macro(const MacroNode& macro, const Args& args) {
  const Deeper deeper(*this);
  if (args.positional.size() > macro.parameters.size()) {
    raise("macro '{}' takes {} arguments, not {}", macro.name, macro.parameters.size(),
          args.positional.size());
  }
  for (const auto& [name, value] : args.named) {
    const bool known = std::any_of(macro.parameters.begin(), macro.parameters.end(),
                                   [&n = name](const auto& p) { return p.first == n; });
    if (!known) raise("macro '{}' has no parameter '{}'", macro.name, name);
  }
  const std::size_t outer_visible = std::exchange(visible_from_, frames_.size());
  frames_.emplace_back();
  for (std::size_t i = 0; i < macro.parameters.size(); ++i) {
    const auto& [name, otherwise] = macro.parameters[i];
    const Value* given = args.get(i, name);
    Value value = given ? *given : otherwise ? evaluate(*otherwise) : Value::undefined(name);
    assign(name, std::move(value));
  }
  Str text = captured(macro.body);
  frames_.pop_back();
  visible_from_ = outer_visible;
  return Value(std::move(text));
}

}  // namespace trireme::text::jinja
