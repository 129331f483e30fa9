// SPDX-License-Identifier: Apache-2.0
#include "apps/halfmoon/text_perplexity.h"

#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>

#include "base/clock.h"
#include "base/file.h"

namespace halfmoon::app {
namespace {

constexpr size_t kMaxTextBytes = size_t{1} << 30;
constexpr int kDefaultWindow = 512;

/// A line on a terminal that is redrawn; in a log one line every ten seconds.
class WindowProgress {
 public:
  void Show(int64_t done, int64_t total, const model::Perplexity& so_far) {
    const TimeUs now = clock_.NowUs();
    const bool finished = done == total;
    const TimeUs interval = terminal_ ? 200'000 : 10'000'000;
    if (now - shown_ < interval && !(finished && drawn_)) return;
    shown_ = now;
    drawn_ = true;
    std::fprintf(stderr, "%swindow   %lld of %lld, perplexity %.4f so far%s", terminal_ ? "\r" : "",
                 static_cast<long long>(done), static_cast<long long>(total), so_far.value(),
                 terminal_ && !finished ? "" : "\n");
  }

 private:
  MonotonicClock clock_;
  bool terminal_ = ::isatty(STDERR_FILENO) == 1;
  bool drawn_ = false;
  TimeUs shown_ = clock_.NowUs();
};

}  // namespace

const char* const kPerplexityDefinition =
    "Perplexity is exp of the mean of -ln p(token | tokens before it), in a window of N tokens\n"
    "that slides over the text by the stride. Each token but the first is scored once, in the\n"
    "first window that holds it; after the first window it has at least N - stride tokens before\n"
    "it. A stride of N gives separate windows, whose first tokens are not scored. The text is\n"
    "tokenised once, with what the tokenizer puts around a text (a BOS token, say). The standard\n"
    "error takes tokens as independent. Numbers compare between models of one tokenizer, text,\n"
    "N and stride only.";

void AddTextPerplexityOptions(CLI::App* command, TextPerplexityOptions* options) {
  command
      ->add_option("--stride", options->stride,
                   "Tokens from the start of one window to the next (default: half a window)")
      ->check(CLI::PositiveNumber);
  command
      ->add_option("--limit", options->limit_tokens,
                   "Use the first LIMIT tokens of the text (default: all)")
      ->check(CLI::PositiveNumber);
}

Result<TextPerplexity> ComputeTextPerplexity(Runtime* runtime, const std::string& file,
                                             const TextPerplexityOptions& options) {
  HM_ASSIGN(const std::string text, ReadTextFile(file, kMaxTextBytes));
  auto encoded = runtime->tokenizer->Encode(text, {.parse_special = false});
  if (!encoded.ok()) return encoded.error().WithContext(file);
  std::vector<int32_t> ids = std::move(encoded).value();
  if (options.limit_tokens > 0 && static_cast<size_t>(options.limit_tokens) < ids.size()) {
    ids.resize(static_cast<size_t>(options.limit_tokens));
  }
  TextPerplexity answer{.text_tokens = static_cast<int64_t>(ids.size())};
  answer.options.window =
      options.window > 0 ? options.window : std::min(kDefaultWindow, runtime->model->max_context());
  answer.options.stride =
      options.stride > 0 ? options.stride : std::max<int64_t>(1, answer.options.window / 2);
  WindowProgress progress;
  const TimeUs begin = runtime->clock.NowUs();
  auto result =
      model::ComputePerplexity(runtime->model.get(), runtime->pool.get(), ids, answer.options,
                               [&](int64_t done, int64_t total, const model::Perplexity& so_far) {
                                 progress.Show(done, total, so_far);
                               });
  if (!result.ok()) return result.error().WithContext(file);
  answer.result = std::move(result).value();
  answer.seconds = static_cast<double>(runtime->clock.NowUs() - begin) * 1e-6;
  return answer;
}

}  // namespace halfmoon::app
