// The safetensors reader: what it returns for good files, and what it says about bad ones.
#include "model/safetensors.h"

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace msadb::model {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

std::string Assemble(const std::string& header, const std::string& data) {
  std::string file;
  for (int i = 0; i < 8; ++i) file += static_cast<char>(header.size() >> (8 * i));
  return file + header + data;
}

struct Tensor {
  std::string name;
  std::string dtype;
  std::vector<uint64_t> shape;
  std::string data;
};

std::string MakeFile(const std::vector<Tensor>& tensors, size_t padding = 0) {
  json header = {{"__metadata__", {{"format", "pt"}}}};
  std::string data;
  for (const Tensor& tensor : tensors) {
    header[tensor.name] = {{"dtype", tensor.dtype},
                           {"shape", tensor.shape},
                           {"data_offsets", {data.size(), data.size() + tensor.data.size()}}};
    data += tensor.data;
  }
  return Assemble(header.dump() + std::string(padding, ' '), data);
}

std::string Bytes(size_t n, int first = 0) {
  std::string bytes(n, '\0');
  for (size_t i = 0; i < n; ++i) bytes[i] = static_cast<char>(first + static_cast<int>(i));
  return bytes;
}

std::string_view Text(std::span<const std::byte> data) {
  return {reinterpret_cast<const char*>(data.data()), data.size()};
}

class Safetensors : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::path(testing::TempDir()) /
              (std::string("msadb_safetensors_") +
               testing::UnitTest::GetInstance()->current_test_info()->name());
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  void Write(const std::string& name, const std::string& content) {
    std::ofstream(folder_ / name, std::ios::binary) << content;
  }
  Result<std::unique_ptr<WeightFiles>> Open() { return WeightFiles::Open(folder_); }
  std::unique_ptr<WeightFiles> OpenOk() {
    auto files = Open();
    EXPECT_TRUE(files.ok()) << files.status().ToString();
    return files.ok() ? std::move(*files) : nullptr;
  }

  fs::path folder_;
};

TEST_F(Safetensors, ReadsEveryDType) {
  const float values[] = {1.5f, -2.0f};
  std::string floats(sizeof(values), '\0');
  std::memcpy(floats.data(), values, sizeof(values));
  Write("model.safetensors", MakeFile({{"f32", "F32", {2}, floats},
                                       {"f16", "F16", {2, 1}, Bytes(4)},
                                       {"bf16", "BF16", {1, 3}, Bytes(6, 10)},
                                       {"i8", "I8", {5}, Bytes(5, 20)},
                                       {"u8", "U8", {3}, Bytes(3, 30)},
                                       {"empty", "F32", {0, 7}, ""},
                                       {"scalar", "U8", {}, Bytes(1, 40)}}));
  const auto files = OpenOk();
  ASSERT_NE(files, nullptr);
  EXPECT_EQ(files->tensors().size(), 7u);
  const TensorView* f32 = files->Find("f32");
  ASSERT_NE(f32, nullptr);
  EXPECT_EQ(f32->dtype, DType::kF32);
  EXPECT_EQ(f32->shape, (std::vector<uint64_t>{2}));
  EXPECT_EQ(f32->element_count(), 2u);
  EXPECT_EQ(Text(f32->data), floats);
  EXPECT_EQ(Text(files->Find("bf16")->data), Bytes(6, 10));
  EXPECT_EQ(files->Find("i8")->dtype, DType::kI8);
  EXPECT_EQ(Text(files->Find("u8")->data), Bytes(3, 30));
  EXPECT_TRUE(files->Find("empty")->data.empty());
  EXPECT_TRUE(files->Find("scalar")->shape.empty());
  EXPECT_EQ(files->Find("scalar")->element_count(), 1u);
  EXPECT_EQ(files->Find("other"), nullptr);
  ASSERT_EQ(files->paths().size(), 1u);
  EXPECT_EQ(files->total_bytes(), fs::file_size(files->paths()[0]));
}

TEST_F(Safetensors, DataIsAlignedWhateverTheFileSays) {
  const float value = 3.25f;
  std::string bytes(sizeof(value), '\0');
  std::memcpy(bytes.data(), &value, sizeof(value));
  for (size_t padding = 0; padding < 8; ++padding) {
    Write("model.safetensors",
          MakeFile({{"odd", "U8", {1}, "x"}, {"w", "F32", {1}, bytes}}, padding));
    const auto files = OpenOk();
    ASSERT_NE(files, nullptr);
    const TensorView* view = files->Find("w");
    EXPECT_EQ(reinterpret_cast<uintptr_t>(view->data.data()) % 4, 0u);
    EXPECT_EQ(*reinterpret_cast<const float*>(view->data.data()), value);
  }
}

TEST_F(Safetensors, GetChecksTheShape) {
  Write("model.safetensors", MakeFile({{"w", "U8", {2, 3}, Bytes(6)}}));
  const auto files = OpenOk();
  ASSERT_NE(files, nullptr);
  const uint64_t good[] = {2, 3};
  const uint64_t bad[] = {3, 2};
  EXPECT_TRUE(files->Get("w", good).ok());
  const auto wrong = files->Get("w", bad);
  ASSERT_FALSE(wrong.ok());
  EXPECT_EQ(wrong.status().code(), StatusCode::kInvalidArgument);
  EXPECT_NE(wrong.status().message().find("[2, 3]"), std::string::npos);
  EXPECT_NE(wrong.status().message().find("[3, 2]"), std::string::npos);
  const auto missing = files->Get("v", good);
  ASSERT_FALSE(missing.ok());
  EXPECT_EQ(missing.status().code(), StatusCode::kNotFound);
}

TEST_F(Safetensors, Shards) {
  const json index = {{"metadata", {{"total_size", 7}}},
                      {"weight_map", {{"a", "model-1.safetensors"}, {"b", "model-2.safetensors"}}}};
  Write("model.safetensors.index.json", index.dump());
  Write("model-1.safetensors", MakeFile({{"a", "U8", {3}, "abc"}}));
  Write("model-2.safetensors", MakeFile({{"b", "U8", {4}, "defg"}}));
  {
    const auto files = OpenOk();
    ASSERT_NE(files, nullptr);
    EXPECT_EQ(Text(files->Find("a")->data), "abc");
    EXPECT_EQ(Text(files->Find("b")->data), "defg");
    EXPECT_EQ(files->paths().size(), 2u);
  }
  // Each of these makes the set of files wrong in one way.
  const auto expect_refused = [&](StatusCode code, const char* says) {
    const auto files = Open();
    ASSERT_FALSE(files.ok());
    EXPECT_EQ(files.status().code(), code) << files.status().ToString();
    EXPECT_NE(files.status().message().find(says), std::string::npos) << files.status().ToString();
  };
  Write("model-2.safetensors", MakeFile({{"a", "U8", {1}, "x"}, {"b", "U8", {4}, "defg"}}));
  expect_refused(StatusCode::kCorruption, "another shard");
  Write("model-2.safetensors", MakeFile({{"c", "U8", {4}, "defg"}}));
  expect_refused(StatusCode::kCorruption, "\"b\" is not in model-2");
  fs::remove(folder_ / "model-2.safetensors");
  expect_refused(StatusCode::kNotFound, "model-2.safetensors");
}

TEST_F(Safetensors, IndexCannotLeaveItsFolder) {
  for (const char* shard :
       {"../x.safetensors", "/etc/x.safetensors", "a/b.safetensors", "..", ".safetensors",
        ".x.safetensors", "x.bin", "", "a\\b.safetensors", "a\n.safetensors"}) {
    const json index = {{"weight_map", {{"a", shard}}}};
    const auto parsed = ParseSafetensorsIndex(index.dump());
    ASSERT_FALSE(parsed.ok()) << shard;
    EXPECT_EQ(parsed.status().code(), StatusCode::kInvalidArgument);
  }
  for (const char* text : {"", "[]", "{}", R"({"weight_map": []})", R"({"weight_map": {}})",
                           R"({"weight_map": {"a": 1}})",
                           R"({"weight_map": {"a": "x.safetensors", "a": "x.safetensors"}})"}) {
    EXPECT_FALSE(ParseSafetensorsIndex(text).ok()) << text;
  }
  EXPECT_TRUE(ParseSafetensorsIndex(R"({"weight_map": {"a": "x.safetensors"}})").ok());
}

TEST_F(Safetensors, MissingFiles) {
  const auto none = Open();
  ASSERT_FALSE(none.ok());
  EXPECT_EQ(none.status().code(), StatusCode::kNotFound);
  EXPECT_NE(none.status().message().find("model.safetensors"), std::string::npos);
  fs::create_directory(folder_ / "model.safetensors");
  EXPECT_EQ(Open().status().code(), StatusCode::kInvalidArgument);
}

TEST_F(Safetensors, EveryTruncationIsNoticed) {
  const std::string whole = MakeFile({{"a", "U8", {3}, "abc"}, {"b", "F32", {2, 2}, Bytes(16)}});
  for (size_t size = 0; size < whole.size(); ++size) {
    Write("model.safetensors", whole.substr(0, size));
    const auto files = Open();
    ASSERT_FALSE(files.ok()) << size << " of " << whole.size() << " bytes";
    EXPECT_EQ(files.status().code(), StatusCode::kCorruption) << files.status().ToString();
  }
  Write("model.safetensors", whole + "x");
  EXPECT_EQ(Open().status().code(), StatusCode::kCorruption);
}

TEST(SafetensorsHeader, RefusesBadHeaders) {
  struct Case {
    const char* name;
    std::string header;
    size_t data_size;
    StatusCode code;
    const char* says;
  };
  constexpr auto kCorrupt = StatusCode::kCorruption;
  const std::string a = R"("a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]})";
  const Case cases[] = {
      {"not JSON", "{", 0, kCorrupt, "not JSON"},
      {"list", "[]", 0, kCorrupt, "object"},
      {"too deep", "{\"__metadata__\":" + std::string(100, '[') + std::string(100, ']') + "}", 0,
       kCorrupt, "deeply"},
      {"name twice", "{" + a + "," + a + "}", 2, kCorrupt, "twice"},
      {"overlap", "{" + a + R"(,"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}})", 3, kCorrupt,
       "starts at data byte 1"},
      {"same bytes", "{" + a + R"(,"b":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}})", 2,
       kCorrupt, "starts at data byte 0"},
      {"gap", "{" + a + R"(,"b":{"dtype":"U8","shape":[2],"data_offsets":[3,5]}})", 5, kCorrupt,
       "starts at data byte 3"},
      {"gap at start", R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}})", 3, kCorrupt,
       "starts at data byte 1"},
      {"data after", "{" + a + "}", 3, kCorrupt, "1 bytes after"},
      {"data missing", "{" + a + "}", 1, kCorrupt, "only 1"},
      {"backwards", R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[2,0]}})", 2, kCorrupt,
       "backwards"},
      {"size", R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,2]}})", 2, kCorrupt, "need 8"},
      {"overflow", R"({"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}})",
       0, kCorrupt, "overflows"},
      {"overflow to zero bytes",
       R"({"a":{"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,0]}})", 0, kCorrupt,
       "overflows"},
      {"huge offsets",
       R"({"a":{"dtype":"U8","shape":[18446744073709551615],"data_offsets":[0,18446744073709551615]}})",
       2, kCorrupt, "only 2"},
      {"negative size", R"({"a":{"dtype":"U8","shape":[-1],"data_offsets":[0,2]}})", 2, kCorrupt,
       "whole number"},
      {"float size", R"({"a":{"dtype":"U8","shape":[2.0],"data_offsets":[0,2]}})", 2, kCorrupt,
       "whole number"},
      {"nine dimensions",
       R"({"a":{"dtype":"U8","shape":[1,1,1,1,1,1,1,1,2],"data_offsets":[0,2]}})", 2, kCorrupt,
       "8 sizes"},
      {"negative offset", R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[-2,0]}})", 2, kCorrupt,
       "data_offsets"},
      {"three offsets", R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,1,2]}})", 2, kCorrupt,
       "data_offsets"},
      {"unknown dtype", R"({"a":{"dtype":"Q9","shape":[2],"data_offsets":[0,2]}})", 2, kCorrupt,
       "Q9"},
      {"other dtype", R"({"a":{"dtype":"I64","shape":[1],"data_offsets":[0,8]}})", 8,
       StatusCode::kUnsupported, "I64"},
      {"dtype number", R"({"a":{"dtype":1,"shape":[2],"data_offsets":[0,2]}})", 2, kCorrupt,
       "dtype"},
      {"no shape", R"({"a":{"dtype":"U8","data_offsets":[0,2]}})", 2, kCorrupt, "exactly"},
      {"extra key", R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2],"x":1}})", 2, kCorrupt,
       "exactly"},
      {"tensor list", R"({"a":[]})", 0, kCorrupt, "exactly"},
      {"empty name", R"({"":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}})", 2, kCorrupt,
       "name"},
      {"long name",
       "{\"" + std::string(1025, 'n') + R"(":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}})", 2,
       kCorrupt, "name"},
      {"metadata string", R"({"__metadata__":"x"})", 0, kCorrupt, "__metadata__"},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.name);
    const std::string file = Assemble(c.header, std::string(c.data_size, 'd'));
    const auto entries =
        ParseSafetensorsHeader(std::as_bytes(std::span(file.data(), file.size())), file.size());
    ASSERT_FALSE(entries.ok());
    EXPECT_EQ(entries.status().code(), c.code) << entries.status().ToString();
    EXPECT_NE(entries.status().message().find(c.says), std::string::npos)
        << entries.status().ToString();
  }
}

TEST(SafetensorsHeader, HeaderLengthIsBounded) {
  const auto parse = [](uint64_t length, const std::string& rest, uint64_t file_size) {
    std::string file;
    for (int i = 0; i < 8; ++i) file += static_cast<char>(length >> (8 * i));
    file += rest;
    return ParseSafetensorsHeader(std::as_bytes(std::span(file.data(), file.size())), file_size);
  };
  EXPECT_TRUE(parse(2, "{}", 10).ok());
  EXPECT_FALSE(parse(3, "{}", 10).ok());
  EXPECT_FALSE(parse(UINT64_MAX, "{}", 10).ok());
  EXPECT_FALSE(parse(uint64_t{1} << 63, "{}", 10).ok());
  // One byte over 8 MiB, in a file that claims to be large enough.
  EXPECT_FALSE(parse((8u << 20) + 1, "{}", 1u << 30).ok());
  const std::string padded = "{}" + std::string((8u << 20) - 2, ' ');
  EXPECT_TRUE(parse(8u << 20, padded, 8 + (8u << 20)).ok());
}

TEST_F(Safetensors, Matrices) {
  const std::string scale1 = Bytes(4 * 2);      // F16 [4, 1]
  const std::string scale2 = Bytes(4 * 2 * 2);  // F16 [4, 2]
  Write("model.safetensors", MakeFile({
                                 {"dense.weight", "BF16", {4, 64}, Bytes(4 * 64 * 2)},
                                 {"i8.weight", "I8", {4, 64}, Bytes(4 * 64)},
                                 {"i8.weight_scale", "F16", {4, 2}, scale2},
                                 {"i8row.weight", "I8", {4, 64}, Bytes(4 * 64)},
                                 {"i8row.weight_scale", "F16", {4, 1}, scale1},
                                 {"i4.weight_q4", "U8", {4, 32}, Bytes(4 * 32)},
                                 {"i4.weight_scale", "F16", {4, 2}, scale2},
                                 {"i4.weight_min", "F16", {4, 2}, scale2},
                                 {"noscale.weight", "I8", {4, 64}, Bytes(4 * 64)},
                                 {"nomin.weight_q4", "U8", {4, 32}, Bytes(4 * 32)},
                                 {"nomin.weight_scale", "F16", {4, 2}, scale2},
                                 {"twice.weight", "I8", {4, 64}, Bytes(4 * 64)},
                                 {"twice.weight_q4", "U8", {4, 32}, Bytes(4 * 32)},
                                 {"group16.weight", "I8", {4, 64}, Bytes(4 * 64)},
                                 {"group16.weight_scale", "F16", {4, 4}, Bytes(4 * 4 * 2)},
                                 {"group3.weight", "I8", {4, 64}, Bytes(4 * 64)},
                                 {"group3.weight_scale", "F16", {4, 3}, Bytes(4 * 3 * 2)},
                                 {"rows.weight", "I8", {4, 64}, Bytes(4 * 64)},
                                 {"rows.weight_scale", "F16", {2, 2}, Bytes(2 * 2 * 2)},
                                 {"nothing.weight", "I8", {4, 64}, Bytes(4 * 64)},
                                 {"nothing.weight_scale", "F16", {4, 0}, ""},
                                 {"f32scale.weight", "I8", {4, 64}, Bytes(4 * 64)},
                                 {"f32scale.weight_scale", "F32", {4, 2}, Bytes(4 * 2 * 4)},
                                 {"i8q4.weight_q4", "I8", {4, 32}, Bytes(4 * 32)},
                                 {"i8q4.weight_scale", "F16", {4, 2}, scale2},
                                 {"u8.weight", "U8", {4, 64}, Bytes(4 * 64)},
                                 {"densescale.weight", "F16", {4, 64}, Bytes(4 * 64 * 2)},
                                 {"densescale.weight_scale", "F16", {4, 2}, scale2},
                             }));
  const auto files = OpenOk();
  ASSERT_NE(files, nullptr);
  const auto dense = files->FindMatrix("dense", 4, 64);
  ASSERT_TRUE(dense.ok()) << dense.status().ToString();
  EXPECT_EQ(dense->form, MatrixView::Form::kDense);
  EXPECT_EQ(dense->group, 0u);
  EXPECT_EQ(dense->weight.dtype, DType::kBF16);

  const auto int8 = files->FindMatrix("i8", 4, 64);
  ASSERT_TRUE(int8.ok()) << int8.status().ToString();
  EXPECT_EQ(int8->form, MatrixView::Form::kInt8);
  EXPECT_EQ(int8->group, 32u);
  EXPECT_EQ(int8->scale.data.size(), 16u);
  EXPECT_EQ(files->FindMatrix("i8row", 4, 64)->group, 64u);

  const auto int4 = files->FindMatrix("i4", 4, 64);
  ASSERT_TRUE(int4.ok()) << int4.status().ToString();
  EXPECT_EQ(int4->form, MatrixView::Form::kInt4);
  EXPECT_EQ(int4->rows, 4u);
  EXPECT_EQ(int4->cols, 64u);
  EXPECT_EQ(int4->group, 32u);
  EXPECT_EQ(int4->weight.data.size(), 128u);
  EXPECT_EQ(int4->min.data.size(), 16u);

  EXPECT_EQ(files->FindMatrix("absent", 4, 64).status().code(), StatusCode::kNotFound);
  EXPECT_EQ(files->FindMatrix("noscale", 4, 64).status().code(), StatusCode::kNotFound);
  EXPECT_EQ(files->FindMatrix("nomin", 4, 64).status().code(), StatusCode::kNotFound);
  for (const char* bad :
       {"twice", "group16", "group3", "rows", "nothing", "f32scale", "i8q4", "u8", "densescale"}) {
    EXPECT_EQ(files->FindMatrix(bad, 4, 64).status().code(), StatusCode::kInvalidArgument) << bad;
  }
  EXPECT_EQ(files->FindMatrix("dense", 64, 4).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(files->FindMatrix("i4", 4, 65).status().code(), StatusCode::kInvalidArgument);
}

TEST(DTypes, NamesAndSizes) {
  EXPECT_STREQ(DTypeName(DType::kF32), "F32");
  EXPECT_STREQ(DTypeName(DType::kBF16), "BF16");
  EXPECT_EQ(DTypeSize(DType::kF32), 4u);
  EXPECT_EQ(DTypeSize(DType::kF16), 2u);
  EXPECT_EQ(DTypeSize(DType::kBF16), 2u);
  EXPECT_EQ(DTypeSize(DType::kI8), 1u);
  EXPECT_EQ(DTypeSize(DType::kU8), 1u);
}

}  // namespace
}  // namespace msadb::model
