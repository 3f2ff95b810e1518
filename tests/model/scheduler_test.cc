// Callers that compute together: what each gets is what it gets alone.
#include "model/scheduler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <fstream>
#include <functional>
#include <latch>
#include <nlohmann/json.hpp>
#include <thread>

#include "kernels/sample.h"
#include "tests/model/markov_model.h"
#include "tests/model/vector_bank.h"

namespace msadb::model {
namespace {

using Kind = Scheduler::Kind;

template <typename T>
T Take(Result<T> result) {
  if (!result.ok()) throw std::runtime_error(result.status().ToString());
  return std::move(result).value();
}

uint64_t Passes(Scheduler& scheduler, Kind kind) {
  return scheduler.counts().passes[static_cast<size_t>(kind)];
}
uint64_t Requests(Scheduler& scheduler, Kind kind) {
  return scheduler.counts().requests[static_cast<size_t>(kind)];
}

void Await(const std::function<bool()>& condition) {
  while (!condition()) std::this_thread::yield();
}

std::string GoldenFolder(const std::string& name) {
  return std::string(MSADB_TEST_DATA) + "/msa/" + name;
}

// Documents and a question of the golden models' own world.
VectorBank MakeBank(const std::string& folder, Engine& engine) {
  std::ifstream in(folder + "/golden.json");
  const auto golden = nlohmann::json::parse(in);
  VectorBank bank(static_cast<size_t>(engine.config.kv_dim()));
  for (const auto& document : golden["scenarios"][0]["documents"]) {
    const std::vector<DocumentTokens> tokens = {document["tokens"].get<DocumentTokens>()};
    auto encoded = Take(EncodeBatch(tokens, engine.config, engine.weights, {}, &*engine.states,
                                    engine.backend.get()));
    bank.Add(document["number"], std::move(encoded[0]), document["text"]);
  }
  return bank;
}

class StepTest : public testing::TestWithParam<std::pair<const char*, bool>> {};

// A step of many sequences is many steps of one: bit for bit where the header says so.
TEST_P(StepTest, SharingAPassChangesNothing) {
  const auto [name, exact] = GetParam();
  const std::string folder = GoldenFolder(name);
  const auto engine = Take(Engine::Load(folder, {.threads = 2}));
  VectorBank bank = MakeBank(folder, *engine);
  constexpr size_t kSequences = 9;  // two tiles of tokens and one more
  std::vector<Context> together, alone;
  for (size_t i = 0; i < kSequences; ++i) {
    std::string question = "Where is the lantern?";
    for (size_t word = 0; word < i * 5; ++word) question += " of Mara";  // unequal lengths
    const PromptPart part{TokenRole::kQuery, Take(engine->tokenizer->Encode(question))};
    PrefillTrace trace;
    together.push_back(Take(engine->generator->Prefill({&part, 1}, bank, {}, {}, &trace)));
    alone.push_back(Take(engine->generator->Prefill({&part, 1}, bank, {}, {}, &trace)));
  }
  for (size_t step = 0; step < 5; ++step) {
    const size_t count = kSequences - 2 * step;
    std::vector<Generator::Next> next;
    for (size_t i = 0; i < count; ++i) {
      const auto token = static_cast<int32_t>(17 * step + 3 * i);
      ASSERT_TRUE(engine->generator->MakeRoom(&together[i]).ok());
      next.push_back({token, &together[i]});
      ASSERT_TRUE(engine->generator->Append({&token, 1}, {}, &alone[i]).ok());
    }
    ASSERT_TRUE(engine->generator->Step(next).ok());
    for (size_t i = 0; i < count; ++i) {
      SCOPED_TRACE("sequence " + std::to_string(i) + ", step " + std::to_string(step));
      EXPECT_EQ(together[i].position, alone[i].position);
      ASSERT_EQ(together[i].logits.size(), alone[i].logits.size());
      if (exact) {
        EXPECT_EQ(together[i].logits, alone[i].logits);
        continue;
      }
      for (size_t j = 0; j < alone[i].logits.size(); ++j) {
        ASSERT_NEAR(together[i].logits[j], alone[i].logits[j], 1e-3f);
      }
      EXPECT_EQ(kernels::ArgMax(together[i].logits.data(), together[i].logits.size()),
                kernels::ArgMax(alone[i].logits.data(), alone[i].logits.size()));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Models, StepTest,
                         testing::Values(std::pair("llama-int8", true),
                                         std::pair("qwen3-int4", true),
                                         std::pair("qwen3-decoupled-cosine", false),
                                         std::pair("llama-own-dot", false)),
                         [](const auto& info) {
                           std::string name = info.param.first;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

// Whole answers over int8 weights, sampled: one differing bit of a logit can change them.
class CallersTest : public testing::Test {
 protected:
  static constexpr int kThreads = 8;

  void SetUp() override {
    const std::string folder = GoldenFolder("llama-int8");
    model_ = Take(Model::Load(folder, {.threads = 2}));
    const auto engine = Take(Engine::Load(folder, {.threads = 2}));
    bank_.emplace(MakeBank(folder, *engine));
  }

  static std::string Question(int i) {
    std::string question = "Where is the " + std::string(i % 2 == 0 ? "lantern" : "violin");
    for (int word = 0; word < i; ++word) question += " of the keeper";
    return question + "?";
  }
  static AnswerOptions Options(int i) {
    return {.rounds_max = 2,
            .answer_tokens_max = 24,
            .retrieval_tokens_max = 12,
            .temperature = i % 3 == 0 ? 0.0f : 0.8f,
            .seed = static_cast<uint64_t>(i)};
  }
  Result<AnswerResult> Ask(int i) { return Ask(i, Options(i)); }
  Result<AnswerResult> Ask(int i, const AnswerOptions& options) {
    VectorBank own = *bank_;  // it notes its calls
    return model_->Answer(Question(i), own, options);
  }
  static void ExpectSame(const AnswerResult& got, const AnswerResult& expected) {
    EXPECT_EQ(got.text, expected.text);
    EXPECT_EQ(got.generated_tokens, expected.generated_tokens);
    EXPECT_EQ(got.prompt_tokens, expected.prompt_tokens);
    ASSERT_EQ(got.rounds.size(), expected.rounds.size());
    for (size_t r = 0; r < got.rounds.size(); ++r) {
      EXPECT_EQ(got.rounds[r].generated, expected.rounds[r].generated);
      EXPECT_EQ(got.rounds[r].appended, expected.rounds[r].appended);
    }
  }

  std::unique_ptr<Model> model_;
  std::optional<VectorBank> bank_;
};

TEST_F(CallersTest, AnswersAreThoseOfOneAfterTheOther) {
  std::vector<AnswerResult> serial;
  for (int i = 0; i < kThreads; ++i) serial.push_back(Take(Ask(i)));
  EXPECT_NE(serial[1].text, serial[2].text);
  std::vector<std::jthread> threads;
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([&, i] {
      for (int n = 0; n < 3; ++n) {
        const int question = (i + n) % kThreads;
        const auto answer = Ask(question);
        ASSERT_TRUE(answer.ok()) << answer.status().ToString();
        ExpectSame(*answer, serial[static_cast<size_t>(question)]);
      }
    });
  }
}

// One cancels in the middle of its answer, one's deadline passes, one's memory fails, one searches,
// one inserts; the rest do not notice.
TEST_F(CallersTest, OneThatFailsDisturbsNobody) {
  std::vector<AnswerResult> serial;
  for (int i = 0; i < kThreads; ++i) serial.push_back(Take(Ask(i)));
  const DocumentInput document{5, "Mara hid the anchor in the mill."};
  const auto encoded = Take(model_->EncodeDocuments({&document, 1}));
  for (int repeat = 0; repeat < 3; ++repeat) {
    std::vector<std::jthread> threads;
    for (int i = 0; i < kThreads; ++i) {
      threads.emplace_back([&, i] {
        AnswerOptions options = Options(i);
        if (i == 0) {
          std::stop_source stop;
          options.limits.stop = stop.get_token();
          options.on_text = [&](std::string_view) { return stop.request_stop(); };
          EXPECT_EQ(Ask(i, options).status().code(), StatusCode::kCancelled);
        } else if (i == 1) {
          options.on_text = [](std::string_view) { return false; };
          EXPECT_EQ(Ask(i, options).status().code(), StatusCode::kCancelled);
        } else if (i == 2) {
          options.limits.deadline =
              std::chrono::steady_clock::now() + std::chrono::milliseconds(2 * repeat);
          const auto answer = Ask(i, options);
          if (answer.ok()) {
            ExpectSame(*answer, serial[2]);
          } else {
            EXPECT_EQ(answer.status().code(), StatusCode::kDeadlineExceeded);
          }
        } else if (i == 3) {
          VectorBank own = *bank_;
          own.FailRoute(Status::IOError("the memory is gone"));
          EXPECT_EQ(model_->Answer(Question(i), own, options).status().code(),
                    StatusCode::kIOError);
        } else if (i == 4) {
          const auto again = model_->EncodeDocuments({&document, 1});
          ASSERT_TRUE(again.ok());
          EXPECT_EQ((*again)[0].keys, encoded[0].keys);
        } else {
          const auto answer = Ask(i);
          ASSERT_TRUE(answer.ok()) << answer.status().ToString();
          ExpectSame(*answer, serial[static_cast<size_t>(i)]);
        }
      });
    }
  }
}

// Holds whoever routes until released.
class BlockingBank : public VectorBank {
 public:
  explicit BlockingBank(size_t kv_dim) : VectorBank(kv_dim) {}
  size_t document_count() const override {
    entered.count_down();
    released.wait();
    return 0;
  }
  mutable std::latch entered{1};
  std::latch released{1};
};

// A scheduler whose passes are held by a prefill in progress, so that what waits is known.
class SchedulerTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::temp_directory_path() /
              ("msadb_scheduler_" + std::to_string(std::random_device{}()));
    markov_.msa_config = {{"router_layer_idx", "2"}};
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  void Start(size_t encode_batch_tokens = 1000) {
    markov_.Write(folder_);
    engine_ = Take(Engine::Load(folder_, {.threads = 1}));
    scheduler_.emplace(&*engine_, encode_batch_tokens);
    kv_dim_ = static_cast<size_t>(engine_->config.kv_dim());
  }
  Result<Context> Prefill(Scheduler::Sequence& sequence, MemoryBank& bank) {
    PrefillTrace trace;
    const PromptPart part{TokenRole::kQuery, {40, 41, 42}};
    return sequence.Prefill({&part, 1}, bank, {}, {}, &trace);
  }
  // Runs `act` while a prefill of another holds the model.
  void WhileBusy(const std::function<void()>& act) {
    BlockingBank bank(kv_dim_);
    std::jthread holder([&] {
      Scheduler::Sequence sequence(&*scheduler_);
      EXPECT_TRUE(Prefill(sequence, bank).ok());
    });
    bank.entered.wait();
    act();
    bank.released.count_down();
  }
  static std::vector<DocumentTokens> Documents(size_t count) {
    return std::vector<DocumentTokens>(count, DocumentTokens(20, 65));
  }

  std::filesystem::path folder_;
  MarkovModel markov_;
  std::unique_ptr<Engine> engine_;
  std::optional<Scheduler> scheduler_;
  size_t kv_dim_ = 0;
};

TEST_F(SchedulerTest, StepsThatWaitTogetherRunTogether) {
  Start();
  constexpr size_t kCallers = 5;
  VectorBank empty(kv_dim_);
  std::vector<std::jthread> threads;
  std::latch ready{kCallers}, go{1};
  for (size_t i = 0; i < kCallers; ++i) {
    threads.emplace_back([&] {
      Scheduler::Sequence sequence(&*scheduler_);
      Context context = Take(Prefill(sequence, empty));
      ready.count_down();
      go.wait();
      const int32_t token = 40;
      EXPECT_TRUE(sequence.Append({&token, 1}, {}, &context).ok());
      EXPECT_EQ(context.logits.size(), static_cast<size_t>(engine_->config.vocab_size));
    });
  }
  ready.wait();
  WhileBusy([&] {
    go.count_down();
    Await([&] { return scheduler_->waiting(Kind::kStep) == kCallers; });
  });
  threads.clear();
  EXPECT_EQ(Requests(*scheduler_, Kind::kStep), kCallers);
  EXPECT_EQ(Passes(*scheduler_, Kind::kStep), 1u);
}

TEST_F(SchedulerTest, ACallerAloneIsNeverHeldBack) {
  Start();
  VectorBank empty(kv_dim_);
  {
    // One that was there before is not waited for.
    Scheduler::Sequence gone(&*scheduler_);
    Context context = Take(Prefill(gone, empty));
    const int32_t token = 40;
    EXPECT_TRUE(gone.Append({&token, 1}, {}, &context).ok());
  }
  Scheduler::Sequence sequence(&*scheduler_);
  Context context = Take(Prefill(sequence, empty));
  constexpr int32_t kSteps = 50;
  for (int32_t token = 40; token < 40 + kSteps; ++token) {
    EXPECT_TRUE(sequence.Append({&token, 1}, {}, &context).ok());
  }
  EXPECT_EQ(scheduler_->counts().holds, 0u);
  EXPECT_EQ(Passes(*scheduler_, Kind::kStep), kSteps + 1u);
}

TEST_F(SchedulerTest, SmallInsertsThatWaitShareAPass) {
  Start(100);  // five documents of 20 tokens
  std::vector<std::jthread> threads;
  std::atomic<int> right = 0;
  WhileBusy([&] {
    for (size_t count : {1, 2, 1, 3, 6}) {  // 1 + 2 + 1, then 3, then 6
      const size_t before = scheduler_->waiting(Kind::kEncode);
      threads.emplace_back([&, count] {
        const auto encoded = scheduler_->Encode(Documents(count), {});
        ASSERT_TRUE(encoded.ok()) << encoded.status().ToString();
        if (encoded->size() == count && (*encoded)[count - 1].n_tokens == 20) ++right;
      });
      Await([&] { return scheduler_->waiting(Kind::kEncode) == before + 1; });
    }
  });
  threads.clear();
  EXPECT_EQ(right, 5);
  EXPECT_EQ(Requests(*scheduler_, Kind::kEncode), 5u);
  EXPECT_EQ(Passes(*scheduler_, Kind::kEncode), 3u);
}

TEST_F(SchedulerTest, WhoWaitsMayLeaveAtOnce) {
  Start();
  VectorBank empty(kv_dim_);
  WhileBusy([&] {
    std::stop_source stop;
    std::jthread waiting([&] {
      EXPECT_EQ(scheduler_->Encode(Documents(1), {.stop = stop.get_token()}).status().code(),
                StatusCode::kCancelled);
    });
    Await([&] { return scheduler_->waiting(Kind::kEncode) == 1; });
    stop.request_stop();
    waiting.join();  // while the holder still computes
    EXPECT_EQ(scheduler_->waiting(Kind::kEncode), 0u);
    CallLimits limits;
    limits.deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(5);
    EXPECT_EQ(scheduler_->Encode(Documents(1), limits).status().code(),
              StatusCode::kDeadlineExceeded);
  });
  EXPECT_TRUE(scheduler_->Encode(Documents(2), {}).ok());
}

// A prefill that waits gets its turn although steps never cease, and encoding although questions
// never do.
TEST_F(SchedulerTest, NobodyStarves) {
  Start();
  VectorBank empty(kv_dim_);
  std::atomic<bool> enough = false;
  std::vector<std::jthread> steppers;
  for (int i = 0; i < 2; ++i) {
    steppers.emplace_back([&] {
      Scheduler::Sequence sequence(&*scheduler_);
      Context context = Take(Prefill(sequence, empty));
      const int32_t token = 40;
      while (!enough) {
        ASSERT_TRUE(sequence.Append({&token, 1}, {}, &context).ok());
        Generator::TakeBack(1, &context);
      }
    });
  }
  for (int i = 0; i < 20; ++i) {
    Scheduler::Sequence sequence(&*scheduler_);
    EXPECT_TRUE(Prefill(sequence, empty).ok());
    EXPECT_TRUE(scheduler_->Encode(Documents(2), {}).ok());
  }
  enough = true;
}

// Weights that give NaN for one byte: an insert with it fails, those that shared its pass do not.
TEST_F(SchedulerTest, AFailureInASharedPassIsOnlyItsOwners) {
  markov_.broken = "model.embed_tokens.weight";  // its first value: token 0
  Start();
  std::vector<std::jthread> threads;
  std::atomic<int> good = 0, bad = 0;
  WhileBusy([&] {
    for (int i = 0; i < 4; ++i) {
      threads.emplace_back([&, i] {
        auto documents = Documents(1);
        if (i == 1) documents[0][3] = 0;
        const auto encoded = scheduler_->Encode(documents, {});
        encoded.ok() ? ++good : ++bad;
        EXPECT_EQ(encoded.ok(), i != 1);
        if (!encoded.ok()) {
          EXPECT_EQ(encoded.status().code(), StatusCode::kCorruption);
        }
      });
    }
    Await([&] { return scheduler_->waiting(Kind::kEncode) == 4; });
  });
  threads.clear();
  EXPECT_EQ(good, 3);
  EXPECT_EQ(bad, 1);
}

}  // namespace
}  // namespace msadb::model
