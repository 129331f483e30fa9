// SPDX-License-Identifier: Apache-2.0
// A library to preload: the time of day is as many seconds off as the first eight bytes of the file
// CLOCK_JUMP_FILE say (an int64), from one call to the next, as when somebody sets the clock.
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <ctime>

namespace {

using GetTime = int (*)(clockid_t, timespec*);

const std::atomic<int64_t>* Shift() {
  static const std::atomic<int64_t>* const shift = []() -> const std::atomic<int64_t>* {
    const char* path = std::getenv("CLOCK_JUMP_FILE");
    const int file = path == nullptr ? -1 : ::open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) return nullptr;
    void* memory = ::mmap(nullptr, sizeof(int64_t), PROT_READ, MAP_SHARED, file, 0);
    ::close(file);
    return memory == MAP_FAILED ? nullptr : static_cast<const std::atomic<int64_t>*>(memory);
  }();
  return shift;
}

int64_t ShiftSeconds() {
  const std::atomic<int64_t>* shift = Shift();
  return shift == nullptr ? 0 : shift->load();
}

}  // namespace

extern "C" {

__attribute__((visibility("default"))) int clock_gettime(clockid_t clock, timespec* time) {
  static const auto real = reinterpret_cast<GetTime>(::dlsym(RTLD_NEXT, "clock_gettime"));
  const int result = real(clock, time);
  if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
    time->tv_sec += ShiftSeconds();
  }
  return result;
}

__attribute__((visibility("default"))) int gettimeofday(timeval* time, void*) {
  timespec now{};
  const int result = clock_gettime(CLOCK_REALTIME, &now);
  if (time != nullptr) *time = {.tv_sec = now.tv_sec, .tv_usec = now.tv_nsec / 1000};
  return result;
}

__attribute__((visibility("default"))) time_t time(time_t* out) {
  timespec now{};
  if (clock_gettime(CLOCK_REALTIME, &now) != 0) return -1;
  if (out != nullptr) *out = now.tv_sec;
  return now.tv_sec;
}

}  // extern "C"
