// SPDX-License-Identifier: Apache-2.0
// The one place where Asio's own functions are compiled.
#include "net/asio.h"

#include <boost/asio/impl/src.hpp>
#include <boost/asio/ssl/impl/src.hpp>
