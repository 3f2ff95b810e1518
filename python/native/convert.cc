#include "python/native/convert.h"

#include <chrono>
#include <cstdint>
#include <vector>

namespace msadb::python {
namespace {

using namespace py::literals;

[[noreturn]] void RaiseType(const char* what, const char* expected, py::handle value) {
  throw py::type_error(std::string(what) + " must be " + expected + ", not " +
                       Py_TYPE(value.ptr())->tp_name);
}

py::object OptionalStr(const std::optional<std::string>& text) {
  return text ? py::object(FromText(*text)) : py::object(py::none());
}

int64_t Micros(TimePoint time) { return time.time_since_epoch().count(); }

std::optional<TimePoint> Time(py::handle micros) {
  if (micros.is_none()) return std::nullopt;
  return TimePoint(std::chrono::microseconds(micros.cast<int64_t>()));
}

std::vector<std::string> TextList(const std::string& name, py::handle value) {
  std::vector<std::string> list;
  for (py::handle item : value) {
    list.push_back(Text(item, ("each element of the metadata list '" + name + "'").c_str()));
  }
  return list;
}

MetadataValue ToMetadataValue(const std::string& name, py::handle value) {
  PyObject* object = value.ptr();
  // A bool is an int to Python.
  if (PyBool_Check(object)) return object == Py_True;
  if (PyLong_Check(object)) {
    int overflow = 0;
    const long long number = PyLong_AsLongLongAndOverflow(object, &overflow);
    if (overflow != 0) {
      Raise(Status::InvalidArgument("the metadata value '" + name +
                                    "' does not fit into 64 bits; store it as a string"));
    }
    return int64_t{number};
  }
  if (PyFloat_Check(object)) return PyFloat_AS_DOUBLE(object);
  if (PyUnicode_Check(object)) return Text(value, ("the metadata value '" + name + "'").c_str());
  if (PyList_Check(object) || PyTuple_Check(object)) return TextList(name, value);
  RaiseType(("the metadata value '" + name + "'").c_str(), "a str, int, float, bool or list of str",
            value);
}

Metadata ToMetadata(py::handle value) {
  Metadata metadata;
  if (value.is_none()) return metadata;
  if (!PyDict_Check(value.ptr())) RaiseType("metadata", "a dict", value);
  for (const auto& [key, item] : py::reinterpret_borrow<py::dict>(value)) {
    const std::string name = Text(key, "a metadata name");
    metadata.emplace(name, ToMetadataValue(name, item));
  }
  return metadata;
}

py::dict FromMetadata(const Metadata& metadata) {
  py::dict dict;
  for (const auto& [name, value] : metadata) {
    if (const auto* text = std::get_if<std::string>(&value)) {
      dict[FromText(name)] = FromText(*text);
    } else if (const auto* list = std::get_if<std::vector<std::string>>(&value)) {
      py::list items;
      for (const auto& item : *list) items.append(FromText(item));
      dict[FromText(name)] = items;
    } else if (const auto* number = std::get_if<int64_t>(&value)) {
      dict[FromText(name)] = *number;
    } else if (const auto* flag = std::get_if<bool>(&value)) {
      dict[FromText(name)] = *flag;
    } else {
      dict[FromText(name)] = std::get<double>(value);
    }
  }
  return dict;
}

py::tuple FromIds(const std::vector<DocumentId>& ids) {
  py::tuple tuple(ids.size());
  for (size_t i = 0; i < ids.size(); ++i) tuple[i] = ids[i];
  return tuple;
}

py::dict FromRound(const AnswerTrace::Round& round) {
  py::list layers;
  for (const auto& layer : round.layers) {
    py::list documents;
    for (const auto& routed : layer.documents) {
      documents.append(py::make_tuple(routed.number, routed.score));
    }
    layers.append(py::make_tuple(layer.layer, py::tuple(documents)));
  }
  return py::dict("generated"_a = FromIds(round.generated), "appended"_a = FromIds(round.appended),
                  "layers"_a = py::tuple(layers), "prefill_ms"_a = round.prefill_ms,
                  "routing_ms"_a = round.routing_ms, "fetch_ms"_a = round.fetch_ms,
                  "decode_ms"_a = round.decode_ms);
}

}  // namespace

void Raise(const Status& status) {
  const std::string message(status.message());
  const py::object error =
      py::module_::import("msadb._errors")
          .attr("error_of")(static_cast<int>(status.code()), FromText(message));
  PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(error.ptr())), error.ptr());
  throw py::error_already_set();
}

std::string Text(py::handle value, const char* what) {
  if (!PyUnicode_Check(value.ptr())) RaiseType(what, "a str", value);
  Py_ssize_t size = 0;
  const char* bytes = PyUnicode_AsUTF8AndSize(value.ptr(), &size);
  if (bytes == nullptr) {
    PyErr_Clear();
    Raise(Status::InvalidArgument(std::string(what) +
                                  " holds a lone surrogate, which is not valid Unicode; decode "
                                  "the bytes it came from with errors='replace'"));
  }
  return std::string(bytes, static_cast<size_t>(size));
}

std::optional<std::string> OptionalText(py::handle value, const char* what) {
  if (value.is_none()) return std::nullopt;
  return Text(value, what);
}

std::optional<Filter> Where(py::handle json) {
  const auto text = OptionalText(json, "a filter");
  if (!text) return std::nullopt;
  return Take(Filter::Parse(*text));
}

NewDocument ToNewDocument(py::handle fields) {
  const auto tuple = fields.cast<py::tuple>();
  NewDocument document;
  document.text = Text(tuple[0], "text");
  document.key = OptionalText(tuple[1], "key");
  document.metadata = ToMetadata(tuple[2]);
  document.source = Text(tuple[3], "source");
  document.expires_at = Time(tuple[4]);
  document.created_at = Time(tuple[5]);
  document.written_by = Text(tuple[6], "written_by");
  return document;
}

py::str FromText(const std::string& text) {
  PyObject* object =
      PyUnicode_DecodeUTF8(text.data(), static_cast<Py_ssize_t>(text.size()), "replace");
  if (object == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::str>(object);
}

py::dict FromDocument(const Document& document) {
  py::list parts;
  for (const DocumentPart& part : document.parts) {
    parts.append(py::make_tuple(part.number, part.text_offset, part.text_size, part.token_count,
                                part.chunk_count));
  }
  py::object expires = py::none();
  if (document.expires_at) expires = py::int_(Micros(*document.expires_at));
  return py::dict(
      "id"_a = document.id, "text"_a = FromText(document.text), "key"_a = OptionalStr(document.key),
      "metadata"_a = FromMetadata(document.metadata), "source"_a = FromText(document.source),
      "written_by"_a = FromText(document.written_by), "created_at"_a = Micros(document.created_at),
      "expires_at"_a = expires, "parts"_a = py::tuple(parts));
}

py::dict FromHit(const SearchHit& hit) {
  return py::dict("id"_a = hit.id, "part"_a = hit.part, "score"_a = hit.score,
                  "text"_a = FromText(hit.text), "text_offset"_a = hit.text_offset,
                  "key"_a = OptionalStr(hit.key), "metadata"_a = FromMetadata(hit.metadata),
                  "source"_a = FromText(hit.source), "written_by"_a = FromText(hit.written_by),
                  "created_at"_a = Micros(hit.created_at));
}

py::dict FromAnswer(const Answer& answer) {
  py::list citations;
  for (const Citation& citation : answer.citations) {
    citations.append(py::dict(
        "id"_a = citation.id, "part"_a = citation.part, "text_offset"_a = citation.text_offset,
        "text"_a = FromText(citation.text), "key"_a = OptionalStr(citation.key),
        "source"_a = FromText(citation.source), "written_by"_a = FromText(citation.written_by),
        "created_at"_a = Micros(citation.created_at), "in_answer"_a = citation.in_answer));
  }
  py::list rounds;
  for (const auto& round : answer.trace.rounds) rounds.append(FromRound(round));
  return py::dict(
      "text"_a = FromText(answer.text), "citations"_a = citations,
      "finish_reason"_a = answer.finish_reason == FinishReason::kStop ? "stop" : "length",
      "prompt_tokens"_a = answer.prompt_tokens, "generated_tokens"_a = answer.generated_tokens,
      "trace"_a = rounds);
}

py::dict FromStats(const CollectionStats& stats) {
  return py::dict("name"_a = FromText(stats.name), "documents"_a = stats.documents,
                  "parts"_a = stats.parts, "tokens"_a = stats.tokens, "chunks"_a = stats.chunks,
                  "text_bytes"_a = stats.text_bytes, "routing_bytes"_a = stats.routing_bytes,
                  "content_bytes"_a = stats.content_bytes, "index_loaded"_a = stats.index_loaded,
                  "index_bytes"_a = stats.index_bytes);
}

py::dict FromStats(const DatabaseStats& stats) {
  py::list collections;
  for (const auto& collection : stats.collections) collections.append(FromStats(collection));
  return py::dict(
      "model_fingerprint"_a = FromText(stats.model_fingerprint), "collections"_a = collections,
      "disk_bytes"_a = stats.disk_bytes, "block_cache_bytes"_a = stats.block_cache_bytes,
      "block_cache_capacity"_a = stats.block_cache_capacity,
      "block_cache_hits"_a = stats.block_cache_hits,
      "block_cache_misses"_a = stats.block_cache_misses, "index_bytes"_a = stats.index_bytes);
}

py::dict FromReport(const VerifyReport& report) {
  py::list problems;
  for (const auto& problem : report.problems) problems.append(FromText(problem));
  return py::dict("documents_checked"_a = report.documents_checked,
                  "bytes_checked"_a = report.bytes_checked, "problems"_a = py::tuple(problems),
                  "truncated"_a = report.truncated);
}

}  // namespace msadb::python
