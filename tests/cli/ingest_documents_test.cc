#include "cli/ingest_documents.h"

#include <gtest/gtest.h>

#include "msadb/transfer.h"

namespace msadb::cli {
namespace {

const TimePoint kModified{std::chrono::seconds(1'767'225'600)};  // 2026-01-01

std::vector<NewDocument> Read(const std::string& path, FileKind kind, const std::string& content) {
  auto documents = DocumentsOfFile(path, kind, content, kModified);
  EXPECT_TRUE(documents.ok()) << documents.status().ToString();
  return documents.ok() ? *documents : std::vector<NewDocument>();
}

std::string Entry(const NewDocument& document, const std::string& name) {
  const auto entry = document.metadata.find(name);
  return entry == document.metadata.end() ? "" : std::get<std::string>(entry->second);
}

TEST(KindOfFileTest, GoesByTheExtension) {
  EXPECT_EQ(KindOfFile("a/b.txt"), FileKind::kText);
  EXPECT_EQ(KindOfFile("README.MD"), FileKind::kMarkdown);
  EXPECT_EQ(KindOfFile("x.markdown"), FileKind::kMarkdown);
  EXPECT_EQ(KindOfFile("log.jsonl"), FileKind::kChat);
  EXPECT_EQ(KindOfFile("image.png"), std::nullopt);
  EXPECT_EQ(KindOfFile("Makefile"), std::nullopt);
}

TEST(DocumentsOfFileTest, TextIsOneDocumentByteForByte) {
  const std::string content = "  First line.\r\n\r\nSecond line.\n";
  const auto documents = Read("notes/a.txt", FileKind::kText, content);
  ASSERT_EQ(documents.size(), 1u);
  EXPECT_EQ(documents[0].text, content);
  EXPECT_EQ(documents[0].key, "notes/a.txt");
  EXPECT_EQ(documents[0].source, "notes/a.txt");
  EXPECT_EQ(Entry(documents[0], "path"), "notes/a.txt");
  EXPECT_EQ(Entry(documents[0], "type"), "text");
  EXPECT_EQ(Entry(documents[0], "modified"), FormatTime(kModified));
  EXPECT_EQ(Entry(documents[0], "hash").size(), 16u);
}

TEST(DocumentsOfFileTest, BlankFilesGiveNothing) {
  EXPECT_TRUE(Read("a.txt", FileKind::kText, " \n\t\n").empty());
  EXPECT_TRUE(Read("a.md", FileKind::kMarkdown, "# Only\n\n## Headings\n").empty());
  EXPECT_TRUE(Read("a.jsonl", FileKind::kChat, "\n\n").empty());
  EXPECT_TRUE(Read("a.txt", FileKind::kText, "").empty());
}

TEST(DocumentsOfFileTest, TheHashFollowsTheTextAlone) {
  const auto one = Read("a.txt", FileKind::kText, "same");
  const auto same = DocumentsOfFile("b.txt", FileKind::kText, "same", TimePoint{});
  const auto other = Read("a.txt", FileKind::kText, "other");
  ASSERT_TRUE(same.ok());
  EXPECT_EQ(Entry(one[0], "hash"), Entry((*same)[0], "hash"));
  EXPECT_NE(Entry(one[0], "hash"), Entry(other[0], "hash"));
}

TEST(DocumentsOfFileTest, MarkdownIsDividedAtHeadings) {
  const auto sections = Read("guide.md", FileKind::kMarkdown,
                             "# Guide\n\nIntro.\n\n## Keys & locks ##\nUnder the pot.\n\n"
                             "### Shed\nOn the hook.\n\n## Wi-Fi\nAsk Ada.\n");
  ASSERT_EQ(sections.size(), 4u);
  EXPECT_EQ(sections[0].key, "guide.md");
  EXPECT_EQ(sections[0].text, "Guide\n\nIntro.\n");
  EXPECT_EQ(sections[1].key, "guide.md#keys-locks");
  EXPECT_EQ(sections[1].text, "Guide > Keys & locks\n\nUnder the pot.\n");
  EXPECT_EQ(sections[2].key, "guide.md#shed");
  EXPECT_EQ(sections[2].text, "Guide > Keys & locks > Shed\n\nOn the hook.\n");
  EXPECT_EQ(sections[3].key, "guide.md#wi-fi");
  EXPECT_EQ(sections[3].text, "Guide > Wi-Fi\n\nAsk Ada.\n");
}

TEST(DocumentsOfFileTest, TextBeforeTheFirstHeadingCounts) {
  const auto sections =
      Read("a.md", FileKind::kMarkdown, "Before.\n# One\nIn one.\n#hashtag is text\n");
  ASSERT_EQ(sections.size(), 2u);
  EXPECT_EQ(sections[0].key, "a.md");
  EXPECT_EQ(sections[0].text, "Before.\n");
  EXPECT_EQ(sections[1].key, "a.md#one");
  EXPECT_EQ(sections[1].text, "One\n\nIn one.\n#hashtag is text\n");
}

TEST(DocumentsOfFileTest, HeadingsInsideFencesAreText) {
  const auto sections =
      Read("a.md", FileKind::kMarkdown, "# One\n```sh\n# a comment\n```\n# Two\nText.\n");
  ASSERT_EQ(sections.size(), 2u);
  EXPECT_EQ(sections[0].text, "One\n\n```sh\n# a comment\n```\n");
}

TEST(DocumentsOfFileTest, EqualHeadingsGetKeysOfTheirOwn) {
  const auto sections = Read("a.md", FileKind::kMarkdown,
                             "# T\nx\n## Same\n1\n## Same\n2\n## Same 1\n3\n## !!!\n4\n");
  ASSERT_EQ(sections.size(), 5u);
  EXPECT_EQ(sections[1].key, "a.md#same");
  EXPECT_EQ(sections[2].key, "a.md#same-1");
  EXPECT_EQ(sections[3].key, "a.md#same-1-1");
  EXPECT_EQ(sections[4].key, "a.md#section");
}

TEST(DocumentsOfFileTest, LongHeadingsAreCutAtACharacter) {
  std::string heading;
  for (int i = 0; i < 100; ++i) heading += "é";
  const auto sections = Read("a.md", FileKind::kMarkdown, "x\n# a" + heading + "\ny\n");
  ASSERT_EQ(sections.size(), 2u);
  EXPECT_LE(sections[1].key->size(), std::string("a.md#").size() + 80);
  EXPECT_TRUE(sections[1].key->ends_with("é"));
}

TEST(DocumentsOfFileTest, ChatsAreDividedIntoExchanges) {
  const auto exchanges = Read(
      "chat.jsonl", FileKind::kChat,
      R"({"role": "user", "content": "Where is the key?", "timestamp": "2026-01-02T10:00:00Z"})"
      "\n"
      R"({"role": "assistant", "content": "Under the pot."})"
      "\n\n"
      R"({"role": "user", "content": [{"type": "text", "text": "And"}, {"type": "image"}, {"type": "text", "text": "the shed?"}], "timestamp": 1767225600})"
      "\n"
      R"({"role": "user", "content": "Please."})"
      "\n"
      R"({"role": "tool", "content": "shed: hook"})"
      "\n"
      R"({"role": "assistant", "content": "On the hook."})");
  ASSERT_EQ(exchanges.size(), 2u);
  EXPECT_EQ(exchanges[0].key, "chat.jsonl#1");
  EXPECT_EQ(exchanges[0].text,
            "user (2026-01-02T10:00:00Z): Where is the key?\nassistant: Under the pot.\n");
  EXPECT_EQ(Entry(exchanges[0], "timestamp"), "2026-01-02T10:00:00Z");
  EXPECT_EQ(Entry(exchanges[0], "role"), "user");
  EXPECT_EQ(exchanges[1].key, "chat.jsonl#4");
  EXPECT_EQ(exchanges[1].text, "user (" + FormatTime(kModified) +
                                   "): And\nthe shed?\nuser: Please.\ntool: shed: hook\n"
                                   "assistant: On the hook.\n");
}

TEST(DocumentsOfFileTest, AByteOrderMarkIsNoText) {
  const std::string mark = "\xEF\xBB\xBF";
  EXPECT_EQ(Read("a.txt", FileKind::kText, mark + "text\n").at(0).text, "text\n");
  EXPECT_EQ(Read("a.md", FileKind::kMarkdown, mark + "# Top\n\nBody.\n").at(0).text,
            "Top\n\nBody.\n");
  EXPECT_TRUE(Read("a.txt", FileKind::kText, mark).empty());
}

TEST(DocumentsOfFileTest, CallsOfToolsHaveNoText) {
  const auto exchanges = Read("c.jsonl", FileKind::kChat,
                              R"({"role": "user", "content": "Weather?"})"
                              "\n"
                              R"({"role": "assistant", "content": null, "tool_calls": []})"
                              "\n"
                              R"({"role": "assistant", "tool_calls": []})"
                              "\n"
                              R"({"role": "tool", "content": "Rain."})"
                              "\n"
                              R"({"role": "assistant", "content": "It rains."})"
                              "\n");
  ASSERT_EQ(exchanges.size(), 1u);
  EXPECT_EQ(exchanges[0].text, "user: Weather?\ntool: Rain.\nassistant: It rains.\n");
}

TEST(DocumentsOfFileTest, BadChatLinesAreNamed) {
  for (const char* bad :
       {"not json", "[1]", "{}", R"({"role": "user"})", R"({"role": 1, "content": "x"})",
        R"({"role": "user", "content": 7})", R"({"role": "user", "content": ["x"]})"}) {
    const auto documents =
        DocumentsOfFile("c.jsonl", FileKind::kChat,
                        std::string(R"({"role": "user", "content": "fine"})") + "\n" + bad, {});
    ASSERT_FALSE(documents.ok()) << bad;
    EXPECT_EQ(documents.status().code(), StatusCode::kInvalidArgument);
    EXPECT_NE(documents.status().message().find("line 2"), std::string_view::npos)
        << documents.status().ToString();
  }
}

}  // namespace
}  // namespace msadb::cli
