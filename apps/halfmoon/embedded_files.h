// SPDX-License-Identifier: Apache-2.0
// Files of the source tree that travel inside the program, so that it works alone, and what it was
// built from. The definitions are made at build time (cmake/embed.cmake).
#pragma once

#include <string_view>

namespace halfmoon::app {

std::string_view EmbeddedLlamaCppWorker();     ///< bench/llama_cpp_worker.py
std::string_view EmbeddedBenchRequirements();  ///< bench/requirements.txt
std::string_view EmbeddedPaperCosts();         ///< bench/costs/llama3-70b-8xa800.json

/// Commit of the source tree, with "+" behind it where files differed from it; "unknown" outside
/// of git.
std::string_view BuildCommit();

}  // namespace halfmoon::app
