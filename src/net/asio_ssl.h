// SPDX-License-Identifier: Apache-2.0
// Internal to net: Asio with TLS. Apart from asio.h because OpenSSL's headers are large.
#pragma once

// clang-format off: asio.h has to come first, it decides how Asio is compiled.
#include "net/asio.h"
#include <boost/asio/ssl.hpp>
// clang-format on
