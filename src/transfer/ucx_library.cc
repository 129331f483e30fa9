// SPDX-License-Identifier: Apache-2.0
#include "transfer/ucx_library.h"

#include <dlfcn.h>
#include <signal.h>

#include <array>
#include <cstdlib>
#include <string>

namespace halfmoon::transfer {

namespace {

/// What the process does on signals, put back at the end: loading UCX installs handlers that print
/// a backtrace and halt the process.
class SignalActions {
 public:
  SignalActions() {
    for (size_t i = 1; i < actions_.size(); ++i) {
      known_[i] = ::sigaction(static_cast<int>(i), nullptr, &actions_[i]) == 0;
    }
  }
  ~SignalActions() {
    for (size_t i = 1; i < actions_.size(); ++i) {
      struct sigaction now = {};
      if (!known_[i] || ::sigaction(static_cast<int>(i), nullptr, &now) != 0) continue;
      const bool same =
          now.sa_handler == actions_[i].sa_handler && now.sa_flags == actions_[i].sa_flags;
      if (!same) ::sigaction(static_cast<int>(i), &actions_[i], nullptr);
    }
  }
  SignalActions(const SignalActions&) = delete;
  SignalActions& operator=(const SignalActions&) = delete;

 private:
  std::array<struct sigaction, NSIG> actions_ = {};
  std::array<bool, NSIG> known_ = {};
};

/// It reads its global settings, and hooks mmap and malloc, as it is loaded: no hooks (they are for
/// its cache of registered memory, which we do without), no log on our standard output, no handling
/// of our crashes. What a user has set stays.
void SetEnvironment() {
  constexpr std::array<std::array<const char*, 2>, 5> kSettings = {
      {{"UCX_MEM_EVENTS", "n"},
       {"UCX_MEM_MMAP_HOOK_MODE", "none"},
       {"UCX_LOG_LEVEL", "fatal"},
       {"UCX_HANDLE_ERRORS", "none"},
       {"UCX_WARN_UNUSED_ENV_VARS", "n"}}};
  for (const auto& [variable, value] : kSettings) ::setenv(variable, value, 0);
}

Result<UcxLibrary> Load() {
  const SignalActions as_they_were;
  SetEnvironment();
  void* const library = ::dlopen("libucp.so.0", RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
  if (library == nullptr) {
    return Error(ErrorCode::kUnsupported,
                 "libucp.so.0 cannot be loaded (package libucx0): " + std::string(::dlerror()));
  }
  UcxLibrary found;
  std::string missing;
  auto find = [&]<typename Function>(const char* name, Function* function) {
    *function = reinterpret_cast<Function>(::dlsym(library, name));
    if (*function == nullptr) missing = name;
  };
  find("ucp_get_version", &found.get_version);
  find("ucp_get_version_string", &found.get_version_string);
  find("ucp_init_version", &found.init_version);
  find("ucp_cleanup", &found.cleanup);
  find("ucp_config_read", &found.config_read);
  find("ucp_config_modify", &found.config_modify);
  find("ucp_config_release", &found.config_release);
  find("ucp_context_print_info", &found.context_print_info);
  find("ucp_worker_create", &found.worker_create);
  find("ucp_worker_destroy", &found.worker_destroy);
  find("ucp_worker_get_address", &found.worker_get_address);
  find("ucp_worker_release_address", &found.worker_release_address);
  find("ucp_worker_get_efd", &found.worker_get_efd);
  find("ucp_worker_arm", &found.worker_arm);
  find("ucp_worker_progress", &found.worker_progress);
  find("ucp_worker_set_am_recv_handler", &found.worker_set_am_recv_handler);
  find("ucp_ep_create", &found.ep_create);
  find("ucp_am_send_nbx", &found.am_send_nbx);
  find("ucp_am_recv_data_nbx", &found.am_recv_data_nbx);
  find("ucp_request_free", &found.request_free);
  find("ucs_status_string", &found.status_string);
  if (!missing.empty()) {
    return Error(ErrorCode::kUnsupported, "libucp.so.0 has no " + missing + ": it is too old");
  }
  return found;
}

}  // namespace

const Result<UcxLibrary>& UcxLibrary::Get() {
  static const Result<UcxLibrary> library = Load();
  return library;
}

}  // namespace halfmoon::transfer
