// SPDX-License-Identifier: Apache-2.0
// Messages between the processes of a cluster: whatever the bytes, decoding ends in an error or in
// a message that encodes to the same bytes again. The first byte chooses the message.
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "cluster/messages.h"

namespace {

using namespace halfmoon::cluster;

template <typename Message>
void Check(std::string_view bytes) {
  Message message;
  const halfmoon::Status status = Decode(bytes, &message);
  if (!status.ok()) {
    if (status.error().code() != halfmoon::ErrorCode::kCorrupt) std::abort();
    return;
  }
  // A bool may come as any byte, and goes out as 0 or 1; nothing else may change.
  Message again;
  const std::string first = Encode(message);
  if (!Decode(first, &again).ok() || Encode(again) != first) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  using Checker = void (*)(std::string_view);
  constexpr Checker kCheckers[] = {
      Check<Hello>,  Check<NodeDescription>, Check<Join>,   Check<Submit>,       Check<Credit>,
      Check<Cancel>, Check<Events>,          Check<Export>, Check<CancelExport>, Check<ExportEnded>,
      Check<Load>,   Check<Blocks>,          Check<Pull>,   Check<KvSegment>,    Check<KvReady>,
      Check<KvEnd>,  Check<PullDone>};
  kCheckers[data[0] % std::size(kCheckers)](bytes);
  return 0;
}
