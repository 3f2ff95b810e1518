#include "values/validate.h"

#include <chrono>
#include <cmath>
#include <string>
#include <variant>

#include "base/utf8.h"

namespace msadb::values {
namespace {

std::string Count(size_t n, const char* unit) { return std::to_string(n) + " " + unit; }

Status TooLong(std::string_view what, size_t bytes, size_t bytes_max, std::string_view remedy) {
  return Status::InvalidArgument(std::string(what) + " has " + Count(bytes, "bytes") +
                                 ", the limit is " + std::to_string(bytes_max) + "; " +
                                 std::string(remedy));
}

Status CheckUtf8(std::string_view what, std::string_view text) {
  const size_t good = base::Utf8ValidPrefix(text);
  if (good == text.size()) return Status::Ok();
  return Status::InvalidArgument(std::string(what) + " is not valid UTF-8 at byte " +
                                 std::to_string(good) + "; convert it to UTF-8 first");
}

// What ParseTime reads, so that whatever is stored can be written as JSON and read again.
Status CheckTime(std::string_view what, TimePoint time) {
  using std::chrono::sys_days;
  using std::chrono::year;
  if (time >= sys_days(year(1970) / 1 / 1) && time < sys_days(year(10'000) / 1 / 1)) {
    return Status::Ok();
  }
  return Status::InvalidArgument(
      std::string(what) +
      " is not in the years 1970 to 9999; check its unit (microseconds since 1970)");
}

size_t ValueBytes(const MetadataValue& value) {
  if (const auto* text = std::get_if<std::string>(&value)) return text->size();
  if (const auto* list = std::get_if<std::vector<std::string>>(&value)) {
    size_t bytes = 0;
    for (const std::string& item : *list) bytes += item.size() + 1;
    return bytes;
  }
  return 8;
}

Status CheckMetadataValue(const std::string& name, const MetadataValue& value) {
  const std::string what = "the metadata value '" + name + "'";
  if (const auto* text = std::get_if<std::string>(&value)) return CheckUtf8(what, *text);
  if (const auto* number = std::get_if<double>(&value)) {
    if (std::isfinite(*number)) return Status::Ok();
    return Status::InvalidArgument(what + " is not a finite number; leave it out instead");
  }
  if (const auto* list = std::get_if<std::vector<std::string>>(&value)) {
    for (const std::string& item : *list) MSADB_RETURN_IF_ERROR(CheckUtf8(what, item));
  }
  return Status::Ok();
}

}  // namespace

Status ValidateOptions(const Options& options) {
  const Limits& limits = options.limits;
  if (options.expiry_interval.count() < 0) {
    return Status::InvalidArgument("Options::expiry_interval is negative; use 0 to switch off");
  }
  if (options.threads < 0 || options.threads > 1024) {
    return Status::InvalidArgument("Options::threads must be 0 (all cores) to 1024");
  }
  if (options.routing_keys != RoutingKeys::kFloat && options.routing_keys != RoutingKeys::kInt8) {
    return Status::InvalidArgument("Options::routing_keys must be kFloat or kInt8");
  }
  if (options.encode_batch_tokens == 0) {
    return Status::InvalidArgument("Options::encode_batch_tokens must be at least 1");
  }
  if (limits.text_bytes_max == 0 || limits.text_bytes_max > (size_t{1} << 30)) {
    return Status::InvalidArgument("Limits::text_bytes_max must be 1 byte to 1 GiB");
  }
  if (limits.key_bytes_max == 0 || limits.key_bytes_max > (64u << 10)) {
    return Status::InvalidArgument("Limits::key_bytes_max must be 1 byte to 64 KiB");
  }
  return Status::Ok();
}

Status ValidateCollectionName(std::string_view name) {
  if (name.empty()) return Status::InvalidArgument("a collection name is empty; give it a name");
  if (name.size() > kCollectionNameBytesMax) {
    return TooLong("a collection name", name.size(), kCollectionNameBytesMax, "use a shorter one");
  }
  MSADB_RETURN_IF_ERROR(CheckUtf8("a collection name", name));
  if (base::HasControlCharacter(name) || name.find('/') != std::string_view::npos) {
    return Status::InvalidArgument(
        "a collection name holds a control character or '/'; use letters, digits, '-', '_' or '.'");
  }
  // Browsers and curl take these two out of an address, so a server could not be asked for them.
  // "*" in a token's rights is every collection.
  if (name == "." || name == ".." || name == "*") {
    return Status::InvalidArgument("a collection cannot be called '" + std::string(name) +
                                   "'; use letters, digits, '-', '_' or '.'");
  }
  return Status::Ok();
}

Status ValidateKey(std::string_view key, const Limits& limits) {
  if (key.empty()) {
    return Status::InvalidArgument("the key is empty; leave it out or give it at least one byte");
  }
  if (key.size() > limits.key_bytes_max) {
    return TooLong("the key", key.size(), limits.key_bytes_max, "use a shorter one, say a hash");
  }
  return CheckUtf8("the key", key);
}

size_t MetadataBytes(const Metadata& metadata) {
  size_t bytes = 0;
  for (const auto& [name, value] : metadata) bytes += name.size() + ValueBytes(value);
  return bytes;
}

Status ValidateMetadata(const Metadata& metadata, const Limits& limits) {
  if (metadata.size() > limits.metadata_entries_max) {
    return Status::InvalidArgument("the metadata has " + Count(metadata.size(), "entries") +
                                   ", the limit is " + std::to_string(limits.metadata_entries_max) +
                                   "; keep what you filter by, put the rest into the text");
  }
  const size_t bytes = MetadataBytes(metadata);
  if (bytes > limits.metadata_bytes_max) {
    return TooLong("the metadata", bytes, limits.metadata_bytes_max,
                   "keep what you filter by, put the rest into the text");
  }
  for (const auto& [name, value] : metadata) {
    if (name.empty()) return Status::InvalidArgument("a metadata name is empty; name every value");
    if (name.size() > kMetadataNameBytesMax) {
      return TooLong("a metadata name", name.size(), kMetadataNameBytesMax, "use a shorter one");
    }
    MSADB_RETURN_IF_ERROR(CheckUtf8("a metadata name", name));
    if (name[0] == '$') {
      return Status::InvalidArgument("the metadata name '" + name +
                                     "' starts with '$', which filters use for operators; "
                                     "choose another name");
    }
    if (base::HasControlCharacter(name)) {
      return Status::InvalidArgument("a metadata name holds a control character; remove it");
    }
    MSADB_RETURN_IF_ERROR(CheckMetadataValue(name, value));
  }
  return Status::Ok();
}

Status ValidateDocument(const NewDocument& document, const Limits& limits) {
  if (document.text.empty()) {
    return Status::InvalidArgument("the text is empty; a document needs text to be remembered by");
  }
  if (document.text.size() > limits.text_bytes_max) {
    return TooLong("the text", document.text.size(), limits.text_bytes_max,
                   "divide it into several documents or raise Limits::text_bytes_max");
  }
  MSADB_RETURN_IF_ERROR(CheckUtf8("the text", document.text));
  if (document.text.find_first_not_of(" \t\r\n\f\v") == std::string::npos) {
    return Status::InvalidArgument("the text is only white space; a document needs text");
  }
  if (document.key) MSADB_RETURN_IF_ERROR(ValidateKey(*document.key, limits));
  if (document.source.size() > limits.source_bytes_max) {
    return TooLong("the source", document.source.size(), limits.source_bytes_max,
                   "shorten it or put it into the metadata");
  }
  MSADB_RETURN_IF_ERROR(CheckUtf8("the source", document.source));
  if (document.written_by.size() > kWriterBytesMax) {
    return TooLong("written_by", document.written_by.size(), kWriterBytesMax, "use a shorter name");
  }
  MSADB_RETURN_IF_ERROR(CheckUtf8("written_by", document.written_by));
  if (base::HasControlCharacter(document.written_by)) {
    return Status::InvalidArgument("written_by holds a control character; use a plain name");
  }
  if (document.created_at) MSADB_RETURN_IF_ERROR(CheckTime("created_at", *document.created_at));
  if (document.expires_at) MSADB_RETURN_IF_ERROR(CheckTime("expires_at", *document.expires_at));
  return ValidateMetadata(document.metadata, limits);
}

Status ValidateExpiry(const NewDocument& document, TimePoint now) {
  if (document.expires_at && *document.expires_at <= now) {
    return Status::InvalidArgument(
        "expires_at is in the past, so the document would never be seen; check its unit "
        "(microseconds since 1970)");
  }
  return Status::Ok();
}

Status ValidateQuestion(std::string_view question, const Limits& limits) {
  if (question.find_first_not_of(" \t\r\n\f\v") == std::string_view::npos) {
    return Status::InvalidArgument("the question is empty; ask something");
  }
  if (question.size() > limits.question_bytes_max) {
    return TooLong("the question", question.size(), limits.question_bytes_max,
                   "insert long material as a document and ask about it");
  }
  return CheckUtf8("the question", question);
}

Status ValidateSearch(const SearchOptions& options) {
  if (options.top_k == 0 || options.top_k > kSearchTopKMax) {
    return Status::InvalidArgument("SearchOptions::top_k is " + std::to_string(options.top_k) +
                                   "; use 1 to " + std::to_string(kSearchTopKMax));
  }
  return Status::Ok();
}

Status ValidateAsk(const AskOptions& options) {
  if (options.rounds_max < 1 || options.rounds_max > 64) {
    return Status::InvalidArgument("AskOptions::rounds_max must be 1 to 64");
  }
  if (options.answer_tokens_max < 1 || options.answer_tokens_max > (1 << 20)) {
    return Status::InvalidArgument("AskOptions::answer_tokens_max must be 1 to 1048576");
  }
  if (options.retrieved_text_tokens_max < 0 || options.retrieved_text_tokens_max > (1 << 20)) {
    return Status::InvalidArgument("AskOptions::retrieved_text_tokens_max must be 0 to 1048576");
  }
  if (!(options.temperature >= 0) || options.temperature > 100) {
    return Status::InvalidArgument("AskOptions::temperature must be 0 (greedy) to 100");
  }
  if (!(options.top_p > 0) || options.top_p > 1) {
    return Status::InvalidArgument("AskOptions::top_p must be above 0 and at most 1");
  }
  return Status::Ok();
}

Status ValidateList(const ListOptions& options) {
  if (options.limit == 0 || options.limit > kListLimitMax) {
    return Status::InvalidArgument("ListOptions::limit is " + std::to_string(options.limit) +
                                   "; use 1 to " + std::to_string(kListLimitMax));
  }
  return Status::Ok();
}

}  // namespace msadb::values
