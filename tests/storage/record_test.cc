// Records and values: round trips, bounds, and hostile bytes.
#include "storage/record.h"

#include <gtest/gtest.h>

#include <limits>

#include "storage/codec.h"
#include "testing.h"

namespace msadb::storage {
namespace {

PartRecord FullRecord() {
  PartRecord r;
  r.first_number = 17;
  r.part_index = 0;
  r.part_count = 3;
  r.text = "The key is under the blue flowerpot. \xC3\xA9\xE6\x97\xA5";
  r.text_bytes = r.text.size();
  r.token_count = 12;
  r.chunk_count = 1;
  r.routing_bytes = 100;
  r.blocks_bytes = 200;
  r.created_us = -5;
  r.expires_us = 0;
  r.key = "";
  r.source = "a person";
  r.written_by = "agent";
  r.metadata = {{"empty", std::string()},
                {"text", std::string("v\0w", 3)},
                {"integer", std::numeric_limits<int64_t>::min()},
                {"double", -0.0},
                {"yes", true},
                {"no", false},
                {"list", std::vector<std::string>{"a", "", "c"}},
                {"none", std::vector<std::string>{}}};
  return r;
}

TEST(PartRecord, RoundTripKeepsEveryField) {
  const PartRecord full = FullRecord();
  const auto bytes = EncodePartRecord(full);
  ASSERT_OK(bytes);
  const auto read = DecodePartRecord(*bytes);
  ASSERT_OK(read);
  EXPECT_EQ(*read, full);

  PartRecord without_text = full;
  without_text.text.clear();
  const auto headless = DecodePartRecord(*bytes, PartFields::kNoText);
  ASSERT_OK(headless);
  EXPECT_EQ(*headless, without_text);
}

TEST(PartRecord, AbsentDiffersFromEmpty) {
  PartRecord r;
  r.first_number = 1;
  r.text = "x";
  const auto read = DecodePartRecord(*EncodePartRecord(r));
  ASSERT_OK(read);
  EXPECT_FALSE(read->key.has_value());
  EXPECT_FALSE(read->expires_us.has_value());
}

// Made by the program before records had a writer.
TEST(PartRecord, RecordsFromBeforeTheWriterReadAndAreWrittenAlike) {
  constexpr std::string_view kHex =
      "280000000000000020004800400000003c00000038003400300028002000180010000c000800040020000000"
      "440000007800000080000000028098281765060001401e18240a0600c8000000000000006400000000000000"
      "01000000090000005c00000001000000110000000000000001000000100000000c0018001400130000000400"
      "0c000000ea070000000000000000000000000002040000000400000079656172000000000500000064696172"
      "79000000010000006b0000000e000000546865207370617265206b65792e0000";
  std::string bytes;
  for (size_t i = 0; i < kHex.size(); i += 2) {
    bytes += static_cast<char>(std::stoi(std::string(kHex.substr(i, 2)), nullptr, 16));
  }
  PartRecord r;
  r.first_number = 17;
  r.text = "The spare key.";
  r.text_bytes = r.text.size();
  r.token_count = 9;
  r.chunk_count = 1;
  r.routing_bytes = 100;
  r.blocks_bytes = 200;
  r.created_us = 1'700'000'000'000'001;
  r.expires_us = 1'800'000'000'000'002;
  r.key = "k";
  r.source = "diary";
  r.metadata = {{"year", int64_t{2026}}};
  const auto read = DecodePartRecord(bytes);
  ASSERT_OK(read);
  EXPECT_EQ(*read, r);
  EXPECT_EQ(read->written_by, "");
  EXPECT_EQ(*EncodePartRecord(r), bytes);
}

TEST(PartRecord, ContradictionsAreRefused) {
  const auto refused = [](auto change, const char* why) {
    PartRecord r;
    r.first_number = 1;
    r.part_count = 2;
    r.text = "x";
    change(r);
    EXPECT_ERROR(EncodePartRecord(r), kInvalidArgument, why);
  };
  refused([](PartRecord& r) { r.part_index = 2; }, "part index");
  refused([](PartRecord& r) { r.part_count = 0; }, "part index");
  refused([](PartRecord& r) { r.first_number = 0; }, "number 0");
  refused([](PartRecord& r) { r.first_number = UINT64_MAX; }, "too large");
  refused([](PartRecord& r) { r.text_offset = 1; }, "begin at 0");
  refused([](PartRecord& r) { r.chunk_count = kChunksMax + 1; }, "chunks");
  refused([](PartRecord& r) { r.routing_bytes = kTensorBytesMax + 1; }, "1 GiB");
  refused([](PartRecord& r) { r.text.assign(kTextBytesMax + 1, 'x'); }, "64 MiB");
  refused([](PartRecord& r) { r.key = std::string(kKeyBytesMax + 1, 'k'); }, "key");
  refused([](PartRecord& r) { r.source.assign(kKeyBytesMax + 1, 's'); }, "source");
  refused([](PartRecord& r) { r.written_by.assign(kKeyBytesMax + 1, 'w'); }, "written_by");
  refused([](PartRecord& r) { r.metadata["m"] = std::string(kMetadataBytesMax + 1, 'm'); },
          "metadata");
  refused(
      [](PartRecord& r) {
        for (size_t i = 0; i <= kMetadataEntriesMax; ++i) r.metadata[std::to_string(i)] = true;
      },
      "1024");
  for (const auto& first_only : std::vector<std::function<void(PartRecord&)>>{
           [](PartRecord& r) { r.key = "k"; }, [](PartRecord& r) { r.source = "s"; },
           [](PartRecord& r) { r.written_by = "w"; }, [](PartRecord& r) { r.expires_us = 1; },
           [](PartRecord& r) { r.metadata["a"] = true; }}) {
    refused(
        [&](PartRecord& r) {
          r.part_index = 1;
          first_only(r);
        },
        "first part");
  }
}

TEST(PartRecord, HostileBytesNeverCrash) {
  const uint64_t seed = TestSeed();
  std::mt19937_64 rng(seed);
  const std::string good = *EncodePartRecord(FullRecord());
  size_t refused = 0;
  const size_t rounds = Scaled(20'000);
  for (size_t i = 0; i < rounds; ++i) {
    std::string bytes = good;
    const size_t changes = 1 + rng() % 4;
    for (size_t c = 0; c < changes; ++c)
      bytes[rng() % bytes.size()] ^= static_cast<char>(1 + rng() % 255);
    if (rng() % 4 == 0) bytes.resize(rng() % (bytes.size() + 1));
    const auto read = DecodePartRecord(bytes);
    if (!read.ok()) {
      ASSERT_EQ(read.status().code(), StatusCode::kCorruption) << read.status().ToString();
      ++refused;
    }
  }
  EXPECT_GT(refused, rounds / 10);
  for (size_t i = 0; i < 2000; ++i) (void)DecodePartRecord(RandomBytes(rng, rng() % 300)).ok();
  EXPECT_FALSE(DecodePartRecord("").ok());
}

TEST(Tensor, SizesAndBounds) {
  const TensorShape shape{DataType::kF16, 18, 3, 1024};
  EXPECT_EQ(*RoutingBytes(shape), 18u * 3 * 1024 * 2);
  EXPECT_EQ(*BlocksBytes(shape), 2u * 18 * 3 * 1024 * 2);
  EXPECT_EQ(BlockSlotBytes(shape), 2u * 18 * 1024 * 2);
  EXPECT_EQ(*RoutingBytes({DataType::kF32, 1, 1, 1}), 4u);
  EXPECT_ERROR(RoutingBytes({DataType::kF16, 0, 1, 1}), kInvalidArgument, "0");
  EXPECT_ERROR(RoutingBytes({DataType::kF16, 1, 0, 1}), kInvalidArgument, "0");
  EXPECT_ERROR(RoutingBytes({DataType::kF16, 1, 1, 0}), kInvalidArgument, "0");
  EXPECT_ERROR(RoutingBytes({static_cast<DataType>(9), 1, 1, 1}), kInvalidArgument, "type");
  EXPECT_ERROR(RoutingBytes({DataType::kF32, kLayersMax + 1, 1, 1}), kInvalidArgument, "bound");
  EXPECT_ERROR(RoutingBytes({DataType::kF32, kLayersMax, kChunksMax, kDimMax}), kInvalidArgument,
               "1 GiB");
}

TEST(Tensor, HeaderRoundTripAndDamage) {
  for (const Family family : {Family::kRouting, Family::kBlocks}) {
    const TensorShape shape{DataType::kBF16, 2, 3, 4};
    const size_t bytes = family == Family::kRouting ? *RoutingBytes(shape) : *BlocksBytes(shape);
    const auto header = TensorHeader(family, shape);
    const std::string payload = std::string(header.data(), header.size()) + std::string(bytes, 'x');
    const auto view = ParseTensor(family, payload);
    ASSERT_OK(view);
    EXPECT_EQ(view->shape, shape);
    EXPECT_EQ(view->bytes.size(), bytes);
    for (size_t cut = 0; cut < payload.size(); ++cut) {
      EXPECT_ERROR(ParseTensor(family, payload.substr(0, cut)), kCorruption, "");
    }
    EXPECT_ERROR(ParseTensor(family, payload + "x"), kCorruption, "bytes");
    const Family other = family == Family::kRouting ? Family::kBlocks : Family::kRouting;
    EXPECT_ERROR(ParseTensor(other, payload), kCorruption, "kind");
  }
}

TEST(Seal, EveryFlippedBitAndEveryOtherKeyIsNoticed) {
  const KeyBytes key = PartKey(7, 1234567);
  const std::string payload = "some payload";
  const std::string value = Seal(Family::kDocuments, key.view(), payload);
  ASSERT_EQ(Unseal(Family::kDocuments, key.view(), value), payload);
  for (size_t bit = 0; bit < value.size() * 8; ++bit) {
    std::string flipped = value;
    flipped[bit / 8] ^= static_cast<char>(1 << bit % 8);
    EXPECT_FALSE(Unseal(Family::kDocuments, key.view(), flipped).has_value());
  }
  EXPECT_FALSE(Unseal(Family::kDocuments, PartKey(7, 1234568).view(), value).has_value());
  EXPECT_FALSE(Unseal(Family::kDocuments, PartKey(8, 1234567).view(), value).has_value());
  EXPECT_FALSE(Unseal(Family::kRouting, key.view(), value).has_value());
  for (size_t cut = 0; cut < value.size(); ++cut) {
    EXPECT_FALSE(Unseal(Family::kDocuments, key.view(), value.substr(0, cut)).has_value());
  }
}

TEST(Keys, SortAsNumbers) {
  EXPECT_LT(PartKey(1, 255).view(), PartKey(1, 256).view());
  EXPECT_LT(PartKey(1, UINT64_MAX).view(), PartKey(2, 0).view());
  EXPECT_LT(PartKey(255, 1).view(), PartKey(256, 0).view());
  EXPECT_LT(ExpiryKey(1, -1, 9).view(), ExpiryKey(1, 0, 1).view());
  EXPECT_LT(ExpiryKey(1, std::numeric_limits<int64_t>::min(), 9).view(),
            ExpiryKey(1, std::numeric_limits<int64_t>::max(), 1).view());
  const auto part = ParsePartKey(PartKey(3, 70'000'000'000).view());
  ASSERT_TRUE(part.has_value());
  EXPECT_EQ(part->collection, 3u);
  EXPECT_EQ(part->number, 70'000'000'000u);
  const auto expiry = ParseExpiryKey(ExpiryKey(4, -123456789, 5).view());
  ASSERT_TRUE(expiry.has_value());
  EXPECT_EQ(expiry->expires_us, -123456789);
  EXPECT_FALSE(ParsePartKey("short").has_value());
  EXPECT_FALSE(ParseExpiryKey("short").has_value());
}

}  // namespace
}  // namespace msadb::storage
