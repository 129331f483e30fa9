// SPDX-License-Identifier: Apache-2.0
#include "model/weight_cache.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <system_error>
#include <utility>

#include "base/log.h"

namespace halfmoon::model {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kSuffix = ".weights";
constexpr size_t kHexDigits = 32;
// Files of up to this many blocks are checked whole at each start (a few milliseconds), larger ones
// in a sample that takes as long.
constexpr size_t kWholeBlocks = 64;
constexpr size_t kSampledBlocks = 16;
// Address space for packed weights, as a multiple of the stored ones: 2-bit types pack into 4 bits,
// and what no kernel format holds becomes float32.
constexpr size_t kCapacityFactor = 12;
constexpr size_t kCapacityBytes = size_t{64} << 20;
// Of a file system, this share stays free whatever the budget.
constexpr uint64_t kReserveShare = 32;

struct Opened {
  FileDescriptor fd;
  FileMapping mapping;
};

Result<Opened> OpenFile(const fs::path& path) {
  Opened opened{
      .fd = FileDescriptor(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK))};
  struct stat info{};
  if (opened.fd.get() < 0 || ::fstat(opened.fd.get(), &info) != 0) {
    return Error(errno == ENOENT || errno == ENOTDIR ? ErrorCode::kNotFound : ErrorCode::kIo,
                 std::strerror(errno));
  }
  if (!S_ISREG(info.st_mode)) return Error(ErrorCode::kCorrupt, "not a regular file");
  HM_ASSIGN(opened.mapping, FileMapping::Map(opened.fd.get(), static_cast<size_t>(info.st_size),
                                             /*writable=*/false));
  return opened;
}

/// Whether a name is one that WeightKey::FileName makes.
bool IsCacheName(const std::string& name) {
  return name.size() >= kHexDigits + kSuffix.size() && name.ends_with(kSuffix) &&
         name.find_first_not_of("0123456789abcdef") >= kHexDigits;
}

/// The names of keys that hold what `key` needs: its own first, then those with more.
std::vector<std::string> NamesThatServe(const WeightKey& key) {
  std::vector<std::string> names;
  for (int more = 0; more < 8; ++more) {
    WeightKey wider = key;
    wider.experts = key.experts || (more & 1) != 0;
    wider.mtp = key.mtp || (more & 2) != 0;
    wider.expanded = key.expanded || (more & 4) != 0;
    std::string name = wider.FileName();
    if (std::ranges::find(names, name) == names.end()) names.push_back(std::move(name));
  }
  return names;
}

struct CacheFile {
  fs::path path;
  uint64_t size_bytes = 0;
  int64_t used_ns = 0;
};

/// The files of a folder, that used longest ago first; none where it cannot be read.
std::vector<CacheFile> FilesIn(const fs::path& folder) {
  std::vector<CacheFile> files;
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    if (!IsCacheName(it->path().filename().string())) continue;
    const Result<FileIdentity> identity = IdentityOf(it->path());
    if (!identity.ok()) continue;
    files.push_back(
        {.path = it->path(), .size_bytes = identity->size_bytes, .used_ns = identity->modified_ns});
  }
  std::ranges::sort(files, {},
                    [](const CacheFile& file) { return std::pair(file.used_ns, file.path); });
  return files;
}

/// Whether one file's matrices are among those of another that was made from the same.
bool IsPartOf(const fs::path& part, const fs::path& whole) {
  const std::string name = part.filename().string();
  const std::string other = whole.filename().string();
  if (!other.starts_with(name.substr(0, kHexDigits))) return false;
  return std::ranges::all_of(kKeyFlags, [&](std::string_view flag) {
    return name.find(flag) == std::string::npos || other.find(flag) != std::string::npos;
  });
}

/// Removes a file unless a process uses it.
bool RemoveUnused(const fs::path& path) {
  const FileDescriptor fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
  if (fd.get() < 0 || !TryLockFile(fd.get(), /*exclusive=*/true)) return false;
  return ::unlink(path.c_str()) == 0;
}

/// Whether the checkpoint that a file was made from is gone or has changed.
bool SourceGone(const std::vector<FiledSource>& sources) {
  return std::ranges::any_of(sources, [](const FiledSource& source) {
    const Result<FileIdentity> now = IdentityOf(source.path);
    return now.ok() ? *now != source.identity : now.error().code() == ErrorCode::kNotFound;
  });
}

uint64_t FreeBytes(const fs::path& folder, uint64_t* total_bytes) {
  struct statvfs system{};
  if (::statvfs(folder.c_str(), &system) != 0) return 0;
  *total_bytes = uint64_t{system.f_blocks} * system.f_frsize;
  return uint64_t{system.f_bavail} * system.f_frsize;
}

uint64_t SizeOf(const std::vector<CacheFile>& files) {
  uint64_t total = 0;
  for (const CacheFile& file : files) total += file.size_bytes;
  return total;
}

}  // namespace

WeightCache::WeightCache(WeightCacheOptions options) : options_(std::move(options)) {}

WeightCache::~WeightCache() {
  const std::lock_guard lock(mutex_);
  for (const std::unique_ptr<Saving>& saving : savings_) saving->thread.join();
}

uint64_t WeightCache::BudgetBytes() const {
  if (options_.budget_bytes > 0) return options_.budget_bytes;
  uint64_t total_bytes = 0;
  return (FreeBytes(options_.folder, &total_bytes) + SizeOf(FilesIn(options_.folder))) / 2;
}

std::shared_ptr<CachedWeights> WeightCache::Find(const WeightKey& key, ThreadPool* pool) {
  for (const std::string& name : NamesThatServe(key)) {
    const fs::path path = options_.folder / name;
    Result<Opened> opened = OpenFile(path);
    if (!opened.ok() && opened.error().code() == ErrorCode::kNotFound) continue;
    Result<WeightTable> table =
        opened.ok() ? ParseWeightFile(opened->mapping.bytes()) : opened.error();
    if (table.ok() && table->key != key.Text()) {
      table = Error(ErrorCode::kCorrupt, "made from another checkpoint");
    }
    if (table.ok()) {
      const bool small = table->checksums.size() <= kWholeBlocks;
      const Status checked =
          CheckBlocks(opened->mapping.bytes(), *table, small ? kWholeBlocks : kSampledBlocks, pool);
      if (!checked.ok()) table = checked.error();
    }
    if (!table.ok()) {
      HM_LOG_WARN("cached weights {}: {}; the weights are packed again", path.string(),
                  table.error().message());
      continue;
    }
    // Without the lock it may be removed, which does no harm to who has it mapped. Its time says
    // that it is of use; a folder that is read-only keeps the order of writing.
    (void)TryLockFile(opened->fd.get(), /*exclusive=*/false);
    (void)::futimens(opened->fd.get(), nullptr);
    return std::make_shared<CachedWeights>(std::move(opened->fd), std::move(opened->mapping),
                                           std::move(table).value());
  }
  return nullptr;
}

std::unique_ptr<WeightBuilder> WeightCache::Begin(const WeightKey& key, size_t expected_bytes) {
  const auto without = [&](const std::string& why) {
    HM_LOG_WARN("weights are packed in memory and not cached: {} (--no-cache asks for that)", why);
    return nullptr;
  };
  std::error_code error;
  fs::create_directories(options_.folder, error);
  if (error) {
    return without(options_.folder.string() + ": cannot create the folder: " + error.message());
  }
  const uint64_t budget = BudgetBytes();
  if (expected_bytes > budget) {
    return without(std::to_string(expected_bytes >> 20) + " MiB of weights, and a budget of " +
                   std::to_string(budget >> 20) + " MiB (--weight-cache-size)");
  }
  uint64_t total_bytes = 0;
  (void)FreeBytes(options_.folder, &total_bytes);
  Result<std::unique_ptr<FileArena>> arena =
      FileArena::Create(options_.folder / key.FileName(),
                        {.capacity_bytes = kCapacityFactor * expected_bytes + kCapacityBytes,
                         .max_bytes = budget,
                         .reserve_bytes = total_bytes / kReserveShare});
  if (!arena.ok()) return without(arena.error().message());
  auto builder = std::make_unique<WeightBuilder>(std::move(arena).value(), key);
  const Result<std::span<std::byte>> header = builder->Allocate(kWeightDataOffset);
  if (!header.ok()) return without(header.error().message());
  return builder;
}

std::shared_ptr<const FileArena> WeightCache::Save(std::unique_ptr<WeightBuilder> builder) {
  std::shared_ptr<FileArena> arena = builder->arena_;
  arena->MakeReadOnly();
  WeightTable table = std::move(builder->table_);
  table.key = builder->key_.Text();
  for (const checkpoint::SourceFile& source : builder->key_.sources) {
    std::error_code error;
    const fs::path absolute = fs::absolute(source.path, error);
    table.sources.push_back(
        {.path = (error ? source.path : absolute).string(), .identity = source.identity});
  }
  auto saving = std::make_unique<Saving>();
  saving->thread =
      std::thread([this, arena, saving = saving.get(), table = std::move(table)]() mutable {
        const Status written = WriteOut(arena.get(), std::move(table));
        if (!written.ok() && written.error().code() != ErrorCode::kCancelled) {
          HM_LOG_WARN("weights are not cached: {}", written.error().message());
        }
        arena.reset();
        saving->done = true;
      });
  const std::lock_guard lock(mutex_);
  savings_.push_back(std::move(saving));
  return arena;
}

bool WeightCache::WaitSaved(double seconds) {
  const auto until = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  const std::lock_guard lock(mutex_);
  for (const std::unique_ptr<Saving>& saving : savings_) {
    while (!saving->done) {
      if (std::chrono::steady_clock::now() >= until) return false;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }
  return true;
}

Status WeightCache::WriteOut(FileArena* arena, WeightTable table) {
  const std::span<const std::byte> data = arena->bytes();
  table.data_end = data.size();
  for (size_t begin = kWeightDataOffset; begin < data.size(); begin += kWeightBlockBytes) {
    if (GivenUp()) return Error(ErrorCode::kCancelled, "given up");
    table.checksums.push_back(BlockChecksum(data, table.data_end, table.checksums.size()));
  }
  if (SourceGone(table.sources)) {
    return Error(ErrorCode::kCorrupt,
                 table.sources.front().path + ": the checkpoint changed while it was read");
  }
  const std::string contents = SerializeTable(table);
  const std::string header = SerializeHeader(table.data_end, contents);
  const uint64_t at = TableOffset(table.data_end);
  HM_TRY(arena->WriteAt(at, std::as_bytes(std::span(contents))));
  HM_TRY(arena->WriteAt(0, std::as_bytes(std::span(header))));
  HM_TRY(arena->Commit(at + contents.size(), [this] { return GivenUp(); }));
  Trim(arena->path());
  return {};
}

void WeightCache::Trim(const fs::path& keep) {
  std::error_code error;
  for (fs::directory_iterator it(options_.folder, error), end; !error && it != end;
       it.increment(error)) {
    const std::string name = it->path().filename().string();
    if (!name.ends_with(".tmp") || !IsCacheName(name.substr(0, name.size() - 4))) continue;
    // Its writer would hold the lock.
    (void)RemoveUnused(it->path());
  }
  std::vector<CacheFile> files = FilesIn(options_.folder);
  std::erase_if(files, [&](const CacheFile& file) {
    if (file.path == keep) return false;
    const Result<Opened> opened = OpenFile(file.path);
    const Result<WeightTable> other =
        opened.ok() ? ParseWeightFile(opened->mapping.bytes()) : opened.error();
    const bool useless = IsPartOf(file.path, keep) || (other.ok() && SourceGone(other->sources));
    return useless && RemoveUnused(file.path);
  });
  const uint64_t budget = BudgetBytes();
  uint64_t total = SizeOf(files);
  for (const CacheFile& file : files) {
    if (total <= budget) return;
    if (file.path != keep && RemoveUnused(file.path)) total -= file.size_bytes;
  }
}

std::vector<WeightCacheEntry> WeightCache::List(bool check, ThreadPool* pool) const {
  std::vector<WeightCacheEntry> entries;
  for (const CacheFile& file : FilesIn(options_.folder)) {
    WeightCacheEntry entry{
        .path = file.path, .size_bytes = file.size_bytes, .used_ns = file.used_ns};
    const Result<Opened> opened = OpenFile(file.path);
    const Result<WeightTable> table =
        opened.ok() ? ParseWeightFile(opened->mapping.bytes()) : opened.error();
    if (!table.ok()) {
      entry.status = table.error();
    } else {
      for (const FiledSource& source : table->sources) entry.sources.push_back(source.path);
      if (check) {
        entry.status = CheckBlocks(opened->mapping.bytes(), *table, table->checksums.size(), pool);
      }
    }
    entries.push_back(std::move(entry));
  }
  return entries;
}

uint64_t WeightCache::RemoveOrphans() {
  uint64_t freed = 0;
  for (const CacheFile& file : FilesIn(options_.folder)) {
    const Result<Opened> opened = OpenFile(file.path);
    if (!opened.ok()) continue;
    const Result<WeightTable> table = ParseWeightFile(opened->mapping.bytes());
    if (table.ok() && SourceGone(table->sources) && RemoveUnused(file.path)) {
      freed += file.size_bytes;
    }
  }
  return freed;
}

}  // namespace halfmoon::model
