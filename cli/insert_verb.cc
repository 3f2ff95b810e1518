// insert: one document from the command line or a file, or many from JSONL.
#include "cli/files.h"
#include "cli/import_lines.h"
#include "cli/values.h"
#include "cli/verb.h"
#include "msadb/transfer.h"

namespace msadb::cli {
namespace {

struct InsertArgs : DatabaseArgs {
  std::string text;
  std::string file;
  std::string jsonl;
  std::optional<std::string> key;
  std::string metadata;
  std::string source;
  std::optional<std::string> written_by;
  std::string expires;
  bool replace = false;
};

Result<int> Insert(const InsertArgs& args, Printer& out) {
  if (!args.jsonl.empty()) {
    return ImportLines(args, args.jsonl, {.replace = args.replace, .written_by = args.written_by},
                       out);
  }

  NewDocument document;
  document.text = args.text;
  document.key = args.key;
  document.source = args.source;
  document.written_by = args.written_by.value_or("");
  if (!args.file.empty()) {
    MSADB_ASSIGN_OR_RETURN(document.text, ReadAll(args.file, Limits().text_bytes_max));
    if (document.source.empty() && args.file != "-") document.source = args.file;
  }
  if (!args.metadata.empty()) {
    auto metadata = MetadataFromJson(args.metadata);
    if (!metadata.ok()) return metadata.status().WithContext("--meta");
    document.metadata = std::move(*metadata);
  }
  if (!args.expires.empty()) {
    auto expiry = ParseExpiry(args.expires, Now());
    if (!expiry.ok()) return expiry.status().WithContext("--expires");
    document.expires_at = *expiry;
  }
  return WriteToCollection(args, [&](const auto& collection) -> Result<int> {
    MSADB_ASSIGN_OR_RETURN(
        auto id, args.replace ? collection->Upsert(document) : collection->Insert(document));
    if (out.json()) {
      out.Value({{"id", id}, {"key", args.key ? Json(*args.key) : Json(nullptr)}});
    } else {
      out.Text("Inserted document " + std::to_string(id) + ".\n");
    }
    return kExitOk;
  });
}

}  // namespace

void AddInsertVerb(CLI::App& app, Chosen* chosen) {
  auto args = std::make_shared<InsertArgs>();
  CLI::App* verb = AddVerb(
      app, "insert", "Store a document, or many",
      "Give exactly one of TEXT, --file and --jsonl. When the command returns, the document is on\n"
      "disk and every later question sees it. A collection that does not exist is created.\n\n"
      "JSONL holds one object a line; only \"text\" is required:\n"
      "  {\"text\": \"...\", \"key\": \"k\", \"metadata\": {\"year\": 2026}, \"source\": \"...\",\n"
      "   \"expires_at\": \"2026-12-31T00:00:00Z\"}\n"
      "A line whose key is there already is skipped, so an interrupted load is simply run again;\n"
      "--replace replaces instead.\n\n"
      "Examples:\n"
      "  msadb insert notes \"Ada's birthday is on 10 December.\" --key ada/birthday\n"
      "  msadb insert notes --file minutes.txt --meta '{\"project\": \"roof\", \"year\": 2026}'\n"
      "  msadb insert notes \"The plumber comes at nine.\" --expires 2d\n"
      "  zcat facts.jsonl.gz | msadb insert notes --jsonl -",
      args.get());
  AddCollectionOption(verb, args.get());
  auto* key =
      verb->add_option("--key", args->key, "Your own name for it, unique in the collection");
  auto* metadata = verb->add_option("--meta", args->metadata, "Metadata: a flat JSON object");
  auto* source = verb->add_option("--source", args->source, "Where it comes from, in your words");
  verb->add_option("--written-by", args->written_by,
                   "Who wrote it; with --jsonl, instead of what the lines say");
  auto* expires = verb->add_option("--expires", args->expires,
                                   "When it vanishes: 90s, 15m, 12h, 30d, 2w or a UTC time");
  verb->add_flag("--replace", args->replace, "Replace what has the same key");
  auto* input = verb->add_option_group("input", "What to store (exactly one)");
  input->add_option("TEXT", args->text, "The text itself");
  input->add_option("--file", args->file, "A UTF-8 text file, or -");
  input->add_option("--jsonl", args->jsonl, "Many documents, one JSON object a line, or -")
      ->excludes(key)
      ->excludes(metadata)
      ->excludes(source)
      ->excludes(expires);
  input->require_option(1);
  OnChosen(verb, chosen, args, Insert);
}

}  // namespace msadb::cli
