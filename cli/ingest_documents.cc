#include "cli/ingest_documents.h"

#include <xxhash.h>

#include <algorithm>
#include <cctype>
#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "msadb/transfer.h"

namespace msadb::cli {
namespace {

bool IsBlank(std::string_view text) {
  return text.find_first_not_of(" \t\r\n") == std::string_view::npos;
}

std::string_view Trim(std::string_view text) {
  const size_t first = text.find_first_not_of(" \t\r\n");
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(" \t\r\n") - first + 1);
}

// Takes the next line, without its line feed, off the front of `rest`.
std::string_view TakeLine(std::string_view* rest) {
  const size_t end = rest->find('\n');
  const std::string_view line = rest->substr(0, end);
  rest->remove_prefix(end == std::string_view::npos ? rest->size() : end + 1);
  return line;
}

std::string Hash(std::string_view text) {
  char hex[17];
  std::snprintf(hex, sizeof(hex), "%016llx",
                static_cast<unsigned long long>(XXH3_64bits(text.data(), text.size())));
  return hex;
}

// "Spare keys & locks" -> "spare-keys-locks". Bytes beyond ASCII stay, so other scripts keep
// theirs.
std::string Slug(std::string_view heading) {
  std::string slug;
  for (const char c : heading) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte >= 0x80 || std::isalnum(byte)) {
      slug.push_back(static_cast<char>(byte < 0x80 ? std::tolower(byte) : byte));
    } else if (!slug.empty() && slug.back() != '-') {
      slug.push_back('-');
    }
  }
  constexpr size_t kBytesMax = 80;  // keys are limited
  if (slug.size() > kBytesMax) {
    size_t end = kBytesMax;
    while (end > 0 && (static_cast<unsigned char>(slug[end]) & 0xC0) == 0x80) --end;
    slug.resize(end);
  }
  while (!slug.empty() && slug.back() == '-') slug.pop_back();
  return slug.empty() ? "section" : slug;
}

// 1 to 6 and the title for an ATX heading ("## Title ##"), else 0.
int HeadingLevel(std::string_view line, std::string_view* title) {
  size_t level = 0;
  while (level < line.size() && line[level] == '#') ++level;
  if (level == 0 || level > 6) return 0;
  if (level < line.size() && line[level] != ' ' && line[level] != '\t') return 0;
  std::string_view rest = Trim(line.substr(level));
  const size_t end = rest.find_last_not_of('#');
  if (end != std::string_view::npos && end + 1 < rest.size() && rest[end] == ' ') {
    rest = Trim(rest.substr(0, end));
  }
  *title = rest;
  return static_cast<int>(level);
}

bool TogglesFence(std::string_view line) {
  const std::string_view text = Trim(line);
  return text.starts_with("```") || text.starts_with("~~~");
}

std::vector<NewDocument> MarkdownSections(const std::string& path, std::string_view content) {
  std::vector<NewDocument> sections;
  std::set<std::string> keys;
  std::map<int, std::string> headings;  // level -> title, the ones that are open
  std::string body;
  bool has_text = false;  // more than headings

  const auto close_section = [&] {
    if (!has_text) return;
    // Blank lines before the next heading belong to nobody: whether one follows must not change
    // this.
    body.resize(body.find_last_not_of(" \t\r\n") + 1);
    body.push_back('\n');
    std::string trail;
    for (const auto& [level, title] : headings) trail += (trail.empty() ? "" : " > ") + title;
    NewDocument section;
    section.text = trail.empty() ? body : trail + "\n\n" + body;
    std::string key = path;
    if (!sections.empty()) {
      const std::string base = path + "#" + Slug(headings.empty() ? "" : headings.rbegin()->second);
      key = base;
      for (int copy = 1; keys.contains(key); ++copy) key = base + "-" + std::to_string(copy);
    }
    keys.insert(key);
    section.key = key;
    sections.push_back(std::move(section));
  };

  bool in_fence = false;
  while (!content.empty()) {
    const std::string_view line = TakeLine(&content);
    if (TogglesFence(line)) in_fence = !in_fence;
    std::string_view title;
    const int level = in_fence ? 0 : HeadingLevel(line, &title);
    if (level == 0) {
      if (body.empty() && IsBlank(line)) continue;
      body.append(line).push_back('\n');
      has_text = has_text || !IsBlank(line);
      continue;
    }
    close_section();
    body.clear();
    has_text = false;
    headings.erase(headings.lower_bound(level), headings.end());
    if (!title.empty()) headings[level] = title;
  }
  close_section();
  return sections;
}

// The text of one message: a string, or a list of parts as some interfaces write it. null is no
// text: that is how assistants call tools.
std::optional<std::string> MessageText(const nlohmann::json& content) {
  if (content.is_null()) return "";
  if (content.is_string()) return content.get<std::string>();
  if (!content.is_array()) return std::nullopt;
  std::string text;
  for (const auto& part : content) {
    if (!part.is_object()) return std::nullopt;
    const auto piece = part.find("text");
    if (piece == part.end() || !piece->is_string()) continue;  // an image or the like
    text += (text.empty() ? "" : "\n") + piece->get<std::string>();
  }
  return text;
}

Result<std::vector<NewDocument>> ChatExchanges(const std::string& path, std::string_view content) {
  std::vector<NewDocument> exchanges;
  bool answered = true;  // the open exchange has a reply, so that a new question starts another
  for (int number = 1; !content.empty(); ++number) {
    const std::string_view line = TakeLine(&content);
    if (IsBlank(line)) continue;
    const std::string where = path + " line " + std::to_string(number);
    const auto message = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (message.is_discarded() || !message.is_object() || !message.contains("role") ||
        !message["role"].is_string() ||
        !(message.contains("content") || message.contains("tool_calls"))) {
      return Status::InvalidArgument(
          where + R"(: expected {"role": "user", "content": "...", "timestamp": "..."})");
    }
    const std::string role = message["role"].get<std::string>();
    const auto text = MessageText(message.value("content", nlohmann::json()));
    if (!text) return Status::InvalidArgument(where + ": \"content\" must be text");
    if (IsBlank(*text)) continue;
    std::string time;
    if (const auto stamp = message.find("timestamp"); stamp != message.end()) {
      if (stamp->is_string()) time = stamp->get<std::string>();
      if (stamp->is_number()) {
        const double seconds = stamp->get<double>();
        if (seconds >= 0 && seconds < 253402300800.0) {  // to the end of the year 9999
          time = FormatTime(TimePoint(std::chrono::seconds(static_cast<int64_t>(seconds))));
        }
      }
    }
    const bool opens = role != "assistant" && role != "tool";
    if (exchanges.empty() || (opens && answered)) {
      NewDocument exchange;
      exchange.key = path + "#" + std::to_string(number);
      exchange.metadata["role"] = role;
      if (!time.empty()) exchange.metadata["timestamp"] = time;
      exchanges.push_back(std::move(exchange));
      answered = false;
    }
    answered = answered || !opens;
    exchanges.back().text += role + (time.empty() ? "" : " (" + time + ")") + ": " + *text + "\n";
  }
  return exchanges;
}

}  // namespace

std::optional<FileKind> KindOfFile(std::string_view path) {
  const size_t dot = path.rfind('.');
  if (dot == std::string_view::npos) return std::nullopt;
  std::string extension(path.substr(dot));
  std::transform(extension.begin(), extension.end(), extension.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  if (extension == ".txt" || extension == ".text") return FileKind::kText;
  if (extension == ".md" || extension == ".markdown") return FileKind::kMarkdown;
  if (extension == ".jsonl") return FileKind::kChat;
  return std::nullopt;
}

Result<std::vector<NewDocument>> DocumentsOfFile(const std::string& path, FileKind kind,
                                                 std::string_view content, TimePoint modified) {
  std::vector<NewDocument> documents;
  constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";  // would hide a first heading
  if (content.starts_with(kByteOrderMark)) content.remove_prefix(kByteOrderMark.size());
  const char* type = "text";
  switch (kind) {
    case FileKind::kText:
      if (!IsBlank(content)) {
        documents.emplace_back();
        documents.back().text = content;
        documents.back().key = path;
      }
      break;
    case FileKind::kMarkdown:
      type = "markdown";
      documents = MarkdownSections(path, content);
      break;
    case FileKind::kChat: {
      type = "chat";
      MSADB_ASSIGN_OR_RETURN(documents, ChatExchanges(path, content));
      break;
    }
  }
  for (auto& document : documents) {
    document.source = path;
    document.metadata["path"] = path;
    document.metadata["type"] = type;
    document.metadata["modified"] = FormatTime(modified);
    document.metadata["hash"] = Hash(document.text);
  }
  return documents;
}

}  // namespace msadb::cli
