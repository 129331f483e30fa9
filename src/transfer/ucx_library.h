// SPDX-License-Identifier: Apache-2.0
// The functions of libucp, found at run time. Linked, it would be needed by every program that can
// use it, and would put its signal handlers into place before main() of each.
#pragma once

#include <ucp/api/ucp.h>

#include "base/result.h"

namespace halfmoon::transfer {

// NOLINTBEGIN(readability-identifier-naming): UCX' own names without "ucp_".
struct UcxLibrary {
  /// Loads it once and for good; thread-safe. Errors: kUnsupported.
  static const Result<UcxLibrary>& Get();

  decltype(&ucp_get_version) get_version = nullptr;
  decltype(&ucp_get_version_string) get_version_string = nullptr;
  decltype(&ucp_init_version) init_version = nullptr;
  decltype(&ucp_cleanup) cleanup = nullptr;
  decltype(&ucp_config_read) config_read = nullptr;
  decltype(&ucp_config_modify) config_modify = nullptr;
  decltype(&ucp_config_release) config_release = nullptr;
  decltype(&ucp_context_print_info) context_print_info = nullptr;
  decltype(&ucp_worker_create) worker_create = nullptr;
  decltype(&ucp_worker_destroy) worker_destroy = nullptr;
  decltype(&ucp_worker_get_address) worker_get_address = nullptr;
  decltype(&ucp_worker_release_address) worker_release_address = nullptr;
  decltype(&ucp_worker_get_efd) worker_get_efd = nullptr;
  decltype(&ucp_worker_arm) worker_arm = nullptr;
  decltype(&ucp_worker_progress) worker_progress = nullptr;
  decltype(&ucp_worker_set_am_recv_handler) worker_set_am_recv_handler = nullptr;
  decltype(&ucp_ep_create) ep_create = nullptr;
  decltype(&ucp_am_send_nbx) am_send_nbx = nullptr;
  decltype(&ucp_am_recv_data_nbx) am_recv_data_nbx = nullptr;
  decltype(&ucp_request_free) request_free = nullptr;
  decltype(&ucs_status_string) status_string = nullptr;
};
// NOLINTEND(readability-identifier-naming)

}  // namespace halfmoon::transfer
