// SPDX-License-Identifier: Apache-2.0
#include "sim/trace.h"

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "base/file.h"
#include "base/gzip.h"
#include "base/json.h"

namespace halfmoon::sim {
namespace {

constexpr size_t kMaxBytes = size_t{4} << 30;
constexpr int64_t kMaxTokens = 1 << 24;
constexpr int64_t kMaxTimestampMs = int64_t{1} << 40;  // 35 years
constexpr size_t kMaxRequests = size_t{1} << 26;

Result<int64_t> RequireBetween(const json::object& row, std::string_view key, int64_t least,
                               int64_t most) {
  HM_ASSIGN(const int64_t value, json::RequireInt(row, key));
  if (value < least || value > most) {
    return Error(ErrorCode::kInvalidArgument, std::string(key) + " is " + std::to_string(value) +
                                                  ", not within " + std::to_string(least) + " to " +
                                                  std::to_string(most));
  }
  return value;
}

Status AppendBlocks(const json::array& ids, TraceRequest* request, Trace* trace) {
  const auto expected =
      static_cast<size_t>((request->prompt_tokens + trace->block_tokens - 1) / trace->block_tokens);
  if (ids.size() != expected) {
    return Error(ErrorCode::kInvalidArgument,
                 "hash_ids has " + std::to_string(ids.size()) + " blocks, but " +
                     std::to_string(request->prompt_tokens) + " tokens fill " +
                     std::to_string(expected) + " of " + std::to_string(trace->block_tokens));
  }
  request->num_blocks = static_cast<int32_t>(ids.size());
  for (const json::value& id : ids) {
    if (id.is_int64() && id.get_int64() >= 0) {
      trace->blocks.push_back(static_cast<uint64_t>(id.get_int64()));
    } else if (id.is_uint64()) {
      trace->blocks.push_back(id.get_uint64());
    } else {
      return Error(ErrorCode::kInvalidArgument,
                   "hash_ids: expected numbers from 0 on, found " + json::Serialize(id));
    }
  }
  return {};
}

Status AppendRow(std::string_view line, Trace* trace) {
  HM_ASSIGN(const json::object row, json::ParseObject(line));
  TraceRequest request{.first_block = trace->blocks.size()};
  HM_ASSIGN(const int64_t timestamp, RequireBetween(row, "timestamp", 0, kMaxTimestampMs));
  HM_ASSIGN(const int64_t input, RequireBetween(row, "input_length", 1, kMaxTokens));
  HM_ASSIGN(const int64_t output, RequireBetween(row, "output_length", 1, kMaxTokens));
  HM_ASSIGN(const json::array* ids, json::FindArray(row, "hash_ids"));
  request.arrival_us = timestamp * 1000;
  request.prompt_tokens = static_cast<int32_t>(input);
  request.output_tokens = static_cast<int32_t>(output);
  if (ids != nullptr) HM_TRY(AppendBlocks(*ids, &request, trace));
  trace->requests.push_back(request);
  return {};
}

// In the order of the file where times are equal.
void SortByArrival(std::vector<TraceRequest>* requests) {
  std::vector<std::pair<TimeUs, size_t>> order;
  order.reserve(requests->size());
  for (const TraceRequest& request : *requests)
    order.emplace_back(request.arrival_us, order.size());
  std::ranges::sort(order);
  std::vector<TraceRequest> sorted;
  sorted.reserve(requests->size());
  for (const auto& [arrival_us, index] : order) sorted.push_back(std::move((*requests)[index]));
  *requests = std::move(sorted);
}

}  // namespace

double Trace::duration_s() const {
  if (requests.empty()) return 0.0;
  return static_cast<double>(requests.back().arrival_us - requests.front().arrival_us) * 1e-6;
}

Result<Trace> ParseTrace(std::string_view text) {
  Trace trace;
  for (size_t begin = 0, line_number = 1; begin < text.size(); ++line_number) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    std::string_view line = text.substr(begin, end - begin);
    begin = end + 1;
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    if (trace.requests.size() >= kMaxRequests) {
      return Error(ErrorCode::kInvalidArgument,
                   "more than " + std::to_string(kMaxRequests) + " requests");
    }
    const Status status = AppendRow(line, &trace);
    if (!status.ok()) return status.error().WithContext("line " + std::to_string(line_number));
  }
  if (trace.requests.empty()) return Error(ErrorCode::kInvalidArgument, "no request in it");
  SortByArrival(&trace.requests);
  return trace;
}

Result<Trace> ReadTrace(const std::filesystem::path& path) {
  HM_ASSIGN(std::string bytes, ReadTextFile(path, kMaxBytes));
  if (IsGzip(bytes)) {
    Result<std::string> text = Gunzip(bytes, kMaxBytes);
    if (!text.ok()) return text.error().WithContext(path.string());
    bytes = std::move(text).value();
  }
  return ParseTrace(bytes).WithContext(path.string());
}

}  // namespace halfmoon::sim
