// Export to and import from JSONL (msadb/transfer.h).
#include "msadb/transfer.h"

#include <istream>
#include <ostream>
#include <utility>
#include <vector>

#include "base/utf8.h"

namespace msadb {
namespace {

enum class LineStatus { kLine, kEnd, kTooLong };

// std::getline with a bound, so that a file without line feeds cannot take all memory.
LineStatus ReadLine(std::istream& in, size_t bytes_max, std::string* line) {
  line->clear();
  std::streambuf* buffer = in.rdbuf();
  for (int c = buffer->sbumpc();; c = buffer->sbumpc()) {
    if (c == std::char_traits<char>::eof()) {
      return line->empty() ? LineStatus::kEnd : LineStatus::kLine;
    }
    if (c == '\n') break;
    if (line->size() >= bytes_max) return LineStatus::kTooLong;
    line->push_back(static_cast<char>(c));
  }
  if (!line->empty() && line->back() == '\r') line->pop_back();
  return LineStatus::kLine;
}

class Importer {
 public:
  Importer(Collection& to, std::istream& in, const ImportOptions& options)
      : to_(to), in_(in), options_(options) {}

  Result<ImportProgress> Run() {
    std::string line;
    for (;;) {
      const LineStatus status = ReadLine(in_, options_.line_bytes_max, &line);
      if (status == LineStatus::kEnd) break;
      ++line_;
      if (status == LineStatus::kTooLong) {
        return AtLine(Status::InvalidArgument("longer than " +
                                              std::to_string(options_.line_bytes_max) +
                                              " bytes; one JSON object a line is expected"));
      }
      if (line_ <= options_.lines_skipped) {
        done_.lines = line_;
        continue;
      }
      MSADB_RETURN_IF_ERROR(Take(line));
      if (batch_.size() >= options_.batch_documents) MSADB_RETURN_IF_ERROR(Flush());
    }
    if (in_.bad()) return AtLine(Status::IOError("reading failed"));
    MSADB_RETURN_IF_ERROR(Flush());
    return done_;
  }

 private:
  Status AtLine(const Status& status) const {
    return status.WithContext("line " + std::to_string(line_) + " (" + std::to_string(done_.lines) +
                              " lines are done)");
  }

  Status Take(const std::string& line) {
    if (line.find_first_not_of(" \t") == std::string::npos) return Status::Ok();
    if (!base::IsValidUtf8(line)) {
      return AtLine(Status::InvalidArgument("not valid UTF-8; convert the file first"));
    }
    auto document = DocumentFromJson(line);
    if (!document.ok()) return AtLine(document.status());
    if (options_.written_by) document->written_by = *options_.written_by;
    const auto now =
        std::chrono::time_point_cast<std::chrono::microseconds>(std::chrono::system_clock::now());
    if (document->expires_at && *document->expires_at <= now) {
      ++expired_;
      return Status::Ok();
    }
    batch_.push_back(std::move(*document));
    return Status::Ok();
  }

  Status Flush() {
    if (!batch_.empty()) {
      InsertManyOptions insert;
      insert.replace_existing = options_.replace_existing;
      auto inserted = to_.InsertMany(batch_, insert);
      if (!inserted.ok()) return AtLine(inserted.status());
      done_.inserted += *inserted;
      done_.skipped += batch_.size() - *inserted;
      batch_.clear();
    }
    done_.lines = line_;
    done_.expired = expired_;
    if (options_.on_progress && !options_.on_progress(done_)) {
      return Status::Cancelled("the import was stopped after line " + std::to_string(line_) +
                               "; what was imported stays");
    }
    return Status::Ok();
  }

  Collection& to_;
  std::istream& in_;
  const ImportOptions& options_;
  std::vector<NewDocument> batch_;
  uint64_t line_ = 0;     // read so far
  uint64_t expired_ = 0;  // of those
  ImportProgress done_;
};

}  // namespace

Result<uint64_t> ExportJsonl(CollectionReader& from, std::ostream& out,
                             const ExportOptions& options) {
  ListOptions page_options;
  page_options.where = options.where;
  page_options.limit = 100;
  uint64_t documents = 0;
  for (;;) {
    MSADB_ASSIGN_OR_RETURN(const DocumentPage page, from.List(page_options));
    for (const Document& document : page.documents) out << DocumentToJson(document) << '\n';
    documents += page.documents.size();
    if (!page.next) out.flush();
    if (!out) return Status::IOError("writing the export failed; is the disk full?");
    if (options.on_progress && !options.on_progress(documents)) {
      return Status::Cancelled("the export was stopped after " + std::to_string(documents) +
                               " documents");
    }
    if (!page.next) return documents;
    page_options.start_after = *page.next;
  }
}

Result<ImportProgress> ImportJsonl(Collection& to, std::istream& in, const ImportOptions& options) {
  if (options.batch_documents == 0) {
    return Status::InvalidArgument("ImportOptions::batch_documents must be at least 1");
  }
  return Importer(to, in, options).Run();
}

}  // namespace msadb
