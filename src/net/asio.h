// SPDX-License-Identifier: Apache-2.0
// Internal to net: how this area includes Asio. Asio's non-template code is compiled once, in
// asio.cc; every file that reaches Asio or Beast includes this header first, so that all of them
// agree on that.
#pragma once

#define BOOST_ASIO_SEPARATE_COMPILATION
#define BOOST_ASIO_NO_DEPRECATED
#ifdef __SANITIZE_THREAD__
// GCC's thread sanitizer does not understand fences and says so as an error. Asio's are only for
// handlers that share data without a lock, which none here does.
#define BOOST_ASIO_DISABLE_FENCED_BLOCK
#endif

#include <boost/asio/buffer.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/strand.hpp>
#include <boost/system/error_code.hpp>

namespace halfmoon::net {

namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;

}  // namespace halfmoon::net
