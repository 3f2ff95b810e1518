// Reads weights in the safetensors format, from one file or several shards.
//
// Format: 8 bytes little-endian header length n, n bytes of JSON {name: {dtype, shape,
// data_offsets: [begin, end)}}, then the data; offsets count from the first data byte. The files
// are untrusted: header <= 8 MiB and <= file - 8, known dtypes only, every size product checked,
// bytes = shape * dtype, no duplicate name, no gap and no overlap in the data, nothing after its
// end.
//
// Quantised weight-only matrices. A projection `X.weight` [out, in] is stored in one of three
// forms, told apart by the tensors present (FindMatrix does that):
//   dense  `X.weight`        F32, F16 or BF16 [out, in]
//   int8   `X.weight`        I8  [out, in]
//          `X.weight_scale`  F16 [out, in / group]
//          w[o,i] = scale[o, i / group] * q[o,i]
//   int4   `X.weight_q4`     U8  [out, in / 2]
//          `X.weight_scale`  F16 [out, in / group]
//          `X.weight_min`    F16 [out, in / group]
//          w[o,i] = scale[o, i / group] * q[o,i] + min[o, i / group],  q in 0..15
// `group` is a multiple of 32 that divides `in`; it is not written down but follows from the
// scale's shape. For int4 it is 32 by default; other multiples of 32 are allowed. int4 packing
// works on blocks of 32 consecutive elements (16 bytes) whatever the group: byte j (0..15) of a
// block holds element j in its low nibble and element j + 16 in its high nibble. That is GGUF's
// Q4_1 order, so a Q4_1 matrix converts without loss.
#ifndef MSADB_MODEL_SAFETENSORS_H_
#define MSADB_MODEL_SAFETENSORS_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "msadb/status.h"

namespace msadb::model {

enum class DType : uint8_t { kF32, kF16, kBF16, kI8, kU8 };

// "F32", "F16", "BF16", "I8", "U8".
const char* DTypeName(DType dtype);
// Bytes per element: 4, 2, 2, 1, 1.
size_t DTypeSize(DType dtype);

// One tensor, row-major. `data` is aligned to the element size, is exactly product(shape) *
// DTypeSize(dtype) bytes long, and stays valid as long as the WeightFiles it came from.
struct TensorView {
  DType dtype = DType::kF32;
  std::vector<uint64_t> shape;  // empty for a scalar; at most 8 dimensions
  std::span<const std::byte> data;

  uint64_t element_count() const { return data.size() / DTypeSize(dtype); }
};

// A projection in whichever form it is stored; see the top of this file.
struct MatrixView {
  enum class Form : uint8_t { kDense, kInt8, kInt4 };
  Form form = Form::kDense;
  uint64_t rows = 0;   // out
  uint64_t cols = 0;   // in
  uint64_t group = 0;  // elements of a row under one scale; 0 when dense
  TensorView weight;   // [rows, cols]; for int4 the packed bytes [rows, cols / 2]
  TensorView scale;    // F16 [rows, cols / group]; empty when dense
  TensorView min;      // F16 [rows, cols / group]; empty unless int4
};

// A tensor as the header describes it, before any data is looked at.
struct TensorEntry {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<uint64_t> shape;
  uint64_t begin = 0;  // bytes from the start of the file
  uint64_t end = 0;
};

// Checks the header of a whole file of `file_size` bytes, of which `prefix` holds at least the
// first 8 + header length (or all, if the file is shorter). Entries come back in the order of their
// data. Corruption says what is wrong; Unsupported names a tensor whose dtype is known to the
// format but not read here.
Result<std::vector<TensorEntry>> ParseSafetensorsHeader(std::span<const std::byte> prefix,
                                                        uint64_t file_size);

// Parses the text of model.safetensors.index.json into tensor name -> shard file name. Shard names
// must be plain file names ending in ".safetensors": a path separator or a leading dot is refused,
// so that no index can point outside its folder.
Result<std::map<std::string, std::string>> ParseSafetensorsIndex(std::string_view json);

// The weights of a model folder, mapped into memory read-only. Immutable after opening, so any
// number of threads may read. The files must not be changed or cut while an object lives: like any
// mapped file, that would raise SIGBUS.
class WeightFiles {
 public:
  // <folder>/model.safetensors.index.json with its shards when there, else
  // <folder>/model.safetensors. NotFound names what is missing. Corruption also for a tensor that
  // the index names and its shard lacks, or that two shards hold.
  static Result<std::unique_ptr<WeightFiles>> Open(const std::string& folder);
  // One .safetensors file.
  static Result<std::unique_ptr<WeightFiles>> OpenFile(const std::string& path);

  ~WeightFiles();
  WeightFiles(const WeightFiles&) = delete;
  WeightFiles& operator=(const WeightFiles&) = delete;

  // Null when there is no such tensor. Valid as long as this object.
  const TensorView* Find(std::string_view name) const;
  // NotFound when there is no such tensor; InvalidArgument, naming both shapes, when it has
  // another.
  Result<TensorView> Get(std::string_view name, std::span<const uint64_t> shape) const;
  // The projection `name` ("model.layers.0.mlp.up_proj", without ".weight") of `rows` x `cols` in
  // whichever form is stored. NotFound, or InvalidArgument when shapes or dtypes do not fit.
  Result<MatrixView> FindMatrix(std::string_view name, uint64_t rows, uint64_t cols) const;

  // All tensors by name, ascending.
  const std::map<std::string, TensorView, std::less<>>& tensors() const { return tensors_; }
  // The files read, in order of opening.
  const std::vector<std::string>& paths() const { return paths_; }
  // Bytes of all files together.
  uint64_t total_bytes() const { return total_bytes_; }

 private:
  WeightFiles() = default;
  // Maps one more file; adds the names of its tensors to `names` unless that is null.
  Status AddFile(const std::string& path, std::set<std::string>* names);

  struct Mapping {
    void* address = nullptr;
    size_t size = 0;
  };
  std::vector<Mapping> mappings_;
  // Copies of tensors whose file offset is not a multiple of their element size.
  std::vector<std::unique_ptr<std::byte[]>> realigned_;
  std::map<std::string, TensorView, std::less<>> tensors_;
  std::vector<std::string> paths_;
  uint64_t total_bytes_ = 0;
};

}  // namespace msadb::model

#endif  // MSADB_MODEL_SAFETENSORS_H_
