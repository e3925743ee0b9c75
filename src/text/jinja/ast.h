// The parsed form of a template. Nodes own their parts; depth is bounded by the parser.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "text/jinja/value.h"

namespace trireme::text::jinja {

struct Expr;
using ExprPtr = std::unique_ptr<Expr>;

enum class ExprType {
  kLiteral,
  kName,
  kList,
  kTuple,
  kDict,       // dict: keys and values alternate in `parts`
  kAttribute,  // parts[0].name
  kItem,       // parts[0][parts[1]]
  kSlice,      // parts[0][parts[1]:parts[2]:parts[3]]; a part may be null
  kCall,       // parts[0](...)
  kFilter,     // parts[0] | name(...)
  kTest,       // parts[0] is name(...); negated: is not
  kUnary,      // name: - + not
  kBinary,     // name: + - * / // % ** ~ and or
  kCompare,    // parts[0] names[0] parts[1] names[1] ...
  kCondition,  // parts[1] if parts[0] else parts[2]; parts[2] may be null
};

struct Expr {
  ExprType type;
  int line = 0;
  int depth = 1;
  std::string name;
  Value literal;
  std::vector<ExprPtr> parts;
  std::vector<std::string> names;  // of kCompare
  std::vector<ExprPtr> args;
  std::vector<std::pair<std::string, ExprPtr>> named;
  bool negated = false;
};

struct Node;
using NodePtr = std::unique_ptr<Node>;
using Body = std::vector<NodePtr>;

enum class NodeType { kText, kOutput, kIf, kFor, kSet, kBlockSet, kMacro, kBreak, kContinue, kScope };

struct Node {
  NodeType type;
  int line = 0;
  virtual ~Node() = default;
  explicit Node(NodeType t, int l) : type(t), line(l) {}
};
struct TextNode : Node {
  using Node::Node;
  std::string text;
};
struct OutputNode : Node {
  using Node::Node;
  ExprPtr value;
};
struct IfNode : Node {
  using Node::Node;
  std::vector<std::pair<ExprPtr, Body>> branches;  // a null condition: else
};
struct ForNode : Node {
  using Node::Node;
  std::vector<std::string> targets;
  ExprPtr items, condition;
  Body body, otherwise;
};
// targets of one name, or several that unpack; or object.member.
struct SetNode : Node {
  using Node::Node;
  std::vector<std::string> targets;
  std::string member;
  ExprPtr value;                 // kSet
  Body body;                     // kBlockSet
  std::vector<ExprPtr> filters;  // kBlockSet: kFilter nodes without an input
};
struct MacroNode : Node {
  using Node::Node;
  std::string name;
  std::vector<std::pair<std::string, ExprPtr>> parameters;  // null: no default
  Body body;
};
// A body with names of its own: with, generation.
struct ScopeNode : Node {
  using Node::Node;
  std::vector<std::pair<std::string, ExprPtr>> names;
  Body body;
};

// Raises TemplateError.
Body parse_template(std::string_view source);

}  // namespace trireme::text::jinja
