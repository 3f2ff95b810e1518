#include "python/native/remote.h"

namespace msadb::python {

std::shared_ptr<Database> Connect(py::handle, const py::dict&) {
  Raise(Status::Unsupported("this build of msadb has no client library; open a folder instead"));
}

}  // namespace msadb::python
