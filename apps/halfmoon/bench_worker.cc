// SPDX-License-Identifier: Apache-2.0
#include "apps/halfmoon/bench_worker.h"

#include <cstdio>
#include <iostream>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "apps/halfmoon/bench_limits.h"
#include "apps/halfmoon/bench_machine.h"
#include "apps/halfmoon/bench_measure.h"
#include "apps/halfmoon/command.h"
#include "apps/halfmoon/runtime.h"

namespace halfmoon::app {
namespace {

class OwnWorker {
 public:
  explicit OwnWorker(const BenchOptions& options) : options_(options) {}

  Result<json::object> Answer(const std::string& line) {
    HM_ASSIGN(const json::object request, json::ParseObject(line));
    HM_ASSIGN(const std::string what, json::RequireString(request, "do"));
    if (what == "load") return Load();
    if (runtime_ == nullptr) {
      return Error(ErrorCode::kInvalidArgument, what + ": nothing is loaded");
    }
    if (what == "limits") return Limits();
    if (what == "measure") return Measure(request);
    return Error(ErrorCode::kInvalidArgument, "unknown request " + what);
  }

 private:
  Result<json::object> Load() {
    prepared_.clear();
    runtime_.reset();
    const MonotonicClock clock;
    const TimeUs begin = clock.NowUs();
    HM_ASSIGN(runtime_, LoadRuntime(options_.model, /*tokenizer_required=*/false, {}));
    const double seconds = static_cast<double>(clock.NowUs() - begin) * 1e-6;
    runtime_->weight_cache.WaitSaved();
    const model::Model& model = *runtime_->model;
    return json::object{{"seconds", seconds},
                        {"name", runtime_->name},
                        {"isa", kernels::IsaName(model.options().isa)},
                        {"threads", runtime_->pool->num_threads()},
                        {"max_context", model.max_context()},
                        {"file_bytes", runtime_->checkpoint->size_bytes()}};
  }

  Result<json::object> Limits() {
    const kernels::Stream stream(*runtime_->pool, runtime_->model->options().isa);
    limits_ = kernels::MeasureLimits(stream, {});
    return LimitsJson(*limits_);
  }

  Result<json::object> Measure(const json::object& request) {
    if (!limits_.has_value()) {
      return Error(ErrorCode::kInvalidArgument, "the limits were not measured");
    }
    HM_ASSIGN(const std::string name, json::RequireString(request, "case"));
    HM_ASSIGN(const int64_t passes, json::RequireInt(request, "passes"));
    HM_ASSIGN(const double stop_after_s, json::RequireDouble(request, "stop_after_s"));
    HM_ASSIGN(const BenchCase which, ParseCase(name));
    auto found = prepared_.find(name);
    const bool is_new = found == prepared_.end();
    if (is_new) {
      HM_ASSIGN(PreparedCase prepared,
                PreparedCase::Make(runtime_->model.get(), which, options_.decode_tokens));
      found = prepared_.emplace(name, std::move(prepared)).first;
    }
    HM_ASSIGN(const Measurement measured, MeasureCase({.count = static_cast<int>(passes),
                                                       .stop_after_s = stop_after_s,
                                                       .warm_up = is_new},
                                                      &found->second));
    const PassCost cost = CostOfPass(*runtime_->model, which, options_.decode_tokens);
    return json::object{{"tokens", measured.tokens},
                        {"seconds", json::array(measured.seconds.begin(), measured.seconds.end())},
                        {"limit_tokens_per_s", LimitTokensPerSecond(cost, *limits_)}};
  }

  const BenchOptions& options_;
  std::unique_ptr<Runtime> runtime_;
  std::map<std::string, PreparedCase> prepared_;
  std::optional<kernels::MachineLimits> limits_;
};

}  // namespace

int RunOwnWorker(const BenchOptions& options) {
  OwnWorker worker(options);
  for (std::string line; std::getline(std::cin, line);) {
    const Result<json::object> answer = worker.Answer(line);
    const json::object reply =
        answer.ok() ? *answer : json::object{{"error", answer.error().message()}};
    std::printf("%s\n", json::Serialize(reply).c_str());
    std::fflush(stdout);
  }
  return kExitOk;
}

}  // namespace halfmoon::app
