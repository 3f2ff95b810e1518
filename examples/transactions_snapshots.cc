// Several changes at once or not at all, a frozen view beside a changing memory, and two writers
// who meet.
//
//   transactions_snapshots FOLDER MODEL_FOLDER
#include <msadb/msadb.h>

#include <iostream>
#include <string>

namespace {

msadb::NewDocument Fact(const std::string& key, const std::string& text) {
  msadb::NewDocument document;
  document.key = key;
  document.text = text;
  return document;
}

msadb::Status PrintOffice(const char* when, msadb::CollectionReader& reader) {
  MSADB_ASSIGN_OR_RETURN(const auto office, reader.GetByKey("office"));
  MSADB_ASSIGN_OR_RETURN(const uint64_t count, reader.Count());
  std::cout << when << ": " << office.text << " (" << count << " documents)\n";
  return msadb::Status::Ok();
}

msadb::Status Run(const std::string& folder, const std::string& model) {
  msadb::Options options;
  options.model_path = model;
  MSADB_ASSIGN_OR_RETURN(auto database, msadb::Database::Open(folder, options));
  MSADB_ASSIGN_OR_RETURN(auto company, database->GetOrCreateCollection("company"));
  for (const auto& [key, text] : {std::pair("office", "The office is in Harbour Street 5."),
                                  std::pair("phone", "The phone number is 555 0100.")}) {
    MSADB_ASSIGN_OR_RETURN(const auto id, company->Upsert(Fact(key, text)));
    std::cout << key << " is document " << id << "\n";
  }

  // The snapshot goes on seeing this state, whatever happens to the collection.
  MSADB_ASSIGN_OR_RETURN(auto before, company->TakeSnapshot());

  // The move: both facts change together. Readers see the old state until Commit returns, and the
  // new one from then on; a crash in between leaves the old one.
  MSADB_ASSIGN_OR_RETURN(auto move, company->Begin());
  MSADB_RETURN_IF_ERROR(move->Upsert(Fact("office", "The office is in Mill Lane 12.")).status());
  MSADB_RETURN_IF_ERROR(move->DeleteByKey("phone"));
  MSADB_RETURN_IF_ERROR(PrintOffice("during the move", *company));
  MSADB_RETURN_IF_ERROR(move->Commit());
  MSADB_RETURN_IF_ERROR(PrintOffice("after the move", *company));
  MSADB_RETURN_IF_ERROR(PrintOffice("in the snapshot", *before));

  // First committer wins. The loser has changed nothing; it reads again and retries.
  MSADB_ASSIGN_OR_RETURN(auto one, company->Begin());
  MSADB_ASSIGN_OR_RETURN(auto two, company->Begin());
  MSADB_RETURN_IF_ERROR(one->Upsert(Fact("office", "The office is in Mill Lane 14.")).status());
  MSADB_RETURN_IF_ERROR(two->Upsert(Fact("office", "The office is in Mill Lane 16.")).status());
  MSADB_RETURN_IF_ERROR(one->Commit());
  const msadb::Status second = two->Commit();
  std::cout << "second writer: " << msadb::StatusCodeName(second.code()) << "\n";

  // A transaction that is dropped without Commit leaves nothing.
  {
    MSADB_ASSIGN_OR_RETURN(auto dropped, company->Begin());
    MSADB_RETURN_IF_ERROR(dropped->DeleteByKey("office"));
  }
  MSADB_RETURN_IF_ERROR(PrintOffice("at the end", *company));

  // Deleted text leaves the disk once no snapshot needs it any more.
  before.reset();
  return database->Compact();
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::cerr << "usage: transactions_snapshots FOLDER MODEL_FOLDER\n";
    return 2;
  }
  const msadb::Status status = Run(argv[1], argv[2]);
  if (!status.ok()) std::cerr << status.ToString() << "\n";
  return status.ok() ? 0 : 1;
}
