// SPDX-License-Identifier: Apache-2.0
// halfmoon as a process that answers lines: our side of a comparison, with the requests and replies
// of bench/llama_cpp_worker.py.
#pragma once

#include "apps/halfmoon/bench_options.h"

namespace halfmoon::app {

/// Answers requests from standard input on standard output until there are none. Beside those of
/// the peer there is {"do": "limits"}, answered with LimitsJson, which a measurement needs before
/// it: its reply has limit_tokens_per_s too. The reply to a load tells what was loaded. Returns an
/// exit code.
int RunOwnWorker(const BenchOptions& options);

}  // namespace halfmoon::app
