// Turning files into documents: plain text, Markdown and chat logs.
//
//   text      one document, key = path
//   Markdown  one document a section (ATX headings outside code fences). The first section has
//             key = path, later ones path#heading-in-lower-case; a section below a heading starts
//             with the line "Outer > Inner", so that it says where it belongs
//   chat      JSONL of {"role", "content", "timestamp"}: one document for each message of a user
//             (or other opening message) with the replies that follow it, key = path#line
#ifndef MSADB_CLI_INGEST_DOCUMENTS_H_
#define MSADB_CLI_INGEST_DOCUMENTS_H_

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "msadb/document.h"
#include "msadb/status.h"

namespace msadb::cli {

enum class FileKind { kText, kMarkdown, kChat };

// By the file's extension: .txt .text .md .markdown .jsonl; nothing for others.
std::optional<FileKind> KindOfFile(std::string_view path);

// The documents of one file, in order, keys unique. Each has metadata path, type, modified (RFC
// 3339) and hash (XXH3 of its text, hexadecimal), by which a later run sees what changed. A chat
// message also has role and, when given, timestamp. InvalidArgument names the line that cannot be
// read.
Result<std::vector<NewDocument>> DocumentsOfFile(const std::string& path, FileKind kind,
                                                 std::string_view content, TimePoint modified);

}  // namespace msadb::cli

#endif  // MSADB_CLI_INGEST_DOCUMENTS_H_
