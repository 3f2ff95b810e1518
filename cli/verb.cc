#include "cli/verb.h"

#include <charconv>
#include <filesystem>

namespace msadb::cli {

CLI::App* AddVerb(CLI::App& app, const std::string& name, const std::string& help,
                  const std::string& lesson, DatabaseArgs* args) {
  CLI::App* verb = app.add_subcommand(name, help);
  verb->footer(lesson);
  verb->add_option("DIR", args->folder, "The database folder")->required();
  verb->add_flag("--json", args->json, "Print one JSON value, also for errors")->group("Common");
  verb->add_option("--model", args->model,
                   "Model folder; needed only if it moved since the database was made")
      ->group("Common");
  verb->add_option("--threads", args->threads, "Threads for the model, 0: one per core")
      ->check(CLI::Range(0, 1024))
      ->group("Common");
  verb->add_option("--device", args->device,
                   "auto, cpu, cuda:N, or cuda:N,M to spread routing keys")
      ->group("Common");
  verb->add_option("--routing-keys", args->routing_keys,
                   "float, or int8: half the GPU memory, slightly other answers")
      ->check(CLI::IsMember({"float", "int8"}))
      ->group("Common");
  return verb;
}

void AddCollectionOption(CLI::App* verb, DatabaseArgs* args) {
  verb->add_option("-c,--collection", args->collection, "The collection")->capture_default_str();
}

Options MakeOptions(const DatabaseArgs& args, Access access) {
  Options options;
  options.create_if_missing = false;
  options.read_only = access == Access::kRead;
  // The database remembers the path, so it must not depend on where the program was started.
  if (!args.model.empty()) options.model_path = std::filesystem::absolute(args.model).string();
  options.device = args.device;
  options.routing_keys = args.routing_keys == "int8" ? RoutingKeys::kInt8 : RoutingKeys::kFloat;
  options.threads = args.threads;
  return options;
}

Result<std::shared_ptr<Database>> OpenDatabase(const DatabaseArgs& args, Access access) {
  std::error_code error;
  if (!std::filesystem::exists(args.folder, error)) {
    return Status::NotFound("there is no folder '" + args.folder +
                            "'; make a database with: msadb create '" + args.folder + "'");
  }
  return Database::Open(args.folder, MakeOptions(args, access));
}

Result<std::shared_ptr<Collection>> OpenCollection(const DatabaseArgs& args) {
  MSADB_ASSIGN_OR_RETURN(auto database, OpenDatabase(args, Access::kRead));
  return database->OpenCollection(args.collection);
}

Result<int> WriteToCollection(
    const DatabaseArgs& args,
    const std::function<Result<int>(const std::shared_ptr<Collection>&)>& write) {
  MSADB_ASSIGN_OR_RETURN(auto database, OpenDatabase(args, Access::kWrite));
  auto collection = database->OpenCollection(args.collection);
  const bool is_new = collection.status().code() == StatusCode::kNotFound;
  if (is_new) collection = database->CreateCollection(args.collection);
  if (!collection.ok()) return collection.status();
  Result<int> code = write(*collection);
  if (is_new && !code.ok()) {
    const auto stored = (*collection)->Count();
    if (stored.ok() && *stored == 0) (void)database->DropCollection(args.collection);
  }
  return code;
}

Result<std::optional<Filter>> ParseWhere(const std::optional<std::string>& text) {
  if (!text) return std::optional<Filter>();
  auto filter = Filter::Parse(*text);
  if (!filter.ok()) return filter.status().WithContext("--where");
  return std::optional<Filter>(std::move(*filter));
}

CLI::Validator WholeNumber() {
  return CLI::Validator(
      [](std::string& text) -> std::string {
        uint64_t number = 0;
        const char* const end = text.data() + text.size();
        const auto [rest, error] = std::from_chars(text.data(), end, number);
        return error == std::errc() && rest == end ? "" : "'" + text + "' is no whole number";
      },
      "");
}

}  // namespace msadb::cli
