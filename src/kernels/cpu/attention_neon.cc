// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/attention_impl.h"
#include "kernels/cpu/latent_impl.h"
#include "kernels/cpu/neon.h"
#include "kernels/cpu/vec_neon.h"

namespace halfmoon::kernels::neon {

void Attend(const AttendArgs& args) { impl::Attend<Vec>(args); }
void MergeStates(int64_t value_dim, int64_t rows, const float* from, float* to) {
  impl::MergeStates<Vec>(value_dim, rows, from, to);
}
void StoreState(int64_t value_dim, const float* state, float* out) {
  impl::StoreState<Vec>(value_dim, state, out);
}
void StoreKv(const StoreKvArgs& args) { impl::StoreKv<Vec>(args); }
void StoreLatent(const StoreLatentArgs& args) { impl::StoreLatent<Vec>(args); }
void StageHeads(const StageHeadsArgs& args) { impl::StageHeads<Vec>(args); }
void StageLatent(const StageLatentArgs& args) { impl::StageLatent<Vec>(args); }
void IndexScores(const IndexScoreArgs& args) { impl::IndexScores<Vec>(args); }

}  // namespace halfmoon::kernels::neon
