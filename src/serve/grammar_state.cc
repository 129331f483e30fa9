// SPDX-License-Identifier: Apache-2.0
#include "serve/grammar_state.h"

#include <algorithm>
#include <utility>

namespace halfmoon::serve {

GrammarState::GrammarState(text::GrammarMatcher matcher, size_t mask_words,
                           std::vector<int32_t> eos_ids)
    : matcher_(std::move(matcher)), own_mask_(mask_words), eos_ids_(std::move(eos_ids)) {}

void GrammarState::Attach(const std::shared_ptr<GrammarState>& state, engine::Request& request) {
  request.mask = [state](std::span<uint32_t> allowed) { state->Mask(allowed); };
  request.on_token = [state](int32_t id) { state->Commit(id); };
}

std::optional<std::string> GrammarState::failure() const {
  std::lock_guard lock(mutex_);
  return failure_;
}

void GrammarState::Mask(std::span<uint32_t> allowed) {
  if (!failure()) {
    const bool fits = allowed.size() >= own_mask_.size();
    const Status status = matcher_.ComputeMask(fits ? allowed : std::span<uint32_t>(own_mask_));
    if (status.ok() && !fits)
      std::ranges::copy_n(own_mask_.begin(), std::ssize(allowed), allowed.begin());
    if (status.ok()) return;
    Fail(status.error().message());
  }
  // Only the end is left, so that a sequence without a grammar does not run on.
  std::ranges::fill(allowed, 0u);
  for (const int32_t id : eos_ids_) {
    const auto word = static_cast<size_t>(id) / 32;
    if (id >= 0 && word < allowed.size()) allowed[word] |= 1u << (static_cast<uint32_t>(id) % 32);
  }
}

void GrammarState::Commit(int32_t id) {
  const bool is_end = std::ranges::find(eos_ids_, id) != eos_ids_.end();
  if (is_end || failure()) return;
  const Status status = matcher_.Commit(id);
  if (!status.ok()) Fail(status.error().message());
}

void GrammarState::Fail(std::string why) {
  std::lock_guard lock(mutex_);
  failure_ = std::move(why);
}

}  // namespace halfmoon::serve
