// collections list, create, drop.
#include "cli/values.h"
#include "cli/verb.h"

namespace msadb::cli {
namespace {

struct NameArgs : DatabaseArgs {
  std::string name;
};

Result<int> ListCollections(const NameArgs& args, Printer& out) {
  MSADB_ASSIGN_OR_RETURN(auto database, OpenDatabase(args, Access::kRead));
  MSADB_ASSIGN_OR_RETURN(auto names, database->ListCollections());
  Json listed = Json::array();
  for (const auto& name : names) {
    MSADB_ASSIGN_OR_RETURN(auto collection, database->OpenCollection(name));
    MSADB_ASSIGN_OR_RETURN(auto count, collection->Count());
    listed.push_back({{"name", name}, {"documents", count}});
    if (!out.json()) out.Text(name + "  " + std::to_string(count) + " documents\n");
  }
  if (out.json()) out.Value({{"collections", std::move(listed)}});
  return kExitOk;
}

Result<int> CreateCollection(const NameArgs& args, Printer& out) {
  MSADB_ASSIGN_OR_RETURN(auto database, OpenDatabase(args, Access::kWrite));
  MSADB_ASSIGN_OR_RETURN(auto collection, database->CreateCollection(args.name));
  if (out.json()) {
    out.Value({{"created", args.name}});
  } else {
    out.Text("Made collection " + args.name + ".\n");
  }
  return kExitOk;
}

Result<int> DropCollection(const NameArgs& args, Printer& out) {
  MSADB_ASSIGN_OR_RETURN(auto database, OpenDatabase(args, Access::kWrite));
  MSADB_RETURN_IF_ERROR(database->DropCollection(args.name));
  if (out.json()) {
    out.Value({{"dropped", args.name}});
  } else {
    out.Text("Dropped collection " + args.name + ".\n");
  }
  return kExitOk;
}

}  // namespace

void AddCollectionVerbs(CLI::App& app, Chosen* chosen) {
  CLI::App* group = app.add_subcommand("collections", "List, make and drop collections");
  group->footer(
      "A collection is a memory of its own inside a database: one agent, one user, one knowledge\n"
      "base. Questions see one collection. Without -c it is \"default\".\n\n"
      "Examples:\n"
      "  msadb collections list notes\n"
      "  msadb collections create notes work\n"
      "  msadb ask notes -c work \"When is the review?\"\n"
      "  msadb collections drop notes work");
  group->require_subcommand(1);

  auto list = std::make_shared<NameArgs>();
  OnChosen(AddVerb(*group, "list", "Names and document counts", "", list.get()), chosen, list,
           ListCollections);

  auto create = std::make_shared<NameArgs>();
  CLI::App* create_verb = AddVerb(*group, "create", "Make an empty collection", "", create.get());
  create_verb->add_option("NAME", create->name, "The new collection")->required();
  OnChosen(create_verb, chosen, create, CreateCollection);

  auto drop = std::make_shared<NameArgs>();
  CLI::App* drop_verb =
      AddVerb(*group, "drop", "Delete a collection with all its documents", "", drop.get());
  drop_verb->add_option("NAME", drop->name, "The collection to delete")->required();
  OnChosen(drop_verb, chosen, drop, DropCollection);
}

}  // namespace msadb::cli
