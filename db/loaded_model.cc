#include "db/loaded_model.h"

#include "db/device.h"
#include "db/guard.h"

namespace msadb {

Result<std::shared_ptr<LoadedModel>> LoadedModel::Load(const std::string& model_path, int threads,
                                                       const std::string& device) {
  return db::Guard([&]() -> Result<std::shared_ptr<LoadedModel>> {
    model::ModelOptions model_options;
    model_options.threads = threads;
    MSADB_ASSIGN_OR_RETURN(const db::DeviceChoice choice, db::ParseDevice(device));
    model_options.device = choice.ForModel();
    MSADB_ASSIGN_OR_RETURN(std::shared_ptr<LoadedModel> model,
                           db::LoadedModelImpl::LoadFrom(model_path, model_options));
    return model;
  });
}

namespace db {

Result<std::shared_ptr<LoadedModelImpl>> LoadedModelImpl::LoadFrom(
    const std::string& model_path, const model::ModelOptions& options) {
  MSADB_ASSIGN_OR_RETURN(std::unique_ptr<model::Model> model,
                         model::Model::Load(model_path, options));
  return std::make_shared<LoadedModelImpl>(std::move(model));
}

Result<std::shared_ptr<LoadedModelImpl>> LoadedModelImpl::Cast(std::shared_ptr<LoadedModel> model) {
  auto impl = std::dynamic_pointer_cast<LoadedModelImpl>(std::move(model));
  if (impl == nullptr) {
    return Status::InvalidArgument("Options::model was not made by LoadedModel::Load");
  }
  return impl;
}

}  // namespace db
}  // namespace msadb
