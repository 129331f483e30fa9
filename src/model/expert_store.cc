// SPDX-License-Identifier: Apache-2.0
#include "model/expert_store.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "model/pack_matrix.h"

namespace halfmoon::model {
namespace {

constexpr size_t kPage = FileReader::kAlignment;
// Two let one expert be read while another is packed.
constexpr size_t kMinReadBuffers = 2;
// Read buffers take an eighth of the budget at most, and no more than what keeps a disk busy for
// the experts of a few tokens.
constexpr size_t kReadShare = 8;
constexpr size_t kReadBuffersPerChoice = 4;
constexpr size_t kMinReadBuffersLimit = 16;
// Of what was foretold, as many are remembered for judging.
constexpr uint64_t kJudgedAtMost = 4096;
constexpr uint64_t kJudgedAtLeast = 64;
// Parts of an expert: values and scales of three matrices.
constexpr uint64_t kParts = 6;

size_t RoundUp(size_t n, size_t multiple) { return (n + multiple - 1) / multiple * multiple; }

/// Divides the budget.
Result<ExpertMemory> Divide(const ExpertCatalog& catalog, const ExpertStoreOptions& options) {
  const auto top_k = static_cast<size_t>(options.top_k);
  ExpertMemory memory{.budget_bytes = options.budget_bytes,
                      .num_experts = catalog.size(),
                      .slot_bytes = RoundUp(catalog.max_packed_bytes(), kPage),
                      .read_buffer_bytes = catalog.max_read_bytes(),
                      .packed_bytes = catalog.packed_bytes()};
  const size_t budget = options.budget_bytes;
  const size_t needed = top_k * memory.slot_bytes + kMinReadBuffers * memory.read_buffer_bytes;
  if (budget < needed) {
    return Error(ErrorCode::kInvalidArgument,
                 "an expert memory of " + std::to_string(budget) + " bytes is too small: the " +
                     std::to_string(top_k) +
                     " experts that a token uses in a layer, and two that are being read, take " +
                     std::to_string(needed) + " bytes (" + std::to_string((needed >> 20) + 1) +
                     "M)");
  }
  const size_t limit = std::max(kReadBuffersPerChoice * top_k, kMinReadBuffersLimit);
  memory.num_read_buffers =
      std::clamp(budget / kReadShare / memory.read_buffer_bytes, kMinReadBuffers, limit);
  memory.num_read_buffers = std::min(
      memory.num_read_buffers, (budget - top_k * memory.slot_bytes) / memory.read_buffer_bytes);
  memory.num_slots =
      std::min(catalog.size(),
               (budget - memory.num_read_buffers * memory.read_buffer_bytes) / memory.slot_bytes);
  return memory;
}

/// Writes to every page, so that memory which is not there is missed now and not in a step.
void Touch(tensor::AlignedBuffer* buffer, ThreadPool* pool) {
  constexpr size_t kPiece = size_t{1} << 21;
  pool->ParallelFor((buffer->size_bytes() + kPiece - 1) / kPiece, [&](size_t i, int) {
    const size_t begin = i * kPiece;
    std::memset(buffer->data() + begin, 0, std::min(kPiece, buffer->size_bytes() - begin));
  });
}

}  // namespace

Result<std::unique_ptr<ExpertStore>> ExpertStore::Create(ExpertCatalog catalog,
                                                         std::unique_ptr<FileReader> reader,
                                                         ThreadPool* pool,
                                                         const ExpertStoreOptions& options) {
  HM_ASSIGN(ExpertMemory memory, Divide(catalog, options));
  memory.method = reader->method();
  return std::unique_ptr<ExpertStore>(
      new ExpertStore(std::move(catalog), std::move(reader), pool, options, memory));
}

ExpertStore::ExpertStore(ExpertCatalog catalog, std::unique_ptr<FileReader> reader,
                         ThreadPool* pool, const ExpertStoreOptions& options,
                         const ExpertMemory& memory)
    : catalog_(std::move(catalog)),
      pool_(pool),
      options_(options),
      memory_(memory),
      slot_memory_(memory.num_slots * memory.slot_bytes),
      read_memory_(memory.num_read_buffers * memory.read_buffer_bytes),
      slots_(memory.num_slots),
      buffers_(memory.num_read_buffers),
      slot_of_(catalog_.size(), kNone),
      buffer_of_(catalog_.size(), kNone),
      policy_(catalog_.size(), memory.num_slots),
      wanted_(catalog_.size(), 0),
      pinned_(catalog_.size(), 0),
      seen_(static_cast<size_t>(options.num_experts), 0),
      foretold_(catalog_.num_layers()),
      reader_(std::move(reader)) {
  Touch(&slot_memory_, pool_);
  Touch(&read_memory_, pool_);
  // Where the limit on locked memory allows; else the budget has to be one that fits.
  memory_.locked = ::mlock(slot_memory_.data(), slot_memory_.size_bytes()) == 0 &&
                   ::mlock(read_memory_.data(), read_memory_.size_bytes()) == 0;
  for (size_t i = slots_.size(); i > 0; --i) {
    slots_[i - 1].memory = {slot_memory_.data() + (i - 1) * memory.slot_bytes, memory.slot_bytes};
    free_slots_.push_back(static_cast<int32_t>(i - 1));
  }
  for (size_t i = 0; i < buffers_.size(); ++i) {
    buffers_[i].memory = {read_memory_.data() + i * memory.read_buffer_bytes,
                          memory.read_buffer_bytes};
  }
  order_.reserve(seen_.size());
  round_ends_.reserve(seen_.size() + 1);
}

void ExpertStore::Begin(int layer, std::span<const int32_t> chosen) {
  for (const int32_t e : order_) wanted_[IndexOf(e)] = 0;
  for (const int32_t e : round_) pinned_[IndexOf(e)] = 0;
  round_ = {};
  first_ = catalog_.FirstOf(layer);
  CompleteAll();
  // A step that failed leaves others of its reads behind, which may have failed as well.
  for (ReadBuffer& buffer : buffers_) {
    if (buffer.expert != kNone && buffer.reads_left == 0 && !buffer.status.ok()) Release(&buffer);
  }
  order_.clear();
  for (const int32_t e : chosen) {
    if (std::exchange(seen_[static_cast<size_t>(e)], uint8_t{1}) == 0) order_.push_back(e);
  }
  for (const int32_t e : order_) {
    seen_[static_cast<size_t>(e)] = 0;
    policy_.Use(IndexOf(e));
  }
  JudgeForetold(layer);
  SortIntoRounds();
  StartReads();
}

void ExpertStore::SortIntoRounds() {
  // In memory, read or being read, on disk; ascending within each, so that files are read forward.
  const auto rank = [&](int32_t e) {
    const size_t expert = IndexOf(e);
    if (slot_of_[expert] != kNone) return 0;
    return buffer_of_[expert] != kNone ? 1 : 2;
  };
  std::ranges::sort(
      order_, [&](int32_t a, int32_t b) { return std::pair(rank(a), a) < std::pair(rank(b), b); });
  const auto first_of = [&](int wanted_rank) {
    const auto at = std::ranges::find_if(order_, [&](int32_t e) { return rank(e) >= wanted_rank; });
    return static_cast<size_t>(at - order_.begin());
  };
  const size_t hits = first_of(1);
  const size_t misses = order_.size() - hits;
  next_read_ = first_of(2);
  stats_.hits += hits;
  stats_.misses += misses;
  for (size_t i = hits; i < order_.size(); ++i) wanted_[IndexOf(order_[i])] = 1;
  // Rounds of half the buffers: one half is packed and computed while the other is read.
  const bool one_round = misses <= std::min(slots_.size(), buffers_.size());
  const size_t round =
      one_round ? misses : std::max<size_t>(1, std::min(slots_.size(), buffers_.size() / 2));
  round_ends_.assign(1, hits);
  for (size_t end = hits; end < order_.size();) {
    end = std::min(order_.size(), end + round);
    round_ends_.push_back(end);
  }
}

void ExpertStore::StartReads() {
  for (; next_read_ < order_.size(); ++next_read_) {
    const int32_t buffer = FreeBuffer();
    if (buffer == kNone) return;
    StartRead(IndexOf(order_[next_read_]), static_cast<size_t>(buffer), /*foretold=*/false);
  }
}

int32_t ExpertStore::FreeBuffer() {
  int32_t oldest = kNone;
  for (size_t i = 0; i < buffers_.size(); ++i) {
    const ReadBuffer& buffer = buffers_[i];
    const auto at = static_cast<int32_t>(i);
    if (buffer.expert == kNone) return at;
    if (buffer.reads_left > 0 || wanted_[static_cast<size_t>(buffer.expert)] != 0) continue;
    if (oldest == kNone || buffer.started < buffers_[static_cast<size_t>(oldest)].started) {
      oldest = at;
    }
  }
  if (oldest != kNone) Release(&buffers_[static_cast<size_t>(oldest)]);
  return oldest;
}

void ExpertStore::Release(ReadBuffer* buffer) {
  buffer_of_[static_cast<size_t>(buffer->expert)] = kNone;
  buffer->expert = kNone;
}

void ExpertStore::StartRead(size_t expert, size_t buffer, bool foretold) {
  ReadBuffer& into = buffers_[buffer];
  into.expert = static_cast<int32_t>(expert);
  into.started = reads_started_++;
  into.foretold = foretold;
  into.status = {};
  into.reads_left = 0;
  buffer_of_[expert] = static_cast<int32_t>(buffer);
  size_t at = 0;
  uint64_t part = 0;
  const auto start = [&](const std::optional<checkpoint::FileRange>& range) {
    into.data[part] = nullptr;
    const uint64_t tag = buffer * kParts + part++;
    if (!range.has_value()) return;
    into.data[part - 1] = into.memory.data() + at + FileReader::Lead(range->offset);
    ++into.reads_left;
    reader_->Submit({.tag = tag,
                     .file = range->file,
                     .offset = range->offset,
                     .size_bytes = range->size_bytes,
                     .buffer = into.memory.data() + at});
    at += FileReader::BufferBytes(range->offset, range->size_bytes);
    stats_.bytes_read += range->size_bytes;
  };
  for (const DiskMatrix& matrix : catalog_[expert].matrices) {
    start(matrix.values);
    start(matrix.scales);
  }
}

void ExpertStore::Complete(const FileReadDone& done) {
  ReadBuffer& buffer = buffers_[done.tag / kParts];
  --buffer.reads_left;
  if (!done.status.ok() && buffer.status.ok()) {
    const auto expert = static_cast<size_t>(buffer.expert);
    const DiskMatrix& matrix = catalog_[expert].matrices[done.tag % kParts / 2];
    buffer.status = done.status.error().WithContext("tensor '" + matrix.source.name() + "'");
  }
  // What was only foretold and failed is read again when it is needed.
  if (buffer.reads_left == 0 && !buffer.status.ok() &&
      wanted_[static_cast<size_t>(buffer.expert)] == 0) {
    Release(&buffer);
  }
}

void ExpertStore::CompleteAll() {
  while (const std::optional<FileReadDone> done = reader_->TryNext()) Complete(*done);
}

int32_t ExpertStore::FreeSlot() {
  if (free_slots_.empty()) {
    const size_t victim = policy_.Victim([&](size_t expert) { return pinned_[expert] != 0; });
    policy_.Remove(victim);
    free_slots_.push_back(std::exchange(slot_of_[victim], kNone));
  }
  const int32_t slot = free_slots_.back();
  free_slots_.pop_back();
  return slot;
}

Status ExpertStore::PackInto(const ReadBuffer& buffer, Slot* slot) {
  const DiskExpert& expert = catalog_[static_cast<size_t>(buffer.expert)];
  Linear* const into[] = {&slot->ffn.gate, &slot->ffn.up, &slot->ffn.down};
  size_t at = 0;
  for (size_t i = 0; i < expert.matrices.size(); ++i) {
    const DiskMatrix& matrix = expert.matrices[i];
    const MatrixSource source = matrix.source.At(buffer.data[2 * i], buffer.data[2 * i + 1]);
    HM_TRY(CheckScales(source, pool_));
    const auto memory = [&](size_t) {
      return Result(slot->memory.subspan(at, matrix.packed_bytes));
    };
    HM_ASSIGN(into[i]->weight, PackMatrix(source, RowRange(0, source.rows()), pool_, memory));
    at += matrix.packed_bytes;
  }
  return {};
}

Status ExpertStore::Pack(ReadBuffer* buffer) {
  const auto expert = static_cast<size_t>(buffer->expert);
  Status status = buffer->status;
  if (status.ok()) {
    const TimeUs begin_us = clock_.NowUs();
    const int32_t slot = FreeSlot();
    status = PackInto(*buffer, &slots_[static_cast<size_t>(slot)]);
    if (status.ok()) {
      slot_of_[expert] = slot;
      policy_.Insert(expert);
    } else {
      free_slots_.push_back(slot);
    }
    stats_.pack_us += static_cast<uint64_t>(clock_.NowUs() - begin_us);
  }
  if (buffer->foretold) ++stats_.prefetched_used;
  wanted_[expert] = 0;
  Release(buffer);
  return status;
}

Result<size_t> ExpertStore::PackRead(std::span<const int32_t> experts) {
  size_t missing = 0;
  for (const int32_t e : experts) {
    const size_t expert = IndexOf(e);
    if (slot_of_[expert] != kNone) continue;
    ++missing;
    if (buffer_of_[expert] == kNone) continue;
    ReadBuffer& buffer = buffers_[static_cast<size_t>(buffer_of_[expert])];
    if (buffer.reads_left > 0) continue;
    const Status packed = Pack(&buffer);
    // The freed buffer reads on before the next expert is packed.
    StartReads();
    HM_TRY(packed);
    --missing;
  }
  return missing;
}

Result<std::span<const int32_t>> ExpertStore::Fetch(size_t round) {
  for (const int32_t e : round_) pinned_[IndexOf(e)] = 0;
  const size_t begin = round == 0 ? 0 : round_ends_[round - 1];
  round_ = std::span<const int32_t>(order_).subspan(begin, round_ends_[round] - begin);
  for (const int32_t e : round_) pinned_[IndexOf(e)] = 1;
  for (;;) {
    CompleteAll();
    const Result<size_t> missing = PackRead(round_);
    if (!missing.ok()) {
      ++stats_.errors;
      return missing.error();
    }
    if (*missing == 0) return round_;
    StartReads();
    const TimeUs begin_us = clock_.NowUs();
    Complete(reader_->Next());
    stats_.wait_us += static_cast<uint64_t>(clock_.NowUs() - begin_us);
  }
}

const FfnWeights& ExpertStore::expert(int32_t e) const {
  const int32_t slot = slot_of_[IndexOf(e)];
  HM_DCHECK(slot != kNone);
  return slots_[static_cast<size_t>(slot)].ffn;
}

bool ExpertStore::CanPrefetch(int layer) const {
  if (!catalog_.HasLayer(layer)) return false;
  const auto begin = slot_of_.begin() + static_cast<std::ptrdiff_t>(catalog_.FirstOf(layer));
  return std::find(begin, begin + options_.num_experts, kNone) != begin + options_.num_experts;
}

void ExpertStore::JudgeForetold(int layer) {
  std::vector<int32_t>& foretold = foretold_[static_cast<size_t>(layer)];
  for (const int32_t e : foretold) {
    ++judged_;
    if (std::ranges::find(order_, e) == order_.end()) continue;
    ++came_true_;
    ++stats_.predicted_needed;
  }
  foretold.clear();
  if (judged_ > kJudgedAtMost) {
    judged_ /= 2;
    came_true_ /= 2;
  }
}

void ExpertStore::Foretell(int layer, std::span<const int32_t> experts) {
  foretold_[static_cast<size_t>(layer)].assign(experts.begin(), experts.end());
  stats_.predicted += experts.size();
  if (judged_ >= kJudgedAtLeast && 2 * came_true_ < judged_) return;
  // What this layer needs comes first.
  if (next_read_ < order_.size()) return;
  const size_t first = catalog_.FirstOf(layer);
  size_t allowed = buffers_.size() / 2;
  for (const int32_t e : experts) {
    const size_t expert = first + static_cast<size_t>(e);
    if (slot_of_[expert] != kNone || buffer_of_[expert] != kNone) continue;
    const int32_t buffer = allowed-- == 0 ? kNone : FreeBuffer();
    if (buffer == kNone) return;
    StartRead(expert, static_cast<size_t>(buffer), /*foretold=*/true);
    ++stats_.prefetched;
  }
}

}  // namespace halfmoon::model
