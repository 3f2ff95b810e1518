#include "server/request_json.h"

#include <cmath>
#include <limits>

#include "model/json_input.h"

namespace msadb::server {
namespace {

using Json = nlohmann::json;

// Filters may nest 32 deep, inside a transaction's changes.
constexpr size_t kDepthMax = 40;
constexpr size_t kValuesMax = 2'000'000;

std::optional<double> AsNumber(const Json& json) {
  if (!json.is_number()) return std::nullopt;
  const double value = json.get<double>();
  return std::isfinite(value) ? std::optional(value) : std::nullopt;
}

}  // namespace

Result<Json> ParseRequestJson(std::string_view body) {
  auto json = model::ParseJson(body, {.depth_max = kDepthMax, .values_max = kValuesMax});
  if (!json.ok()) {
    return Status::InvalidArgument("the body is not acceptable JSON: " +
                                   std::string(json.status().message()));
  }
  if (!json->is_object()) return Status::InvalidArgument("the body must be a JSON object");
  return json;
}

const Json* FieldReader::Take(const char* name) {
  known_.insert(name);
  const auto found = object_.find(name);
  return found == object_.end() || found->is_null() ? nullptr : &*found;
}

void FieldReader::Fail(const char* name, const std::string& what) {
  if (status_.ok()) status_ = Status::InvalidArgument("'" + std::string(name) + "' " + what);
}

FieldReader& FieldReader::Required(const char* name, std::string* out) {
  if (Take(name) == nullptr) Fail(name, "is missing; it must be a string");
  return Text(name, out);
}

FieldReader& FieldReader::Text(const char* name, std::string* out) {
  if (const Json* json = Take(name)) {
    if (json->is_string()) {
      *out = json->get<std::string>();
    } else {
      Fail(name, "must be a string");
    }
  }
  return *this;
}

FieldReader& FieldReader::Flag(const char* name, bool* out) {
  if (const Json* json = Take(name)) {
    if (json->is_boolean()) {
      *out = json->get<bool>();
    } else {
      Fail(name, "must be true or false");
    }
  }
  return *this;
}

FieldReader& FieldReader::Number(const char* name, uint64_t* out, uint64_t least, uint64_t most) {
  if (const Json* json = Take(name)) {
    if (json->is_number_unsigned() && json->get<uint64_t>() >= least &&
        json->get<uint64_t>() <= most) {
      *out = json->get<uint64_t>();
    } else {
      Fail(name, "must be a whole number from " + std::to_string(least) + " to " +
                     std::to_string(most));
    }
  }
  return *this;
}

FieldReader& FieldReader::Number(const char* name, int* out, int least, int most) {
  uint64_t value = static_cast<uint64_t>(*out);
  Number(name, &value, static_cast<uint64_t>(least), static_cast<uint64_t>(most));
  *out = static_cast<int>(value);
  return *this;
}

FieldReader& FieldReader::Number(const char* name, float* out, float least, float most) {
  if (const Json* json = Take(name)) {
    const auto value = AsNumber(*json);
    if (value && *value >= static_cast<double>(least) && *value <= static_cast<double>(most)) {
      *out = static_cast<float>(*value);
    } else {
      Fail(name, "must be a number from " + Json(least).dump() + " to " + Json(most).dump());
    }
  }
  return *this;
}

FieldReader& FieldReader::Where(const char* name, std::optional<Filter>* out) {
  if (const Json* json = Take(name)) {
    auto filter = Filter::Parse(json->dump());
    if (filter.ok()) {
      *out = std::move(*filter);
    } else {
      Fail(name, std::string(filter.status().message()));
    }
  }
  return *this;
}

FieldReader& FieldReader::Any(const char* name, const Json** out) {
  *out = Take(name);
  return *this;
}

FieldReader& FieldReader::Ignore(const char* name) {
  Take(name);
  return *this;
}

Status FieldReader::Done() {
  if (!object_.is_object()) return Status::InvalidArgument("expected a JSON object");
  if (!status_.ok()) return status_;
  for (const auto& [name, value] : object_.items()) {
    if (known_.contains(name)) continue;
    std::string list;
    for (const auto& known : known_) list += (list.empty() ? "" : ", ") + known;
    return Status::InvalidArgument("unknown name " + model::Quoted(name) + "; known are " + list);
  }
  return Status::Ok();
}

}  // namespace msadb::server
