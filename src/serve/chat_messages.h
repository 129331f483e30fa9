// SPDX-License-Identifier: Apache-2.0
// The conversation part of a request: messages, tools and template options.
#pragma once

#include "serve/field_reader.h"
#include "serve/openai_request.h"

namespace halfmoon::serve {

/// Reads `messages`, `tools`, `tool_choice`, `chat_template_kwargs` and their kin. Complaints stay
/// in `reader`.
ChatPrompt ReadChatPrompt(FieldReader& reader);

}  // namespace halfmoon::serve
