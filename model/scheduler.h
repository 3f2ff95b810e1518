// Who computes when. Callers keep their own state machines (model/interleave.h); what they want
// computed meets here and runs in passes, one at a time, each with all of the model's threads:
//
//   step     one token of every sequence that waits for one: the weights are read once for all
//   alone    a prefill, or several tokens appended: runs on its caller's thread, as does its bank
//   encode   documents of several callers, packed
//
// There is no thread of its own: a waiting caller runs the pass that holds its request, for all in
// it; the others sleep until their result is there.
//
// Order. Steps and alone passes alternate while both wait, so a sequence waits for at most one
// prefill of another, never for a whole answer. Encoding is taken to be background work: while
// questions are busy it gets no more time than they do, and all of it when there are none. Within a
// kind, first come, first served.
//
// A step is held back for a moment (an eighth of a step's time, 1 ms at most) for sequences that
// have just got a token and are choosing the next: without it, passes would split into the quick
// and the late. A caller alone is never held back.
//
// Limits. A waiting call gives up at once; one whose prefill or encode runs, at the next layer; one
// in a step, after that step. Those who shared a pass with it get their results all the same.
#ifndef MSADB_MODEL_SCHEDULER_H_
#define MSADB_MODEL_SCHEDULER_H_

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "model/encoder.h"
#include "model/engine.h"
#include "model/generator.h"
#include "model/memory_bank.h"
#include "model/model.h"
#include "msadb/status.h"

namespace msadb::model {

// Any number of threads may call; each call blocks until its result is there.
class Scheduler {
 public:
  enum class Kind : uint8_t { kStep, kAlone, kEncode };

  // `engine` must outlive it, and is computed with by nobody else. Encode passes are shared up to
  // `encode_batch_tokens`.
  Scheduler(Engine* engine, size_t encode_batch_tokens);

  // One question in progress, used by one thread. While it lives, it may be waited for (above).
  class Sequence {
   public:
    explicit Sequence(Scheduler* scheduler) : scheduler_(*scheduler) {}
    ~Sequence();
    Sequence(const Sequence&) = delete;
    Sequence& operator=(const Sequence&) = delete;

    // As Generator::Prefill and Generator::Append.
    Result<Context> Prefill(std::span<const PromptPart> parts, MemoryBank& bank,
                            const PrefillOptions& options, const CallLimits& limits,
                            PrefillTrace* trace);
    Status Append(std::span<const int32_t> tokens, const CallLimits& limits, Context* context);

   private:
    friend class Scheduler;
    Scheduler& scheduler_;
    uint64_t expected_in_ = 0;  // the round of steps that counts on it; 0: none
  };

  // As EncodeBatch, for at most about `encode_batch_tokens` tokens.
  Result<std::vector<EncodedDocument>> Encode(std::vector<DocumentTokens> documents,
                                              const CallLimits& limits);

  // Since the beginning, by kind: passes that ran, and the requests in them.
  struct Counts {
    uint64_t passes[3] = {};
    uint64_t requests[3] = {};
    uint64_t holds = 0;  // looks at steps that were then left waiting for others
  };
  Counts counts();
  // Requests that wait, by kind.
  size_t waiting(Kind kind);

 private:
  using Clock = std::chrono::steady_clock;
  struct Job;
  using JobPtr = std::shared_ptr<Job>;
  class Pass;

  // Queues a job and returns when somebody else has run it (its status is final), when this thread
  // must run the pass it is in (`leads`), or with an error when its limits ended the wait.
  Status Enter(const JobPtr& job);

  // With mutex_ held:
  // The job whose pass is next, when none runs. Null: nothing to do yet; if something is held back,
  // *holder is who must look again at held_until_.
  Job* Choose(Clock::time_point now, Job** holder);
  // Makes the pass of `chosen` the running one, led by `preferred` if that is in it. Returns who
  // leads.
  Job* Start(Job* chosen, Job* preferred);
  void End();  // of the running pass
  // Starts the next pass on the thread of one of its members, or wakes who must wait for it.
  void WakeNext();
  std::list<JobPtr>& queue(Kind kind) { return queues_[static_cast<size_t>(kind)]; }
  // Notes that a sequence will soon want another step, or that it asked or left.
  void Expect(Sequence* sequence);
  void Unexpect(Sequence* sequence);

  // What the leader of a pass computes, without mutex_.
  void RunSteps();
  void RunEncodes(const Job& leader);

  Engine& engine_;
  const size_t encode_batch_tokens_;

  std::mutex mutex_;
  std::list<JobPtr> queues_[3];
  Counts counts_;
  bool busy_ = false;
  Kind kind_ = Kind::kAlone;         // of the running or the last pass
  std::list<JobPtr> members_;        // of the running pass; its leader reads them without mutex_
  Clock::time_point started_;        // the running pass
  Clock::duration step_time_{0};     // the last step took
  Clock::duration encode_time_{0};   // the last encode pass took
  Clock::duration since_encode_{0};  // questions took since then
  uint64_t round_ = 1;               // of expectation: a new one forgets who was late
  size_t expected_ = 0;              // sequences expected in this round
  Clock::time_point held_until_;     // how long steps wait for them
};

}  // namespace msadb::model

#endif  // MSADB_MODEL_SCHEDULER_H_
