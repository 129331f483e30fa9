// SPDX-License-Identifier: Apache-2.0
#include "kernels/isa.h"

#ifdef HALFMOON_ARM
#include <sys/auxv.h>
#endif

#include <string>

namespace halfmoon::kernels {
namespace {

bool CpuRuns(Isa isa) {
  switch (isa) {
    case Isa::kGeneric:
      return true;
#ifdef HALFMOON_X86
    case Isa::kAvx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
             __builtin_cpu_supports("f16c");
    case Isa::kAvx512:
      return CpuRuns(Isa::kAvx2) && __builtin_cpu_supports("avx512f") &&
             __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
             __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni");
    case Isa::kAvx512Bf16:
      return CpuRuns(Isa::kAvx512) && __builtin_cpu_supports("avx512bf16") &&
             __builtin_cpu_supports("avx512vbmi");
#endif
#ifdef HALFMOON_ARM
    case Isa::kNeon:
      return true;
    case Isa::kDotprod:
      return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
#endif
    default:
      return false;
  }
}

std::string JoinedNames(const std::vector<Isa>& isas) {
  std::string names;
  for (const Isa isa : isas) {
    if (!names.empty()) names += ", ";
    names += IsaName(isa);
  }
  return names;
}

constexpr Isa kAllIsas[] = {Isa::kGeneric,    Isa::kAvx2, Isa::kAvx512,
                            Isa::kAvx512Bf16, Isa::kNeon, Isa::kDotprod};

}  // namespace

std::string_view IsaName(Isa isa) {
  switch (isa) {
    case Isa::kGeneric:
      return "generic";
    case Isa::kAvx2:
      return "avx2";
    case Isa::kAvx512:
      return "avx512";
    case Isa::kAvx512Bf16:
      return "avx512bf16";
    case Isa::kNeon:
      return "neon";
    case Isa::kDotprod:
      return "dotprod";
  }
  return "unknown";
}

std::vector<Isa> AvailableIsas() {
  std::vector<Isa> isas;
  for (const Isa isa : kAllIsas) {
    if (CpuRuns(isa)) isas.push_back(isa);
  }
  return isas;
}

Isa BestIsa() { return AvailableIsas().back(); }

Result<Isa> ParseIsa(std::string_view name) {
  if (name == "auto") return BestIsa();
  const std::vector<Isa> available = AvailableIsas();
  for (const Isa isa : kAllIsas) {
    if (name != IsaName(isa)) continue;
    for (const Isa present : available) {
      if (present == isa) return isa;
    }
    return Error(ErrorCode::kUnsupported,
                 "instruction set \"" + std::string(name) +
                     "\": this CPU or this build lacks it; available: auto, " +
                     JoinedNames(available));
  }
  return Error(ErrorCode::kInvalidArgument, "instruction set \"" + std::string(name) +
                                                "\": no such name; available: auto, " +
                                                JoinedNames(available));
}

}  // namespace halfmoon::kernels
