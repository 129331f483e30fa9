// SPDX-License-Identifier: Apache-2.0
// Where ops run. The CPU stream executes at once on a pool; an accelerator's would record.
#pragma once

#include "base/thread_pool.h"
#include "kernels/isa.h"

namespace halfmoon::kernels {

struct KernelTable;

/// A pool and the kernels of one instruction set. Borrowed by ops; not thread-safe: one step at a
/// time.
class Stream {
 public:
  /// Both outlive the stream.
  Stream(ThreadPool& pool, Isa isa);

  ThreadPool& pool() const { return pool_; }
  Isa isa() const { return isa_; }
  const KernelTable& table() const { return table_; }

 private:
  ThreadPool& pool_;
  Isa isa_;
  const KernelTable& table_;
};

}  // namespace halfmoon::kernels
