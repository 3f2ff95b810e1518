// Databases over the network.
#ifndef MSADB_PYTHON_REMOTE_H_
#define MSADB_PYTHON_REMOTE_H_

#include <memory>

#include "python/native/convert.h"

namespace msadb::python {

// Raises Unsupported when this build has no client library. Needs the GIL.
std::shared_ptr<Database> Connect(py::handle host, const py::dict& settings);

}  // namespace msadb::python

#endif  // MSADB_PYTHON_REMOTE_H_
