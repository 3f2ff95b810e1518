#include "server/admission.h"

#include <gtest/gtest.h>

#include <future>
#include <latch>

namespace msadb::server {
namespace {

using std::chrono::hours;
using std::chrono::milliseconds;

constexpr size_t kModelLane = static_cast<size_t>(Lane::kModel);

AdmissionOptions OneWorker() {
  AdmissionOptions options;
  options.workers = {1, 1};
  return options;
}

Job ModelJob(const std::string& collection, std::function<void(const Status&)> run) {
  return {.collection = collection, .lane = Lane::kModel, .deadline = {}, .stop = {},
          .run = std::move(run)};
}

// A job that keeps its worker until the test lets go.
class Blocker {
 public:
  Job MakeJob(const std::string& collection) {
    return ModelJob(collection, [this](const Status&) {
      started_.set_value();
      release_.get_future().wait();
    });
  }
  void WaitUntilStarted() { started_.get_future().wait(); }
  void Release() { release_.set_value(); }

 private:
  std::promise<void> started_;
  std::promise<void> release_;
};

TEST(AdmissionTest, CollectionsTakeTurns) {
  std::vector<std::string> order;
  Admission admission(OneWorker());
  Blocker blocker;
  ASSERT_TRUE(admission.Submit(blocker.MakeJob("busy")).ok());
  blocker.WaitUntilStarted();
  for (const char* name : {"busy", "busy", "busy", "a", "a", "b"}) {
    ASSERT_TRUE(admission.Submit(ModelJob(name, [&order, name](const Status&) {
                           order.push_back(name);
                         })).ok());
  }
  blocker.Release();
  ASSERT_TRUE(admission.Drain(hours(1)));
  // "busy" used its turn on the blocker; with one worker it comes after those that wait.
  EXPECT_EQ(order, (std::vector<std::string>{"a", "b", "busy", "a", "busy", "busy"}));
}

TEST(AdmissionTest, OneCollectionLeavesAWorkerForOthers) {
  AdmissionOptions options;
  options.workers = {1, 4};
  Admission admission(options);
  std::latch release(1);
  std::atomic<int> running{0};
  for (int i = 0; i < 8; ++i) {
    ASSERT_TRUE(admission.Submit(ModelJob("busy", [&](const Status&) {
                           ++running;
                           release.wait();
                         })).ok());
  }
  std::promise<void> other_ran;
  ASSERT_TRUE(
      admission.Submit(ModelJob("other", [&](const Status&) { other_ran.set_value(); })).ok());
  other_ran.get_future().wait();
  EXPECT_LE(running.load(), 3);
  release.count_down();
  ASSERT_TRUE(admission.Drain(hours(1)));
  EXPECT_EQ(running.load(), 8);
}

TEST(AdmissionTest, LanesDoNotWaitForEachOther) {
  Admission admission(OneWorker());
  Blocker blocker;
  ASSERT_TRUE(admission.Submit(blocker.MakeJob("a")).ok());
  std::promise<void> ran;
  Job read{.collection = "a", .lane = Lane::kStorage, .deadline = {}, .stop = {},
           .run = [&](const Status&) { ran.set_value(); }};
  ASSERT_TRUE(admission.Submit(std::move(read)).ok());
  ran.get_future().wait();
  blocker.Release();
}

TEST(AdmissionTest, AFullQueueRefusesAtOnce) {
  AdmissionOptions options = OneWorker();
  options.queued_max = {4, 4};
  options.queued_per_collection_max = 2;
  Admission admission(options);
  Blocker blocker;
  ASSERT_TRUE(admission.Submit(blocker.MakeJob("x")).ok());
  blocker.WaitUntilStarted();
  std::atomic<int> ran{0};
  const auto submit = [&](const char* name) {
    return admission.Submit(ModelJob(name, [&](const Status& status) { ran += status.ok(); }));
  };
  EXPECT_TRUE(submit("a").ok());
  EXPECT_TRUE(submit("a").ok());
  EXPECT_EQ(submit("a").code(), StatusCode::kUnavailable);  // its own share
  EXPECT_TRUE(submit("b").ok());
  EXPECT_TRUE(submit("c").ok());
  EXPECT_EQ(submit("d").code(), StatusCode::kUnavailable);  // all together
  EXPECT_EQ(admission.stats().refused, 2u);
  EXPECT_EQ(admission.stats().queued[kModelLane], 4u);
  blocker.Release();
  ASSERT_TRUE(admission.Drain(hours(1)));
  EXPECT_EQ(ran.load(), 4);
}

TEST(AdmissionTest, WaitingJobsEndAtTheirDeadlineOrWhenTheirCallerLeaves) {
  Admission admission(OneWorker());
  Blocker blocker;
  ASSERT_TRUE(admission.Submit(blocker.MakeJob("x")).ok());
  blocker.WaitUntilStarted();
  std::promise<StatusCode> late, gone;
  Job job = ModelJob("a", [&](const Status& status) { late.set_value(status.code()); });
  job.deadline = std::chrono::steady_clock::now() + milliseconds(10);
  ASSERT_TRUE(admission.Submit(std::move(job)).ok());
  job = ModelJob("a", [&](const Status& status) { gone.set_value(status.code()); });
  std::stop_source stop = job.stop;
  ASSERT_TRUE(admission.Submit(std::move(job)).ok());
  stop.request_stop();
  // Both while the only worker is still taken.
  EXPECT_EQ(late.get_future().get(), StatusCode::kDeadlineExceeded);
  EXPECT_EQ(gone.get_future().get(), StatusCode::kCancelled);
  blocker.Release();
  ASSERT_TRUE(admission.Drain(hours(1)));
  EXPECT_EQ(admission.stats().dropped, 2u);
}

TEST(AdmissionTest, DrainingRefusesThenStopsWhatIsLeft) {
  Admission admission(OneWorker());
  std::promise<void> started;
  Job endless = ModelJob("a", nullptr);
  endless.run = [&started, stop = endless.stop](const Status&) {
    started.set_value();
    std::promise<void> asked;
    std::stop_callback callback(stop.get_token(), [&] { asked.set_value(); });
    asked.get_future().wait();
  };
  ASSERT_TRUE(admission.Submit(std::move(endless)).ok());
  started.get_future().wait();
  std::promise<StatusCode> waiting;
  ASSERT_TRUE(admission.Submit(ModelJob("a", [&](const Status& status) {
                         waiting.set_value(status.code());
                       })).ok());
  EXPECT_FALSE(admission.Drain(milliseconds(10)));
  EXPECT_EQ(waiting.get_future().get(), StatusCode::kUnavailable);
  EXPECT_EQ(admission.Submit(ModelJob("a", [](const Status&) { FAIL(); })).code(),
            StatusCode::kUnavailable);
}

TEST(AdmissionTest, EveryAcceptedJobIsCalledExactlyOnce) {
  AdmissionOptions options;
  options.workers = {3, 3};
  options.queued_max = {50, 50};
  std::atomic<int> called{0};
  int accepted = 0;
  {
    Admission admission(options);
    for (int i = 0; i < 5000; ++i) {
      Job job{.collection = std::to_string(i % 17),
              .lane = i % 2 ? Lane::kModel : Lane::kStorage,
              .deadline = {},
              .stop = {},
              .run = [&](const Status&) { ++called; }};
      if (i % 3 == 0) job.stop.request_stop();
      if (i % 5 == 0) job.deadline = std::chrono::steady_clock::now();
      accepted += admission.Submit(std::move(job)).ok();
    }
  }
  EXPECT_EQ(called.load(), accepted);
  EXPECT_GT(accepted, 0);
}

}  // namespace
}  // namespace msadb::server
