// msadb: the command line. One process opens a folder, does one thing and closes it.
#include <unistd.h>

#include <cstdio>
#include <exception>
#include <memory>
#include <new>
#include <string>
#include <string_view>

#include "cli/interrupt.h"
#include "cli/verb.h"

namespace msadb::cli {
namespace {

constexpr const char kDescription[] =
    "msadb: a memory that a language model answers from.\n"
    "A database is a folder of documents, kept as the latent states of a Memory Sparse Attention\n"
    "model. Ask it a question, and the model attends over them and says which ones it used.";

constexpr const char kLesson[] =
    "First steps:\n"
    "  msadb create notes\n"
    "  msadb insert notes \"The spare key is under the blue flowerpot.\"\n"
    "  msadb ask notes \"Where is the spare key?\"\n"
    "\n"
    "A folder of your own texts:\n"
    "  msadb ingest notes ~/Documents/journal     again later: only what changed\n"
    "  msadb search notes \"holiday in Norway\"     ranks documents, generates nothing\n"
    "\n"
    "`msadb VERB --help` explains each verb with examples.\n"
    "\n"
    "Exit codes:\n"
    "  0 done   1 not found   2 wrong command line or input   3 taken, conflict, read-only or\n"
    "  other model   4 damaged bytes   5 input/output, disk or memory   6 in use by another\n"
    "  process   7 deadline passed   8 unsupported   9 a defect in msadb   130 cancelled";

// Options as "--limit INT=100"; CLI11's own form also repeats checks and exclusions, which is
// noise beside a lesson in words.
class HelpFormatter : public CLI::Formatter {
 public:
  HelpFormatter() { column_width(30); }

  std::string make_option_opts(const CLI::Option* option) const override {
    std::string text;
    if (option->get_type_size() != 0 && !option->get_positional()) text = " " + ValueName(*option);
    if (!option->get_default_str().empty()) text += "=" + option->get_default_str();
    return text;
  }

 private:
  static std::string ValueName(const CLI::Option& option) {
    const std::string name = option.get_type_name();  // "INT:INT in [0 - 10]"
    return name.substr(0, name.find(':'));
  }
};

bool WantsJson(int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    const std::string_view word = argv[i];
    if (word == "--") return false;
    if (word == "--json") return true;
  }
  return false;
}

// CLI11 would say of a word that is no verb only that a verb is missing.
std::string Explain(const CLI::App& app, const CLI::ParseError& error) {
  const CLI::App* last = &app;
  while (!last->get_subcommands().empty()) last = last->get_subcommands().front();
  const auto rest = app.remaining(/*recurse=*/true);
  const bool wants_verb = last->get_require_subcommand_min() > 0;
  if (wants_verb && !rest.empty() && !rest.front().starts_with('-')) {
    return "there is no verb '" + rest.front() + "'";
  }
  return error.what();
}

// For what no verb caught.
int Fail(int argc, char** argv, const Status& status) {
  Printer(WantsJson(argc, argv)).Error(status);
  std::fflush(stdout);
  return ExitCodeOf(status.code());
}

int Run(int argc, char** argv) {
  CLI::App app(kDescription, "msadb");
  app.footer(kLesson);
  app.set_version_flag("--version", std::string("msadb ") + MSADB_VERSION);
  app.require_subcommand(1);
  app.formatter(std::make_shared<HelpFormatter>());

  Chosen chosen;
  AddDatabaseVerbs(app, &chosen);
  AddInsertVerb(app, &chosen);
  AddIngestVerb(app, &chosen);
  AddDocumentVerbs(app, &chosen);
  AddQueryVerbs(app, &chosen);
  AddCollectionVerbs(app, &chosen);
  AddTransferVerbs(app, &chosen);
  AddServeVerbs(app, &chosen);
  AddMcpVerb(app, &chosen);

  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& help) {  // --help and --version
    return app.exit(help);
  } catch (const CLI::ParseError& error) {
    const std::string message = Explain(app, error);
    Printer out(WantsJson(argc, argv));
    if (out.json()) {
      out.Error(Status::InvalidArgument(message));
    } else {
      std::fprintf(stderr, "msadb: %s\nTry: msadb --help, or msadb VERB --help\n", message.c_str());
    }
    return kExitUsage;
  }

  Printer out(chosen.json);
  Result<int> code = chosen.run(out);
  if (!code.ok()) out.Error(code.status());
  if (!out.Finish()) {
    std::fprintf(stderr, "msadb: the output could not be written\n");
    return kExitResources;
  }
  return code.ok() ? *code : ExitCodeOf(code.status().code());
}

}  // namespace
}  // namespace msadb::cli

int main(int argc, char** argv) {
  try {
    msadb::cli::InstallInterruptHandler();
    return msadb::cli::Run(argc, argv);
  } catch (const std::bad_alloc&) {
    return msadb::cli::Fail(argc, argv, msadb::Status::ResourceExhausted("out of memory"));
  } catch (const std::exception& error) {
    return msadb::cli::Fail(argc, argv, msadb::Status::Internal(error.what()));
  }
}
