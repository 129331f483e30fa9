// SPDX-License-Identifier: Apache-2.0
// sim: replays traces of requests over a cluster that exists in numbers only: a clock, networks,
// disks and the time of computations, under the conductor that the server runs. It computes no
// token, opens no socket, starts no thread, and gives the same bytes for the same seed.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "base/result.h"

namespace halfmoon::sim {

/// A request of a trace.
struct TraceRequest {
  TimeUs arrival_us = 0;
  int32_t prompt_tokens = 0;
  int32_t output_tokens = 0;  ///< at least 1
  uint64_t first_block = 0;   ///< of the trace's blocks
  int32_t num_blocks = 0;
};

/// In order of arrival. Equal blocks mean equal prompts up to and including that block.
struct Trace {
  int32_t block_tokens = 512;
  std::vector<TraceRequest> requests;
  std::vector<uint64_t> blocks;

  /// From the first arrival to the last.
  double duration_s() const;
};

/// Text of a trace: one JSON object a line, with
///   "timestamp" (ms), "input_length", "output_length", "hash_ids" (one for each 512 tokens): the
///   format of the Mooncake release; or without "hash_ids", and then no two prompts share anything.
/// Empty lines are left out. Errors: kInvalidArgument, naming the line and what is wrong in it.
Result<Trace> ParseTrace(std::string_view text);

/// A file of it, plain or compressed with gzip.
Result<Trace> ReadTrace(const std::filesystem::path& path);

}  // namespace halfmoon::sim
