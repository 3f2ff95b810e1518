#include "cli/interrupt.h"

#include <pthread.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <mutex>
#include <optional>
#include <thread>

#include "cli/exit_codes.h"

namespace msadb::cli {
namespace {

std::mutex g_mutex;
// Of the InterruptScope alive now; guarded by g_mutex.
std::optional<std::stop_source> g_active;
std::chrono::milliseconds g_patience{0};

void WaitForSignals(sigset_t signals) {
  int signal = 0;
  if (sigwait(&signals, &signal) != 0) return;
  std::optional<std::stop_source> active;
  std::chrono::milliseconds wait{0};
  {
    std::lock_guard lock(g_mutex);
    active = g_active;
    wait = g_patience;
  }
  if (active) {
    active->request_stop();
    // A process that was stopped and goes on, or is looked at by a debugger, waits on.
    const auto end = std::chrono::steady_clock::now() + wait;
    do {
      wait = std::max(std::chrono::milliseconds(0),
                      std::chrono::duration_cast<std::chrono::milliseconds>(
                          end - std::chrono::steady_clock::now()));
      const timespec patience{.tv_sec = wait.count() / 1000,
                              .tv_nsec = wait.count() % 1000 * 1'000'000};
      signal = sigtimedwait(&signals, nullptr, &patience);
    } while (signal < 0 && errno == EINTR);
  }
  // The end of line keeps the shell's prompt off a half-drawn progress bar.
  if (isatty(STDERR_FILENO)) (void)!write(STDERR_FILENO, "\n", 1);
  _exit(kExitCancelled);
}

}  // namespace

void InstallInterruptHandler() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  std::thread(WaitForSignals, signals).detach();
}

InterruptScope::InterruptScope(std::chrono::milliseconds patience) {
  std::lock_guard lock(g_mutex);
  g_patience = patience;
  g_active = source_;
}

InterruptScope::~InterruptScope() {
  std::lock_guard lock(g_mutex);
  g_active.reset();
}

}  // namespace msadb::cli
