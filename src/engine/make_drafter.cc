// SPDX-License-Identifier: Apache-2.0
#include "engine/make_drafter.h"

#include <algorithm>

#include "engine/model_drafter.h"
#include "engine/mtp_drafter.h"
#include "engine/ngram_drafter.h"

namespace halfmoon::engine {
namespace {

// Two equal tokens occur by chance in any text, three say something.
constexpr int32_t kNgramMinMatch = 3;

Error Lacks(const char* what) { return Error(ErrorCode::kInvalidArgument, what); }

}  // namespace

Result<std::unique_ptr<Drafter>> MakeDrafter(const EngineOptions& options, model::Model* model) {
  const SpeculationOptions& speculation = options.speculation;
  switch (speculation.source) {
    case DraftSource::kNone:
      return std::unique_ptr<Drafter>();
    case DraftSource::kNgram:
      return std::unique_ptr<Drafter>(std::make_unique<NgramDrafter>(kNgramMinMatch));
    case DraftSource::kMtp:
      if (model == nullptr || model->num_mtp_layers() == 0) {
        return Lacks("speculation with the model's draft layer: none is loaded");
      }
      return std::unique_ptr<Drafter>(std::make_unique<MtpDrafter>(model));
    case DraftSource::kModel:
      break;
  }
  if (model == nullptr || speculation.draft_model == nullptr) {
    return Lacks("speculation with a draft model: there is none");
  }
  HM_ASSIGN(std::unique_ptr<Drafter> drafter,
            ModelDrafter::Create(
                speculation.draft_model,
                {.kv_bytes = speculation.draft_kv_bytes,
                 .vocab_size = static_cast<int32_t>(model->vocab_size()),
                 .max_sequences = std::min(options.max_running, model->options().max_sequences)}));
  return drafter;
}

}  // namespace halfmoon::engine
