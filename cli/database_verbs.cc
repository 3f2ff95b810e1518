// create, stats, verify, compact, reencode: the database as a whole.
#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <filesystem>

#include "cli/interrupt.h"
#include "cli/values.h"
#include "cli/verb.h"

namespace msadb::cli {
namespace {

namespace fs = std::filesystem;

// The model that comes with msadb: beside an installed program in share/msadb, or in the source
// tree that it was built in. Empty when there is none; the library then looks at MSADB_MODEL.
std::string BundledModel() {
  if (std::getenv("MSADB_MODEL") != nullptr) return "";
  std::error_code error;
  fs::path folder = fs::read_symlink("/proc/self/exe", error).parent_path();
  for (int up = 0; up < 5 && !folder.empty(); ++up, folder = folder.parent_path()) {
    for (const char* candidate :
         {"share/msadb/models/default", "models/default", "models/.local/smollm2-135m"}) {
      if (fs::exists(folder / candidate / "config.json", error)) {
        return (folder / candidate).string();
      }
    }
    if (folder == folder.parent_path()) break;
  }
  return "";
}

Result<int> Create(const DatabaseArgs& args, Printer& out) {
  Options options = MakeOptions(args, Access::kWrite);
  options.create_if_missing = true;
  options.error_if_exists = true;
  if (options.model_path.empty()) options.model_path = BundledModel();
  MSADB_ASSIGN_OR_RETURN(auto database, Database::Open(args.folder, options));
  MSADB_ASSIGN_OR_RETURN(auto collection, database->GetOrCreateCollection("default"));
  if (out.json()) {
    out.Value({{"folder", args.folder},
               {"model", database->model()->description()},
               {"model_fingerprint", database->model()->fingerprint()}});
  } else {
    out.Text("Made " + args.folder + " for " + database->model()->description() + ".\n");
    out.Remark("Next: msadb insert " + args.folder + " \"something to remember\"");
  }
  return kExitOk;
}

std::string Line(const char* name, const std::string& value) {
  char buffer[256];
  std::snprintf(buffer, sizeof(buffer), "%-18s %s\n", name, value.c_str());
  return buffer;
}

Result<int> Stats(const DatabaseArgs& args, Printer& out) {
  MSADB_ASSIGN_OR_RETURN(auto database, OpenDatabase(args, Access::kRead));
  MSADB_ASSIGN_OR_RETURN(auto stats, database->Stats());
  if (out.json()) {
    Json value = ToJson(stats);
    value["model"] = database->model()->description();
    out.Value(value);
    return kExitOk;
  }
  out.Text(Line("model", database->model()->description()));
  out.Text(Line("fingerprint", stats.model_fingerprint));
  out.Text(Line("on disk", HumanBytes(stats.disk_bytes)));
  for (const auto& collection : stats.collections) {
    out.Text("\ncollection " + collection.name + "\n");
    out.Text(Line("  documents", std::to_string(collection.documents) + " in " +
                                     std::to_string(collection.parts) + " parts"));
    out.Text(Line("  tokens", std::to_string(collection.tokens) + " in " +
                                  std::to_string(collection.chunks) + " chunks"));
    out.Text(Line("  text", HumanBytes(collection.text_bytes)));
    out.Text(Line("  routing keys", HumanBytes(collection.routing_bytes)));
    out.Text(Line("  K/V blocks", HumanBytes(collection.content_bytes)));
  }
  return kExitOk;
}

Result<int> Verify(const DatabaseArgs& args, Printer& out) {
  MSADB_ASSIGN_OR_RETURN(auto database, OpenDatabase(args, Access::kRead));
  MSADB_ASSIGN_OR_RETURN(auto report, database->Verify());
  if (out.json()) {
    out.Value({{"ok", report.ok()},
               {"documents_checked", report.documents_checked},
               {"bytes_checked", report.bytes_checked},
               {"problems", report.problems},
               {"truncated", report.truncated}});
  } else {
    for (const auto& problem : report.problems) out.Text(problem + "\n");
    if (report.truncated) out.Text("... and more\n");
    out.Text((report.ok() ? "Sound: " : "Damaged: ") + std::to_string(report.documents_checked) +
             " documents and " + HumanBytes(report.bytes_checked) + " checked, " +
             std::to_string(report.problems.size()) + (report.truncated ? "+" : "") +
             " problems.\n");
  }
  return report.ok() ? kExitOk : kExitCorruption;
}

Result<int> Compact(const DatabaseArgs& args, Printer& out) {
  MSADB_ASSIGN_OR_RETURN(auto database, OpenDatabase(args, Access::kWrite));
  MSADB_ASSIGN_OR_RETURN(auto before, database->Stats());
  MSADB_RETURN_IF_ERROR(database->Compact());
  MSADB_ASSIGN_OR_RETURN(auto after, database->Stats());
  if (out.json()) {
    out.Value({{"disk_bytes_before", before.disk_bytes}, {"disk_bytes_after", after.disk_bytes}});
  } else {
    out.Text("Compacted: " + HumanBytes(before.disk_bytes) + " before, " +
             HumanBytes(after.disk_bytes) + " now.\n");
  }
  return kExitOk;
}

Result<int> Reencode(const DatabaseArgs& args, Printer& out) {
  if (args.model.empty()) {
    return Status::InvalidArgument("name the new model with --model FOLDER");
  }
  std::error_code error;
  if (!fs::exists(args.folder, error)) {
    return Status::NotFound("there is no folder '" + args.folder + "'");
  }
  InterruptScope interrupt;
  InsertProgress last;
  {
    ProgressBar bar(out, "Re-encoding");
    MSADB_RETURN_IF_ERROR(Database::Reencode(
        args.folder, MakeOptions(args, Access::kWrite), [&](const InsertProgress& progress) {
          last = progress;
          bar.Update(progress.done, progress.total, progress.tokens);
          return !interrupt.interrupted();
        }));
  }
  if (out.json()) {
    out.Value({{"documents", last.done}, {"tokens", last.tokens}});
  } else {
    out.Text("Re-encoded " + std::to_string(last.done) + " documents for " + args.model + ".\n");
  }
  return kExitOk;
}

}  // namespace

void AddDatabaseVerbs(CLI::App& app, Chosen* chosen) {
  const auto add = [&](const char* name, const char* help, const char* lesson,
                       Result<int> (*run)(const DatabaseArgs&, Printer&)) {
    auto args = std::make_shared<DatabaseArgs>();
    CLI::App* verb = AddVerb(app, name, help, lesson, args.get());
    OnChosen(verb, chosen, args, run);
  };
  add("create", "Make an empty database",
      "Without --model: $MSADB_MODEL, else the model that came with msadb. A database works with "
      "the\n"
      "model it was made with; `msadb reencode` changes it later.\n\n"
      "Examples:\n"
      "  msadb create notes\n"
      "  msadb create notes --model models/default",
      Create);
  add("stats", "Count documents, tokens and bytes",
      "Examples:\n  msadb stats notes\n  msadb stats notes --json", Stats);
  add("verify", "Read every byte and check it",
      "Checks all checksums, records against blocks, and the index against storage. Exit code 4 "
      "when\n"
      "something is damaged.\n\n"
      "Example:\n  msadb verify notes && echo all is well",
      Verify);
  add("compact", "Remove every trace of deleted documents",
      "Deleted and expired documents are invisible at once; after this no byte of them is on "
      "disk.\n\n"
      "Example:\n  msadb delete notes --key diary/march && msadb compact notes",
      Compact);
  add("reencode", "Adopt another model",
      "Encodes every document anew with --model. The old database stays whole until the new one "
      "is\n"
      "complete, so it may be stopped at any moment.\n\n"
      "Example:\n  msadb reencode notes --model models/larger",
      Reencode);
}

}  // namespace msadb::cli
