// Identifies a model by everything that decides what its documents' memory is worth.
#ifndef MSADB_MODEL_FINGERPRINT_H_
#define MSADB_MODEL_FINGERPRINT_H_

#include <span>
#include <string>

#include "msadb/status.h"

namespace msadb::model {

// Hex SHA-256 over config.json, tokenizer.json, templates.json (when there) of `folder` and over
// the weight files, each as length and bytes in this order. File names and times do not count, so a
// copy of a folder is the same model. Reads files a piece at a time. IOError names the file.
Result<std::string> ModelFingerprint(const std::string& folder,
                                     std::span<const std::string> weight_paths);

}  // namespace msadb::model

#endif  // MSADB_MODEL_FINGERPRINT_H_
