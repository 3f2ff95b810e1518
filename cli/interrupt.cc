#include "cli/interrupt.h"

#include <pthread.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#include <mutex>
#include <optional>
#include <thread>

#include "cli/exit_codes.h"

namespace msadb::cli {
namespace {

std::mutex g_mutex;
std::optional<std::stop_source> g_active;  // of the InterruptScope alive now; guarded by g_mutex

void WaitForSignals(sigset_t signals) {
  int signal = 0;
  if (sigwait(&signals, &signal) != 0) return;
  std::optional<std::stop_source> active;
  {
    std::lock_guard lock(g_mutex);
    active = g_active;
  }
  if (active) {
    active->request_stop();
    const timespec patience{.tv_sec = 5, .tv_nsec = 0};
    sigtimedwait(&signals, nullptr, &patience);
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

InterruptScope::InterruptScope() {
  std::lock_guard lock(g_mutex);
  g_active = source_;
}

InterruptScope::~InterruptScope() {
  std::lock_guard lock(g_mutex);
  g_active.reset();
}

}  // namespace msadb::cli
