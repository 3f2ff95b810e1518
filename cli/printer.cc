#include "cli/printer.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

namespace msadb::cli {

void Printer::Value(const Json& value) {
  const int indent = isatty(STDOUT_FILENO) ? 2 : -1;
  Text(value.dump(indent, ' ', false, Json::error_handler_t::replace));
  Text("\n");
}

void Printer::Text(std::string_view text) { std::fwrite(text.data(), 1, text.size(), stdout); }

void Printer::Remark(std::string_view line) {
  if (json_) return;
  std::fflush(stdout);
  std::fprintf(stderr, "%.*s\n", static_cast<int>(line.size()), line.data());
}

void Printer::Error(const Status& status) {
  if (json_) {
    Value(
        {{"error",
          {{"code", StatusCodeName(status.code())}, {"message", std::string(status.message())}}}});
    return;
  }
  std::fflush(stdout);
  std::fprintf(stderr, "msadb: %s\n", status.ToString().c_str());
}

bool Printer::Finish() { return std::fflush(stdout) == 0 && !std::ferror(stdout); }

ProgressBar::ProgressBar(const Printer& printer, std::string label)
    : label_(std::move(label)), enabled_(!printer.json() && isatty(STDERR_FILENO)) {}

ProgressBar::~ProgressBar() {
  if (drawn_) std::fputs("\r\033[K", stderr);
}

void ProgressBar::Update(uint64_t done, uint64_t total, uint64_t tokens) {
  if (!enabled_) return;
  const auto now = Clock::now();
  if (now - last_draw_ < std::chrono::milliseconds(100) && done != total) return;
  last_draw_ = now;
  const double seconds = std::chrono::duration<double>(now - started_).count();

  std::string line = label_ + " ";
  if (total > 0) {
    constexpr size_t kCells = 24;
    const double share = std::min(1.0, static_cast<double>(done) / static_cast<double>(total));
    const size_t full = static_cast<size_t>(share * kCells);
    line += "[" + std::string(full, '#') + std::string(kCells - full, '.') + "] ";
    line += std::to_string(done) + "/" + std::to_string(total);
    if (done > 0 && done < total) {
      line += ", " + std::to_string(static_cast<uint64_t>(seconds / share - seconds)) + " s left";
    }
  } else {
    line += std::to_string(done);
  }
  if (tokens > 0 && seconds > 0.5) {
    line += ", " + std::to_string(static_cast<uint64_t>(static_cast<double>(tokens) / seconds)) +
            " tokens/s";
  }
  winsize size{};
  if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 1) {
    line.resize(std::min<size_t>(line.size(), size.ws_col - 1));
  }
  std::fprintf(stderr, "\r%s\033[K", line.c_str());
  std::fflush(stderr);
  drawn_ = true;
}

std::string HumanBytes(uint64_t bytes) {
  const char* const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  double value = static_cast<double>(bytes);
  size_t unit = 0;
  while (value >= 1024 && unit + 1 < std::size(units)) {
    value /= 1024;
    ++unit;
  }
  char buffer[32];
  std::snprintf(buffer, sizeof(buffer), unit == 0 ? "%.0f %s" : "%.1f %s", value, units[unit]);
  return buffer;
}

std::string Preview(std::string_view text, size_t width) {
  std::string line;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte > 0x20 && byte != 0x7f) {
      line.push_back(c);
    } else if (!line.empty() && line.back() != ' ') {
      line.push_back(' ');
    }
    if (line.size() > width + 4) break;  // a whole character beyond what is shown
  }
  if (!line.empty() && line.back() == ' ') line.pop_back();
  if (line.size() <= width) return line;
  size_t end = width;
  while (end > 0 && (static_cast<unsigned char>(line[end]) & 0xC0) == 0x80) --end;
  line.resize(end);
  return line + "...";
}

}  // namespace msadb::cli
