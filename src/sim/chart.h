// SPDX-License-Identifier: Apache-2.0
// Lines as SVG.
#pragma once

#include <span>
#include <string>
#include <utility>
#include <vector>

namespace halfmoon::sim {

struct Series {
  std::string label;
  std::vector<std::pair<double, double>> points;
};

struct ChartOptions {
  std::string title;
  std::string x_label;
  std::string y_label;
  double x_max = 0.0;   ///< 0: as far as there are points
  double mark_x = 0.0;  ///< a limit; 0: none
};

/// At most 60,000 points are drawn, whatever there are.
std::string LineChart(const ChartOptions& options, std::span<const Series> series);

/// "&", "<", ">" and quotes as HTML has them.
std::string EscapeHtml(std::string_view text);

}  // namespace halfmoon::sim
