// SPDX-License-Identifier: Apache-2.0
#include "sim/chart.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <string_view>

namespace halfmoon::sim {
namespace {

constexpr double kWidth = 620.0;
constexpr double kHeight = 300.0;
constexpr double kLeft = 60.0;
constexpr double kRight = 12.0;
constexpr double kTop = 28.0;
constexpr double kBottom = 44.0;
constexpr size_t kMaxPoints = 600;  // of a line: about one a pixel
constexpr std::array<const char*, 8> kColours{"#1f6feb", "#d1242f", "#1a7f37", "#9a6700",
                                              "#8250df", "#0a7d91", "#bf3989", "#57606a"};

template <typename... Args>
std::string Format(const char* format, Args... args) {
  std::array<char, 512> text{};
  const int length = std::snprintf(text.data(), text.size(), format, args...);
  return {text.data(), std::min(text.size() - 1, static_cast<size_t>(std::max(0, length)))};
}

/// A step of 1, 2 or 5 times a power of ten that divides `range` into 4 to 10.
double NiceStep(double range) {
  const double raw = std::max(range, 1e-12) / 6.0;
  const double power = std::pow(10.0, std::floor(std::log10(raw)));
  for (const double factor : {1.0, 2.0, 5.0}) {
    if (raw <= factor * power) return factor * power;
  }
  return 10.0 * power;
}

}  // namespace

std::string EscapeHtml(std::string_view text) {
  std::string escaped;
  for (const char c : text) {
    switch (c) {
      case '&':
        escaped += "&amp;";
        break;
      case '<':
        escaped += "&lt;";
        break;
      case '>':
        escaped += "&gt;";
        break;
      case '"':
        escaped += "&quot;";
        break;
      default:
        escaped += c;
    }
  }
  return escaped;
}

std::string LineChart(const ChartOptions& options, std::span<const Series> series) {
  double x_max = options.x_max;
  double y_max = 0.0;
  for (const Series& line : series) {
    for (const auto& [x, y] : line.points) {
      if (options.x_max <= 0.0) x_max = std::max(x_max, x);
      y_max = std::max(y_max, y);
    }
  }
  if (x_max <= 0.0) x_max = 1.0;
  if (y_max <= 0.0) y_max = 1.0;
  const auto px = [&](double x) { return kLeft + x / x_max * (kWidth - kLeft - kRight); };
  const auto py = [&](double y) {
    return kHeight - kBottom - y / y_max * (kHeight - kTop - kBottom);
  };
  std::string svg =
      Format("<svg viewBox=\"0 0 %g %g\" width=\"%g\" xmlns=\"http://www.w3.org/2000/svg\">",
             kWidth, kHeight, kWidth);
  svg += Format("<text x=\"%g\" y=\"16\" class=\"title\">", kLeft) + EscapeHtml(options.title) +
         "</text>";
  for (double x = 0.0, step = NiceStep(x_max); x <= x_max * 1.0001; x += step) {
    svg += Format("<line x1=\"%.1f\" x2=\"%.1f\" y1=\"%g\" y2=\"%g\" class=\"grid\"/>", px(x),
                  px(x), kTop, kHeight - kBottom);
    svg +=
        Format("<text x=\"%.1f\" y=\"%g\" class=\"x\">%g</text>", px(x), kHeight - kBottom + 14, x);
  }
  for (double y = 0.0, step = NiceStep(y_max); y <= y_max * 1.0001; y += step) {
    svg += Format("<line x1=\"%g\" x2=\"%g\" y1=\"%.1f\" y2=\"%.1f\" class=\"grid\"/>", kLeft,
                  kWidth - kRight, py(y), py(y));
    svg += Format("<text x=\"%g\" y=\"%.1f\" class=\"y\">%g</text>", kLeft - 6, py(y) + 4, y);
  }
  if (options.mark_x > 0.0 && options.mark_x <= x_max) {
    svg += Format("<line x1=\"%.1f\" x2=\"%.1f\" y1=\"%g\" y2=\"%g\" class=\"mark\"/>",
                  px(options.mark_x), px(options.mark_x), kTop, kHeight - kBottom);
  }
  for (size_t i = 0; i < series.size(); ++i) {
    const auto& points = series[i].points;
    const char* colour = kColours[i % kColours.size()];
    svg += Format("<polyline fill=\"none\" stroke-width=\"1.5\" stroke=\"%s\" points=\"", colour);
    const size_t stride = points.size() / kMaxPoints + 1;
    for (size_t p = 0; p < points.size(); ++p) {
      if (p % stride != 0 && p + 1 != points.size()) continue;
      if (points[p].first > x_max) break;
      svg += Format("%.1f,%.1f ", px(points[p].first), py(points[p].second));
    }
    svg += "\"/>";
    svg += Format("<text x=\"%g\" y=\"%g\" fill=\"%s\" class=\"key\">", kWidth - kRight - 4,
                  kTop + 14.0 + 14.0 * static_cast<double>(i), colour) +
           EscapeHtml(series[i].label) + "</text>";
  }
  svg +=
      Format("<text x=\"%g\" y=\"%g\" class=\"x\">", (kLeft + kWidth - kRight) / 2, kHeight - 8) +
      EscapeHtml(options.x_label) + "</text>";
  svg += Format("<text x=\"14\" y=\"%g\" class=\"x\" transform=\"rotate(-90 14 %g)\">",
                (kTop + kHeight - kBottom) / 2, (kTop + kHeight - kBottom) / 2) +
         EscapeHtml(options.y_label) + "</text></svg>\n";
  return svg;
}

}  // namespace halfmoon::sim
