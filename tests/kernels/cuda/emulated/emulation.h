// Runs a kernel's blocks on the CPU, its source compiled as C++, so that machines without a GPU test
// what the kernels compute: index arithmetic, bounds, barriers, the order of asynchronous copies. It
// says nothing about speed, and runs launches one after the other, so what it cannot find are
// mistakes in how launches overlap. Memory that blocks of a launch share is in the order that this CPU
// gives it.
//
// A thread of a block is a fiber; fibers of a block take turns at every barrier, shuffle and wait. A
// block runs in one thread of the system, blocks that are on the device together in several, so that shared
// variables are thread_local. Asynchronous copies fill their destination with NaNs when they are
// issued and happen at a random moment after that: reading too early or overwriting too early shows.
#ifndef MSADB_TESTS_KERNELS_CUDA_EMULATED_EMULATION_H_
#define MSADB_TESTS_KERNELS_CUDA_EMULATED_EMULATION_H_

#include <cstddef>
#include <cstdint>
#include <functional>

namespace msadb::emulated {

struct Index {
  unsigned x = 0, y = 0, z = 0;
};

// Of the thread that runs.
Index Thread();
Index Block();
Index BlockSize();
Index GridSize();
unsigned Lane();
void* SharedMemory();  // the launch's

// Runs the whole launch; `body` is the kernel with its arguments. False: no GPU takes such a launch.
bool Run(Index grid, unsigned cluster, unsigned threads, size_t shared_bytes,
         const std::function<void()>& body);

// The same with all blocks at once, of which a GPU of kMultiprocessors holds one each.
inline constexpr unsigned kMultiprocessors = 6;
bool RunTogether(unsigned blocks, unsigned threads, size_t shared_bytes,
                 const std::function<void()>& body);

// Lets others go on; for loops that wait for them. Ends the program when all wait in vain.
void Yield();
void SyncThreads();
void SyncSome(unsigned barrier, unsigned threads);  // barrier: 1 to 15
void SyncWarp();
void SyncCluster();
// What lane `source` of the warp brings to the same call.
uint64_t Exchange(uint64_t value, unsigned source);
// All lanes bring `words` (at most 16); returns everybody's, [32][16].
const uint32_t (*Gather(const uint32_t* words, unsigned count))[16];

// Copies that happen later: `done` runs after that of one.
void CopyLater(void* to, const void* from, size_t bytes, std::function<void()> done);
// The calling thread's, as cp.async has them; a null `from` means zeros.
void CopyMine(void* to, const void* from, size_t bytes);
void CommitMine();
void WaitMine(unsigned groups);

// Makes every later call that reaches the device fail, as a hardware error does.
void LoseDevice(int device);
int DeviceError();  // a cudaError_t, of the calling thread's device

// A shared variable of block `rank` of the cluster, given this block's.
const void* OfBlock(const void* variable, unsigned rank);

}  // namespace msadb::emulated

#endif  // MSADB_TESTS_KERNELS_CUDA_EMULATED_EMULATION_H_
