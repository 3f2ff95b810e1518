#include "emulation.h"

#include <sys/mman.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

// Saves the callee-saved registers and the stack pointer in *from, and goes on where `to` was saved.
extern "C" void msadb_switch_fiber(void** from, void* to);
asm(R"(
.text
.globl msadb_switch_fiber
.type msadb_switch_fiber, @function
msadb_switch_fiber:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size msadb_switch_fiber, .-msadb_switch_fiber
)");

namespace msadb::emulated {
namespace {

constexpr size_t kStackBytes = size_t{256} << 10;
constexpr size_t kSharedBytesMax = 227 << 10;
constexpr unsigned kThreadsMax = 1024;
constexpr uint64_t kIdleRoundsMax = 100000;
constexpr std::chrono::seconds kIdleMax(120);  // of a block that others can wake

[[noreturn]] void Fail(const char* what) {
  std::fprintf(stderr, "emulated kernel: %s\n", what);
  std::abort();
}

struct Copy {
  void* to;
  const void* from;
  size_t bytes;
  std::function<void()> done;

  void Make() const {
    if (from == nullptr) {
      std::memset(to, 0, bytes);
    } else {
      std::memcpy(to, from, bytes);
    }
    if (done) done();
  }
};

struct Warp {
  unsigned live = 0;
  unsigned arrived = 0;
  uint64_t generation = 0;
  uint64_t slots[2][32];
  uint32_t words[2][32][16];
};

struct Fiber {
  void* stack_pointer = nullptr;
  char* stack = nullptr;
  bool finished = false;
  std::vector<Copy> open;               // not committed
  std::deque<std::vector<Copy>> groups;
#if defined(__SANITIZE_ADDRESS__)
  void* fake_stack = nullptr;
#endif
};

// The blocks of one cluster meet here.
struct Cluster {
  explicit Cluster(unsigned n) : bases(n) {}
  std::vector<const char*> bases;  // of each block's shared variables
  std::atomic<unsigned> arrived = 0;
  std::atomic<uint64_t> generation = 0;
};

struct BlockState {
  Index index, size, grid;
  unsigned threads = 0;
  void* shared = nullptr;
  const std::function<void()>* body = nullptr;
  Cluster* cluster = nullptr;
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  unsigned current = 0;
  unsigned live = 0;
  struct {
    unsigned arrived = 0;
    uint64_t generation = 0;
  } barriers[16];  // the first is __syncthreads'
  std::vector<Copy> later;
  std::mt19937 random{1};
  uint64_t idle_rounds = 0;  // in which nobody did anything but wait
  std::chrono::steady_clock::time_point idle_since;
  bool progress = false;
  void* host_stack_pointer = nullptr;
#if defined(__SANITIZE_ADDRESS__)
  const void* host_stack = nullptr;
  size_t host_stack_size = 0;
  void* host_fake_stack = nullptr;
#endif
};

thread_local BlockState* block = nullptr;
thread_local char anchor = 0;  // each thread of the system has its variables at the same distances

// Stacks are used again: making one costs a system call.
struct Stacks {
  std::vector<char*> idle;
  ~Stacks() {
    for (char* stack : idle) munmap(stack, kStackBytes);
  }
  char* Take() {
    void* stack = nullptr;
    if (!idle.empty()) {
      stack = idle.back();
      idle.pop_back();
    } else {
      stack = mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
      if (stack == MAP_FAILED) Fail("no memory for stacks");
    }
#if defined(__SANITIZE_ADDRESS__)
    // The last frames of a fiber never return, nor did those of whoever had the addresses before.
    __asan_unpoison_memory_region(stack, kStackBytes);
#endif
    return static_cast<char*>(stack);
  }
};
thread_local Stacks stacks;

Warp& MyWarp() { return block->warps[block->current / 32]; }

void SwitchTo(unsigned next) {
  Fiber& from = block->fibers[block->current];
  Fiber& to = block->fibers[next];
  block->current = next;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(from.finished ? nullptr : &from.fake_stack, to.stack, kStackBytes);
#endif
  msadb_switch_fiber(&from.stack_pointer, to.stack_pointer);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(from.fake_stack, nullptr, nullptr);
#endif
}

void SwitchToHost() {
  Fiber& from = block->fibers[block->current];
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(nullptr, block->host_stack, block->host_stack_size);
#endif
  msadb_switch_fiber(&from.stack_pointer, block->host_stack_pointer);
  std::abort();
}

// At the end of a round of turns.
void EndRound() {
  BlockState& b = *block;
  if (!b.later.empty()) {
    // Some of the copies, at least one, in any order.
    do {
      const size_t i = b.random() % b.later.size();
      const Copy copy = std::move(b.later[i]);
      b.later[i] = std::move(b.later.back());
      b.later.pop_back();
      copy.Make();
    } while (!b.later.empty() && b.random() % 2 == 0);
    b.progress = true;
  }
  b.idle_rounds = b.progress ? 0 : b.idle_rounds + 1;
  b.progress = false;
  if (b.idle_rounds == 0) return;
  if (b.cluster == nullptr) {
    if (b.idle_rounds > kIdleRoundsMax) Fail("all threads wait for each other");
    return;
  }
  // Another block may be what everybody waits for.
  const auto now = std::chrono::steady_clock::now();
  if (b.idle_rounds == 1) b.idle_since = now;
  if (now - b.idle_since > kIdleMax) Fail("all threads wait for each other");
  std::this_thread::yield();
}

unsigned Next() {
  unsigned next = block->current;
  do {
    if (++next == block->threads) {
      next = 0;
      EndRound();
    }
  } while (block->fibers[next].finished);
  return next;
}

void Release(unsigned* arrived, uint64_t* generation) {
  *arrived = 0;
  ++*generation;
  block->progress = true;
}

void FiberMain() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
#endif
  (*block->body)();
  Fiber& me = block->fibers[block->current];
  if (!me.open.empty() || !me.groups.empty()) {
    // Copies nobody waited for would still be made.
    for (const auto& group : me.groups) {
      for (const Copy& copy : group) copy.Make();
    }
    for (const Copy& copy : me.open) copy.Make();
  }
  me.finished = true;
  block->progress = true;
  Warp& warp = MyWarp();
  --warp.live;
  if (warp.live > 0 && warp.arrived == warp.live) Release(&warp.arrived, &warp.generation);
  --block->live;
  if (block->live == 0) {
    if (!block->later.empty()) Fail("a block ended before its copies");
    SwitchToHost();
  }
  auto& barrier = block->barriers[0];
  if (barrier.arrived == block->live) Release(&barrier.arrived, &barrier.generation);
  SwitchTo(Next());
  std::abort();
}

void RunBlock(Index grid, Index index, unsigned threads, size_t shared_bytes, Cluster* cluster,
              const std::function<void()>& body) {
  BlockState state;
  state.index = index;
  state.grid = grid;
  state.size = {threads, 1, 1};
  state.threads = state.live = threads;
  state.body = &body;
  state.cluster = cluster;
  state.fibers.resize(threads);
  state.warps.resize((threads + 31) / 32);
  state.random.seed(index.x * 7919 + index.y * 104729 + index.z + 1);
  const std::unique_ptr<char, void (*)(void*)> shared(
      static_cast<char*>(std::aligned_alloc(1024, (shared_bytes + 2048) / 1024 * 1024)),
      &std::free);
  std::memset(shared.get(), 0xff, shared_bytes);
  state.shared = shared.get();
  block = &state;
  for (unsigned i = 0; i < threads; ++i) {
    ++state.warps[i / 32].live;
    Fiber& fiber = state.fibers[i];
    fiber.stack = stacks.Take();
    auto** top = reinterpret_cast<void**>(fiber.stack + kStackBytes);
    *--top = nullptr;  // alignment: FiberMain begins as if called
    *--top = reinterpret_cast<void*>(&FiberMain);
    top -= 6;
    std::memset(top, 0, 6 * sizeof(void*));
    fiber.stack_pointer = top;
  }
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&state.host_fake_stack, state.fibers[0].stack, kStackBytes);
#endif
  msadb_switch_fiber(&state.host_stack_pointer, state.fibers[0].stack_pointer);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(state.host_fake_stack, nullptr, nullptr);
#endif
  for (Fiber& fiber : state.fibers) stacks.idle.push_back(fiber.stack);
  block = nullptr;
}

// `count` blocks from `first` on, as one cluster.
void RunAtOnce(Index grid, Index first, unsigned count, unsigned threads, size_t shared_bytes,
               const std::function<void()>& body) {
  Cluster together(count);
  std::vector<std::thread> blocks;
  for (unsigned rank = 0; rank < count; ++rank) {
    blocks.emplace_back([&, rank] {
      together.bases[rank] = &anchor;
      RunBlock(grid, {first.x + rank, first.y, first.z}, threads, shared_bytes, &together, body);
    });
  }
  for (std::thread& thread : blocks) thread.join();
}

// Waits until all of `live` have come; true for the last one.
void Meet(unsigned live, unsigned* arrived, uint64_t* generation) {
  const uint64_t mine = *generation;
  if (++*arrived == live) {
    Release(arrived, generation);
    return;
  }
  while (*generation == mine) Yield();
}

}  // namespace

Index Thread() { return {block->current, 0, 0}; }
Index Block() { return block->index; }
Index BlockSize() { return block->size; }
Index GridSize() { return block->grid; }
unsigned Lane() { return block->current % 32; }
void* SharedMemory() { return block->shared; }

bool Run(Index grid, unsigned cluster, unsigned threads, size_t shared_bytes,
         const std::function<void()>& body) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x >= 1u << 31 || grid.y > 65535 ||
      grid.z > 65535 || threads == 0 || threads > kThreadsMax || shared_bytes > kSharedBytesMax ||
      cluster == 0 || cluster > 8 || grid.x % cluster != 0) {
    return false;
  }
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; x += cluster) {
        if (cluster == 1) {
          RunBlock(grid, {x, y, z}, threads, shared_bytes, nullptr, body);
        } else {
          RunAtOnce(grid, {x, y, z}, cluster, threads, shared_bytes, body);
        }
      }
    }
  }
  return true;
}

bool RunTogether(unsigned blocks, unsigned threads, size_t shared_bytes,
                 const std::function<void()>& body) {
  if (blocks == 0 || blocks > kMultiprocessors || threads == 0 || threads > kThreadsMax ||
      shared_bytes > kSharedBytesMax) {
    return false;
  }
  RunAtOnce({blocks, 1, 1}, {0, 0, 0}, blocks, threads, shared_bytes, body);
  return true;
}

void Yield() {
  const unsigned next = Next();
  if (next != block->current) SwitchTo(next);
}

void SyncSome(unsigned barrier, unsigned threads) {
  auto& meeting = block->barriers[barrier];
  Meet(threads, &meeting.arrived, &meeting.generation);
}

void SyncThreads() { SyncSome(0, block->live); }

void SyncWarp() {
  Warp& warp = MyWarp();
  Meet(warp.live, &warp.arrived, &warp.generation);
}

void SyncCluster() {
  SyncThreads();
  if (block->cluster == nullptr) return;
  if (block->current == 0) {  // for the block
    Cluster& cluster = *block->cluster;
    const uint64_t mine = cluster.generation;
    if (++cluster.arrived == cluster.bases.size()) {
      cluster.arrived = 0;
      ++cluster.generation;
    } else {
      while (cluster.generation == mine) std::this_thread::yield();
    }
  }
  SyncThreads();
}

// Two sets of slots: who is through with one exchange may begin the next while others still read.
uint64_t Exchange(uint64_t value, unsigned source) {
  Warp& warp = MyWarp();
  auto& slots = warp.slots[warp.generation % 2];
  slots[Lane()] = value;
  SyncWarp();
  return slots[source % 32];
}

const uint32_t (*Gather(const uint32_t* words, unsigned count))[16] {
  Warp& warp = MyWarp();
  auto& slots = warp.words[warp.generation % 2];
  std::memcpy(slots[Lane()], words, count * sizeof(uint32_t));
  SyncWarp();
  return slots;
}

void CopyLater(void* to, const void* from, size_t bytes, std::function<void()> done) {
  std::memset(to, 0xff, bytes);
  block->later.push_back({to, from, bytes, std::move(done)});
}

void CopyMine(void* to, const void* from, size_t bytes) {
  std::memset(to, 0xff, bytes);
  block->fibers[block->current].open.push_back({to, from, bytes, {}});
}

void CommitMine() {
  Fiber& me = block->fibers[block->current];
  me.groups.push_back(std::move(me.open));
  me.open.clear();
}

void WaitMine(unsigned groups) {
  Fiber& me = block->fibers[block->current];
  for (; me.groups.size() > groups; me.groups.pop_front()) {
    for (const Copy& copy : me.groups.front()) copy.Make();
  }
}

const void* OfBlock(const void* variable, unsigned rank) {
  if (block->cluster == nullptr) return variable;
  return block->cluster->bases[rank] + (static_cast<const char*>(variable) - &anchor);
}

}  // namespace msadb::emulated
