// A document and its metadata as JSON (msadb/transfer.h).
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "msadb/transfer.h"
#include "values/validate.h"

namespace msadb {
namespace {

using Json = nlohmann::ordered_json;

// A line holds an object, its metadata and their lists: more depth is never right.
constexpr int kDepthMax = 8;

bool TooDeep(std::string_view json) {
  int depth = 0;
  bool in_string = false;
  for (size_t i = 0; i < json.size(); ++i) {
    const char c = json[i];
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '{' || c == '[') {
      if (++depth > kDepthMax) return true;
    } else if (c == '}' || c == ']') {
      --depth;
    }
  }
  return false;
}

Result<Json> ParseObject(std::string_view text, const char* what) {
  if (TooDeep(text)) {
    return Status::InvalidArgument(std::string(what) + " is nested too deep");
  }
  Json json = Json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded()) {
    return Status::InvalidArgument(std::string(what) + " is not valid JSON");
  }
  if (!json.is_object()) {
    return Status::InvalidArgument(std::string(what) + " must be a JSON object, like {\"a\": 1}");
  }
  return json;
}

Result<MetadataValue> ValueFromJson(const std::string& name, const Json& json) {
  switch (json.type()) {
    case Json::value_t::string:
      return MetadataValue(json.get<std::string>());
    case Json::value_t::boolean:
      return MetadataValue(json.get<bool>());
    case Json::value_t::number_integer:
      return MetadataValue(json.get<int64_t>());
    case Json::value_t::number_unsigned: {
      const uint64_t value = json.get<uint64_t>();
      if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
        return Status::InvalidArgument("the metadata value '" + name +
                                       "' is larger than a 64-bit integer; store it as a string");
      }
      return MetadataValue(static_cast<int64_t>(value));
    }
    case Json::value_t::number_float:
      if (!std::isfinite(json.get<double>())) break;
      return MetadataValue(json.get<double>());
    case Json::value_t::array: {
      std::vector<std::string> list;
      list.reserve(json.size());
      for (const Json& item : json) {
        if (!item.is_string()) {
          return Status::InvalidArgument("the metadata list '" + name +
                                         "' holds something other than strings");
        }
        list.push_back(item.get<std::string>());
      }
      return MetadataValue(std::move(list));
    }
    default:
      break;
  }
  return Status::InvalidArgument("the metadata value '" + name +
                                 "' must be a string, a number, a boolean or a list of strings");
}

Result<Metadata> MetadataFromObject(const Json& object) {
  if (!object.is_object()) {
    return Status::InvalidArgument("metadata must be a JSON object, like {\"year\": 2026}");
  }
  Metadata metadata;
  for (const auto& [name, json] : object.items()) {
    MSADB_ASSIGN_OR_RETURN(MetadataValue value, ValueFromJson(name, json));
    metadata.insert_or_assign(name, std::move(value));
  }
  return metadata;
}

Json ObjectFromMetadata(const Metadata& metadata) {
  Json object = Json::object();
  for (const auto& [name, value] : metadata) {
    std::visit([&, &key = name](const auto& v) { object[key] = v; }, value);
  }
  return object;
}

// Stored text is valid UTF-8, so nothing is ever replaced; a defect must not throw here.
std::string Dump(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

Result<std::string> StringField(const std::string& name, const Json& json) {
  if (!json.is_string()) return Status::InvalidArgument("'" + name + "' must be a string");
  return json.get<std::string>();
}

Result<std::optional<TimePoint>> TimeField(const std::string& name, const Json& json) {
  if (json.is_null()) return std::optional<TimePoint>();
  MSADB_ASSIGN_OR_RETURN(const std::string text, StringField(name, json));
  auto time = ParseTime(text);
  if (!time.ok()) return time.status().WithContext("'" + name + "'");
  return std::optional<TimePoint>(*time);
}

Status ReadField(const std::string& name, const Json& json, NewDocument* document) {
  if (name == "id") return Status::Ok();
  if (name == "text") {
    MSADB_ASSIGN_OR_RETURN(document->text, StringField(name, json));
  } else if (name == "key") {
    if (json.is_null()) return Status::Ok();
    MSADB_ASSIGN_OR_RETURN(document->key, StringField(name, json));
  } else if (name == "source") {
    MSADB_ASSIGN_OR_RETURN(document->source, StringField(name, json));
  } else if (name == "written_by") {
    MSADB_ASSIGN_OR_RETURN(document->written_by, StringField(name, json));
  } else if (name == "metadata") {
    if (json.is_null()) return Status::Ok();
    MSADB_ASSIGN_OR_RETURN(document->metadata, MetadataFromObject(json));
  } else if (name == "created_at") {
    MSADB_ASSIGN_OR_RETURN(document->created_at, TimeField(name, json));
  } else if (name == "expires_at") {
    MSADB_ASSIGN_OR_RETURN(document->expires_at, TimeField(name, json));
  } else {
    return Status::InvalidArgument(
        "unknown name '" + name +
        "'; known are text, key, metadata, source, written_by, created_at, expires_at and id. "
        "Put values of your own into metadata");
  }
  return Status::Ok();
}

}  // namespace

std::string MetadataToJson(const Metadata& metadata) { return Dump(ObjectFromMetadata(metadata)); }

std::string DocumentToJson(const Document& document) {
  Json json;
  json["id"] = document.id;
  json["text"] = document.text;
  if (document.key) json["key"] = *document.key;
  json["metadata"] = ObjectFromMetadata(document.metadata);
  if (!document.source.empty()) json["source"] = document.source;
  if (!document.written_by.empty()) json["written_by"] = document.written_by;
  json["created_at"] = FormatTime(document.created_at);
  if (document.expires_at) json["expires_at"] = FormatTime(*document.expires_at);
  return Dump(json);
}

Result<Metadata> MetadataFromJson(std::string_view json) {
  MSADB_ASSIGN_OR_RETURN(const Json object, ParseObject(json, "metadata"));
  return MetadataFromObject(object);
}

Result<NewDocument> DocumentFromJson(std::string_view text) {
  MSADB_ASSIGN_OR_RETURN(const Json object, ParseObject(text, "a document"));
  NewDocument document;
  for (const auto& [name, json] : object.items()) {
    MSADB_RETURN_IF_ERROR(ReadField(name, json, &document));
  }
  if (!object.contains("text")) {
    return Status::InvalidArgument("a document without \"text\"");
  }
  return document;
}

}  // namespace msadb
