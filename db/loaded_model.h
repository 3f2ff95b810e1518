// The public LoadedModel over the model room.
#ifndef MSADB_DB_LOADED_MODEL_H_
#define MSADB_DB_LOADED_MODEL_H_

#include <memory>
#include <string>
#include <utility>

#include "model/model.h"
#include "msadb/database.h"

namespace msadb::db {

class LoadedModelImpl final : public LoadedModel {
 public:
  explicit LoadedModelImpl(std::unique_ptr<model::Model> model) : model_(std::move(model)) {}

  static Result<std::shared_ptr<LoadedModelImpl>> LoadFrom(const std::string& model_path,
                                                           const model::ModelOptions& options);
  // The implementation behind a LoadedModel that a caller hands in. InvalidArgument: a class of the
  // caller's own.
  static Result<std::shared_ptr<LoadedModelImpl>> Cast(std::shared_ptr<LoadedModel> model);

  std::string fingerprint() const override { return model_->fingerprint(); }
  std::string description() const override { return model_->description(); }
  size_t document_tokens_max() const override { return model_->document_tokens_max(); }

  model::Model& model() const { return *model_; }

 private:
  std::unique_ptr<model::Model> model_;
};

}  // namespace msadb::db

#endif  // MSADB_DB_LOADED_MODEL_H_
