// SPDX-License-Identifier: Apache-2.0
// CLI::App by name, for headers: its definition takes seconds to compile.
#pragma once

namespace CLI {
class App;
}  // namespace CLI
