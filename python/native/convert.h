// Between Python's values and msadb's. Every function here needs the GIL.
//
// Times are integers, microseconds since 1970 in UTC; documents and results are dictionaries whose
// names are the fields of the classes in msadb/_types.py; filters are JSON.
#ifndef MSADB_PYTHON_CONVERT_H_
#define MSADB_PYTHON_CONVERT_H_

#include <pybind11/pybind11.h>

#include <optional>
#include <string>
#include <utility>

#include "msadb/msadb.h"

namespace msadb::python {

namespace py = pybind11;

// Raises the exception of msadb/_errors.py that belongs to the code.
[[noreturn]] void Raise(const Status& status);

inline void Check(const Status& status) {
  if (!status.ok()) Raise(status);
}
template <typename T>
T Take(Result<T> result) {
  if (!result.ok()) Raise(result.status());
  return std::move(result).value();
}

// `what` names the argument in the exception: TypeError, or InvalidArgument for text that is not
// valid Unicode.
std::string Text(py::handle value, const char* what);
std::optional<std::string> OptionalText(py::handle value, const char* what);
std::optional<Filter> Where(py::handle json);
// (text, key, metadata, source, expires_at, created_at, written_by)
NewDocument ToNewDocument(py::handle fields);

py::str FromText(const std::string& text);
py::dict FromDocument(const Document& document);
py::dict FromHit(const SearchHit& hit);
py::dict FromAnswer(const Answer& answer);
py::dict FromStats(const CollectionStats& stats);
py::dict FromStats(const DatabaseStats& stats);
py::dict FromReport(const VerifyReport& report);

}  // namespace msadb::python

#endif  // MSADB_PYTHON_CONVERT_H_
