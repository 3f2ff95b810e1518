// export and import.
#include <filesystem>
#include <fstream>
#include <iostream>

#include "cli/import_lines.h"
#include "cli/interrupt.h"
#include "cli/values.h"
#include "cli/verb.h"
#include "msadb/transfer.h"

namespace msadb::cli {
namespace {

struct TransferArgs : DatabaseArgs {
  std::string file;
  std::optional<std::string> where;
  bool replace = false;
  uint64_t skip_lines = 0;
  std::optional<std::string> written_by;
};

Result<uint64_t> WriteAll(Snapshot& snapshot, std::ostream& to, ExportOptions options,
                          Printer& out) {
  MSADB_ASSIGN_OR_RETURN(auto total, snapshot.Count());
  InterruptScope interrupt;
  ProgressBar bar(out, "Exporting");
  options.on_progress = [&](uint64_t documents) {
    bar.Update(documents, options.where ? 0 : total);
    return !interrupt.interrupted();
  };
  return ExportJsonl(snapshot, to, options);
}

Result<uint64_t> WriteFile(Snapshot& snapshot, const std::string& path,
                           const ExportOptions& options, Printer& out) {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  if (!file) return Status::IOError("cannot write '" + path + "'");
  MSADB_ASSIGN_OR_RETURN(auto exported, WriteAll(snapshot, file, options, out));
  file.close();
  if (!file) return Status::IOError("writing '" + path + "' failed; is the disk full?");
  return exported;
}

Result<int> Export(const TransferArgs& args, Printer& out) {
  const bool to_stdout = args.file == "-";
  if (to_stdout && out.json()) {
    return Status::InvalidArgument("--json needs a FILE: the documents would mix with the report");
  }
  ExportOptions options;
  MSADB_ASSIGN_OR_RETURN(options.where, ParseWhere(args.where));
  MSADB_ASSIGN_OR_RETURN(auto collection, OpenCollection(args));
  MSADB_ASSIGN_OR_RETURN(auto snapshot, collection->TakeSnapshot());
  uint64_t exported = 0;
  if (to_stdout) {
    MSADB_ASSIGN_OR_RETURN(exported, WriteAll(*snapshot, std::cout, options, out));
    if (!std::cout.flush()) return Status::IOError("writing to standard output failed");
  } else {
    // Beside the target and then renamed, so that a good older export is never half overwritten.
    const std::string part = args.file + ".part";
    auto written = WriteFile(*snapshot, part, options, out);
    std::error_code error;
    if (written.ok()) std::filesystem::rename(part, args.file, error);
    if (error) written = Status::IOError("cannot write '" + args.file + "': " + error.message());
    if (!written.ok()) {
      std::filesystem::remove(part, error);
      return written.status();
    }
    exported = *written;
  }
  if (out.json()) {
    out.Value({{"exported", exported}, {"file", args.file}});
  } else {
    out.Remark("Exported " + std::to_string(exported) + " documents.");
  }
  return kExitOk;
}

Result<int> Import(const TransferArgs& args, Printer& out) {
  return ImportLines(
      args, args.file,
      {.replace = args.replace, .skip_lines = args.skip_lines, .written_by = args.written_by}, out);
}

}  // namespace

void AddTransferVerbs(CLI::App& app, Chosen* chosen) {
  auto to = std::make_shared<TransferArgs>();
  CLI::App* export_verb = AddVerb(
      app, "export", "Write a collection as JSONL",
      "One document a line, with text, key, metadata, source, writer and times; a frozen view,\n"
      "whatever is inserted meanwhile. `msadb import` reads it back, under any model.\n\n"
      "Examples:\n"
      "  msadb export notes notes.jsonl\n"
      "  msadb export notes - | gzip > notes.jsonl.gz",
      to.get());
  export_verb->add_option("FILE", to->file, "Where to write, or -")->required();
  AddCollectionOption(export_verb, to.get());
  export_verb->add_option("--where", to->where, "Only documents whose metadata matches");
  OnChosen(export_verb, chosen, to, Export);

  auto from = std::make_shared<TransferArgs>();
  CLI::App* import_verb = AddVerb(
      app, "import", "Read documents from JSONL",
      "Documents are encoded again and get new ids. A line whose key is there already is\n"
      "skipped (or replaced with --replace), so an interrupted import is simply run again.\n"
      "Who wrote a document is what the line says; --written-by says it for a file from "
      "elsewhere.\n\n"
      "Examples:\n"
      "  msadb import notes notes.jsonl\n"
      "  zcat notes.jsonl.gz | msadb import notes -",
      from.get());
  import_verb->add_option("FILE", from->file, "What to read, or -")->required();
  AddCollectionOption(import_verb, from.get());
  import_verb->add_flag("--replace", from->replace, "Replace what has the same key");
  import_verb->add_option("--skip-lines", from->skip_lines, "Pass over this many lines first")
      ->check(WholeNumber());
  import_verb->add_option("--written-by", from->written_by,
                          "Who wrote all of it, instead of what the lines say");
  OnChosen(import_verb, chosen, from, Import);
}

}  // namespace msadb::cli
