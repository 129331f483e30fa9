// SPDX-License-Identifier: Apache-2.0
#include "cluster/messages.h"

#include <type_traits>

#include "base/wire.h"

namespace halfmoon::cluster {
namespace {

// The last enumerator of what goes over the wire.
template <typename T>
constexpr T kLast{};
template <>
constexpr auto kLast<PeerKind> = PeerKind::kNode;
template <>
constexpr auto kLast<Role> = Role::kBoth;
template <>
constexpr auto kLast<Health> = Health::kDraining;
template <>
constexpr auto kLast<Tier> = Tier::kSsd;
template <>
constexpr auto kLast<FinishReason> = FinishReason::kError;
template <>
constexpr auto kLast<ErrorCode> = ErrorCode::kInternal;
template <>
constexpr auto kLast<CallId> = CallId{std::numeric_limits<uint64_t>::max()};

template <typename T>
constexpr bool kIsNumber = std::is_arithmetic_v<T>;
template <typename T>
constexpr bool kIsVector = false;
template <typename T>
constexpr bool kIsVector<std::vector<T>> = true;
template <typename T>
constexpr bool kIsOptional = false;
template <typename T>
constexpr bool kIsOptional<std::optional<T>> = true;

class Out;
class In;

// The fields of each message, once for both directions. M is const for Out.
template <typename A, typename M>
void Fields(A& a, M& m) {
  using T = std::remove_const_t<M>;
  if constexpr (std::is_same_v<T, Hello>) {
    a(m.version), a(m.kind);
  } else if constexpr (std::is_same_v<T, sched::PromptCost>) {
    a(m.fixed_us), a(m.token_us), a(m.position_us);
  } else if constexpr (std::is_same_v<T, DecodeCost>) {
    a(m.fixed_us), a(m.sequence_us), a(m.kv_token_us);
  } else if constexpr (std::is_same_v<T, NodeCosts>) {
    a(m.prefill), a(m.decode), a(m.network_bytes_per_s), a(m.ssd_bytes_per_s);
  } else if constexpr (std::is_same_v<T, NodeInfo>) {
    a(m.role), a(m.health), a(m.kv_tokens), a(m.kv_bytes_per_token), a(m.max_running);
    a(m.prefill_share), a(m.costs);
  } else if constexpr (std::is_same_v<T, NodeDescription>) {
    a(m.name), a(m.incarnation), a(m.address), a(m.http_url), a(m.version), a(m.model);
    a(m.fingerprint), a(m.kv_format_version), a(m.block_size), a(m.max_request_tokens);
    a(m.vocab_size), a(m.info);
  } else if constexpr (std::is_same_v<T, Join>) {
    a(m.address);
  } else if constexpr (std::is_same_v<T, Ticket> || std::is_same_v<T, Hash128>) {
    a(m.high), a(m.low);
  } else if constexpr (std::is_same_v<T, kv::BlockKey>) {
    a(m.hash);
  } else if constexpr (std::is_same_v<T, SourceSpec>) {
    a(m.address), a(m.ticket), a(m.first_block), a(m.num_blocks), a(m.patience_us);
  } else if constexpr (std::is_same_v<T, std::pair<int32_t, float>>) {
    a(m.first), a(m.second);
  } else if constexpr (std::is_same_v<T, Sampling>) {
    a(m.temperature), a(m.top_p), a(m.top_k), a(m.min_p), a(m.repetition_penalty);
    a(m.presence_penalty), a(m.frequency_penalty), a(m.seed), a(m.logit_bias);
  } else if constexpr (std::is_same_v<T, GrammarSpec>) {
    a(m.kind), a(m.source), a(m.eos_ids);
  } else if constexpr (std::is_same_v<T, Turn>) {
    a(m.priority), a(m.yield_us), a(m.max_chunk_us);
  } else if constexpr (std::is_same_v<T, GenerateRequest>) {
    a(m.prompt_ids), a(m.sampling), a(m.max_tokens), a(m.stop_ids), a(m.num_logprobs);
    a(m.prompt_logprobs), a(m.cache_salt), a(m.resumed_tokens), a(m.grammar), a(m.turn);
  } else if constexpr (std::is_same_v<T, Submit>) {
    a(m.call), a(m.request), a(m.sources), a(m.credit);
  } else if constexpr (std::is_same_v<T, Credit>) {
    a(m.call), a(m.events);
  } else if constexpr (std::is_same_v<T, Cancel>) {
    a(m.call);
  } else if constexpr (std::is_same_v<T, Logprob>) {
    a(m.id), a(m.logprob);
  } else if constexpr (std::is_same_v<T, TokenEvent>) {
    a(m.id), a(m.logprob), a(m.top);
  } else if constexpr (std::is_same_v<T, PromptEvent>) {
    a(m.cached_tokens), a(m.prompt_logprobs);
  } else if constexpr (std::is_same_v<T, ProgressEvent>) {
    a(m.computed_tokens), a(m.prompt_tokens);
  } else if constexpr (std::is_same_v<T, FinishEvent>) {
    a(m.reason), a(m.error);
  } else if constexpr (std::is_same_v<T, Events>) {
    a(m.call), a(m.events);
  } else if constexpr (std::is_same_v<T, Export>) {
    a(m.ticket), a(m.prompt_ids), a(m.cache_salt), a(m.first_block), a(m.num_blocks);
    a(m.cached_only), a(m.sources), a(m.turn);
  } else if constexpr (std::is_same_v<T, CancelExport> || std::is_same_v<T, Pull> ||
                       std::is_same_v<T, PullDone>) {
    a(m.ticket);
  } else if constexpr (std::is_same_v<T, ExportEnded>) {
    a(m.ticket), a(m.num_blocks), a(m.cached_tokens), a(m.found), a(m.error);
  } else if constexpr (std::is_same_v<T, TierCounts>) {
    a(m.pages), a(m.dram), a(m.ssd);
  } else if constexpr (std::is_same_v<T, LoadReport>) {
    a(m.decoding), a(m.decoding_kv_tokens), a(m.waiting_prompt_tokens), a(m.step_us);
  } else if constexpr (std::is_same_v<T, Load>) {
    a(m.health), a(m.report), a(m.costs), a(m.running), a(m.queued), a(m.pages_total);
    a(m.pages_in_use), a(m.pages_cached), a(m.sent_bytes), a(m.received_bytes), a(m.exports);
    a(m.blocks), a(m.hits);
  } else if constexpr (std::is_same_v<T, Blocks>) {
    a(m.tier), a(m.added), a(m.removed);
  } else if constexpr (std::is_same_v<T, KvSegment>) {
    a(m.ticket), a(m.descriptor), a(m.layer_bytes), a(m.num_layers);
  } else if constexpr (std::is_same_v<T, KvReady>) {
    a(m.ticket), a(m.first_block), a(m.first_layer), a(m.end_layer), a(m.offsets), a(m.checksums);
  } else {
    static_assert(std::is_same_v<T, KvEnd>);
    a(m.ticket), a(m.error);
  }
}

class Out {
 public:
  template <typename T>
  void operator()(const T& value) {
    if constexpr (kIsNumber<T> || std::is_enum_v<T>) {
      writer_.Put(value);
    } else if constexpr (std::is_same_v<T, std::string>) {
      writer_.PutText(value);
    } else if constexpr (std::is_same_v<T, Error>) {
      writer_.Put(value.code());
      writer_.PutText(value.message());
    } else if constexpr (std::is_same_v<T, Event>) {
      writer_.Put(static_cast<uint8_t>(value.index()));
      std::visit([this](const auto& event) { (*this)(event); }, value);
    } else if constexpr (kIsOptional<T>) {
      writer_.Put(value.has_value());
      if (value.has_value()) (*this)(*value);
    } else if constexpr (kIsVector<T>) {
      if constexpr (kIsNumber<typename T::value_type>) {
        writer_.PutList(value);
      } else {
        writer_.Put(static_cast<uint32_t>(value.size()));
        for (const auto& element : value) (*this)(element);
      }
    } else {
      Fields(*this, value);
    }
  }
  std::string Take() { return writer_.Take(); }

 private:
  WireWriter writer_;
};

class In {
 public:
  explicit In(std::string_view bytes) : reader_(bytes) {}

  template <typename T>
  void operator()(T& value) {
    if constexpr (kIsNumber<T>) {
      value = reader_.Get<T>();
    } else if constexpr (std::is_enum_v<T>) {
      value = reader_.GetEnum(kLast<T>);
    } else if constexpr (std::is_same_v<T, std::string>) {
      value = reader_.GetText();
    } else if constexpr (std::is_same_v<T, Event>) {
      TakeEvent(&value);
    } else if constexpr (std::is_same_v<T, std::optional<Error>>) {
      if (!reader_.Get<bool>()) return;
      const auto code = reader_.GetEnum(kLast<ErrorCode>);
      value.emplace(code, reader_.GetText());
    } else if constexpr (kIsOptional<T>) {
      if (reader_.Get<bool>()) (*this)(value.emplace());
    } else if constexpr (kIsVector<T>) {
      if constexpr (kIsNumber<typename T::value_type>) {
        value = reader_.GetList<typename T::value_type>();
      } else {
        // No element is shorter than a byte, and memory grows by what is there.
        const size_t count = reader_.GetCount(1);
        for (size_t i = 0; i < count && reader_.ok(); ++i) (*this)(value.emplace_back());
      }
    } else {
      Fields(*this, value);
    }
  }
  Status Finish(std::string_view what) const { return reader_.Finish(what); }

 private:
  void TakeEvent(Event* event) {
    switch (reader_.Get<uint8_t>()) {
      case 0:
        return (*this)(event->emplace<ProgressEvent>());
      case 1:
        return (*this)(event->emplace<PromptEvent>());
      case 2:
        return (*this)(event->emplace<TokenEvent>());
      case 3:
        return (*this)(event->emplace<FinishEvent>());
      default:
        reader_.Fail();
    }
  }

  WireReader reader_;
};

template <typename T>
std::string EncodeAny(const T& message) {
  Out out;
  out(message);
  return out.Take();
}

template <typename T>
Status DecodeAny(std::string_view bytes, T* message, std::string_view what) {
  *message = T{};
  In in(bytes);
  in(*message);
  return in.Finish(what);
}

}  // namespace

#define HALFMOON_CLUSTER_MESSAGE(Type, what)                             \
  std::string Encode(const Type& message) { return EncodeAny(message); } \
  Status Decode(std::string_view bytes, Type* message) {                 \
    return DecodeAny(bytes, message, "cluster message '" what "'");      \
  }
HALFMOON_CLUSTER_MESSAGE(Hello, "hello")
HALFMOON_CLUSTER_MESSAGE(NodeDescription, "describe")
HALFMOON_CLUSTER_MESSAGE(Join, "join")
HALFMOON_CLUSTER_MESSAGE(Submit, "submit")
HALFMOON_CLUSTER_MESSAGE(Credit, "credit")
HALFMOON_CLUSTER_MESSAGE(Cancel, "cancel")
HALFMOON_CLUSTER_MESSAGE(Events, "events")
HALFMOON_CLUSTER_MESSAGE(Export, "export")
HALFMOON_CLUSTER_MESSAGE(CancelExport, "cancel export")
HALFMOON_CLUSTER_MESSAGE(ExportEnded, "export ended")
HALFMOON_CLUSTER_MESSAGE(Load, "load")
HALFMOON_CLUSTER_MESSAGE(Blocks, "blocks")
HALFMOON_CLUSTER_MESSAGE(Pull, "pull")
HALFMOON_CLUSTER_MESSAGE(KvSegment, "KV segment")
HALFMOON_CLUSTER_MESSAGE(KvReady, "KV ready")
HALFMOON_CLUSTER_MESSAGE(KvEnd, "KV end")
HALFMOON_CLUSTER_MESSAGE(PullDone, "pull done")
#undef HALFMOON_CLUSTER_MESSAGE

}  // namespace halfmoon::cluster
