// A child process works on a store and is killed at random moments. It tells each acknowledged step
// through a pipe; the parent reopens the folder and holds it against what those steps amount to.
#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "../storage/testing.h"
#include "workload.h"

extern char** environ;

namespace msadb::storage {
namespace {

constexpr char kOpened = 'o';
constexpr char kStepDone = 's';

// The child: argv = {program, "--child", folder, workload seed, steps done, pipe}.
int Child(char** argv) {
  const int pipe = std::atoi(argv[5]);
  Workload workload(std::strtoull(argv[3], nullptr, 10));
  for (uint64_t i = std::strtoull(argv[4], nullptr, 10); i > 0; --i) workload.Skip();
  const auto store = Store::Open(argv[2], SmallOptions());
  if (!store.ok()) {
    std::cerr << "child: " << store.status().ToString() << "\n";
    return 2;
  }
  if (::write(pipe, &kOpened, 1) != 1) return 3;
  while (true) {
    const Status status = workload.Step(**store);
    if (!status.ok()) {
      std::cerr << "child: " << status.ToString() << "\n";
      return 4;
    }
    if (::write(pipe, &kStepDone, 1) != 1) return 3;
  }
}

TEST(StorageKill, AcknowledgedStepsSurviveSigkill) {
  const uint64_t seed = TestSeed();
  std::mt19937_64 rng(seed);
  const size_t kills = Scaled(100);
  size_t while_opening = 0;
  uint64_t steps = 0;
  std::unique_ptr<TempFolder> folder;
  std::unique_ptr<Workload> workload;
  uint64_t workload_seed = 0;
  for (size_t kill = 0; kill < kills; ++kill) {
    SCOPED_TRACE("seed " + std::to_string(seed) + ", kill " + std::to_string(kill));
    if (kill % 10 == 0) {  // a new folder now and then, for kills during creation
      folder = std::make_unique<TempFolder>();
      workload_seed = rng();
      workload = std::make_unique<Workload>(workload_seed);
    }
    int ends[2];
    ASSERT_EQ(::pipe(ends), 0);
    std::string program = std::filesystem::read_symlink("/proc/self/exe").string();
    std::string arguments[] = {program,
                               "--child",
                               *folder / "db",
                               std::to_string(workload_seed),
                               std::to_string(workload->steps_done()),
                               std::to_string(ends[1])};
    std::vector<char*> argv;
    for (std::string& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    pid_t child = 0;
    ASSERT_EQ(::posix_spawn(&child, program.c_str(), nullptr, nullptr, argv.data(), environ), 0);
    ::close(ends[1]);
    // Some while it starts and opens; the others some time after its first step.
    const bool early = rng() % 3 == 0;
    size_t opened = 0, done = 0;
    char messages[256];
    const auto take = [&](ssize_t n) {
      for (ssize_t i = 0; i < n; ++i) ++(messages[i] == kOpened ? opened : done);
    };
    if (!early) take(::read(ends[0], messages, sizeof(messages)));
    std::this_thread::sleep_for(std::chrono::microseconds(5'000 + rng() % 85'000));
    ::kill(child, SIGKILL);
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL)
        << "the child ended by itself: " << status;
    for (ssize_t n; (n = ::read(ends[0], messages, sizeof(messages))) > 0;) take(n);
    ::close(ends[0]);
    while_opening += opened == 0;
    steps += done;
    for (size_t i = 0; i < done; ++i) workload->Skip();

    const auto store = Store::Open(*folder / "db", SmallOptions());
    ASSERT_OK(store);
    std::string differences;
    ASSERT_TRUE(workload->Settle(**store, &differences)) << differences;
    const auto report = (*store)->Verify();
    ASSERT_OK(report);
    ASSERT_TRUE(report->ok()) << report->damages[0].what;
  }
  std::cout << kills << " kills, " << while_opening << " before the store was open, " << steps
            << " acknowledged steps\n";
  EXPECT_GT(steps, kills);
}

}  // namespace
}  // namespace msadb::storage

int main(int argc, char** argv) {
  if (argc == 6 && std::strcmp(argv[1], "--child") == 0) return msadb::storage::Child(argv);
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
