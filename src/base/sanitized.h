// SPDX-License-Identifier: Apache-2.0
// Whether this build runs under the address or the thread sanitizer: HALFMOON_SANITIZED is 1 or 0.
#pragma once

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define HALFMOON_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define HALFMOON_SANITIZED 1
#endif
#endif

#ifndef HALFMOON_SANITIZED
#define HALFMOON_SANITIZED 0
#endif
