// How a verb is declared: one function per verb adds a CLI11 subcommand, whose callback hands what
// is to be run to main. Verbs live in files by family (documents.cc, query.cc, ...).
#ifndef MSADB_CLI_VERB_H_
#define MSADB_CLI_VERB_H_

#include <CLI/CLI.hpp>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "cli/exit_codes.h"
#include "cli/printer.h"
#include "msadb/msadb.h"

namespace msadb::cli {

// The verb that the command line chose. `run` prints its result and returns the exit code, or the
// error that main prints.
struct Chosen {
  bool json = false;
  std::function<Result<int>(Printer&)> run;
};

// What nearly every verb takes. A verb's own arguments derive from this.
struct DatabaseArgs {
  std::string folder;
  std::string collection = "default";
  std::string model;
  std::string device = "auto";
  std::string routing_keys = "float";
  int threads = 0;
  bool json = false;
};

enum class Access { kRead, kWrite };

// Adds subcommand `name` with DIR, --json, --model, --threads, --device and --routing-keys. `help`
// is one line; `lesson` follows the options in --help and should end in examples.
CLI::App* AddVerb(CLI::App& app, const std::string& name, const std::string& help,
                  const std::string& lesson, DatabaseArgs* args);
void AddCollectionOption(CLI::App* verb, DatabaseArgs* args);

// Makes `run` what happens when `verb` is chosen. Args is a struct derived from DatabaseArgs.
template <typename Args>
void OnChosen(CLI::App* verb, Chosen* chosen, std::shared_ptr<Args> args,
              Result<int> (*run)(const Args&, Printer&)) {
  verb->callback([chosen, args = std::move(args), run] {
    chosen->json = args->json;
    chosen->run = [args, run](Printer& out) { return run(*args, out); };
  });
}

Options MakeOptions(const DatabaseArgs& args, Access access);
// Opens an existing database; NotFound tells how to make one.
Result<std::shared_ptr<Database>> OpenDatabase(const DatabaseArgs& args, Access access);
// Its collection args.collection, to read.
Result<std::shared_ptr<Collection>> OpenCollection(const DatabaseArgs& args);
// Runs `write` on args.collection, which is created when it is missing. When `write` then fails
// without having stored anything, it is dropped again: a failed command changes nothing.
Result<int> WriteToCollection(
    const DatabaseArgs& args,
    const std::function<Result<int>(const std::shared_ptr<Collection>&)>& write);

// --where: no filter when it was not given. An empty text is an error, so that a script's unset
// variable never means "everything".
Result<std::optional<Filter>> ParseWhere(const std::optional<std::string>& text);

// A check for options that are unsigned numbers: CLI11 would take "-1" for the largest one.
CLI::Validator WholeNumber();

void AddDatabaseVerbs(CLI::App& app, Chosen* chosen);    // create stats verify compact reencode
void AddCollectionVerbs(CLI::App& app, Chosen* chosen);  // collections list/create/drop
void AddInsertVerb(CLI::App& app, Chosen* chosen);
void AddDocumentVerbs(CLI::App& app, Chosen* chosen);  // get delete list
void AddQueryVerbs(CLI::App& app, Chosen* chosen);     // search ask
void AddTransferVerbs(CLI::App& app, Chosen* chosen);  // export import
void AddIngestVerb(CLI::App& app, Chosen* chosen);
void AddServeVerbs(CLI::App& app, Chosen* chosen);  // serve tokens
void AddMcpVerb(CLI::App& app, Chosen* chosen);

}  // namespace msadb::cli

#endif  // MSADB_CLI_VERB_H_
