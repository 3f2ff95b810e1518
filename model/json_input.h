// Reads the JSON files of a model folder, whose bytes are untrusted: file size, nesting and the
// number of values are bounded, and a name occurring twice in one object is an error (two readers
// of the same file could otherwise see different values).
#ifndef MSADB_MODEL_JSON_INPUT_H_
#define MSADB_MODEL_JSON_INPUT_H_

#include <cstddef>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "msadb/status.h"

namespace msadb::model {

struct JsonLimits {
  size_t depth_max = 32;
  size_t values_max = 100'000;  // objects, arrays and scalars together
};

// NotFound: no such file. InvalidArgument: larger than `bytes_max`, or not a regular file. IOError
// otherwise. Every message starts with the path.
Result<std::string> ReadFile(const std::string& path, size_t bytes_max);

// InvalidArgument says what is wrong and where. Never throws.
Result<nlohmann::json> ParseJson(std::string_view text, const JsonLimits& limits = {});

// "text" cut to a length that fits an error message, without control characters.
std::string Quoted(std::string_view text);

// Builds a document from parse events under the limits. Readers of large files derive from it to
// take some parts of the input without building them.
class JsonBuilder : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit JsonBuilder(const JsonLimits& limits) : limits_(limits) {}

  bool null() override;
  bool boolean(bool value) override;
  bool number_integer(number_integer_t value) override;
  bool number_unsigned(number_unsigned_t value) override;
  bool number_float(number_float_t value, const string_t& text) override;
  bool string(string_t& value) override;
  bool binary(binary_t& value) override;
  bool start_object(std::size_t elements) override;
  bool key(string_t& name) override;
  bool end_object() override;
  bool start_array(std::size_t elements) override;
  bool end_array() override;
  bool parse_error(std::size_t position, const std::string& last_token,
                   const nlohmann::json::exception& error) override;

  // Runs the parser over `text`. OK, or InvalidArgument with the first error.
  Status Parse(std::string_view text);
  nlohmann::json& root() { return root_; }

 protected:
  // Stops parsing with this message; returns false for the caller to return.
  bool Fail(std::string message);

 private:
  nlohmann::json* Add(nlohmann::json value);  // null when a limit was reached

  JsonLimits limits_;
  nlohmann::json root_;
  std::vector<nlohmann::json*> open_;     // containers being filled, outermost first
  nlohmann::json* next_value_ = nullptr;  // where the value of the last key goes
  size_t values_ = 0;
  std::string error_;
};

}  // namespace msadb::model

#endif  // MSADB_MODEL_JSON_INPUT_H_
