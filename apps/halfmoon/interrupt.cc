// SPDX-License-Identifier: Apache-2.0
#include "apps/halfmoon/interrupt.h"

#include <unistd.h>

#include <csignal>

#include "apps/halfmoon/command.h"

namespace halfmoon::app {
namespace {

// A signal handler can reach nothing but an object of static storage.
std::atomic<bool> interrupted{false};
static_assert(std::atomic<bool>::is_always_lock_free);

void OnInterrupt(int) {
  if (interrupted.exchange(true)) ::_exit(kExitInterrupted);
}

}  // namespace

std::atomic<bool>& InterruptFlag() { return interrupted; }

void WatchInterrupts() {
  struct sigaction action{};
  action.sa_handler = OnInterrupt;
  ::sigemptyset(&action.sa_mask);
  // Without SA_RESTART, so that a read of the next message ends too.
  ::sigaction(SIGINT, &action, nullptr);
}

}  // namespace halfmoon::app
