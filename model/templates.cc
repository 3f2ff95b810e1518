#include "model/templates.h"

#include <algorithm>
#include <new>
#include <tuple>
#include <utility>

#include "model/json_input.h"

namespace msadb::model {
namespace {

using nlohmann::json;

constexpr size_t kFileBytesMax = 1u << 20;
constexpr size_t kTemplateBytesMax = 64u << 10;
constexpr size_t kStopsMax = 64;
constexpr int64_t kRouteDocumentsMax = 64;

constexpr std::string_view kNumber = "{number}";
constexpr std::string_view kText = "{text}";
constexpr std::string_view kQuestion = "{question}";

enum Use : uint8_t { kNever, kMay, kMust };

struct Field {
  const char* key;
  std::string TemplateStrings::*value;
  Use number = kNever;
  Use text = kNever;
  Use question = kNever;
};

constexpr Field kFields[] = {
    {"head", &TemplateStrings::head},
    {"document", &TemplateStrings::document, kMust, kMust},
    {"question", &TemplateStrings::question, kNever, kNever, kMust},
    {"tail", &TemplateStrings::tail},
    {"response_head", &TemplateStrings::response_head},
    {"numbers_end", &TemplateStrings::numbers_end},
    {"appended_document", &TemplateStrings::appended_document, kMust, kMust},
    {"appended_end", &TemplateStrings::appended_end},
    {"retrieval_end", &TemplateStrings::retrieval_end},
    {"restart", &TemplateStrings::restart, kNever, kNever, kMust},
    {"answer_prefix", &TemplateStrings::answer_prefix},
    {"decline", &TemplateStrings::decline},
    {"answer_head", &TemplateStrings::answer_head, kNever, kNever, kMay},
    {"answer_tail", &TemplateStrings::answer_tail, kNever, kNever, kMay},
};

Status CheckPlaceholder(const Field& field, const std::string& value, std::string_view placeholder,
                        Use use) {
  const bool present = value.find(placeholder) != std::string::npos;
  if (present && use == kNever) {
    return Status::InvalidArgument(std::string("key ") + field.key + " must not contain " +
                                   std::string(placeholder));
  }
  if (!present && use == kMust) {
    return Status::InvalidArgument(std::string("key ") + field.key + " must contain " +
                                   std::string(placeholder));
  }
  return Status();
}

Status ReadField(const json& object, const Field& field, TemplateStrings* strings) {
  const auto it = object.find(field.key);
  if (it == object.end()) return Status();
  if (!it->is_string()) {
    return Status::InvalidArgument(std::string("key ") + field.key + " must be a string");
  }
  const std::string value = *it;
  if (value.size() > kTemplateBytesMax) {
    return Status::InvalidArgument(std::string("key ") + field.key + " is longer than 64 KiB");
  }
  MSADB_RETURN_IF_ERROR(CheckPlaceholder(field, value, kNumber, field.number));
  MSADB_RETURN_IF_ERROR(CheckPlaceholder(field, value, kText, field.text));
  MSADB_RETURN_IF_ERROR(CheckPlaceholder(field, value, kQuestion, field.question));
  strings->*field.value = value;
  return Status();
}

Status ReadSettings(const json& object, TemplateStrings* strings) {
  if (const auto it = object.find("retrieval"); it != object.end()) {
    if (*it == "generate") {
      strings->retrieval = RetrievalMode::kGenerate;
    } else if (*it == "route") {
      strings->retrieval = RetrievalMode::kRoute;
    } else {
      return Status::InvalidArgument("key retrieval must be \"generate\" or \"route\"");
    }
  }
  for (const auto& [name, value] :
       {std::pair{"route_documents", &strings->route_documents},
        std::pair{"route_when_none", &strings->route_when_none},
        std::pair{"route_besides", &strings->route_besides},
        std::pair{"route_when_declined", &strings->route_when_declined}}) {
    const auto it = object.find(name);
    if (it == object.end()) continue;
    if (!it->is_number_unsigned() || it->get<uint64_t>() > kRouteDocumentsMax) {
      return Status::InvalidArgument("key " + std::string(name) + " must be within 0..64");
    }
    *value = it->get<int>();
  }
  if (const auto it = object.find("numbers_from_routing"); it != object.end()) {
    if (it->is_boolean()) {
      strings->numbers_from_routing = it->get<bool>() ? TemplateStrings::kAllRouted : 0;
    } else if (it->is_number_unsigned() && it->get<uint64_t>() <= kRouteDocumentsMax) {
      strings->numbers_from_routing = it->get<int>();
    } else {
      return Status::InvalidArgument(
          "key numbers_from_routing must be true, false or within 0..64");
    }
  }
  for (const auto& [name, value] : {std::pair{"route_besides_last", &strings->route_besides_last},
                                    std::pair{"numbers_by_rank", &strings->numbers_by_rank}}) {
    const auto it = object.find(name);
    if (it == object.end()) continue;
    if (it->is_boolean()) {
      *value = it->get<bool>() ? 0 : TemplateStrings::kNever;
    } else if (it->is_number_unsigned()) {
      *value = it->get<uint64_t>();
    } else {
      return Status::InvalidArgument("key " + std::string(name) +
                                     " must be true, false or a number of documents");
    }
  }
  for (const auto& [name, value, most] :
       {std::tuple{"retrieval_end_penalty", &strings->retrieval_end_penalty, 100},
        std::tuple{"rank_gap_max", &strings->rank_gap_max, 100},
        std::tuple{"route_news", &strings->route_news, 1},
        std::tuple{"route_words", &strings->route_words, 1}}) {
    const auto it = object.find(name);
    if (it == object.end()) continue;
    if (!it->is_number() || !(it->get<double>() >= 0 && it->get<double>() <= most)) {
      return Status::InvalidArgument("key " + std::string(name) + " must be a number within 0.." +
                                     std::to_string(most));
    }
    *value = it->get<float>();
  }
  if (const auto it = object.find("stop"); it != object.end()) {
    if (!it->is_array() || it->size() > kStopsMax) {
      return Status::InvalidArgument("key stop must be a list of at most 64 strings");
    }
    std::vector<std::string> stop;
    for (const json& item : *it) {
      if (!item.is_string() || item.get_ref<const std::string&>().empty() ||
          item.get_ref<const std::string&>().size() > kTemplateBytesMax) {
        return Status::InvalidArgument("key stop must hold only strings that are not empty");
      }
      stop.push_back(item);
    }
    strings->stop = std::move(stop);
  }
  return Status();
}

}  // namespace

Result<TemplateStrings> ParseTemplates(std::string_view text) {
  try {
    MSADB_ASSIGN_OR_RETURN(const json object, ParseJson(text));
    if (!object.is_object()) return Status::InvalidArgument("not a JSON object");
    TemplateStrings strings;
    for (const Field& field : kFields) MSADB_RETURN_IF_ERROR(ReadField(object, field, &strings));
    MSADB_RETURN_IF_ERROR(ReadSettings(object, &strings));
    return strings;
  } catch (const std::bad_alloc&) {
    return Status::ResourceExhausted("no memory to read the templates");
  }
}

Result<TemplateStrings> LoadTemplates(const std::string& folder) {
  const std::string path = folder + "/templates.json";
  auto text = ReadFile(path, kFileBytesMax);
  if (!text.ok()) {
    if (text.status().code() == StatusCode::kNotFound) return TemplateStrings();
    return text.status();
  }
  auto strings = ParseTemplates(*text);
  if (!strings.ok()) return strings.status().WithContext(path);
  return strings;
}

Template Template::Compile(std::string_view source, const Tokenizer& tokenizer) {
  struct Placeholder {
    std::string_view name;
    PieceKind kind;
  };
  constexpr Placeholder kPlaceholders[] = {
      {kNumber, PieceKind::kNumber}, {kText, PieceKind::kText}, {kQuestion, PieceKind::kQuestion}};
  Template compiled;
  while (!source.empty()) {
    size_t at = source.size();
    const Placeholder* next = nullptr;
    for (const Placeholder& placeholder : kPlaceholders) {
      const size_t found = source.find(placeholder.name);
      if (found < at) {
        at = found;
        next = &placeholder;
      }
    }
    for (const Tokenizer::Segment& segment : tokenizer.SplitAddedTokens(source.substr(0, at))) {
      if (segment.token) {
        compiled.pieces_.push_back({.kind = PieceKind::kToken, .token = *segment.token});
      } else {
        compiled.pieces_.push_back(
            {.kind = PieceKind::kLiteral, .literal = std::string(segment.text)});
      }
    }
    if (next == nullptr) break;
    compiled.pieces_.push_back({.kind = next->kind});
    source.remove_prefix(at + next->name.size());
  }
  return compiled;
}

Result<std::vector<int32_t>> Template::Render(const Tokenizer& tokenizer,
                                              const Values& values) const {
  try {
    std::vector<int32_t> ids;
    std::string run;
    const auto flush = [&]() -> Status {
      if (run.empty()) return Status();
      MSADB_ASSIGN_OR_RETURN(const auto part, tokenizer.Encode(run));
      ids.insert(ids.end(), part.begin(), part.end());
      run.clear();
      return Status();
    };
    for (const Piece& piece : pieces_) {
      switch (piece.kind) {
        case PieceKind::kToken:
          MSADB_RETURN_IF_ERROR(flush());
          ids.push_back(piece.token);
          break;
        case PieceKind::kLiteral:
          run += piece.literal;
          break;
        case PieceKind::kNumber:
          run += std::to_string(values.number);
          break;
        case PieceKind::kText:
          run += values.text;
          break;
        case PieceKind::kQuestion:
          run += values.question;
          break;
      }
    }
    MSADB_RETURN_IF_ERROR(flush());
    return ids;
  } catch (const std::bad_alloc&) {
    return Status::ResourceExhausted("no memory to fill in a template");
  }
}

Result<Templates> Templates::Compile(TemplateStrings strings, const Tokenizer* tokenizer) {
  try {
    Templates compiled;
    compiled.tokenizer_ = tokenizer;
    struct Fixed {
      const std::string* source;
      std::vector<int32_t>* ids;
    };
    const Fixed fixed[] = {{&strings.head, &compiled.head_},
                           {&strings.tail, &compiled.tail_},
                           {&strings.response_head, &compiled.response_head_},
                           {&strings.numbers_end, &compiled.numbers_end_},
                           {&strings.appended_end, &compiled.appended_end_},
                           {&strings.retrieval_end, &compiled.retrieval_end_}};
    for (const Fixed& item : fixed) {
      MSADB_ASSIGN_OR_RETURN(*item.ids,
                             Template::Compile(*item.source, *tokenizer).Render(*tokenizer, {}));
    }
    compiled.document_ = Template::Compile(strings.document, *tokenizer);
    compiled.question_ = Template::Compile(strings.question, *tokenizer);
    compiled.appended_document_ = Template::Compile(strings.appended_document, *tokenizer);
    compiled.restart_ = Template::Compile(strings.restart, *tokenizer);
    compiled.answer_head_ = Template::Compile(strings.answer_head, *tokenizer);
    compiled.answer_tail_ = Template::Compile(strings.answer_tail, *tokenizer);
    for (const std::string& stop : strings.stop) {
      const auto segments = tokenizer->SplitAddedTokens(stop);
      if (segments.size() != 1 || !segments[0].token) {
        return Status::InvalidArgument("stop string " + Quoted(stop) +
                                       " is not one added token of the tokenizer; change `stop` in "
                                       "templates.json");
      }
      compiled.stop_tokens_.push_back(*segments[0].token);
    }
    auto& stops = compiled.stop_tokens_;
    std::sort(stops.begin(), stops.end());
    stops.erase(std::unique(stops.begin(), stops.end()), stops.end());
    if (strings.numbers_from_routing > 0) {
      compiled.number_lists_.emplace(tokenizer, compiled.numbers_end_, compiled.retrieval_end_);
    }
    compiled.strings_ = std::move(strings);
    return compiled;
  } catch (const std::bad_alloc&) {
    return Status::ResourceExhausted("no memory to compile the templates");
  }
}

Result<std::vector<int32_t>> Templates::Document(uint64_t number, std::string_view text) const {
  return document_.Render(*tokenizer_, {.number = number, .text = text});
}

Result<std::vector<int32_t>> Templates::Question(std::string_view question) const {
  return question_.Render(*tokenizer_, {.question = question});
}

Result<std::vector<int32_t>> Templates::AppendedDocument(uint64_t number,
                                                         std::string_view text) const {
  return appended_document_.Render(*tokenizer_, {.number = number, .text = text});
}

Result<std::vector<int32_t>> Templates::Restart(std::string_view question) const {
  return restart_.Render(*tokenizer_, {.question = question});
}

Result<std::vector<int32_t>> Templates::AnswerHead(std::string_view question) const {
  return answer_head_.Render(*tokenizer_, {.question = question});
}

Result<std::vector<int32_t>> Templates::AnswerTail(std::string_view question) const {
  return answer_tail_.Render(*tokenizer_, {.question = question});
}

}  // namespace msadb::model
