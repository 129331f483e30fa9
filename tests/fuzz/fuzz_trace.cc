// SPDX-License-Identifier: Apache-2.0
// Any bytes as a trace, plain or compressed, and as a cost model: either is read, or refused with a
// message.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "base/gzip.h"
#include "sim/cost_model.h"
#include "sim/trace.h"

namespace {

constexpr size_t kMaxBytes = size_t{1} << 20;

void Parse(std::string_view text) {
  const auto trace = halfmoon::sim::ParseTrace(text);
  if (trace.ok()) {
    for (const auto& request : trace->requests) {
      const bool sound =
          request.prompt_tokens > 0 && request.output_tokens > 0 &&
          request.first_block + static_cast<uint64_t>(request.num_blocks) <= trace->blocks.size();
      if (!sound) std::abort();
    }
  } else if (trace.error().message().empty()) {
    std::abort();
  }
  const auto costs = halfmoon::sim::ParseCostModel(text);
  if (!costs.ok() && costs.error().message().empty()) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  Parse(bytes);
  const auto text = halfmoon::Gunzip(bytes, kMaxBytes);
  if (text.ok()) Parse(*text);
  return 0;
}
