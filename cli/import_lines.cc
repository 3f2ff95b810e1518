#include "cli/import_lines.h"

#include "cli/files.h"
#include "cli/interrupt.h"
#include "msadb/transfer.h"

namespace msadb::cli {
namespace {

Result<ImportProgress> Read(Collection& collection, InputStream& input,
                            const ImportLinesOptions& options, Printer& out) {
  InterruptScope interrupt;
  ProgressBar bar(out, "Importing");
  ImportProgress last;
  ImportOptions import_options;
  import_options.replace_existing = options.replace;
  import_options.lines_skipped = options.skip_lines;
  import_options.written_by = options.written_by;
  import_options.on_progress = [&](const ImportProgress& progress) {
    last = progress;
    bar.Update(progress.lines, 0);
    return !interrupt.interrupted();
  };
  auto result = ImportJsonl(collection, input.stream(), import_options);
  if (result.ok() || last.lines == 0) return result;
  const std::string lines = std::to_string(last.lines);
  return result.status().WithContext("the first " + lines +
                                     " lines are stored (`msadb import --skip-lines " + lines +
                                     "` goes on from there)");
}

}  // namespace

Result<int> ImportLines(const DatabaseArgs& args, const std::string& path,
                        const ImportLinesOptions& options, Printer& out) {
  InputStream input;
  MSADB_RETURN_IF_ERROR(input.Open(path));
  return WriteToCollection(args, [&](const auto& collection) -> Result<int> {
    MSADB_ASSIGN_OR_RETURN(const auto result, Read(*collection, input, options, out));
    if (out.json()) {
      out.Value({{"inserted", result.inserted},
                 {"skipped", result.skipped},
                 {"expired", result.expired},
                 {"lines", result.lines}});
      return kExitOk;
    }
    std::string line = "Inserted " + std::to_string(result.inserted) + " documents";
    if (result.skipped > 0) {
      line += ", skipped " + std::to_string(result.skipped) + " whose key was there";
    }
    if (result.expired > 0) line += ", left out " + std::to_string(result.expired) + " expired";
    out.Text(line + ".\n");
    return kExitOk;
  });
}

}  // namespace msadb::cli
