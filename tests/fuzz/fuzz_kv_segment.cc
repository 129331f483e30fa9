// SPDX-License-Identifier: Apache-2.0
// Any bytes as a file of KV blocks, alone and as what follows a header that is right; then a folder
// that holds the file.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/hash.h"
#include "base/log.h"
#include "store/memory_folder_for_test.h"
#include "store/segment_store.h"

namespace {

using halfmoon::store::kDiskAlignment;
using halfmoon::store::kRecordBytes;

const halfmoon::store::PageScope kScope{
    .model_fingerprint = "m", .kv_format_version = 2, .block_size = 16, .page_bytes = 512};

// What was read says what was written.
void Parse(std::span<const std::byte> file) {
  const auto header = halfmoon::store::ParseSegmentHeader(file);
  if (!header.ok()) return;
  std::vector<std::byte> again(kDiskAlignment);
  halfmoon::store::SerializeSegmentHeader(*header, again);
  if (!halfmoon::store::ParseSegmentHeader(again).ok()) std::abort();
  const std::span<const std::byte> table = file.subspan(kDiskAlignment);
  for (uint32_t slot = 0; slot < std::min<size_t>(header->num_slots, table.size() / kRecordBytes);
       ++slot) {
    const auto bytes = table.subspan(slot * kRecordBytes, kRecordBytes);
    const auto record = halfmoon::store::ParseSlotRecord(*header, slot, bytes);
    if (!record.has_value()) continue;
    std::vector<std::byte> written(kRecordBytes);
    halfmoon::store::SerializeSlotRecord(*header, slot, *record, written);
    if (halfmoon::store::ParseSlotRecord(*header, slot, written)->key != record->key) std::abort();
  }
}

// Puts the checksum of what stands before `at` there.
void FixChecksum(std::span<std::byte> bytes, size_t at, uint64_t seed) {
  const uint64_t sum = seed == 0 ? halfmoon::Checksum(bytes.first(at))
                                 : halfmoon::HashBytes(bytes.first(at), seed).low;
  std::memcpy(bytes.data() + at, &sum, sizeof(sum));
}

void OpenFolder(std::vector<std::byte> file) {
  const auto disk = std::make_shared<halfmoon::store::MemoryDisk>();
  disk->files["0123456789abcdef-1.kvseg"] = std::move(file);
  halfmoon::store::MemoryFolder folder(disk);
  const auto store =
      halfmoon::store::SegmentStore::Open(&folder, {.scope = kScope, .budget_bytes = 1 << 20});
  if (!store.ok()) return;
  halfmoon::kv::BlockCatalog catalog({});
  (*store)->Restore(&catalog);
  if (disk->size_bytes() > 1 << 20) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  // Each file that is removed would be a line.
  [[maybe_unused]] static const bool quiet = halfmoon::InitLogging("off").ok();
  const std::span bytes = std::as_bytes(std::span(data, size));
  Parse(bytes);
  OpenFolder({bytes.begin(), bytes.end()});
  // As the records of a segment that is right otherwise; their checksums are made right too.
  const auto header = halfmoon::store::MakeSegmentHeader(kScope, 4, 1);
  std::vector<std::byte> file(header.file_bytes());
  halfmoon::store::SerializeSegmentHeader(header, file);
  const size_t count = std::min(bytes.size(), file.size() - kDiskAlignment);
  std::copy_n(bytes.begin(), count, file.begin() + kDiskAlignment);
  FixChecksum(std::span(file).first(kDiskAlignment), 72, 0);
  Parse(file);
  OpenFolder(file);
  for (size_t slot = 0; slot < 4; ++slot) {
    FixChecksum(std::span(file).subspan(kDiskAlignment + slot * kRecordBytes), 56, header.number);
  }
  Parse(file);
  OpenFolder(std::move(file));
  // As a header whose checksum is right.
  std::vector<std::byte> block(2 * kDiskAlignment);
  std::copy_n(bytes.begin(), std::min(bytes.size(), block.size()), block.begin());
  FixChecksum(block, 72, 0);
  Parse(block);
  OpenFolder(std::move(block));
  return 0;
}
