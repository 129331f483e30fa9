// SPDX-License-Identifier: Apache-2.0
#include "model/description.h"

#include <algorithm>

namespace halfmoon::model {

bool ModelDescription::has_moe() const {
  return std::any_of(layers.begin(), layers.end(),
                     [](const LayerDescription& layer) { return layer.ffn == FfnKind::kMoe; });
}

std::string TensorName(std::string_view pattern, int layer, int expert) {
  std::string name;
  for (size_t i = 0; i < pattern.size();) {
    const std::string_view rest = pattern.substr(i);
    if (rest.starts_with("{L}")) {
      name += std::to_string(layer);
      i += 3;
    } else if (rest.starts_with("{E}")) {
      name += std::to_string(expert);
      i += 3;
    } else {
      name += rest.front();
      ++i;
    }
  }
  return name;
}

}  // namespace halfmoon::model
