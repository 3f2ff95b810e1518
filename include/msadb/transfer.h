// Documents as JSON, one object a line (JSONL): export, import, and the forms that tools share.
//
//   {"id":17,"text":"...","key":"k","metadata":{"year":2026},"source":"...",
//    "written_by":"ada","created_at":"2026-11-22T10:00:00.000000Z",
//    "expires_at":"2026-12-01T00:00:00Z"}
//
// Only `text` is required when reading; unknown names are refused, so a misspelt one is noticed.
// Metadata values: string, integer, number, boolean, list of strings. Times: RFC 3339 in UTC.
// `id` is written for information: an import encodes the text again under a new number.
// `written_by` is what the file says. A collection behind a server stores the caller's own name.
// Nothing here throws; all functions may be called from any thread.
#ifndef MSADB_TRANSFER_H_
#define MSADB_TRANSFER_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <iosfwd>
#include <optional>
#include <string>
#include <string_view>

#include "msadb/database.h"
#include "msadb/document.h"
#include "msadb/filter.h"
#include "msadb/status.h"

namespace msadb {

// "2026-11-22T10:00:00.000000Z".
std::string FormatTime(TimePoint time);
// RFC 3339 in UTC, years 1970 to 9999, up to six digits after the second. InvalidArgument says what
// is expected.
Result<TimePoint> ParseTime(std::string_view text);

// One line without line feed.
std::string DocumentToJson(const Document& document);
std::string MetadataToJson(const Metadata& metadata);
// InvalidArgument: not JSON, nested too deep, a wrong type, an unknown name, no text.
Result<NewDocument> DocumentFromJson(std::string_view json);
Result<Metadata> MetadataFromJson(std::string_view json);

struct ExportOptions {
  std::optional<Filter> where;
  // Called after every page of documents. Return false to stop with Cancelled.
  std::function<bool(uint64_t documents)> on_progress;
};

// Writes every visible document of `from`, ascending id, and returns how many. Pass a Snapshot for
// a frozen state; a live collection is read page by page and may change in between. IOError when
// `out` fails.
Result<uint64_t> ExportJsonl(CollectionReader& from, std::ostream& out,
                             const ExportOptions& options = {});

struct ImportProgress {
  uint64_t lines = 0;     // read and, as far as they hold documents, durable
  uint64_t inserted = 0;  // inserted or replaced
  uint64_t skipped = 0;   // key present already
  uint64_t expired = 0;   // expires_at had passed
};

struct ImportOptions {
  // With a key present already: replace the document (true), or skip the line (false). Skipping
  // makes an interrupted import resumable: run it again.
  bool replace_existing = false;
  // Stored as every document's written_by, instead of what the lines say: for files from elsewhere,
  // which can say anything.
  std::optional<std::string> written_by;
  // Lines to pass over at the start. Documents without a key have nothing to be recognised by; for
  // them an interrupted import goes on from the `lines` it last reported.
  uint64_t lines_skipped = 0;
  size_t line_bytes_max = 256u << 20;
  size_t batch_documents = 256;  // lines read before they are inserted together
  // Called after every committed batch. Return false to stop with Cancelled; what is committed
  // stays.
  std::function<bool(const ImportProgress&)> on_progress;
};

// Reads documents from `in` to its end and inserts them. On error everything committed before
// stays; the message names the line. Empty lines are passed over.
Result<ImportProgress> ImportJsonl(Collection& to, std::istream& in,
                                   const ImportOptions& options = {});

}  // namespace msadb

#endif  // MSADB_TRANSFER_H_
