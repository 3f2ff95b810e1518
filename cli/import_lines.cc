#include "cli/import_lines.h"

#include "cli/files.h"
#include "cli/interrupt.h"
#include "msadb/transfer.h"

namespace msadb::cli {

Result<int> ImportLines(const DatabaseArgs& args, const std::string& path,
                        const ImportLinesOptions& options, Printer& out) {
  InputStream input;
  MSADB_RETURN_IF_ERROR(input.Open(path));
  MSADB_ASSIGN_OR_RETURN(auto collection, OpenCollection(args, Access::kWrite));

  InterruptScope interrupt;
  ImportProgress last;
  const auto result = [&] {
    ProgressBar bar(out, "Importing");
    ImportOptions import;
    import.replace_existing = options.replace;
    import.lines_skipped = options.skip_lines;
    import.written_by = options.written_by;
    import.on_progress = [&](const ImportProgress& progress) { last = progress;
    bar.Update(progress.lines, 0);
    return !interrupt.interrupted();
  };
  return ImportJsonl(*collection, input.stream(), import);
}
();
if (!result.ok()) {
  if (last.lines == 0) return result.status();
  const std::string lines = std::to_string(last.lines);
  return result.status().WithContext("the first " + lines +
                                     " lines are stored (`msadb import --skip-lines " + lines +
                                     "` goes on from there)");
}
if (out.json()) {
  out.Value({{"inserted", result->inserted},
             {"skipped", result->skipped},
             {"expired", result->expired},
             {"lines", result->lines}});
  return kExitOk;
}
std::string line = "Inserted " + std::to_string(result->inserted) + " documents";
if (result->skipped > 0) {
  line += ", skipped " + std::to_string(result->skipped) + " whose key was there";
}
if (result->expired > 0) line += ", left out " + std::to_string(result->expired) + " expired";
out.Text(line + ".\n");
return kExitOk;
}

}  // namespace msadb::cli
