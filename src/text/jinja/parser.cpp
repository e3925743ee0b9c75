#include <algorithm>
#include <charconv>

#include "text/jinja/ast.h"
#include "text/jinja/lexer.h"

namespace trireme::text::jinja {
namespace {

constexpr int kMaxDepth = 120;    // of an expression's tree; bounds every recursion over it
constexpr int kMaxNesting = 400;  // of the parser's own calls, four or so a bracket

class Parser {
 public:
  explicit Parser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  Body run() {
    Body body = parse_body({});
    if (peek().type != TokenType::kEnd) raise("line {}: unexpected '{}'", line(), ending_);
    return body;
  }

 private:
  const Token& peek(std::size_t ahead = 0) const {
    return tokens_[std::min(at_ + ahead, tokens_.size() - 1)];
  }
  int line() const { return peek().line; }
  Token take() { return tokens_[at_ < tokens_.size() - 1 ? at_++ : at_]; }
  bool is_op(std::string_view op, std::size_t ahead = 0) const {
    return peek(ahead).type == TokenType::kOperator && peek(ahead).text == op;
  }
  bool is_name(std::string_view name, std::size_t ahead = 0) const {
    return peek(ahead).type == TokenType::kName && peek(ahead).text == name;
  }
  bool skip_op(std::string_view op) { return is_op(op) && (++at_, true); }
  bool skip_name(std::string_view name) { return is_name(name) && (++at_, true); }
  void expect_op(std::string_view op) {
    if (!skip_op(op)) raise("line {}: expected '{}', found '{}'", line(), op, peek().text);
  }
  std::string expect_name() {
    if (peek().type != TokenType::kName) raise("line {}: expected a name, found '{}'", line(), peek().text);
    return take().text;
  }
  void expect_block_end() {
    if (peek().type != TokenType::kBlockEnd)
      raise("line {}: expected the end of the tag, found '{}'", line(), peek().text);
    ++at_;
  }

  // Recursion of the parser itself.
  struct Nested {
    explicit Nested(Parser& p) : parser(p) {
      if (++parser.nesting_ > kMaxNesting) raise("line {}: nested too deeply", parser.line());
    }
    ~Nested() { --parser.nesting_; }
    Nested(const Nested&) = delete;
    Nested& operator=(const Nested&) = delete;
    Parser& parser;
  };

  ExprPtr make(ExprType type, std::vector<ExprPtr> parts = {}, std::string name = {}) {
    auto e = std::make_unique<Expr>();
    e->type = type;
    e->line = line();
    e->name = std::move(name);
    e->parts = std::move(parts);
    return seal(std::move(e));
  }
  // A chain like a.b.c needs no recursion to parse, but one to evaluate.
  ExprPtr seal(ExprPtr e) {
    int deepest = 0;
    for (const auto& p : e->parts) deepest = std::max(deepest, p ? p->depth : 0);
    for (const auto& p : e->args) deepest = std::max(deepest, p->depth);
    for (const auto& [n, p] : e->named) deepest = std::max(deepest, p->depth);
    e->depth = deepest + 1;
    if (e->depth > kMaxDepth)
      raise("line {}: an expression nested deeper than {} levels", e->line, kMaxDepth);
    return e;
  }
  ExprPtr make1(ExprType type, ExprPtr a, std::string name = {}) {
    std::vector<ExprPtr> parts;
    parts.push_back(std::move(a));
    return make(type, std::move(parts), std::move(name));
  }
  ExprPtr make2(ExprType type, ExprPtr a, ExprPtr b, std::string name = {}) {
    std::vector<ExprPtr> parts;
    parts.push_back(std::move(a));
    parts.push_back(std::move(b));
    return make(type, std::move(parts), std::move(name));
  }

  // --- statements

  // Until a tag whose name is in `ends`: that tag's name is consumed, into ending_.
  Body parse_body(const std::vector<std::string_view>& ends) {
    const Nested nested(*this);
    Body body;
    while (true) {
      const Token& t = peek();
      if (t.type == TokenType::kEnd) {
        if (!ends.empty()) raise("line {}: the template ends before '{}'", t.line, ends.back());
        return body;
      }
      if (t.type == TokenType::kText) {
        auto node = std::make_unique<TextNode>(NodeType::kText, t.line);
        node->text = take().text;
        body.push_back(std::move(node));
      } else if (t.type == TokenType::kOutputBegin) {
        auto node = std::make_unique<OutputNode>(NodeType::kOutput, take().line);
        node->value = parse_tuple();
        if (peek().type != TokenType::kOutputEnd)
          raise("line {}: expected '}}}}', found '{}'", line(), peek().text);
        ++at_;
        body.push_back(std::move(node));
      } else if (t.type == TokenType::kBlockBegin) {
        ++at_;
        ending_ = expect_name();
        if (std::find(ends.begin(), ends.end(), ending_) != ends.end()) return body;
        body.push_back(parse_statement(ending_));
      } else {
        raise("line {}: unexpected '{}'", t.line, t.text);
      }
    }
  }

  NodePtr parse_statement(const std::string& name) {
    if (name == "if") return parse_if();
    if (name == "for") return parse_for();
    if (name == "set") return parse_set();
    if (name == "macro") return parse_macro();
    if (name == "with") return parse_with();
    if (name == "generation") {
      auto node = std::make_unique<ScopeNode>(NodeType::kScope, line());
      expect_block_end();
      node->body = parse_body({"endgeneration"});
      expect_block_end();
      return node;
    }
    if (name == "break" || name == "continue") {
      if (loops_ == 0) raise("line {}: '{}' outside of a loop", line(), name);
      auto node = std::make_unique<Node>(name == "break" ? NodeType::kBreak : NodeType::kContinue, line());
      expect_block_end();
      return node;
    }
    raise("line {}: the tag '{}' is not supported", line(), name);
  }

  NodePtr parse_if() {
    auto node = std::make_unique<IfNode>(NodeType::kIf, line());
    ExprPtr condition = parse_tuple();
    while (true) {
      expect_block_end();
      const bool last = condition == nullptr;
      Body body = last ? parse_body({"endif"}) : parse_body({"elif", "else", "endif"});
      node->branches.emplace_back(std::move(condition), std::move(body));
      if (ending_ == "endif") break;
      condition = ending_ == "elif" ? parse_tuple() : nullptr;
    }
    expect_block_end();
    return node;
  }

  std::vector<std::string> parse_targets() {
    std::vector<std::string> targets;
    const bool bracket = skip_op("(");
    do {
      if (!targets.empty() && peek().type != TokenType::kName) break;  // a trailing comma
      targets.push_back(expect_name());
    } while (skip_op(","));
    if (bracket) expect_op(")");
    return targets;
  }

  NodePtr parse_for() {
    auto node = std::make_unique<ForNode>(NodeType::kFor, line());
    node->targets = parse_targets();
    if (!skip_name("in")) raise("line {}: expected 'in'", line());
    node->items = parse_tuple(false);
    if (skip_name("if")) node->condition = parse_expression();
    if (is_name("recursive")) raise("line {}: recursive loops are not supported", line());
    expect_block_end();
    ++loops_;
    node->body = parse_body({"else", "endfor"});
    --loops_;
    if (ending_ == "else") {
      expect_block_end();
      node->otherwise = parse_body({"endfor"});
    }
    expect_block_end();
    return node;
  }

  NodePtr parse_set() {
    auto node = std::make_unique<SetNode>(NodeType::kSet, line());
    if (peek().type == TokenType::kName && is_op(".", 1)) {
      node->targets.push_back(take().text);
      ++at_;
      node->member = expect_name();
    } else {
      node->targets = parse_targets();
    }
    if (skip_op("=")) {
      node->value = parse_tuple();
      expect_block_end();
      return node;
    }
    node->type = NodeType::kBlockSet;
    while (skip_op("|")) node->filters.push_back(parse_filter(nullptr));
    expect_block_end();
    node->body = parse_body({"endset"});
    expect_block_end();
    return node;
  }

  NodePtr parse_macro() {
    auto node = std::make_unique<MacroNode>(NodeType::kMacro, line());
    node->name = expect_name();
    expect_op("(");
    while (!skip_op(")")) {
      std::string parameter = expect_name();
      ExprPtr otherwise;
      if (skip_op("=")) otherwise = parse_expression();
      node->parameters.emplace_back(std::move(parameter), std::move(otherwise));
      if (!is_op(")")) expect_op(",");
    }
    expect_block_end();
    const int outer_loops = std::exchange(loops_, 0);
    node->body = parse_body({"endmacro"});
    loops_ = outer_loops;
    skip_name(node->name);
    expect_block_end();
    return node;
  }

  NodePtr parse_with() {
    auto node = std::make_unique<ScopeNode>(NodeType::kScope, line());
    while (peek().type == TokenType::kName) {
      std::string name = take().text;
      expect_op("=");
      node->names.emplace_back(std::move(name), parse_expression());
      if (!skip_op(",")) break;
    }
    expect_block_end();
    node->body = parse_body({"endwith"});
    expect_block_end();
    return node;
  }

  // --- expressions, from the loosest binding to the tightest

  bool at_tuple_end() const {
    const TokenType t = peek().type;
    return t == TokenType::kBlockEnd || t == TokenType::kOutputEnd || is_op(")") || is_name("in");
  }

  ExprPtr parse_tuple(bool with_condition = true) {
    const Nested nested(*this);
    const auto item = [&] { return with_condition ? parse_expression() : parse_or(); };
    ExprPtr first = item();
    if (!is_op(",")) return first;
    std::vector<ExprPtr> items;
    items.push_back(std::move(first));
    while (skip_op(",")) {
      if (at_tuple_end()) break;
      items.push_back(item());
    }
    return make(ExprType::kTuple, std::move(items));
  }

  ExprPtr parse_expression() {
    const Nested nested(*this);
    ExprPtr value = parse_or();
    while (skip_name("if")) {
      std::vector<ExprPtr> parts;
      parts.push_back(parse_or());
      parts.push_back(std::move(value));
      parts.push_back(skip_name("else") ? parse_expression() : nullptr);
      value = make(ExprType::kCondition, std::move(parts));
    }
    return value;
  }

  ExprPtr parse_or() {
    ExprPtr left = parse_and();
    while (skip_name("or")) left = make2(ExprType::kBinary, std::move(left), parse_and(), "or");
    return left;
  }
  ExprPtr parse_and() {
    ExprPtr left = parse_not();
    while (skip_name("and")) left = make2(ExprType::kBinary, std::move(left), parse_not(), "and");
    return left;
  }
  ExprPtr parse_not() {
    if (!is_name("not")) return parse_compare();
    const Nested nested(*this);
    ++at_;
    return make1(ExprType::kUnary, parse_not(), "not");
  }

  ExprPtr parse_compare() {
    ExprPtr first = parse_sum();
    std::vector<ExprPtr> parts;
    std::vector<std::string> names;
    while (true) {
      std::string op;
      for (const std::string_view candidate : {"==", "!=", "<", "<=", ">", ">="}) {
        if (is_op(candidate)) op = candidate;
      }
      if (is_name("in")) op = "in";
      if (!op.empty()) {
        ++at_;
      } else if (is_name("not") && is_name("in", 1)) {
        op = "not in";
        at_ += 2;
      } else {
        break;
      }
      names.push_back(op);
      parts.push_back(parse_sum());
    }
    if (names.empty()) return first;
    parts.insert(parts.begin(), std::move(first));
    ExprPtr e = make(ExprType::kCompare, std::move(parts));
    e->names = std::move(names);
    return e;
  }

  ExprPtr parse_sum() {
    ExprPtr left = parse_concat();
    while (is_op("+") || is_op("-")) {
      const std::string op = take().text;
      left = make2(ExprType::kBinary, std::move(left), parse_concat(), op);
    }
    return left;
  }
  ExprPtr parse_concat() {
    ExprPtr left = parse_product();
    while (skip_op("~")) left = make2(ExprType::kBinary, std::move(left), parse_product(), "~");
    return left;
  }
  ExprPtr parse_product() {
    ExprPtr left = parse_power();
    while (is_op("*") || is_op("/") || is_op("//") || is_op("%")) {
      const std::string op = take().text;
      left = make2(ExprType::kBinary, std::move(left), parse_power(), op);
    }
    return left;
  }
  ExprPtr parse_power() {
    ExprPtr left = parse_unary();
    while (skip_op("**")) left = make2(ExprType::kBinary, std::move(left), parse_unary(), "**");
    return left;
  }

  ExprPtr parse_unary(bool with_filters = true) {
    const Nested nested(*this);
    ExprPtr e;
    if (is_op("-") || is_op("+")) {
      const std::string op = take().text;
      e = make1(ExprType::kUnary, parse_unary(false), op);
    } else {
      e = parse_primary();
    }
    e = parse_postfix(std::move(e));
    return with_filters ? parse_filters(std::move(e)) : std::move(e);
  }

  ExprPtr literal(Value v) {
    ExprPtr e = make(ExprType::kLiteral);
    e->literal = std::move(v);
    return e;
  }

  ExprPtr parse_primary() {
    const Nested nested(*this);
    const Token t = take();
    switch (t.type) {
      case TokenType::kName:
        if (t.text == "true" || t.text == "True") return literal(Value::boolean(true));
        if (t.text == "false" || t.text == "False") return literal(Value::boolean(false));
        if (t.text == "none" || t.text == "None") return literal(Value::none());
        return make(ExprType::kName, {}, t.text);
      case TokenType::kString: {
        std::string text = t.text;
        while (peek().type == TokenType::kString) text += take().text;
        return literal(Value::text(text));
      }
      case TokenType::kInteger: {
        i64 value = 0;
        const auto end = std::from_chars(t.text.data(), t.text.data() + t.text.size(), value);
        if (end.ec != std::errc()) raise("line {}: the number {} is too large", t.line, t.text);
        return literal(Value::integer(value));
      }
      case TokenType::kFloat: {
        double value = 0;
        std::from_chars(t.text.data(), t.text.data() + t.text.size(), value);
        return literal(Value::real(value));
      }
      case TokenType::kOperator:
        if (t.text == "(") {
          if (skip_op(")")) return make(ExprType::kTuple);
          ExprPtr inner = parse_tuple();
          expect_op(")");
          return inner;
        }
        if (t.text == "[") return make(ExprType::kList, parse_items("]"));
        if (t.text == "{") return parse_dict();
        break;
      default:
        break;
    }
    raise("line {}: unexpected '{}'", t.line, t.text);
  }

  std::vector<ExprPtr> parse_items(std::string_view close) {
    std::vector<ExprPtr> items;
    while (!skip_op(close)) {
      items.push_back(parse_expression());
      if (!is_op(close)) expect_op(",");
    }
    return items;
  }
  ExprPtr parse_dict() {
    std::vector<ExprPtr> parts;
    while (!skip_op("}")) {
      parts.push_back(parse_expression());
      expect_op(":");
      parts.push_back(parse_expression());
      if (!is_op("}")) expect_op(",");
    }
    return make(ExprType::kDict, std::move(parts));
  }

  ExprPtr parse_postfix(ExprPtr e) {
    while (true) {
      if (skip_op(".")) {
        if (peek().type == TokenType::kInteger) {
          ExprPtr index = parse_primary();
          e = make2(ExprType::kItem, std::move(e), std::move(index));
        } else {
          e = make1(ExprType::kAttribute, std::move(e), expect_name());
        }
      } else if (skip_op("[")) {
        e = parse_subscript(std::move(e));
      } else if (is_op("(")) {
        e = parse_call(std::move(e));
      } else {
        return e;
      }
    }
  }

  ExprPtr parse_subscript(ExprPtr object) {
    std::vector<ExprPtr> parts;
    parts.push_back(std::move(object));
    bool slice = false;
    ExprPtr part;
    while (!skip_op("]")) {
      if (skip_op(":")) {
        slice = true;
        parts.push_back(std::move(part));
        part = nullptr;
      } else if (part) {
        raise("line {}: expected ']', found '{}'", line(), peek().text);
      } else {
        part = parse_expression();
      }
    }
    parts.push_back(std::move(part));
    if (!slice) {
      if (!parts[1]) raise("line {}: an index is missing", line());
      return make(ExprType::kItem, std::move(parts));
    }
    if (parts.size() > 4) raise("line {}: a slice has at most three parts", line());
    parts.resize(4);
    return make(ExprType::kSlice, std::move(parts));
  }

  void parse_arguments(Expr& e) {
    expect_op("(");
    while (!skip_op(")")) {
      if (is_op("*") || is_op("**")) raise("line {}: '*' arguments are not supported", line());
      if (peek().type == TokenType::kName && is_op("=", 1)) {
        std::string name = take().text;
        ++at_;
        e.named.emplace_back(std::move(name), parse_expression());
      } else {
        if (!e.named.empty()) raise("line {}: an argument without a name behind one with a name", line());
        e.args.push_back(parse_expression());
      }
      if (!is_op(")")) expect_op(",");
    }
  }
  ExprPtr parse_call(ExprPtr callee) {
    ExprPtr e = make1(ExprType::kCall, std::move(callee));
    parse_arguments(*e);
    return seal(std::move(e));
  }

  ExprPtr parse_filters(ExprPtr e) {
    while (true) {
      if (skip_op("|")) {
        e = parse_filter(std::move(e));
      } else if (is_name("is")) {
        e = parse_test(std::move(e));
      } else if (is_op("(")) {
        e = parse_call(std::move(e));
      } else {
        return e;
      }
    }
  }
  ExprPtr parse_filter(ExprPtr input) {
    std::string name = expect_name();
    while (skip_op(".")) name += "." + expect_name();
    ExprPtr e = make1(ExprType::kFilter, std::move(input), std::move(name));
    if (is_op("(")) parse_arguments(*e);
    return seal(std::move(e));
  }
  ExprPtr parse_test(ExprPtr input) {
    ++at_;
    const bool negated = skip_name("not");
    std::string name = expect_name();
    ExprPtr e = make1(ExprType::kTest, std::move(input), std::move(name));
    e->negated = negated;
    const TokenType next = peek().type;
    const bool word = next == TokenType::kName && !is_name("else") && !is_name("or") && !is_name("and") &&
                      !is_name("is") && !is_name("if") && !is_name("in") && !is_name("not");
    if (is_op("(")) {
      parse_arguments(*e);
    } else if (word || next == TokenType::kString || next == TokenType::kInteger ||
               next == TokenType::kFloat || is_op("[") || is_op("{")) {
      e->args.push_back(parse_postfix(parse_primary()));
    }
    return seal(std::move(e));
  }

  std::vector<Token> tokens_;
  std::size_t at_ = 0;
  int nesting_ = 0;
  int loops_ = 0;
  std::string ending_;
};

}  // namespace

Body parse_template(std::string_view source) { return Parser(lex(source)).run(); }

}  // namespace trireme::text::jinja
