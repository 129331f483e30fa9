// SPDX-License-Identifier: Apache-2.0
// Ctrl-C on the terminal: the first ends the answer at hand, a second the program.
#pragma once

#include <atomic>

namespace halfmoon::app {

/// True from the first SIGINT on, until its owner lowers it; a SIGINT while it is true exits with
/// 130.
std::atomic<bool>& InterruptFlag();

/// Installs the handler. A blocking read is interrupted too.
void WatchInterrupts();

}  // namespace halfmoon::app
