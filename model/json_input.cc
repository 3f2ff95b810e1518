#include "model/json_input.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <new>
#include <utility>

namespace msadb::model {

using nlohmann::json;

Result<std::string> ReadFile(const std::string& path, size_t bytes_max) {
  // Non-blocking, so that a FIFO in place of a file cannot hang the open.
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) {
    const int error = errno;
    const std::string message = path + ": " + std::strerror(error);
    if (error == ENOENT || error == ENOTDIR) return Status::NotFound(message);
    return Status::IOError(message);
  }
  struct Closer {
    int fd;
    ~Closer() { ::close(fd); }
  } closer{fd};
  struct stat info;
  if (::fstat(fd, &info) != 0) return Status::IOError(path + ": " + std::strerror(errno));
  if (!S_ISREG(info.st_mode)) return Status::InvalidArgument(path + ": not a regular file");
  if (static_cast<uint64_t>(info.st_size) > bytes_max) {
    return Status::InvalidArgument(path + ": " + std::to_string(info.st_size) +
                                   " bytes, more than the " + std::to_string(bytes_max) +
                                   " allowed for this file");
  }
  std::string content;
  try {
    content.resize(static_cast<size_t>(info.st_size));
  } catch (const std::bad_alloc&) {
    return Status::ResourceExhausted("no memory to read it").WithContext(path);
  }
  size_t done = 0;
  while (done < content.size()) {
    const ssize_t n = ::read(fd, content.data() + done, content.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return Status::IOError(path + ": " + std::strerror(errno));
    if (n == 0) return Status::IOError(path + ": the file became shorter while it was read");
    done += static_cast<size_t>(n);
  }
  return content;
}

std::string Quoted(std::string_view text) {
  constexpr size_t kShownMax = 80;
  std::string out = "\"";
  for (size_t i = 0; i < text.size() && i < kShownMax; ++i) {
    const unsigned char c = static_cast<unsigned char>(text[i]);
    out += (c < 0x20 || c >= 0x7f) ? '?' : static_cast<char>(c);
  }
  if (text.size() > kShownMax) out += "...";
  return out + "\"";
}

Status JsonBuilder::Parse(std::string_view text) {
  try {
    if (json::sax_parse(text.begin(), text.end(), this)) return Status();
    return Status::InvalidArgument(error_.empty() ? "not JSON" : error_);
  } catch (const std::bad_alloc&) {
    return Status::ResourceExhausted("no memory to parse JSON");
  } catch (const std::exception& e) {
    return Status::InvalidArgument(std::string("not JSON: ") + e.what());
  }
}

bool JsonBuilder::Fail(std::string message) {
  if (error_.empty()) error_ = std::move(message);
  return false;
}

json* JsonBuilder::Add(json value) {
  if (++values_ > limits_.values_max) {
    Fail("more than " + std::to_string(limits_.values_max) + " JSON values");
    return nullptr;
  }
  if (open_.empty()) {
    root_ = std::move(value);
    return &root_;
  }
  json* container = open_.back();
  if (container->is_array()) {
    container->push_back(std::move(value));
    return &container->back();
  }
  *next_value_ = std::move(value);
  return next_value_;
}

bool JsonBuilder::null() { return Add(nullptr) != nullptr; }
bool JsonBuilder::boolean(bool value) { return Add(value) != nullptr; }
bool JsonBuilder::number_integer(number_integer_t value) { return Add(value) != nullptr; }
bool JsonBuilder::number_unsigned(number_unsigned_t value) { return Add(value) != nullptr; }
bool JsonBuilder::number_float(number_float_t value, const string_t&) {
  return Add(value) != nullptr;
}
bool JsonBuilder::string(string_t& value) { return Add(std::move(value)) != nullptr; }
bool JsonBuilder::binary(binary_t&) { return Fail("binary value in JSON text"); }

bool JsonBuilder::start_object(std::size_t) {
  if (open_.size() >= limits_.depth_max) return Fail("JSON nested too deeply");
  json* added = Add(json::object());
  if (added != nullptr) open_.push_back(added);
  return added != nullptr;
}

bool JsonBuilder::key(string_t& name) {
  auto [place, inserted] = open_.back()->emplace(name, nullptr);
  if (!inserted) return Fail("the name " + Quoted(name) + " occurs twice in one JSON object");
  next_value_ = &place.value();
  return true;
}

bool JsonBuilder::end_object() {
  open_.pop_back();
  return true;
}

bool JsonBuilder::start_array(std::size_t) {
  if (open_.size() >= limits_.depth_max) return Fail("JSON nested too deeply");
  json* added = Add(json::array());
  if (added != nullptr) open_.push_back(added);
  return added != nullptr;
}

bool JsonBuilder::end_array() {
  open_.pop_back();
  return true;
}

bool JsonBuilder::parse_error(std::size_t position, const std::string&,
                              const json::exception& error) {
  // The library's text repeats the offending bytes, which may be anything.
  const char* what = error.what();
  const char* detail = std::strstr(what, "syntax error");
  return Fail("not JSON: byte " + std::to_string(position) + ": " +
              Quoted(detail != nullptr ? detail : what));
}

Result<json> ParseJson(std::string_view text, const JsonLimits& limits) {
  JsonBuilder builder(limits);
  MSADB_RETURN_IF_ERROR(builder.Parse(text));
  return std::move(builder.root());
}

}  // namespace msadb::model
