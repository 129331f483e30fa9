// SPDX-License-Identifier: Apache-2.0
// Bounds on what one API request may ask for. Bounds on bytes are net's (HttpServerOptions).
#pragma once

#include <cstddef>
#include <cstdint>

namespace halfmoon::serve {

// OpenAI takes four; agents send more. Each one is searched for in every piece of output.
inline constexpr size_t kMaxStopStrings = 16;
inline constexpr size_t kMaxStopBytes = 1024;
inline constexpr int64_t kMaxTopLogprobs = 20;
// Sequences (prompts times n) of one request: each takes a place in the engine's queue.
inline constexpr int64_t kMaxChoices = 128;
inline constexpr size_t kMaxLogitBias = 1024;
inline constexpr size_t kMaxStopTokenIds = 128;
inline constexpr size_t kMaxMessages = 8192;

}  // namespace halfmoon::serve
