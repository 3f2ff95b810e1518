#include "msadb/filter.h"

#include <algorithm>
#include <cmath>
#include <compare>
#include <cstdint>
#include <new>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>
#include <variant>
#include <vector>

#include "msadb/transfer.h"

namespace msadb {
namespace {

using Json = nlohmann::ordered_json;

// What a filter compares a field with: a metadata value that is not a list.
using Scalar = std::variant<std::string, int64_t, double, bool>;
using ScalarView = std::variant<std::string_view, int64_t, double, bool>;

ScalarView View(const Scalar& scalar) {
  return std::visit([](const auto& value) { return ScalarView(value); }, scalar);
}

// Exact, although neither type can hold all values of the other.
std::partial_ordering CompareNumbers(int64_t a, double b) {
  if (std::isnan(b)) return std::partial_ordering::unordered;
  // Both bounds are powers of two, so exact as doubles.
  if (b >= 0x1p63) return std::partial_ordering::less;
  if (b < -0x1p63) return std::partial_ordering::greater;
  const auto whole = static_cast<int64_t>(b);  // toward zero
  if (a != whole) return a <=> whole;
  return 0.0 <=> b - static_cast<double>(whole);
}

std::partial_ordering Reverse(std::partial_ordering order) { return 0 <=> order; }

// Unordered when the types differ (numbers are one type).
std::partial_ordering Compare(const ScalarView& a, const ScalarView& b) {
  const auto* a_int = std::get_if<int64_t>(&a);
  const auto* b_int = std::get_if<int64_t>(&b);
  const auto* a_double = std::get_if<double>(&a);
  const auto* b_double = std::get_if<double>(&b);
  if (a_int && b_double) return CompareNumbers(*a_int, *b_double);
  if (a_double && b_int) return Reverse(CompareNumbers(*b_int, *a_double));
  if (a.index() != b.index()) return std::partial_ordering::unordered;
  if (a_int) return *a_int <=> *b_int;
  if (a_double) return *a_double <=> *b_double;
  if (const auto* text = std::get_if<std::string_view>(&a)) {
    return text->compare(std::get<std::string_view>(b)) <=> 0;
  }
  return std::get<bool>(a) <=> std::get<bool>(b);
}

// A total order over the values of an $in list, which are never NaN: by type, then by value.
bool SortsBefore(const ScalarView& a, const ScalarView& b) {
  const auto type = [](const ScalarView& s) {
    return std::holds_alternative<std::string_view>(s) ? 0
           : std::holds_alternative<bool>(s)           ? 1
                                                       : 2;
  };
  if (type(a) != type(b)) return type(a) < type(b);
  return Compare(a, b) < 0;
}

// What a condition looks at.
enum class Field { kMetadata, kWrittenBy, kSource, kCreatedAt };

Field FieldOf(std::string_view name) {
  if (name == "$written_by") return Field::kWrittenBy;
  if (name == "$source") return Field::kSource;
  if (name == "$created_at") return Field::kCreatedAt;
  return Field::kMetadata;
}

// Times are compared as microseconds since 1970.
int64_t Micros(TimePoint time) { return time.time_since_epoch().count(); }

enum class Operator { kEq, kGt, kGte, kLt, kLte, kIn, kContains, kExists };

// `text` as it may stand in an error message.
std::string Quoted(std::string_view text) {
  constexpr size_t kShown = 60;
  std::string quoted = "\"";
  for (const char c : text.substr(0, kShown)) {
    quoted += static_cast<unsigned char>(c) < 0x20 || c == 0x7F ? '?' : c;
  }
  // Not to end within a character.
  while (text.size() > kShown && (static_cast<unsigned char>(quoted.back()) & 0xC0) == 0x80) {
    quoted.pop_back();
  }
  if (text.size() > kShown) {
    if (static_cast<unsigned char>(quoted.back()) >= 0xC0) quoted.pop_back();
    quoted += "...";
  }
  return quoted + "\"";
}

// Where a value stands in the JSON text: a chain of names and array positions, on the stack.
struct Path {
  const Path* parent = nullptr;
  std::string_view name;
  size_t position = 0;

  std::string ToString() const {
    if (parent == nullptr) return "";
    std::string step = name.data() == nullptr ? std::to_string(position) : Quoted(name);
    if (name.data() != nullptr) {
      step = step.substr(1, step.size() - 2);
      for (size_t i = 0; i < step.size(); ++i) {
        if (step[i] == '~') step.replace(i++, 1, "~0");
        if (step[i] == '/') step.replace(i++, 1, "~1");
      }
    }
    return parent->ToString() + "/" + step;
  }
};

Status Wrong(const Path& path, std::string_view problem) {
  const std::string at = path.ToString();
  return Status::InvalidArgument("filter" + (at.empty() ? "" : " at " + at) + ": " +
                                 std::string(problem));
}

// Builds the JSON tree under the limits. What nlohmann's own builder would let pass is refused: a
// name twice in one object, whole numbers beyond 64 bits.
class TreeBuilder : public nlohmann::json_sax<Json> {
 public:
  bool null() override { return Add(nullptr); }
  bool boolean(bool value) override { return Add(value); }
  bool number_integer(number_integer_t value) override { return Add(value); }
  bool number_unsigned(number_unsigned_t value) override {
    if (value > INT64_MAX) return Fail(kTooLarge);
    return Add(static_cast<int64_t>(value));
  }
  bool number_float(number_float_t value, const string_t& text) override {
    if (text.find_first_of(".eE") == std::string::npos) return Fail(kTooLarge);
    return Add(value);
  }
  bool string(string_t& value) override { return Add(std::move(value)); }
  bool binary(binary_t&) override { return Fail("binary values are not JSON"); }
  bool start_object(std::size_t) override { return Open(Json::object()); }
  bool start_array(std::size_t) override { return Open(Json::array()); }
  bool end_object() override { return Close(); }
  bool end_array() override { return Close(); }
  bool key(string_t& name) override {
    if (open_.back()->size() == kMembersMax) {
      return Fail("an object with more than " + std::to_string(kMembersMax) + " names; use $and");
    }
    if (open_.back()->contains(name)) {
      return Fail("the name " + Quoted(name) +
                  " stands twice in one object; put the conditions together, or use $and");
    }
    name_ = std::move(name);
    return true;
  }
  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::json::exception&) override {
    return Fail("not valid JSON near byte " + std::to_string(position) +
                "; write it like {\"topic\": \"garden\"}");
  }

  Json& root() { return root_; }
  const std::string& error() const { return error_; }

 private:
  static constexpr size_t kMembersMax = 1000;  // names are looked up one by one
  static constexpr const char* kTooLarge =
      "a whole number is beyond 64 bits; write it with a decimal point if rounding is fine";

  bool Fail(std::string message) {
    if (error_.empty()) error_ = std::move(message);
    return false;
  }
  bool Add(Json value) { return Put(std::move(value)) != nullptr; }
  Json* Put(Json value) {
    if (++values_ > Filter::kValuesMax) {
      Fail("more than " + std::to_string(Filter::kValuesMax) + " values; ask in several filters");
      return nullptr;
    }
    if (open_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    if (open_.back()->is_array()) {
      open_.back()->push_back(std::move(value));
      return &open_.back()->back();
    }
    return &((*open_.back())[name_] = std::move(value));
  }
  bool Open(Json container) {
    if (open_.size() == Filter::kDepthMax) {
      return Fail("nested deeper than " + std::to_string(Filter::kDepthMax) + "; make it flatter");
    }
    // The address stays: a container grows only while it is the innermost open one.
    Json* added = Put(std::move(container));
    if (added != nullptr) open_.push_back(added);
    return added != nullptr;
  }
  bool Close() {
    open_.pop_back();
    return true;
  }

  Json root_;
  std::vector<Json*> open_;
  std::string name_;  // of the next value of the innermost object
  size_t values_ = 0;
  std::string error_;
};

}  // namespace

// One condition, or a combination of conditions.
struct Filter::Node {
  enum class Kind { kAnd, kOr, kNot, kField };
  Kind kind = Kind::kAnd;
  std::vector<Node> children;  // kAnd, kOr: any number; kNot: one

  // kField: a condition on `field`; of the metadata, the one of this name.
  Field field = Field::kMetadata;
  std::string name;
  Operator op = Operator::kEq;
  std::vector<Scalar> operands;                  // kIn: sorted; kExists: none; else one
  std::optional<std::vector<std::string>> list;  // kEq with a whole list, instead of operands

  bool Matches(const Metadata& metadata, const Provenance& provenance) const {
    const auto holds = [&](const Node& child) { return child.Matches(metadata, provenance); };
    switch (kind) {
      case Kind::kAnd:
        return std::all_of(children.begin(), children.end(), holds);
      case Kind::kOr:
        return std::any_of(children.begin(), children.end(), holds);
      case Kind::kNot:
        return !holds(children.front());
      case Kind::kField:
        break;
    }
    switch (field) {
      case Field::kWrittenBy:
        return MatchesValue(provenance.written_by);
      case Field::kSource:
        return MatchesValue(provenance.source);
      case Field::kCreatedAt:
        return MatchesValue(Micros(provenance.created_at));
      case Field::kMetadata:
        break;
    }
    const auto at = metadata.find(name);
    if (at == metadata.end()) return false;
    if (op == Operator::kExists) return true;
    const auto* items = std::get_if<std::vector<std::string>>(&at->second);
    if (items != nullptr) {
      if (list) return *items == *list;
      return std::any_of(items->begin(), items->end(),
                         [&](const std::string& item) { return MatchesScalar(item); });
    }
    return std::visit(
        [&](const auto& value) {
          if constexpr (std::is_same_v<std::decay_t<decltype(value)>, std::vector<std::string>>) {
            return false;
          } else {
            return MatchesValue(value);
          }
        },
        at->second);
  }

  // A field that is there and holds no list.
  bool MatchesValue(const ScalarView& value) const {
    if (op == Operator::kExists) return true;
    if (list || op == Operator::kContains) return false;
    return MatchesScalar(value);
  }

  bool MatchesScalar(const ScalarView& value) const {
    const auto order = [&] { return Compare(value, View(operands.front())); };
    switch (op) {
      case Operator::kEq:
      case Operator::kContains:
        return order() == 0;
      case Operator::kGt:
        return order() > 0;
      case Operator::kGte:
        return order() >= 0;
      case Operator::kLt:
        return order() < 0;
      case Operator::kLte:
        return order() <= 0;
      case Operator::kIn: {
        const auto from = std::lower_bound(
            operands.begin(), operands.end(), value,
            [](const Scalar& a, const ScalarView& b) { return SortsBefore(View(a), b); });
        return from != operands.end() && Compare(View(*from), value) == 0;
      }
      case Operator::kExists:
        return true;
    }
    return false;
  }
};

// Turns the JSON tree into nodes. Depth is bounded by TreeBuilder, so recursion is.
class FilterCompiler {
 public:
  using Node = Filter::Node;

  static Result<Filter> Compile(const Json& json) {
    MSADB_ASSIGN_OR_RETURN(Node root, CompileFilter(json, Path{}));
    Filter filter;
    filter.root_ = std::make_shared<const Node>(std::move(root));
    filter.json_ = std::make_shared<const std::string>(json.dump());
    return filter;
  }

 private:
  static Node Not(Node child) {
    Node node;
    node.kind = Node::Kind::kNot;
    node.children.push_back(std::move(child));
    return node;
  }

  // A conjunction of one is that one.
  static Node And(std::vector<Node> children) {
    if (children.size() == 1) return std::move(children.front());
    Node node;
    node.children = std::move(children);
    return node;
  }

  static Result<Node> CompileFilter(const Json& json, const Path& path) {
    if (!json.is_object()) {
      return Wrong(path, "a filter must be an object, like {\"topic\": \"garden\"}");
    }
    std::vector<Node> children;
    for (const auto& [name, value] : json.items()) {
      const Path here{&path, name};
      if (name == "$and" || name == "$or") {
        MSADB_ASSIGN_OR_RETURN(Node node, CompileGroup(name, value, here));
        children.push_back(std::move(node));
      } else if (name == "$not") {
        MSADB_ASSIGN_OR_RETURN(Node node, CompileFilter(value, here));
        children.push_back(Not(std::move(node)));
      } else if (name.starts_with('$') && FieldOf(name) == Field::kMetadata) {
        return Wrong(here, Quoted(name) +
                               " cannot stand here: outside of a field there are $and, $or, $not "
                               "and the names $written_by, $source, $created_at; other operators "
                               "belong to a field, like {\"year\": {\"$gt\": "
                               "2000}}");
      } else if (name.empty()) {
        return Wrong(path, "a field name is empty; metadata names never are");
      } else {
        MSADB_ASSIGN_OR_RETURN(Node node, CompileField(name, value, here));
        children.push_back(std::move(node));
      }
    }
    return And(std::move(children));
  }

  static Result<Node> CompileGroup(std::string_view name, const Json& json, const Path& path) {
    if (!json.is_array() || json.empty()) {
      return Wrong(path, std::string(name) + " needs an array of one or more filters, like {\"" +
                             std::string(name) + "\": [{\"a\": 1}, {\"b\": 2}]}");
    }
    Node node;
    node.kind = name == "$and" ? Node::Kind::kAnd : Node::Kind::kOr;
    for (size_t i = 0; i < json.size(); ++i) {
      MSADB_ASSIGN_OR_RETURN(Node child, CompileFilter(json[i], Path{&path, {}, i}));
      node.children.push_back(std::move(child));
    }
    return node;
  }

  // A field's value is what it must equal, or an object of operators.
  static Result<Node> CompileField(const std::string& name, const Json& json, const Path& path) {
    if (!json.is_object()) return CompileOperator(name, "$eq", json, path);
    if (json.empty()) {
      return Wrong(path, "the object holds no operator; write a value or, say, {\"$gt\": 1}");
    }
    std::vector<Node> children;
    for (const auto& [op, operand] : json.items()) {
      const Path here{&path, op};
      MSADB_ASSIGN_OR_RETURN(Node node, CompileOperator(name, op, operand, here));
      children.push_back(std::move(node));
    }
    return And(std::move(children));
  }

  static Result<Node> CompileOperator(const std::string& name, std::string_view op,
                                      const Json& operand, const Path& path) {
    struct Known {
      std::string_view name;
      Operator op;
      bool negated;
    };
    static constexpr Known kKnown[] = {{"$eq", Operator::kEq, false},
                                       {"$ne", Operator::kEq, true},
                                       {"$gt", Operator::kGt, false},
                                       {"$gte", Operator::kGte, false},
                                       {"$lt", Operator::kLt, false},
                                       {"$lte", Operator::kLte, false},
                                       {"$in", Operator::kIn, false},
                                       {"$nin", Operator::kIn, true},
                                       {"$contains", Operator::kContains, false},
                                       {"$exists", Operator::kExists, false}};
    if (op == "$not") {
      if (!operand.is_object()) {
        return Wrong(path,
                     "$not of a field needs operators, like {\"$not\": {\"$gt\": 1}}; for "
                     "inequality use $ne");
      }
      MSADB_ASSIGN_OR_RETURN(Node node, CompileField(name, operand, path));
      return Not(std::move(node));
    }
    const auto known = std::find_if(std::begin(kKnown), std::end(kKnown),
                                    [&](const Known& k) { return k.name == op; });
    if (known == std::end(kKnown)) {
      if (!op.starts_with('$')) {
        return Wrong(path, "metadata is flat: a field's object holds operators, not the field " +
                               Quoted(op));
      }
      return Wrong(path, "unknown operator " + Quoted(op) +
                             "; there are $eq $ne $gt $gte $lt $lte $in $nin $contains $exists "
                             "$not");
    }
    Node node;
    node.kind = Node::Kind::kField;
    node.field = FieldOf(name);
    node.name = name;
    node.op = known->op;
    MSADB_RETURN_IF_ERROR(ReadOperand(op, operand, path, &node));
    if (node.field == Field::kCreatedAt) MSADB_RETURN_IF_ERROR(ReadTimes(path, &node));
    const bool negated = known->negated || (node.op == Operator::kExists && !operand.get<bool>());
    return negated ? Not(std::move(node)) : std::move(node);
  }

  static Status ReadOperand(std::string_view op, const Json& json, const Path& path, Node* node) {
    const std::string name(op);
    switch (node->op) {
      case Operator::kExists:
        if (!json.is_boolean()) return Wrong(path, "$exists needs true or false");
        return Status::Ok();
      case Operator::kIn:
        if (!json.is_array()) {
          return Wrong(path, name + " needs an array of values, like [\"de\", \"fr\"]");
        }
        for (size_t i = 0; i < json.size(); ++i) {
          MSADB_ASSIGN_OR_RETURN(Scalar value, ReadScalar(json[i], Path{&path, {}, i}));
          node->operands.push_back(std::move(value));
        }
        std::sort(node->operands.begin(), node->operands.end(),
                  [](const Scalar& a, const Scalar& b) { return SortsBefore(View(a), View(b)); });
        return Status::Ok();
      case Operator::kContains:
        if (!json.is_string()) {
          return Wrong(path, "$contains needs a string: lists in metadata hold strings");
        }
        break;
      case Operator::kEq:
        if (json.is_array()) return ReadList(json, path, node);
        break;
      default:
        if (!json.is_number() && !json.is_string()) {
          return Wrong(path, name + " needs a number or a string; only these have an order");
        }
    }
    MSADB_ASSIGN_OR_RETURN(Scalar value, ReadScalar(json, path));
    node->operands.push_back(std::move(value));
    return Status::Ok();
  }

  // What a time is compared with: strings in RFC 3339, now numbers.
  static Status ReadTimes(const Path& path, Node* node) {
    bool times = !node->list && node->op != Operator::kContains;
    for (Scalar& operand : node->operands) {
      const auto* text = std::get_if<std::string>(&operand);
      const auto time = ParseTime(text == nullptr ? "" : *text);
      times = times && time.ok();
      if (times) operand = Micros(*time);
    }
    if (!times) {
      return Wrong(path, "$created_at is compared with times, like \"2026-11-22T10:00:00Z\"");
    }
    // They were sorted as texts, whose order differs when only some have a fraction.
    std::sort(node->operands.begin(), node->operands.end(),
              [](const Scalar& a, const Scalar& b) { return SortsBefore(View(a), View(b)); });
    return Status::Ok();
  }

  static Status ReadList(const Json& json, const Path& path, Node* node) {
    node->list.emplace();
    for (size_t i = 0; i < json.size(); ++i) {
      if (!json[i].is_string()) {
        return Wrong(Path{&path, {}, i},
                     "lists in metadata hold strings; for one of several values use $in");
      }
      node->list->push_back(json[i].get<std::string>());
    }
    return Status::Ok();
  }

  static Result<Scalar> ReadScalar(const Json& json, const Path& path) {
    switch (json.type()) {
      case Json::value_t::string:
        return Scalar(json.get<std::string>());
      case Json::value_t::boolean:
        return Scalar(json.get<bool>());
      case Json::value_t::number_integer:
      case Json::value_t::number_unsigned:
        return Scalar(json.get<int64_t>());
      case Json::value_t::number_float:
        return Scalar(json.get<double>());
      case Json::value_t::null:
        return Wrong(path, "metadata has no null; for a missing field use {\"$exists\": false}");
      default:
        return Wrong(path, "this must be a string, a number, true or false");
    }
  }
};

Filter::Filter() = default;

Result<Filter> Filter::Parse(std::string_view json) {
  if (json.size() > kBytesMax) {
    return Status::InvalidArgument("filter: " + std::to_string(json.size()) +
                                   " bytes of JSON, the limit is " + std::to_string(kBytesMax) +
                                   "; ask in several filters");
  }
  try {
    TreeBuilder tree;
    if (!Json::sax_parse(json.begin(), json.end(), &tree)) {
      return Status::InvalidArgument("filter: " + tree.error());
    }
    return FilterCompiler::Compile(tree.root());
  } catch (const std::bad_alloc&) {
    return Status::ResourceExhausted("filter: out of memory while reading it");
  } catch (const nlohmann::json::exception& e) {
    return Status::Internal(std::string("filter: ") + e.what());
  }
}

bool Filter::Matches(const Metadata& metadata, const Provenance& provenance) const {
  return root_ == nullptr || root_->Matches(metadata, provenance);
}

std::string Filter::ToJson() const { return json_ == nullptr ? "{}" : *json_; }

}  // namespace msadb
