// SPDX-License-Identifier: Apache-2.0
#include "apps/halfmoon/cluster_engine.h"

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <utility>

#include "apps/halfmoon/cluster_events.h"

namespace halfmoon::app {
namespace {

/// What ended, for statistics.
struct Ended {
  std::atomic<uint64_t> finished[4] = {};
  std::atomic<uint64_t> prompt_tokens{0};
  std::atomic<uint64_t> cached_tokens{0};
  std::atomic<uint64_t> generated_tokens{0};
};

class ClusterHandle final : public engine::RequestHandle {
 public:
  ClusterHandle(std::unique_ptr<cluster::Sequence> sequence, int32_t prompt_tokens,
                std::shared_ptr<Ended> ended)
      : prompt_tokens_(prompt_tokens), ended_(std::move(ended)), sequence_(std::move(sequence)) {
    sequence_->SetNotify([this] { OnNotified(); });
  }
  ClusterHandle(const ClusterHandle&) = delete;
  ClusterHandle& operator=(const ClusterHandle&) = delete;
  ~ClusterHandle() override {
    if (sequence_ != nullptr) sequence_->SetNotify(nullptr);
  }

  std::optional<engine::Event> TryNext() override {
    if (finished_) return std::nullopt;
    if (sequence_ == nullptr) {
      finished_ = true;
      return engine::FinishEvent{.reason = engine::FinishReason::kCancelled};
    }
    std::optional<cluster::Event> event = sequence_->TryNext();
    if (!event.has_value()) return std::nullopt;
    engine::Event made = ToEngine(std::move(*event));
    Count(made);
    return made;
  }

  std::optional<engine::Event> Next() override {
    while (!finished_) {
      if (std::optional<engine::Event> event = TryNext()) return event;
      std::unique_lock lock(mutex_);
      arrived_.wait(lock, [this] { return notified_; });
      notified_ = false;
    }
    return std::nullopt;
  }

  void SetNotify(std::function<void()> notify) override {
    {
      std::lock_guard lock(notify_mutex_);
      notify_ = std::move(notify);
    }
    // Runs it at once where something has arrived already.
    if (sequence_ != nullptr) sequence_->SetNotify([this] { OnNotified(); });
  }

  void Cancel() override {
    if (sequence_ == nullptr) return;
    sequence_->SetNotify(nullptr);
    sequence_.reset();
    ++ended_->finished[static_cast<size_t>(engine::FinishReason::kCancelled)];
    OnNotified();
  }

 private:
  void OnNotified() {
    {
      std::lock_guard lock(mutex_);
      notified_ = true;
    }
    arrived_.notify_all();
    std::lock_guard lock(notify_mutex_);
    if (notify_) notify_();
  }

  void Count(const engine::Event& event) {
    if (const auto* prompt = std::get_if<engine::PromptEvent>(&event)) {
      ended_->prompt_tokens += static_cast<uint64_t>(prompt_tokens_);
      ended_->cached_tokens += static_cast<uint64_t>(prompt->cached_tokens);
    } else if (std::holds_alternative<engine::TokenEvent>(event)) {
      ++ended_->generated_tokens;
    } else if (const auto* finish = std::get_if<engine::FinishEvent>(&event)) {
      finished_ = true;
      ++ended_->finished[static_cast<size_t>(finish->reason)];
    }
  }

  const int32_t prompt_tokens_;
  const std::shared_ptr<Ended> ended_;
  std::unique_ptr<cluster::Sequence> sequence_;  // null once cancelled
  bool finished_ = false;
  std::mutex mutex_;
  std::condition_variable arrived_;
  bool notified_ = false;  // GUARDED_BY(mutex_)
  std::mutex notify_mutex_;
  std::function<void()> notify_;  // GUARDED_BY(notify_mutex_)
};

class ClusterEngine final : public engine::Engine {
 public:
  explicit ClusterEngine(cluster::FrontDoor* door) : door_(door) {}

  Result<std::unique_ptr<engine::RequestHandle>> Submit(engine::Request request) override {
    if (closed_) return Error(ErrorCode::kUnavailable, "the conductor is shutting down");
    HM_TRY(Check(request));
    const auto prompt_tokens = static_cast<int32_t>(request.prompt_ids.size());
    HM_ASSIGN(std::unique_ptr<cluster::Sequence> sequence,
              door_->Submit(ToCluster(request), {.ttft_us = request.service.ttft_limit_us,
                                                 .tbt_us = request.service.tbt_limit_us}));
    return std::unique_ptr<engine::RequestHandle>(
        std::make_unique<ClusterHandle>(std::move(sequence), prompt_tokens, ended_));
  }

  engine::EngineStats Stats() const override {
    engine::EngineStats stats;
    const cluster::ClusterStatus status = door_->Describe();
    for (const cluster::NodeStatus& node : status.nodes) {
      if (!node.connected) continue;
      stats.running += node.load.running;
      stats.queued += node.load.queued;
      stats.pages_total += node.load.pages_total;
      stats.pages_in_use += node.load.pages_in_use;
      stats.pages_cached += node.load.pages_cached;
    }
    stats.queued += status.waiting;
    stats.retry_after_s = static_cast<int>((status.retry_after_us + 999'999) / 1'000'000);
    stats.prompt_tokens = ended_->prompt_tokens;
    stats.cached_prompt_tokens = ended_->cached_tokens;
    stats.generated_tokens = ended_->generated_tokens;
    for (size_t i = 0; i < 4; ++i) stats.finished[i] = ended_->finished[i];
    return stats;
  }

  int32_t max_request_tokens() const override {
    const std::optional<cluster::ServedModel> model = door_->model();
    return model.has_value() ? model->max_request_tokens : 0;
  }

  void Drain() override { closed_ = true; }
  void Shutdown() override { closed_ = true; }

 private:
  // What a node would say of the request as well, said here so that the client gets it at once.
  Status Check(const engine::Request& request) const {
    if (request.mask && !request.grammar.has_value()) {
      return Error(ErrorCode::kUnsupported, "a constraint that cannot be sent to a node");
    }
    const int32_t most = max_request_tokens();
    const size_t needed = request.prompt_ids.size() + (request.max_tokens > 0 ? 1 : 0);
    if (most > 0 && needed > static_cast<size_t>(most)) {
      return Error(ErrorCode::kInvalidArgument,
                   "the prompt has " + std::to_string(request.prompt_ids.size()) +
                       " tokens, which with its output does not fit the context of " +
                       std::to_string(most));
    }
    return {};
  }

  cluster::FrontDoor* const door_;
  std::atomic<bool> closed_{false};
  const std::shared_ptr<Ended> ended_ = std::make_shared<Ended>();
};

}  // namespace

std::unique_ptr<engine::Engine> MakeClusterEngine(cluster::FrontDoor* door) {
  return std::make_unique<ClusterEngine>(door);
}

}  // namespace halfmoon::app
