// get, delete, list.
#include <cstdio>

#include "cli/values.h"
#include "cli/verb.h"
#include "msadb/transfer.h"

namespace msadb::cli {
namespace {

struct SelectArgs : DatabaseArgs {
  std::optional<uint64_t> id;
  std::optional<std::string> key;
  std::optional<std::string> where;
  bool text_only = false;
  uint64_t after = 0;
  size_t limit = 100;
  bool no_text = false;
};

// CLI11 checks that the options of `group` name exactly one selection.
void AddIdAndKey(CLI::App* group, SelectArgs* args) {
  group->add_option("--id", args->id, "The document's number")->check(WholeNumber());
  group->add_option("--key", args->key, "The document's key");
  group->require_option(1);
}

std::string Describe(const Document& document) {
  std::string head = "id        " + std::to_string(document.id) + "\n";
  if (document.key) head += "key       " + *document.key + "\n";
  if (!document.source.empty()) head += "source    " + document.source + "\n";
  if (!document.written_by.empty()) head += "writer    " + document.written_by + "\n";
  head += "created   " + FormatTime(document.created_at) + "\n";
  if (document.expires_at) head += "expires   " + FormatTime(*document.expires_at) + "\n";
  if (!document.metadata.empty()) {
    head += "metadata  " + ToJson(document.metadata).dump() + "\n";
  }
  return head;
}

Result<int> Get(const SelectArgs& args, Printer& out) {
  MSADB_ASSIGN_OR_RETURN(auto collection, OpenCollection(args));
  MSADB_ASSIGN_OR_RETURN(auto document,
                         args.id ? collection->Get(*args.id) : collection->GetByKey(*args.key));
  if (out.json()) {
    out.Value(ToJson(document, true));
    return kExitOk;
  }
  if (!args.text_only) out.Text(Describe(document) + "\n");
  out.Text(document.text);
  if (!args.text_only && !document.text.ends_with('\n')) out.Text("\n");
  return kExitOk;
}

Result<int> Delete(const SelectArgs& args, Printer& out) {
  MSADB_ASSIGN_OR_RETURN(auto where, ParseWhere(args.where));
  MSADB_ASSIGN_OR_RETURN(auto database, OpenDatabase(args, Access::kWrite));
  MSADB_ASSIGN_OR_RETURN(auto collection, database->OpenCollection(args.collection));
  uint64_t deleted = 1;
  if (args.id) {
    MSADB_RETURN_IF_ERROR(collection->Delete(*args.id));
  } else if (args.key) {
    MSADB_RETURN_IF_ERROR(collection->DeleteByKey(*args.key));
  } else {
    MSADB_ASSIGN_OR_RETURN(deleted, collection->DeleteWhere(*where));
  }
  if (out.json()) {
    out.Value({{"deleted", deleted}});
  } else {
    out.Text("Deleted " + std::to_string(deleted) +
             (deleted == 1 ? " document.\n" : " documents.\n"));
  }
  return kExitOk;
}

Result<int> List(const SelectArgs& args, Printer& out) {
  ListOptions options;
  MSADB_ASSIGN_OR_RETURN(options.where, ParseWhere(args.where));
  options.start_after = args.after;
  options.limit = args.limit;
  options.include_text = !args.no_text;
  MSADB_ASSIGN_OR_RETURN(auto collection, OpenCollection(args));
  MSADB_ASSIGN_OR_RETURN(auto page, collection->List(options));
  if (out.json()) {
    Json documents = Json::array();
    for (const auto& document : page.documents) {
      documents.push_back(ToJson(document, options.include_text));
    }
    out.Value({{"documents", std::move(documents)},
               {"next", page.next ? Json(*page.next) : Json(nullptr)}});
    return kExitOk;
  }
  for (const auto& document : page.documents) {
    char id[32];
    std::snprintf(id, sizeof(id), "%6llu  ", static_cast<unsigned long long>(document.id));
    out.Text(id + (document.key ? *document.key + "  " : "") + Preview(document.text, 80) + "\n");
  }
  if (page.next) out.Remark("More: --after " + std::to_string(*page.next));
  return kExitOk;
}

}  // namespace

void AddDocumentVerbs(CLI::App& app, Chosen* chosen) {
  auto get = std::make_shared<SelectArgs>();
  CLI::App* get_verb = AddVerb(app, "get", "Print one document",
                               "Examples:\n"
                               "  msadb get notes --id 3\n"
                               "  msadb get notes --key ada/birthday --text",
                               get.get());
  AddCollectionOption(get_verb, get.get());
  AddIdAndKey(get_verb->add_option_group("which", "Which one (exactly one)"), get.get());
  get_verb->add_flag("--text", get->text_only, "Only the text, byte for byte");
  OnChosen(get_verb, chosen, get, Get);

  auto remove = std::make_shared<SelectArgs>();
  CLI::App* remove_verb = AddVerb(
      app, "delete", "Delete documents",
      "Deleted is invisible at once; `msadb compact` also removes the bytes. Deleting what is\n"
      "not there by --id or --key ends with exit code 1; --where may match nothing.\n\n"
      "Examples:\n"
      "  msadb delete notes --id 3\n"
      "  msadb delete notes --where '{\"year\": {\"$lt\": 2020}}'\n"
      "  msadb delete notes --where '{\"$written_by\": \"scraper\"}'",
      remove.get());
  AddCollectionOption(remove_verb, remove.get());
  auto* which = remove_verb->add_option_group("which", "Which ones (exactly one)");
  AddIdAndKey(which, remove.get());
  which->add_option("--where", remove->where, "All that match this filter");
  OnChosen(remove_verb, chosen, remove, Delete);

  auto list = std::make_shared<SelectArgs>();
  CLI::App* list_verb = AddVerb(
      app, "list", "List documents, oldest first",
      "Filters are the JSON form that Mongo and Chroma users know: $eq $ne $gt $gte $lt $lte\n"
      "$in $nin $and $or $not. $written_by, $source and $created_at stand for provenance.\n\n"
      "Examples:\n"
      "  msadb list notes --limit 20\n"
      "  msadb list notes --where '{\"$or\": [{\"project\": \"roof\"}, {\"year\": 2026}]}'\n"
      "  msadb list notes --json --after 100      the next page",
      list.get());
  AddCollectionOption(list_verb, list.get());
  list_verb->add_option("--where", list->where, "Only those whose metadata matches");
  list_verb->add_option("--after", list->after, "Continue after this id")->check(WholeNumber());
  list_verb->add_option("--limit", list->limit, "At most this many")
      ->capture_default_str()
      ->check(CLI::Range(1, 10000));
  list_verb->add_flag("--no-text", list->no_text, "Leave the texts out");
  OnChosen(list_verb, chosen, list, List);
}

}  // namespace msadb::cli
