// Identifies a model by everything that decides what its documents' memory is worth.
#ifndef MSADB_MODEL_FINGERPRINT_H_
#define MSADB_MODEL_FINGERPRINT_H_

#include <span>
#include <string>

#include "model/templates.h"
#include "msadb/status.h"

namespace msadb::model {

// Hex SHA-256 over config.json and tokenizer.json of `folder`, over the templates by which documents
// are encoded (`head`, `document`) and over the weight files, each as length and bytes in this order.
// File names and times do not count, so a copy of a folder is the same model; nor do the other
// templates, which only say how it is asked. Reads files a piece at a time. IOError names the file.
Result<std::string> ModelFingerprint(const std::string& folder, const TemplateStrings& templates,
                                     std::span<const std::string> weight_paths);

}  // namespace msadb::model

#endif  // MSADB_MODEL_FINGERPRINT_H_
