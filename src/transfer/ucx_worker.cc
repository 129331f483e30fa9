// SPDX-License-Identifier: Apache-2.0
// UCX' active messages between two workers. A message is sent whole; long ones become a rendezvous,
// in which the receiver copies from the sender's memory where a transport can (CMA within a host,
// RDMA between hosts) and the sender sends otherwise.
//
// Why not its one-sided gets, which need no work of the sender: within a host UCX has none for
// memory that it did not allocate and emulates them, and whoever takes emulated gets and puts lets
// any peer read and write at any address. Contexts here are without them.
#include <sys/epoll.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <optional>
#include <set>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/check.h"
#include "transfer/ucx.h"
#include "transfer/ucx_library.h"

namespace halfmoon::transfer {

namespace {

constexpr unsigned kMessageId = 1;
// Calls to UCX before others on the loop have a turn; one copies at most about a megabyte.
constexpr int kTurnCalls = 32;
// What a receive that is under way may still take when its worker is stopped: within a host one
// copy of 64 MiB takes about 10 ms.
constexpr TimeUs kDrainUs = 100'000;
// With it, a user chooses transports.
constexpr const char* kTransportsVariable = "UCX_TLS";
// Workers that could not be ended. With more, UCX is not used for new connections.
constexpr size_t kMaxAbandoned = 16;

/// Of this process, which they stay in: UCX ends the process when a worker is destroyed while it
/// waits for what a peer that has gone was to send.
struct Abandoned {
  std::mutex mutex;
  std::vector<ucp_worker_h> workers;  // GUARDED_BY(mutex)
};

Abandoned& AbandonedWorkers() {
  static Abandoned abandoned;
  return abandoned;
}

using Header = std::array<char, kUcxHeaderBytes>;

class Worker final : public UcxWorker {
 public:
  /// `by_hardware`: receives may go on without calls to UCX.
  Worker(const UcxLibrary* library, bool by_hardware, EventLoop* loop, UcxEvents* events)
      : library_(*library), by_hardware_(by_hardware), loop_(loop), events_(events) {}
  ~Worker() override { Stop(); }

  Status Start(ucp_context_h context);
  const std::string& address() const override { return address_; }
  Status Connect(std::string_view address) override;
  void Send(const UcxHeader& header, std::span<const std::byte> bytes,
            std::function<void(const Status&)> sent) override;
  void Stop() override;
  void OnEvents(uint32_t) override { Turn(); }

 private:
  struct Sending {
    Worker* worker = nullptr;
    Header header;
    std::function<void(const Status&)> sent;
  };
  struct Receiving {
    Worker* worker = nullptr;
    UcxHeader header;
  };

  static void OnSent(void* request, ucs_status_t status, void* user_data);
  static ucs_status_t OnMessage(void* arg, const void* header, size_t header_bytes, void* data,
                                size_t size, const ucp_am_recv_param_t* param);
  static void OnReceived(void* request, ucs_status_t status, size_t size, void* user_data);
  static void OnEndpointError(void* arg, ucp_ep_h endpoint, ucs_status_t status);

  bool Receive(const UcxHeader& header, void* data, size_t size, std::byte* target);
  Status Named(const char* what, ucs_status_t status) const;
  void Turn();
  void TurnAgain();

  const UcxLibrary& library_;
  const bool by_hardware_;
  EventLoop* const loop_;
  UcxEvents* const events_;
  ucp_worker_h worker_ = nullptr;  // nullptr once stopped
  ucp_ep_h endpoint_ = nullptr;
  std::optional<WatchId> watch_;
  std::string address_;
  Status status_;
  bool again_ = false;
  std::shared_ptr<Worker*> self_ = std::make_shared<Worker*>(this);  // posted turns know of our end
  std::unordered_map<Sending*, std::unique_ptr<Sending>> sending_;
  std::unordered_map<Receiving*, std::unique_ptr<Receiving>> receiving_;
};

Status Worker::Named(const char* what, ucs_status_t status) const {
  if (status == UCS_OK) return {};
  return Error(ErrorCode::kUnavailable,
               std::string("UCX: ") + what + ": " + library_.status_string(status));
}

Status Worker::Start(ucp_context_h context) {
  ucp_worker_params_t params = {};
  params.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE;
  params.thread_mode = UCS_THREAD_MODE_SINGLE;
  HM_TRY(Named("worker", library_.worker_create(context, &params, &worker_)));
  ucp_am_handler_param_t handler = {};
  handler.field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_FLAGS |
                       UCP_AM_HANDLER_PARAM_FIELD_CB | UCP_AM_HANDLER_PARAM_FIELD_ARG;
  handler.id = kMessageId;
  handler.flags = UCP_AM_FLAG_WHOLE_MSG;
  handler.cb = &Worker::OnMessage;
  handler.arg = this;
  HM_TRY(Named("message handler", library_.worker_set_am_recv_handler(worker_, &handler)));
  ucp_address_t* address = nullptr;
  size_t address_bytes = 0;
  HM_TRY(Named("worker address", library_.worker_get_address(worker_, &address, &address_bytes)));
  address_.assign(reinterpret_cast<const char*>(address), address_bytes);
  library_.worker_release_address(worker_, address);
  if (address_.size() > kMaxWorkerAddressBytes) {
    return Error(ErrorCode::kUnsupported,
                 "UCX: a worker's address of " + std::to_string(address_.size()) +
                     " bytes (too many network devices: UCX_NET_DEVICES chooses some)");
  }
  int event_fd = -1;
  HM_TRY(Named("event file", library_.worker_get_efd(worker_, &event_fd)));
  HM_ASSIGN(watch_, loop_->Watch(event_fd, EPOLLIN, this));
  TurnAgain();
  return {};
}

Status Worker::Connect(std::string_view address) {
  ucp_ep_params_t params = {};
  params.field_mask = UCP_EP_PARAM_FIELD_REMOTE_ADDRESS | UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE |
                      UCP_EP_PARAM_FIELD_ERR_HANDLER;
  params.address = reinterpret_cast<const ucp_address_t*>(address.data());
  params.err_handler = {.cb = &Worker::OnEndpointError, .arg = this};
  // Transports that report a peer's failure are asked for first; shared memory has none.
  params.err_mode = UCP_ERR_HANDLING_MODE_PEER;
  ucs_status_t status = library_.ep_create(worker_, &params, &endpoint_);
  if (status == UCS_ERR_UNREACHABLE) {
    params.err_mode = UCP_ERR_HANDLING_MODE_NONE;
    status = library_.ep_create(worker_, &params, &endpoint_);
  }
  TurnAgain();
  return Named("endpoint", status);
}

void Worker::Send(const UcxHeader& header, std::span<const std::byte> bytes,
                  std::function<void(const Status&)> sent) {
  auto sending = std::make_unique<Sending>(
      Sending{.worker = this, .header = header.Format(), .sent = std::move(sent)});
  ucp_request_param_t param = {};
  param.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA;
  param.cb.send = &Worker::OnSent;
  param.user_data = sending.get();
  void* const request =
      library_.am_send_nbx(endpoint_, kMessageId, sending->header.data(), sending->header.size(),
                           bytes.data(), bytes.size(), &param);
  TurnAgain();
  if (UCS_PTR_IS_PTR(request)) {
    Sending* const raw = sending.get();
    sending_.emplace(raw, std::move(sending));
    return;
  }
  const Status status = Named("send", UCS_PTR_STATUS(request));
  if (!status.ok()) status_ = status;
  sending->sent(status);
}

void Worker::OnSent(void* request, ucs_status_t status, void* user_data) {
  auto* const raw = static_cast<Sending*>(user_data);
  Worker& worker = *raw->worker;
  worker.library_.request_free(request);
  const auto found = worker.sending_.find(raw);
  const std::unique_ptr<Sending> sending = std::move(found->second);
  worker.sending_.erase(found);
  if (worker.watch_) sending->sent(worker.Named("send", status));
}

ucs_status_t Worker::OnMessage(void* arg, const void* header_bytes, size_t header_size, void* data,
                               size_t size, const ucp_am_recv_param_t* param) {
  auto& worker = *static_cast<Worker*>(arg);
  const Result<UcxHeader> header =
      UcxHeader::Parse({static_cast<const char*>(header_bytes), header_size});
  if (!worker.watch_ || !header.ok() || size == 0) return UCS_OK;
  std::byte* const target = worker.events_->OnMessage(*header, size);
  if (target == nullptr) return UCS_OK;  // the sender is told that it is done with it
  if ((param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV) == 0) {
    std::memcpy(target, data, size);
    worker.events_->OnReceived(*header, {});
    return UCS_OK;
  }
  return worker.Receive(*header, data, size, target) ? UCS_INPROGRESS : UCS_OK;
}

bool Worker::Receive(const UcxHeader& header, void* data, size_t size, std::byte* target) {
  auto receiving = std::make_unique<Receiving>(Receiving{.worker = this, .header = header});
  ucp_request_param_t param = {};
  param.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA;
  param.cb.recv_am = &Worker::OnReceived;
  param.user_data = receiving.get();
  void* const request = library_.am_recv_data_nbx(worker_, data, target, size, &param);
  if (UCS_PTR_IS_PTR(request)) {
    Receiving* const raw = receiving.get();
    receiving_.emplace(raw, std::move(receiving));
    return true;
  }
  events_->OnReceived(header, Named("receive", UCS_PTR_STATUS(request)));
  return false;
}

void Worker::OnReceived(void* request, ucs_status_t status, size_t, void* user_data) {
  auto* const raw = static_cast<Receiving*>(user_data);
  Worker& worker = *raw->worker;
  worker.library_.request_free(request);
  const UcxHeader header = raw->header;
  worker.receiving_.erase(raw);
  if (worker.watch_) worker.events_->OnReceived(header, worker.Named("receive", status));
}

void Worker::OnEndpointError(void* arg, ucp_ep_h, ucs_status_t status) {
  auto& worker = *static_cast<Worker*>(arg);
  worker.status_ = worker.Named("connection", status);
}

void Worker::Turn() {
  if (worker_ == nullptr) return;
  int calls = 0;
  while (calls < kTurnCalls && library_.worker_progress(worker_) > 0) ++calls;
  // Without it the event file tells of nothing.
  const ucs_status_t armed = calls < kTurnCalls ? library_.worker_arm(worker_) : UCS_ERR_BUSY;
  if (armed == UCS_ERR_BUSY) {
    TurnAgain();
  } else if (armed != UCS_OK) {
    status_ = Named("wait", armed);
  }
  events_->OnTurn(status_);  // may be our end
}

void Worker::TurnAgain() {
  if (std::exchange(again_, true)) return;
  loop_->Post([self = std::weak_ptr(self_)] {
    const std::shared_ptr<Worker*> worker = self.lock();
    if (worker == nullptr) return;
    (*worker)->again_ = false;
    (*worker)->Turn();
  });
}

void Worker::Stop() {
  if (watch_) loop_->Unwatch(*watch_);
  watch_.reset();
  if (worker_ == nullptr) return;
  // A copy in progress ends soon, in success or, where the peer has gone, in an error.
  for (const TimeUs end_us = loop_->NowUs() + kDrainUs;
       !receiving_.empty() && loop_->NowUs() < end_us;) {
    library_.worker_progress(worker_);
  }
  if (receiving_.empty() || by_hardware_) {
    library_.worker_destroy(worker_);  // ends what is under way, for which it may call back
  } else {
    // What is missing comes by messages, which nobody takes any more.
    std::lock_guard lock(AbandonedWorkers().mutex);
    AbandonedWorkers().workers.push_back(worker_);
  }
  worker_ = nullptr;
  sending_.clear();
  receiving_.clear();
}

class LoadedUcx final : public Ucx {
 public:
  explicit LoadedUcx(const UcxLibrary* library)
      : library_(*library), version_(library->get_version_string()) {}
  ~LoadedUcx() override {
    // Where workers stay, so does what they stand on.
    std::lock_guard lock(AbandonedWorkers().mutex);
    if (!AbandonedWorkers().workers.empty()) return;
    for (const ucp_context_h context : contexts_) {
      if (context != nullptr) library_.cleanup(context);
    }
  }

  Status Start();
  const std::string& version() const override { return version_; }
  const std::string& transports() const override { return transports_; }
  uint64_t wire_version() const override {
    unsigned major = 0;
    unsigned minor = 0;
    unsigned release = 0;
    library_.get_version(&major, &minor, &release);
    return uint64_t{major} << 16 | minor;
  }
  Result<std::unique_ptr<UcxWorker>> MakeWorker(UcxUse use, EventLoop* loop,
                                                UcxEvents* events) override;

 private:
  Status StartContext(UcxUse use);
  std::set<std::string> FindTransports() const;

  const UcxLibrary& library_;
  const std::string version_;
  std::string transports_;
  bool by_hardware_ = false;
  std::array<ucp_context_h, 2> contexts_ = {};  // by UcxUse
};

Status LoadedUcx::StartContext(UcxUse use) {
  ucp_context_h* const context = &contexts_[static_cast<size_t>(use)];
  if (*context != nullptr) return {};
  ucp_config_t* config = nullptr;
  ucs_status_t status = library_.config_read(nullptr, nullptr, &config);
  auto set = [&](const char* name, const char* value) {
    if (status == UCS_OK) status = library_.config_modify(config, name, value);
  };
  // Its TCP lets anybody connect who reaches its port; ours asks for the token.
  if (std::getenv(kTransportsVariable) == nullptr) set("TLS", "^tcp");
  // The receiver reads, so that nobody else writes to its memory.
  set("RNDV_SCHEME", "get_zcopy");
  // Messages name objects of the other end by number, or by address. A receiver takes numbers: it
  // gets messages for endpoints that UCX has given up since, whose memory is another's. A sender
  // takes addresses, as UCX cannot end a worker with sends under way that have numbers.
  set("PROTO_INDIRECT_ID", use == UcxUse::kReceive ? "y" : "n");
  if (status == UCS_OK) {
    ucp_params_t params = {};
    params.field_mask = UCP_PARAM_FIELD_FEATURES;
    params.features = UCP_FEATURE_AM | UCP_FEATURE_WAKEUP;
    status = library_.init_version(UCP_API_MAJOR, UCP_API_MINOR, &params, config, context);
  }
  if (config != nullptr) library_.config_release(config);
  if (status == UCS_OK) return {};
  *context = nullptr;
  return Error(ErrorCode::kIo, "UCX " + version_ + ": " + library_.status_string(status));
}

Status LoadedUcx::Start() {
  HM_TRY(StartContext(UcxUse::kReceive));
  const std::set<std::string> found = FindTransports();
  bool copies = false;
  for (const std::string& name : found) {
    transports_ += (transports_.empty() ? "" : ", ") + name;
    const bool rdma = name.starts_with("rc_") || name.starts_with("dc_") || name.starts_with("ud_");
    by_hardware_ = by_hardware_ || rdma;
    copies = copies || rdma || name == "cma" || name == "xpmem" || name == "knem" ||
             std::getenv(kTransportsVariable) != nullptr;
  }
  if (copies) return {};
  return Error(ErrorCode::kUnsupported,
               "UCX " + version_ +
                   " finds no transport here that copies for both ends: neither a "
                   "device for RDMA nor the permission to read other processes' memory (CMA)");
}

std::set<std::string> LoadedUcx::FindTransports() const {
  std::set<std::string> names;
  std::string text(64 << 10, '\0');  // what does not fit is not needed: it comes after
  FILE* const stream = ::fmemopen(text.data(), text.size(), "w");
  if (stream == nullptr) return names;
  library_.context_print_info(contexts_[static_cast<size_t>(UcxUse::kReceive)], stream);
  std::fclose(stream);
  // "# resource 3  :  md 2  dev 1  flags -- posix/memory"
  std::string_view left(text.c_str());
  while (!left.empty()) {
    const std::string_view line = left.substr(0, left.find('\n'));
    left.remove_prefix(std::min(left.size(), line.size() + 1));
    const size_t slash = line.rfind('/');
    if (line.find(" resource ") == std::string_view::npos || slash == std::string_view::npos) {
      continue;
    }
    const size_t space = line.rfind(' ', slash);
    const std::string name(line.substr(space + 1, slash - space - 1));
    if (name != "self") names.insert(name);
  }
  return names;
}

Result<std::unique_ptr<UcxWorker>> LoadedUcx::MakeWorker(UcxUse use, EventLoop* loop,
                                                         UcxEvents* events) {
  {
    std::lock_guard lock(AbandonedWorkers().mutex);
    if (AbandonedWorkers().workers.size() >= kMaxAbandoned) {
      return Error(ErrorCode::kIo, "UCX: too many peers went away in the middle of a message");
    }
  }
  HM_TRY(StartContext(use));
  auto worker = std::make_unique<Worker>(&library_, by_hardware_, loop, events);
  const Status status = worker->Start(contexts_[static_cast<size_t>(use)]);
  if (!status.ok()) return Error(ErrorCode::kIo, status.error().message());
  return std::unique_ptr<UcxWorker>(std::move(worker));
}

}  // namespace

Result<std::unique_ptr<Ucx>> StartUcx() {
  const Result<UcxLibrary>& library = UcxLibrary::Get();
  if (!library.ok()) return library.error();
  auto ucx = std::make_unique<LoadedUcx>(&*library);
  HM_TRY(ucx->Start());
  return std::unique_ptr<Ucx>(std::move(ucx));
}

}  // namespace halfmoon::transfer
