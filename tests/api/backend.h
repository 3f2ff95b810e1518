// A database to test, embedded or behind a server: the tests see msadb::Database and nothing else.
#ifndef MSADB_TESTS_API_BACKEND_H_
#define MSADB_TESTS_API_BACKEND_H_

#include <memory>
#include <string>

#include "msadb/msadb.h"
#include "tests/db/db_test_util.h"

namespace msadb::api {

class Backend {
 public:
  virtual ~Backend() = default;
  // Opens the database again; collections and other handles from before must be gone.
  virtual void Open(const Options& options) = 0;
  // NewDocument::written_by as it is stored when a caller says `name`.
  virtual std::string StoredWriter(const std::string& name) const = 0;
  const std::shared_ptr<Database>& database() const { return database_; }

 protected:
  std::shared_ptr<Database> database_;
};

using BackendFactory = std::unique_ptr<Backend> (*)(const std::string& folder);

std::unique_ptr<Backend> MakeEmbedded(const std::string& folder);
// A server in this process, spoken to over the loopback interface.
std::unique_ptr<Backend> MakeRemote(const std::string& folder);

}  // namespace msadb::api

#endif  // MSADB_TESTS_API_BACKEND_H_
