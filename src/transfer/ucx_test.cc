// SPDX-License-Identifier: Apache-2.0
#include "transfer/ucx.h"

#include <dlfcn.h>
#include <gmock/gmock.h>
#include <signal.h>

#include <string>

#include "transfer/engine_for_test.h"

namespace halfmoon::transfer {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

TEST(Ucx, ThatIsRunning_HandlesNoSignalOfOurs) {
  const Result<std::unique_ptr<Ucx>> ucx = StartUcx();
  if (!ucx.ok()) GTEST_SKIP() << ucx.error().message();
  for (int number = 1; number < NSIG; ++number) {
    struct sigaction action = {};
    if (::sigaction(number, nullptr, &action) != 0) continue;
    if (action.sa_handler == SIG_DFL || action.sa_handler == SIG_IGN) continue;
    Dl_info where = {};
    if (::dladdr(reinterpret_cast<void*>(action.sa_handler), &where) == 0) continue;
    EXPECT_THAT(where.dli_fname, Not(HasSubstr("libuc"))) << "signal " << number;
  }
}

TEST(Ucx, Transports_AreNamedAndItsTcpIsNone) {
  const Result<std::unique_ptr<Ucx>> ucx = StartUcx();
  if (!ucx.ok()) {
    EXPECT_THAT(DescribeUcx(), StartsWith("none: "));
    GTEST_SKIP() << ucx.error().message();
  }
  EXPECT_THAT(DescribeUcx(), StartsWith("UCX " + (*ucx)->version() + " ("));
  EXPECT_FALSE((*ucx)->transports().empty());
  if (std::getenv("UCX_TLS") == nullptr) {
    EXPECT_THAT((*ucx)->transports(), Not(HasSubstr("tcp")));
  }
  EXPECT_GT((*ucx)->wire_version(), uint64_t{1} << 16);
}

TEST(Ucx, AddressOfAWorker_FitsIntoAMessage) {
  const Result<std::unique_ptr<Ucx>> ucx = StartUcx();
  if (!ucx.ok()) GTEST_SKIP() << ucx.error().message();
  const MonotonicClock clock;
  const std::unique_ptr<EventLoop> loop = EventLoop::Create(&clock).value();
  class NoEvents final : public UcxEvents {
    std::byte* OnMessage(const UcxHeader&, uint64_t) override { return nullptr; }
    void OnReceived(const UcxHeader&, const Status&) override {}
    void OnTurn(const Status&) override {}
  } events;
  for (const UcxUse use : {UcxUse::kSend, UcxUse::kReceive}) {
    const std::unique_ptr<UcxWorker> worker = (*ucx)->MakeWorker(use, loop.get(), &events).value();
    EXPECT_GT(worker->address().size(), 0u);
    EXPECT_LE(worker->address().size(), kMaxWorkerAddressBytes);
    worker->Stop();
    worker->Stop();  // once more is nothing
  }
}

}  // namespace
}  // namespace halfmoon::transfer
