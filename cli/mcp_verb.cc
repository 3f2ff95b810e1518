// mcp: the memory as tools of an agent.
#include <signal.h>
#include <unistd.h>

#include "cli/verb.h"
#include "server/mcp/stdio.h"

namespace msadb::cli {
namespace {

struct McpArgs : DatabaseArgs {
  bool read_only = false;
  std::string written_by = "mcp";
};

Result<int> Mcp(const McpArgs& args, Printer& out) {
  // A client that went away is an error of write, not the end of the process.
  signal(SIGPIPE, SIG_IGN);
  MSADB_ASSIGN_OR_RETURN(auto database,
                         OpenDatabase(args, args.read_only ? Access::kRead : Access::kWrite));
  const auto session = mcp::Session::Make(
      {.read_only = args.read_only, .written_by = args.written_by},
      [&](mcp::Access access) -> Result<std::shared_ptr<Collection>> {
        return access == mcp::Access::kWrite ? database->GetOrCreateCollection(args.collection)
                                             : database->OpenCollection(args.collection);
      });
  MSADB_RETURN_IF_ERROR(mcp::ServeStdio(session, STDIN_FILENO, STDOUT_FILENO));
  return kExitOk;
}

}  // namespace

void AddMcpVerb(CLI::App& app, Chosen* chosen) {
  auto args = std::make_shared<McpArgs>();
  CLI::App* verb = AddVerb(
      app, "mcp", "Offer a memory to an agent (Model Context Protocol)",
      "Speaks MCP over standard input and output: an agent's program starts it and calls its "
      "tools\n"
      "remember, recall, ask, forget and list. All see one collection. The database is open, and\n"
      "closed to other processes, until the agent ends.\n\n"
      "In the configuration of the agent's program:\n"
      "  {\"mcpServers\": {\"memory\": {\"command\": \"msadb\", \"args\": [\"mcp\", "
      "\"/home/ada/notes\"]}}}\n\n"
      "Examples:\n"
      "  msadb mcp notes\n"
      "  msadb mcp notes -c work --read-only        recall, ask and list only",
      args.get());
  AddCollectionOption(verb, args.get());
  verb->add_flag("--read-only", args->read_only, "Refuse every change");
  verb->add_option("--written-by", args->written_by, "Who wrote what the agent remembers")
      ->capture_default_str();
  OnChosen(verb, chosen, args, Mcp);
}

}  // namespace msadb::cli
