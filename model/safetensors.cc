#include "model/safetensors.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <iterator>
#include <new>
#include <set>
#include <tuple>
#include <utility>

#include "model/json_input.h"

namespace msadb::model {
namespace {

using nlohmann::json;

constexpr uint64_t kLengthBytes = 8;
constexpr uint64_t kHeaderBytesMax = 8u << 20;
constexpr size_t kIndexBytesMax = 32u << 20;
constexpr size_t kJsonValuesMax = 1'000'000;
constexpr size_t kDepthMax = 8;
constexpr size_t kRankMax = 8;
constexpr size_t kNameBytesMax = 1024;
constexpr size_t kShardsMax = 1024;

struct DTypeInfo {
  DType dtype;
  const char* name;
  size_t size;
};
constexpr DTypeInfo kDTypes[] = {{DType::kF32, "F32", 4},
                                 {DType::kF16, "F16", 2},
                                 {DType::kBF16, "BF16", 2},
                                 {DType::kI8, "I8", 1},
                                 {DType::kU8, "U8", 1}};

// Types that the format knows and this engine has no use for.
constexpr std::string_view kOtherDTypes[] = {"BOOL", "F8_E4M3", "F8_E5M2", "I16", "U16",
                                             "I32",  "U32",     "I64",     "U64", "F64"};

std::string ShapeText(std::span<const uint64_t> shape) {
  std::string out = "[";
  for (size_t i = 0; i < shape.size(); ++i) {
    if (i > 0) out += ", ";
    out += std::to_string(shape[i]);
  }
  return out + "]";
}

bool Multiply(uint64_t a, uint64_t b, uint64_t* product) {
  return !__builtin_mul_overflow(a, b, product);
}

Status ParseEntry(const std::string& name, const json& value, TensorEntry* entry) {
  const auto bad = [&](const std::string& what) {
    return Status::Corruption("tensor " + Quoted(name) + ": " + what);
  };
  if (name.empty() || name.size() > kNameBytesMax) return bad("a name of bad length");
  if (!value.is_object() || value.size() != 3 || !value.contains("dtype") ||
      !value.contains("shape") || !value.contains("data_offsets")) {
    return bad("must have exactly dtype, shape and data_offsets");
  }
  entry->name = name;

  if (!value["dtype"].is_string()) return bad("dtype must be a string");
  const std::string dtype = value["dtype"];
  const auto info = std::find_if(std::begin(kDTypes), std::end(kDTypes),
                                 [&](const DTypeInfo& d) { return dtype == d.name; });
  if (info == std::end(kDTypes)) {
    if (std::find(std::begin(kOtherDTypes), std::end(kOtherDTypes), dtype) !=
        std::end(kOtherDTypes)) {
      return Status::Unsupported("tensor " + Quoted(name) + " has dtype " + dtype +
                                 "; convert it to F32, F16, BF16, I8 or U8");
    }
    return bad("unknown dtype " + Quoted(dtype));
  }
  entry->dtype = info->dtype;

  const json& shape = value["shape"];
  if (!shape.is_array() || shape.size() > kRankMax) {
    return bad("shape must be a list of at most 8 sizes");
  }
  uint64_t bytes = info->size;
  for (const json& dimension : shape) {
    if (!dimension.is_number_unsigned()) return bad("a size is not a whole number");
    entry->shape.push_back(dimension.get<uint64_t>());
  }
  // A zero anywhere makes the tensor empty; multiplying it first keeps the others from overflowing.
  if (std::find(entry->shape.begin(), entry->shape.end(), 0u) != entry->shape.end()) bytes = 0;
  for (uint64_t dimension : entry->shape) {
    if (!Multiply(bytes, dimension, &bytes)) return bad("its size overflows");
  }

  const json& offsets = value["data_offsets"];
  if (!offsets.is_array() || offsets.size() != 2 || !offsets[0].is_number_unsigned() ||
      !offsets[1].is_number_unsigned()) {
    return bad("data_offsets must be two whole numbers");
  }
  entry->begin = offsets[0].get<uint64_t>();
  entry->end = offsets[1].get<uint64_t>();
  if (entry->begin > entry->end) return bad("data_offsets run backwards");
  if (entry->end - entry->begin != bytes) {
    return bad("data_offsets span " + std::to_string(entry->end - entry->begin) +
               " bytes, but its shape and dtype need " + std::to_string(bytes));
  }
  return Status();
}

Result<std::vector<TensorEntry>> ParseHeader(std::string_view text, uint64_t data_begin,
                                             uint64_t data_size) {
  auto header = ParseJson(text, {.depth_max = kDepthMax, .values_max = kJsonValuesMax});
  if (!header.ok()) {
    if (header.status().code() == StatusCode::kResourceExhausted) return header.status();
    return Status::Corruption("header: " + std::string(header.status().message()));
  }
  if (!header->is_object()) return Status::Corruption("header is not a JSON object");

  std::vector<TensorEntry> entries;
  for (const auto& [name, value] : header->items()) {
    if (name == "__metadata__") {
      if (!value.is_object()) return Status::Corruption("__metadata__ is not an object");
      continue;
    }
    TensorEntry entry;
    MSADB_RETURN_IF_ERROR(ParseEntry(name, value, &entry));
    entries.push_back(std::move(entry));
  }
  std::sort(entries.begin(), entries.end(), [](const TensorEntry& a, const TensorEntry& b) {
    return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
  });
  uint64_t expected = 0;
  for (TensorEntry& entry : entries) {
    if (entry.begin != expected) {
      return Status::Corruption("tensor " + Quoted(entry.name) + " starts at data byte " +
                                std::to_string(entry.begin) + ", but the one before it ends at " +
                                std::to_string(expected));
    }
    expected = entry.end;
    if (expected > data_size) {
      return Status::Corruption("tensor " + Quoted(entry.name) + " ends at data byte " +
                                std::to_string(expected) + ", but the file has only " +
                                std::to_string(data_size) + "; it was cut or not fully downloaded");
    }
    entry.begin += data_begin;
    entry.end += data_begin;
  }
  if (expected != data_size) {
    return Status::Corruption(std::to_string(data_size - expected) +
                              " bytes after the last tensor");
  }
  return entries;
}

bool IsPlainShardName(std::string_view name) {
  constexpr std::string_view kSuffix = ".safetensors";
  if (name.size() <= kSuffix.size() || name.size() > 255 || name.front() == '.') return false;
  if (!name.ends_with(kSuffix)) return false;
  return std::all_of(name.begin(), name.end(), [](char c) {
    return c != '/' && c != '\\' && static_cast<unsigned char>(c) >= 0x20;
  });
}

}  // namespace

const char* DTypeName(DType dtype) { return kDTypes[static_cast<size_t>(dtype)].name; }
size_t DTypeSize(DType dtype) { return kDTypes[static_cast<size_t>(dtype)].size; }

Result<std::vector<TensorEntry>> ParseSafetensorsHeader(std::span<const std::byte> prefix,
                                                        uint64_t file_size) {
  try {
    if (file_size < kLengthBytes || prefix.size() < kLengthBytes) {
      return Status::Corruption("only " + std::to_string(file_size) +
                                " bytes: not a safetensors file");
    }
    uint64_t header_size = 0;
    for (size_t i = 0; i < kLengthBytes; ++i) {
      header_size |= std::to_integer<uint64_t>(prefix[i]) << (8 * i);
    }
    if (header_size > kHeaderBytesMax || header_size > file_size - kLengthBytes ||
        header_size > prefix.size() - kLengthBytes) {
      return Status::Corruption("header length " + std::to_string(header_size) +
                                " exceeds the file or 8 MiB");
    }
    const std::string_view text(reinterpret_cast<const char*>(prefix.data()) + kLengthBytes,
                                header_size);
    const uint64_t data_begin = kLengthBytes + header_size;
    return ParseHeader(text, data_begin, file_size - data_begin);
  } catch (const std::bad_alloc&) {
    return Status::ResourceExhausted("no memory to read a safetensors header");
  }
}

Result<std::map<std::string, std::string>> ParseSafetensorsIndex(std::string_view text) {
  try {
    MSADB_ASSIGN_OR_RETURN(const json object,
                           ParseJson(text, {.depth_max = kDepthMax, .values_max = kJsonValuesMax}));
    if (!object.is_object() || !object.contains("weight_map") ||
        !object["weight_map"].is_object()) {
      return Status::InvalidArgument("weight_map is missing or not an object");
    }
    std::map<std::string, std::string> shards;
    for (const auto& [name, shard] : object["weight_map"].items()) {
      if (!shard.is_string()) {
        return Status::InvalidArgument("the shard of " + Quoted(name) + " is not a string");
      }
      const std::string file = shard;
      if (!IsPlainShardName(file)) {
        return Status::InvalidArgument("shard " + Quoted(file) +
                                       " is not a plain *.safetensors file name");
      }
      shards.emplace(name, file);
    }
    if (shards.empty()) return Status::InvalidArgument("weight_map is empty");
    return shards;
  } catch (const std::bad_alloc&) {
    return Status::ResourceExhausted("no memory to read the safetensors index");
  }
}

WeightFiles::~WeightFiles() {
  for (const Mapping& mapping : mappings_) ::munmap(mapping.address, mapping.size);
}

Status WeightFiles::AddFile(const std::string& path, std::set<std::string>* names) {
  const auto failed = [&](int error) {
    const std::string message = path + ": " + std::strerror(error);
    return error == ENOENT ? Status::NotFound(message) : Status::IOError(message);
  };
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return failed(errno);
  struct Closer {
    int fd;
    ~Closer() { ::close(fd); }
  } closer{fd};
  struct stat info;
  if (::fstat(fd, &info) != 0) return failed(errno);
  if (!S_ISREG(info.st_mode)) return Status::InvalidArgument(path + ": not a regular file");
  const uint64_t size = static_cast<uint64_t>(info.st_size);
  if (size < kLengthBytes) {
    return Status::Corruption(path + ": only " + std::to_string(size) +
                              " bytes: not a safetensors file");
  }

  mappings_.reserve(mappings_.size() + 1);
  void* address = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd, 0);
  if (address == MAP_FAILED) {
    if (errno == ENOMEM) return Status::ResourceExhausted(path + ": no address space to map it");
    return failed(errno);
  }
  mappings_.push_back({address, size});
  paths_.push_back(path);
  total_bytes_ += size;

  const std::span<const std::byte> file(static_cast<const std::byte*>(address), size);
  auto entries = ParseSafetensorsHeader(file, size);
  if (!entries.ok()) return entries.status().WithContext(path);
  for (TensorEntry& entry : *entries) {
    TensorView view{entry.dtype, std::move(entry.shape),
                    file.subspan(entry.begin, entry.end - entry.begin)};
    if (entry.begin % DTypeSize(entry.dtype) != 0 && !view.data.empty()) {
      realigned_.push_back(std::make_unique_for_overwrite<std::byte[]>(view.data.size()));
      std::memcpy(realigned_.back().get(), view.data.data(), view.data.size());
      view.data = {realigned_.back().get(), view.data.size()};
    }
    if (!tensors_.emplace(entry.name, std::move(view)).second) {
      return Status::Corruption(path + ": tensor " + Quoted(entry.name) +
                                " is also in another shard");
    }
    if (names != nullptr) names->insert(std::move(entry.name));
  }
  return Status();
}

Result<std::unique_ptr<WeightFiles>> WeightFiles::OpenFile(const std::string& path) {
  try {
    std::unique_ptr<WeightFiles> files(new WeightFiles);
    MSADB_RETURN_IF_ERROR(files->AddFile(path, nullptr));
    return files;
  } catch (const std::bad_alloc&) {
    return Status::ResourceExhausted("no memory to read it").WithContext(path);
  }
}

Result<std::unique_ptr<WeightFiles>> WeightFiles::Open(const std::string& folder) {
  try {
    const std::string index_path = folder + "/model.safetensors.index.json";
    auto index_text = ReadFile(index_path, kIndexBytesMax);
    if (!index_text.ok()) {
      if (index_text.status().code() != StatusCode::kNotFound) return index_text.status();
      return OpenFile(folder + "/model.safetensors");
    }
    auto index = ParseSafetensorsIndex(*index_text);
    if (!index.ok()) return index.status().WithContext(index_path);

    std::map<std::string, std::vector<std::string>> shards;
    for (const auto& [name, shard] : *index) shards[shard].push_back(name);
    if (shards.size() > kShardsMax) {
      return Status::InvalidArgument(index_path + ": names more than 1024 shards");
    }
    std::unique_ptr<WeightFiles> files(new WeightFiles);
    for (const auto& [shard, promised] : shards) {
      std::set<std::string> held;
      MSADB_RETURN_IF_ERROR(files->AddFile(folder + "/" + shard, &held));
      for (const std::string& name : promised) {
        if (held.contains(name)) continue;
        return Status::Corruption(index_path + ": tensor " + Quoted(name) + " is not in " + shard);
      }
    }
    return files;
  } catch (const std::bad_alloc&) {
    return Status::ResourceExhausted("no memory to read the weights").WithContext(folder);
  }
}

const TensorView* WeightFiles::Find(std::string_view name) const {
  const auto it = tensors_.find(name);
  return it == tensors_.end() ? nullptr : &it->second;
}

Result<TensorView> WeightFiles::Get(std::string_view name, std::span<const uint64_t> shape) const {
  const TensorView* view = Find(name);
  if (view == nullptr) return Status::NotFound("tensor " + Quoted(name) + " is missing");
  if (!std::equal(view->shape.begin(), view->shape.end(), shape.begin(), shape.end())) {
    return Status::InvalidArgument("tensor " + Quoted(name) + " has shape " +
                                   ShapeText(view->shape) + ", but the config needs " +
                                   ShapeText(shape));
  }
  return *view;
}

Result<MatrixView> WeightFiles::FindMatrix(std::string_view name, uint64_t rows,
                                           uint64_t cols) const {
  constexpr uint64_t kGroupMultiple = 32;
  const std::string base(name);
  MatrixView matrix{.rows = rows, .cols = cols};
  const auto wrong_dtype = [](const std::string& tensor, DType dtype, const char* wanted) {
    return Status::InvalidArgument("tensor " + Quoted(tensor) + " has dtype " + DTypeName(dtype) +
                                   " where " + wanted + " is needed");
  };

  const TensorView* packed = Find(base + ".weight_q4");
  const TensorView* scale = Find(base + ".weight_scale");
  if (packed != nullptr) {
    if (Find(base + ".weight") != nullptr) {
      return Status::InvalidArgument(base + " is there twice, as .weight and as .weight_q4");
    }
    matrix.form = MatrixView::Form::kInt4;
    const uint64_t shape[] = {rows, cols / 2};
    if (cols % kGroupMultiple != 0) {
      return Status::InvalidArgument(base + ".weight_q4: rows of " + std::to_string(cols) +
                                     " elements are not a multiple of 32");
    }
    MSADB_ASSIGN_OR_RETURN(matrix.weight, Get(base + ".weight_q4", shape));
    if (packed->dtype != DType::kU8) return wrong_dtype(base + ".weight_q4", packed->dtype, "U8");
  } else {
    const uint64_t shape[] = {rows, cols};
    MSADB_ASSIGN_OR_RETURN(matrix.weight, Get(base + ".weight", shape));
    const DType dtype = matrix.weight.dtype;
    if (dtype == DType::kU8) return wrong_dtype(base + ".weight", dtype, "F32, F16, BF16 or I8");
    matrix.form = dtype == DType::kI8 ? MatrixView::Form::kInt8 : MatrixView::Form::kDense;
    if (matrix.form == MatrixView::Form::kDense) {
      if (scale != nullptr) {
        return Status::InvalidArgument(base + ".weight_scale is there, but .weight is " +
                                       DTypeName(dtype) + ", not I8");
      }
      return matrix;
    }
  }

  if (scale == nullptr)
    return Status::NotFound("tensor " + Quoted(base + ".weight_scale") + " is missing");
  const bool fits = scale->shape.size() == 2 && scale->shape[0] == rows && scale->shape[1] > 0 &&
                    cols % scale->shape[1] == 0 && (cols / scale->shape[1]) % kGroupMultiple == 0;
  if (!fits || cols == 0) {
    return Status::InvalidArgument("tensor " + Quoted(base + ".weight_scale") + " has shape " +
                                   ShapeText(scale->shape) + "; it must be [" +
                                   std::to_string(rows) + ", " + std::to_string(cols) +
                                   " / group] with a group that is a multiple of 32");
  }
  matrix.group = cols / scale->shape[1];
  matrix.scale = *scale;
  if (scale->dtype != DType::kF16) return wrong_dtype(base + ".weight_scale", scale->dtype, "F16");
  if (matrix.form == MatrixView::Form::kInt4) {
    MSADB_ASSIGN_OR_RETURN(matrix.min, Get(base + ".weight_min", scale->shape));
    if (matrix.min.dtype != DType::kF16) {
      return wrong_dtype(base + ".weight_min", matrix.min.dtype, "F16");
    }
  }
  return matrix;
}

}  // namespace msadb::model
