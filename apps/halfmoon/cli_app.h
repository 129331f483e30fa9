// SPDX-License-Identifier: Apache-2.0
// CLI::App by name, for headers: its definition takes seconds to compile.
#pragma once

namespace CLI {  // NOLINT(readability-identifier-naming): the library's own name
class App;
}  // namespace CLI
