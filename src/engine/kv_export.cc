// SPDX-License-Identifier: Apache-2.0
#include "engine/kv_export.h"

namespace halfmoon::engine {

void KvExport::Release() {
  released_.store(true, std::memory_order_release);
  std::lock_guard lock(mutex_);
  if (wake_ != nullptr) wake_->Raise();
}

void KvExport::SetWake(std::shared_ptr<WakeSignal> wake) {
  std::lock_guard lock(mutex_);
  wake_ = std::move(wake);
}

}  // namespace halfmoon::engine
