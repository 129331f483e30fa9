// SPDX-License-Identifier: Apache-2.0
// Internal to net: the part of Beast that is used, which is its reader of message heads. Heavy to
// compile; only message_parser.cc includes it.
#pragma once

// clang-format off: asio.h has to come first, it decides how Asio is compiled.
#include "net/asio.h"
#include <boost/beast/http/basic_parser.hpp>
// clang-format on
