#include "model/scheduler.h"

#include <algorithm>
#include <new>
#include <utility>

#include "model/call_limits.h"

namespace msadb::model {
namespace {

using std::chrono::microseconds;

// Sequences of one step. Bounds the memory of its logits; more wait for the next step.
constexpr size_t kStepSequencesMax = 64;

constexpr std::chrono::steady_clock::duration kHoldMax = microseconds(1000);

}  // namespace

struct Scheduler::Job {
  enum class State : uint8_t { kWaiting, kTaken, kDone };

  Job(Kind k, const CallLimits& l) : kind(k), limits(l) {}

  const Kind kind;
  const CallLimits limits;
  State state = State::kWaiting;
  bool leads = false;
  bool look = false;       // woken to choose the next pass again
  bool abandoned = false;  // nobody waits for it any more
  bool again = false;      // its pass ended without a result
  std::condition_variable_any changed;
  Status status;  // once done

  // kStep: the caller's, who stays until the step is done
  Generator::Next next;
  Sequence* sequence = nullptr;

  // kEncode: own, so that a caller who gave up can leave while the pass runs
  std::vector<DocumentTokens> documents;
  size_t n_tokens = 0;
  bool unshared = false;
  std::vector<EncodedDocument> encoded;
};

// A pass that this thread leads ends with the scope, whatever happens in it.
class Scheduler::Pass {
 public:
  explicit Pass(Scheduler* scheduler) : scheduler_(*scheduler) {}
  ~Pass() {
    const std::lock_guard lock(scheduler_.mutex_);
    scheduler_.End();
  }

 private:
  Scheduler& scheduler_;
};

Scheduler::Scheduler(Engine* engine, size_t encode_batch_tokens)
    : engine_(*engine), encode_batch_tokens_(encode_batch_tokens) {}

Scheduler::Sequence::~Sequence() {
  const std::lock_guard lock(scheduler_.mutex_);
  scheduler_.Unexpect(this);
  scheduler_.WakeNext();
}

Result<Context> Scheduler::Sequence::Prefill(std::span<const PromptPart> parts, MemoryBank& bank,
                                             const PrefillOptions& options,
                                             const CallLimits& limits, PrefillTrace* trace) try {
  const auto job = std::make_shared<Job>(Kind::kAlone, limits);
  job->sequence = this;
  MSADB_RETURN_IF_ERROR(scheduler_.Enter(job));
  const Pass pass(&scheduler_);
  return scheduler_.engine_.generator->Prefill(parts, bank, options, limits, trace);
} catch (const std::bad_alloc&) {
  return Status::ResourceExhausted("out of memory while reading the question");
}

Status Scheduler::Sequence::Append(std::span<const int32_t> tokens, const CallLimits& limits,
                                   Context* context) try {
  const auto job = std::make_shared<Job>(tokens.size() == 1 ? Kind::kStep : Kind::kAlone, limits);
  job->sequence = this;
  if (job->kind == Kind::kStep) job->next = {tokens[0], context};
  MSADB_RETURN_IF_ERROR(scheduler_.Enter(job));
  if (job->leads) {
    const Pass pass(&scheduler_);
    if (job->kind == Kind::kAlone) {
      return scheduler_.engine_.generator->Append(tokens, limits, context);
    }
    scheduler_.RunSteps();
  }
  return job->status;
} catch (const std::bad_alloc&) {
  return Status::ResourceExhausted("out of memory while generating");
}

Result<std::vector<EncodedDocument>> Scheduler::Encode(std::vector<DocumentTokens> documents,
                                                       const CallLimits& limits) try {
  const auto job = std::make_shared<Job>(Kind::kEncode, limits);
  job->documents = std::move(documents);
  for (const DocumentTokens& document : job->documents) job->n_tokens += document.size();
  do {
    job->leads = job->again = false;
    MSADB_RETURN_IF_ERROR(Enter(job));
    if (job->leads) {
      const Pass pass(this);
      RunEncodes(*job);
    }
  } while (job->again);
  if (!job->status.ok()) return job->status;
  return std::move(job->encoded);
} catch (const std::bad_alloc&) {
  return Status::ResourceExhausted("out of memory while encoding documents");
}

Scheduler::Counts Scheduler::counts() {
  const std::lock_guard lock(mutex_);
  return counts_;
}

size_t Scheduler::waiting(Kind kind) {
  const std::lock_guard lock(mutex_);
  return queue(kind).size();
}

Status Scheduler::Enter(const JobPtr& job) {
  std::unique_lock lock(mutex_);
  if (job->sequence != nullptr) Unexpect(job->sequence);
  job->state = Job::State::kWaiting;
  queue(job->kind).push_back(job);
  for (;;) {
    const bool taken = job->state == Job::State::kTaken;
    if (job->state == Job::State::kDone || (taken && job->leads)) return Status::Ok();
    // A step or a prefill that runs works on what belongs to the caller: wait for its end.
    const bool may_leave = !taken || job->kind == Kind::kEncode;
    if (may_leave) {
      const Status wanted = CheckLimits(job->limits);
      if (!wanted.ok()) {
        job->abandoned = true;
        if (!taken) queue(job->kind).remove(job);
        WakeNext();
        return wanted;
      }
    }
    auto until = Clock::time_point::max();
    if (!busy_) {
      Job* holder = nullptr;
      Job* const chosen = Choose(Clock::now(), &holder);
      if (chosen != nullptr) {
        Job* const leader = Start(chosen, job.get());
        if (leader == job.get()) return Status::Ok();
        leader->changed.notify_one();
      } else if (holder != nullptr) {
        until = held_until_;
      }
    }
    if (may_leave && job->limits.deadline) until = std::min(until, *job->limits.deadline);
    const auto state = job->state;
    const auto awake = [&] { return job->look || job->state != state; };
    job->look = false;
    const std::stop_token stop = may_leave ? job->limits.stop : std::stop_token();
    if (until == Clock::time_point::max()) {
      job->changed.wait(lock, stop, awake);
    } else {
      job->changed.wait_until(lock, stop, until, awake);
    }
  }
}

Scheduler::Job* Scheduler::Choose(Clock::time_point now, Job** holder) {
  if (now >= held_until_ && expected_ > 0) {  // whoever is late is not waited for again
    ++round_;
    expected_ = 0;
  }
  auto &steps = queue(Kind::kStep), &alone = queue(Kind::kAlone), &encodes = queue(Kind::kEncode);
  const bool questions = !steps.empty() || !alone.empty() || expected_ > 0;
  if (!encodes.empty() && (!questions || since_encode_ >= encode_time_)) {
    return encodes.front().get();
  }
  if (!steps.empty() && (kind_ != Kind::kStep || alone.empty())) {
    if (expected_ == 0 || steps.size() >= kStepSequencesMax) return steps.front().get();
    ++counts_.holds;
    *holder = steps.front().get();
    return nullptr;
  }
  if (!alone.empty()) return alone.front().get();
  if (!encodes.empty()) *holder = encodes.front().get();
  return nullptr;
}

Scheduler::Job* Scheduler::Start(Job* chosen, Job* preferred) {
  busy_ = true;
  kind_ = chosen->kind;
  auto& from = queue(kind_);
  auto end = from.begin();  // who is in the pass: the first of the queue up to here
  size_t count = 0, tokens = 0;
  for (; end != from.end(); ++end, ++count) {
    const Job& job = **end;
    if (count == 0) {
      tokens = job.n_tokens;
      continue;
    }
    if (kind_ == Kind::kAlone || chosen->unshared) break;
    if (kind_ == Kind::kStep && count == kStepSequencesMax) break;
    tokens += job.n_tokens;
    if (kind_ == Kind::kEncode && (job.unshared || tokens > encode_batch_tokens_)) break;
  }
  members_.splice(members_.end(), from, from.begin(), end);
  Job* leader = chosen;
  for (const JobPtr& job : members_) {
    job->state = Job::State::kTaken;
    if (job.get() == preferred) leader = preferred;
  }
  leader->leads = true;
  ++counts_.passes[static_cast<size_t>(kind_)];
  counts_.requests[static_cast<size_t>(kind_)] += members_.size();
  started_ = Clock::now();
  return leader;
}

void Scheduler::End() {
  const auto now = Clock::now();
  const auto took = now - started_;
  busy_ = false;
  if (kind_ == Kind::kEncode) {
    encode_time_ = took;
    since_encode_ = Clock::duration::zero();
  } else {
    since_encode_ += took;
    if (kind_ == Kind::kStep) step_time_ = took;
    held_until_ = now + std::min(step_time_ / 8, kHoldMax);
  }
  auto& back = queue(Kind::kEncode);
  const auto first = back.begin();
  for (auto it = members_.begin(); it != members_.end();) {
    const auto current = it++;
    Job& job = **current;
    if (job.sequence != nullptr) Expect(job.sequence);
    if (job.again && !job.leads && !job.abandoned) {
      job.again = false;
      job.state = Job::State::kWaiting;
      back.splice(first, members_, current);
    } else {
      job.state = Job::State::kDone;
      if (!job.leads) job.changed.notify_one();
    }
  }
  members_.clear();
  WakeNext();
}

void Scheduler::WakeNext() {
  if (busy_) return;
  Job* holder = nullptr;
  Job* const chosen = Choose(Clock::now(), &holder);
  Job* const wake = chosen != nullptr ? Start(chosen, nullptr) : holder;
  if (wake == nullptr) return;
  wake->look = true;
  wake->changed.notify_one();
}

void Scheduler::Expect(Sequence* sequence) {
  if (sequence->expected_in_ == round_) return;
  sequence->expected_in_ = round_;
  ++expected_;
}

void Scheduler::Unexpect(Sequence* sequence) {
  if (sequence->expected_in_ == round_) --expected_;
  sequence->expected_in_ = 0;
}

void Scheduler::RunSteps() try {
  std::vector<Generator::Next> sequences;
  std::vector<Job*> jobs;
  sequences.reserve(members_.size());
  jobs.reserve(members_.size());
  for (const JobPtr& job : members_) {
    job->status = CheckLimits(job->limits);
    if (job->status.ok()) job->status = engine_.generator->MakeRoom(job->next.context);
    if (!job->status.ok()) continue;
    sequences.push_back(job->next);
    jobs.push_back(job.get());
  }
  if (jobs.empty()) return;
  const Status status = engine_.generator->Step(sequences);
  for (Job* job : jobs) job->status = status;
} catch (const std::bad_alloc&) {
  for (const JobPtr& job : members_) {
    job->status = Status::ResourceExhausted("out of memory while generating");
  }
}

void Scheduler::RunEncodes(const Job& leader) try {
  std::vector<DocumentTokens> documents;
  for (const JobPtr& job : members_) {
    documents.insert(documents.end(), job->documents.begin(), job->documents.end());
  }
  auto encoded = EncodeBatch(documents, engine_.config, engine_.weights, leader.limits,
                             &*engine_.states, engine_.backend.get());
  const bool shared = members_.size() > 1;
  const bool given_up = !CheckLimits(leader.limits).ok();
  size_t first = 0;
  for (const JobPtr& job : members_) {
    if (encoded.ok()) {
      const auto begin = encoded->begin() + static_cast<ptrdiff_t>(first);
      first += job->documents.size();
      const auto end = encoded->begin() + static_cast<ptrdiff_t>(first);
      job->encoded.assign(std::move_iterator(begin), std::move_iterator(end));
    } else if (job.get() == &leader && given_up) {
      job->status = encoded.status();
    } else if (shared) {
      // The failure may be another's: each runs again, by itself unless the leader just left.
      job->again = true;
      job->unshared = !given_up;
    } else {
      job->status = encoded.status();
    }
  }
} catch (const std::bad_alloc&) {
  for (const JobPtr& job : members_) {
    job->status = Status::ResourceExhausted("out of memory while encoding documents");
  }
}

}  // namespace msadb::model
