// The extension module msadb._native: thin, checked calls. Their documentation, types and
// conveniences are in the package's Python files, which alone use this module.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <stop_token>
#include <string>
#include <utility>
#include <vector>

#include "python/native/ask_stream.h"
#include "python/native/convert.h"
#include "python/native/held.h"
#include "python/native/remote.h"

namespace msadb::python {
namespace {

using namespace py::literals;

// How soon a waiting call notices ctrl-C.
constexpr std::chrono::milliseconds kSignalInterval{50};

// A Transaction belongs to one thread at a time, which Python's threads cannot know.
struct GuardedTransaction {
  explicit GuardedTransaction(std::unique_ptr<Transaction> begun) : transaction(std::move(begun)) {}
  std::mutex mutex;
  std::unique_ptr<Transaction> transaction;

  template <typename Fn>
  auto Run(Fn&& fn) {
    std::lock_guard lock(mutex);
    return fn(*transaction);
  }
};

struct StopSource {
  std::stop_source source;
};

Durability ToDurability(const std::string& name) {
  if (name == "sync") return Durability::kSync;
  if (name == "buffered") return Durability::kBuffered;
  Raise(Status::InvalidArgument("durability must be 'sync' or 'buffered'"));
}

RoutingKeys ToRoutingKeys(const std::string& name) {
  if (name == "float") return RoutingKeys::kFloat;
  if (name == "int8") return RoutingKeys::kInt8;
  Raise(Status::InvalidArgument("routing_keys must be 'float' or 'int8'"));
}

Options ToOptions(const py::dict& settings) {
  Options options;
  for (const auto& [key, value] : settings) {
    const std::string name = Text(key, "an option's name");
    if (name == "create_if_missing") {
      options.create_if_missing = value.cast<bool>();
    } else if (name == "error_if_exists") {
      options.error_if_exists = value.cast<bool>();
    } else if (name == "read_only") {
      options.read_only = value.cast<bool>();
    } else if (name == "model_path") {
      options.model_path = Text(value, "model");
    } else if (name == "device") {
      options.device = Text(value, "device");
    } else if (name == "durability") {
      options.durability = ToDurability(Text(value, "durability"));
    } else if (name == "threads") {
      options.threads = value.cast<int>();
    } else if (name == "expiry_interval_ms") {
      options.expiry_interval = std::chrono::milliseconds(value.cast<int64_t>());
    } else if (name == "block_cache_bytes") {
      options.block_cache_bytes = value.cast<size_t>();
    } else if (name == "index_bytes_max") {
      options.index_bytes_max = value.cast<size_t>();
    } else if (name == "routing_keys") {
      options.routing_keys = ToRoutingKeys(Text(value, "routing_keys"));
    } else if (name == "storage_memory_bytes") {
      options.storage_memory_bytes = value.cast<size_t>();
    } else if (name == "encode_batch_tokens") {
      options.encode_batch_tokens = value.cast<size_t>();
    } else {
      Raise(Status::InvalidArgument("there is no option '" + name + "'"));
    }
  }
  return options;
}

// Ctrl-C and errors of a callback end the call with Cancelled inside, and with their own exception
// outside.
class Progress {
 public:
  explicit Progress(const py::object& callback) : callback_(callback) {}

  bool Call(size_t done, size_t total, uint64_t tokens) {
    const py::gil_scoped_acquire acquire;
    try {
      if (PyErr_CheckSignals() != 0) throw py::error_already_set();
      if (callback_.is_none()) return true;
      return !callback_(done, total, tokens).equal(py::bool_(false));
    } catch (py::error_already_set& error) {
      error.restore();
      PyErr_Fetch(&type_, &value_, &traceback_);
      return false;
    }
  }
  // Raises what the callback raised.
  void Rethrow() {
    if (type_ == nullptr) return;
    PyErr_Restore(std::exchange(type_, nullptr), value_, traceback_);
    throw py::error_already_set();
  }

 private:
  const py::object& callback_;
  PyObject* type_ = nullptr;
  PyObject* value_ = nullptr;
  PyObject* traceback_ = nullptr;
};

AskOptions ToAskOptions(const py::dict& settings) {
  AskOptions options;
  for (const auto& [key, value] : settings) {
    const std::string name = Text(key, "an option's name");
    if (name == "where") {
      options.where = Where(value);
    } else if (name == "timeout") {
      if (!value.is_none()) {
        options.deadline = std::chrono::steady_clock::now() +
                           std::chrono::duration_cast<std::chrono::steady_clock::duration>(
                               std::chrono::duration<double>(value.cast<double>()));
      }
    } else if (name == "trace") {
      options.trace = value.cast<bool>();
    } else if (name == "rounds_max") {
      options.rounds_max = value.cast<int>();
    } else if (name == "answer_tokens_max") {
      options.answer_tokens_max = value.cast<int>();
    } else if (name == "retrieved_text_tokens_max") {
      options.retrieved_text_tokens_max = value.cast<int>();
    } else if (name == "temperature") {
      options.temperature = value.cast<float>();
    } else if (name == "top_p") {
      options.top_p = value.cast<float>();
    } else if (name == "seed") {
      options.seed = value.cast<uint64_t>();
    } else {
      Raise(Status::InvalidArgument("there is no option '" + name + "'"));
    }
  }
  return options;
}

std::shared_ptr<Held<AskStream>> StartAsk(std::shared_ptr<CollectionReader> memory,
                                          const py::object& question, const py::dict& settings,
                                          const StopSource* cancel) {
  std::string text = Text(question, "question");
  AskOptions options = ToAskOptions(settings);
  std::stop_token token = cancel != nullptr ? cancel->source.get_token() : std::stop_token();
  auto stream = Unlocked([&] {
    return std::make_shared<AskStream>(std::move(memory), std::move(text), std::move(options),
                                       std::move(token));
  });
  return std::make_shared<Held<AskStream>>(std::move(stream));
}

// What a collection and a snapshot have in common.
template <typename T, typename Class>
void BindReader(Class& reader) {
  reader.def("name", [](const Held<T>& self) { return FromText(self.get()->name()); })
      .def("get",
           [](const Held<T>& self, uint64_t id) {
             return FromDocument(Take(self.Call([&](T& memory) { return memory.Get(id); })));
           })
      .def("get_by_key",
           [](const Held<T>& self, const py::object& key) {
             const std::string text = Text(key, "key");
             return FromDocument(Take(self.Call([&](T& memory) { return memory.GetByKey(text); })));
           })
      .def("list",
           [](const Held<T>& self, uint64_t start_after, size_t limit, const py::object& where,
              bool include_text) {
             ListOptions options;
             options.start_after = start_after;
             options.limit = limit;
             options.where = Where(where);
             options.include_text = include_text;
             const auto page = Take(self.Call([&](T& memory) { return memory.List(options); }));
             py::list documents;
             for (const Document& document : page.documents) {
               documents.append(FromDocument(document));
             }
             return py::make_tuple(documents, page.next);
           })
      .def("count",
           [](const Held<T>& self) {
             return Take(self.Call([](T& memory) { return memory.Count(); }));
           })
      .def("search",
           [](const Held<T>& self, const py::object& query, size_t top_k, const py::object& where,
              bool include_text) {
             const std::string text = Text(query, "query");
             SearchOptions options;
             options.top_k = top_k;
             options.where = Where(where);
             options.include_text = include_text;
             const auto hits =
                 Take(self.Call([&](T& memory) { return memory.Search(text, options); }));
             py::list list;
             for (const SearchHit& hit : hits) list.append(FromHit(hit));
             return list;
           })
      .def("ask",
           [](const Held<T>& self, const py::object& question, const py::dict& options,
              const StopSource* cancel) { return StartAsk(self.get(), question, options, cancel); })
      .def("close", &Held<T>::Close);
}

// What a collection and a transaction have in common: `run` calls a function on it without the GIL.
template <typename Class, typename Run>
void BindWriter(Class& writer, Run run) {
  using Self = typename Class::type;
  writer
      .def("insert",
           [run](const Self& self, const py::object& fields) {
             const NewDocument document = ToNewDocument(fields);
             return Take(run(self, [&](auto& memory) { return memory.Insert(document); }));
           })
      .def("upsert",
           [run](const Self& self, const py::object& fields) {
             const NewDocument document = ToNewDocument(fields);
             return Take(run(self, [&](auto& memory) { return memory.Upsert(document); }));
           })
      .def("delete",
           [run](const Self& self, uint64_t id) {
             Check(run(self, [&](auto& memory) { return memory.Delete(id); }));
           })
      .def("delete_by_key", [run](const Self& self, const py::object& key) {
        const std::string text = Text(key, "key");
        Check(run(self, [&](auto& memory) { return memory.DeleteByKey(text); }));
      });
}

size_t InsertMany(const Held<Collection>& self, const py::list& documents, bool replace,
                  const py::object& on_progress) {
  std::vector<NewDocument> batch;
  batch.reserve(documents.size());
  for (py::handle fields : documents) batch.push_back(ToNewDocument(fields));
  Progress progress(on_progress);
  InsertManyOptions options;
  options.replace_existing = replace;
  options.on_progress = [&](const InsertProgress& now) {
    return progress.Call(now.done, now.total, now.tokens);
  };
  auto inserted = self.Call([&](Collection& memory) { return memory.InsertMany(batch, options); });
  progress.Rethrow();
  return Take(std::move(inserted));
}

void Reencode(const py::object& folder, const py::dict& settings, const py::object& on_progress) {
  const std::string path = Text(folder, "folder");
  const Options options = ToOptions(settings);
  Progress progress(on_progress);
  const Status status = Unlocked([&] {
    return Database::Reencode(path, options, [&](const InsertProgress& now) {
      return progress.Call(now.done, now.total, now.tokens);
    });
  });
  progress.Rethrow();
  Check(status);
}

using OpenCollectionMethod = Result<std::shared_ptr<Collection>> (Database::*)(std::string_view);

auto CollectionOpener(OpenCollectionMethod method) {
  return [method](const Held<Database>& self, const py::object& name) {
    const std::string text = Text(name, "name");
    return std::make_shared<Held<Collection>>(
        Take(self.Call([&](Database& database) { return (database.*method)(text); })));
  };
}

void BindDatabase(py::module_& module) {
  py::class_<Held<Database>, std::shared_ptr<Held<Database>>>(module, "Database")
      .def_static("open",
                  [](const py::object& folder, const py::dict& settings) {
                    const std::string path = Text(folder, "folder");
                    const Options options = ToOptions(settings);
                    return std::make_shared<Held<Database>>(
                        Take(Unlocked([&] { return Database::Open(path, options); })));
                  })
      .def_static("connect",
                  [](const py::object& address, const py::dict& settings) {
                    return std::make_shared<Held<Database>>(Connect(address, settings));
                  })
      .def("create_collection", CollectionOpener(&Database::CreateCollection))
      .def("open_collection", CollectionOpener(&Database::OpenCollection))
      .def("get_or_create_collection", CollectionOpener(&Database::GetOrCreateCollection))
      .def("drop_collection",
           [](const Held<Database>& self, const py::object& name) {
             const std::string text = Text(name, "name");
             Check(self.Call([&](Database& database) { return database.DropCollection(text); }));
           })
      .def("list_collections",
           [](const Held<Database>& self) {
             py::list names;
             for (const auto& name :
                  Take(self.Call([](Database& database) { return database.ListCollections(); }))) {
               names.append(FromText(name));
             }
             return names;
           })
      .def("stats",
           [](const Held<Database>& self) {
             return FromStats(Take(self.Call([](Database& database) { return database.Stats(); })));
           })
      .def("verify",
           [](const Held<Database>& self) {
             return FromReport(
                 Take(self.Call([](Database& database) { return database.Verify(); })));
           })
      .def("compact",
           [](const Held<Database>& self) {
             Check(self.Call([](Database& database) { return database.Compact(); }));
           })
      .def("model",
           [](const Held<Database>& self) -> py::object {
             const auto model = self.Call([](Database& database) { return database.model(); });
             if (!model) return py::none();
             return py::dict("fingerprint"_a = FromText(model->fingerprint()),
                             "description"_a = FromText(model->description()),
                             "document_tokens_max"_a = model->document_tokens_max());
           })
      .def("close", &Held<Database>::Close);
}

void BindCollection(py::module_& module) {
  py::class_<Held<Collection>, std::shared_ptr<Held<Collection>>> collection(module, "Collection");
  BindReader<Collection>(collection);
  BindWriter(collection, [](const Held<Collection>& self, auto&& fn) { return self.Call(fn); });
  collection.def("insert_many", InsertMany)
      .def("delete_where",
           [](const Held<Collection>& self, const py::object& where) {
             const Filter filter = Take(Filter::Parse(Text(where, "a filter")));
             return Take(self.Call([&](Collection& memory) { return memory.DeleteWhere(filter); }));
           })
      .def("begin",
           [](const Held<Collection>& self) {
             return std::make_shared<Held<GuardedTransaction>>(std::make_shared<GuardedTransaction>(
                 Take(self.Call([](Collection& memory) { return memory.Begin(); }))));
           })
      .def("snapshot",
           [](const Held<Collection>& self) {
             return std::make_shared<Held<Snapshot>>(std::shared_ptr<Snapshot>(
                 Take(self.Call([](Collection& memory) { return memory.TakeSnapshot(); }))));
           })
      .def("stats", [](const Held<Collection>& self) {
        return FromStats(Take(self.Call([](Collection& memory) { return memory.Stats(); })));
      });

  py::class_<Held<Snapshot>, std::shared_ptr<Held<Snapshot>>> snapshot(module, "Snapshot");
  BindReader<Snapshot>(snapshot);
}

void BindTransaction(py::module_& module) {
  const auto run = [](const Held<GuardedTransaction>& self, auto&& fn) {
    return self.Call([&](GuardedTransaction& guarded) { return guarded.Run(fn); });
  };
  py::class_<Held<GuardedTransaction>, std::shared_ptr<Held<GuardedTransaction>>> transaction(
      module, "Transaction");
  BindWriter(transaction, run);
  transaction
      .def("get",
           [run](const Held<GuardedTransaction>& self, uint64_t id) {
             return FromDocument(Take(run(self, [&](Transaction& t) { return t.Get(id); })));
           })
      .def("get_by_key",
           [run](const Held<GuardedTransaction>& self, const py::object& key) {
             const std::string text = Text(key, "key");
             return FromDocument(Take(run(self, [&](Transaction& t) { return t.GetByKey(text); })));
           })
      .def("commit",
           [run](const Held<GuardedTransaction>& self) {
             Check(run(self, [](Transaction& t) { return t.Commit(); }));
           })
      .def("rollback",
           [run](const Held<GuardedTransaction>& self) {
             run(self, [](Transaction& t) {
               t.Rollback();
               return true;
             });
           })
      .def("close", &Held<GuardedTransaction>::Close);
}

void BindAskStream(py::module_& module) {
  py::class_<StopSource>(module, "StopSource")
      .def(py::init<>())
      .def("cancel", [](StopSource& self) { Unlocked([&] { self.source.request_stop(); }); })
      .def("cancelled", [](const StopSource& self) { return self.source.stop_requested(); });

  py::class_<Held<AskStream>, std::shared_ptr<Held<AskStream>>>(module, "AskStream")
      // The next piece, or None at the end.
      .def("next",
           [](const Held<AskStream>& self) -> py::object {
             while (true) {
               const AskStream::Event event =
                   self.Call([](AskStream& stream) { return stream.Next(kSignalInterval); });
               if (event.ended) return py::none();
               if (!event.waited) return FromText(event.piece);
               if (PyErr_CheckSignals() != 0) throw py::error_already_set();
             }
           })
      // Once next() gave None.
      .def("result",
           [](const Held<AskStream>& self) {
             const auto stream = self.get();
             const Result<Answer>* result = stream->result();
             if (result == nullptr) Raise(Status::FailedPrecondition("the answer is not complete"));
             Check(result->status());
             return FromAnswer(**result);
           })
      .def("cancel",
           [](const Held<AskStream>& self) { self.Call([](AskStream& s) { s.Cancel(); }); })
      .def("close", &Held<AskStream>::Close);
}

}  // namespace
}  // namespace msadb::python

PYBIND11_MODULE(_native, module) {
  using namespace msadb::python;
  BindDatabase(module);
  BindCollection(module);
  BindTransaction(module);
  BindAskStream(module);
  module.def("reencode", Reencode);
}
