// Which instruction set the kernels run on: chosen once, at run time, from what the processor
// can do; named, listed, and forceable through H2LEARN_TARGET or set_target().
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace h2learn {

enum class Target {
  scalar,      ///< the plain reference, one element at a time
  baseline,    ///< the vector source, compiled for the architecture's baseline
  avx2,        ///< AVX2, FMA, BMI2
  avx512,      ///< AVX-512 F, BW, DQ, VL, CD
  avx512vnni,  ///< the same and AVX-512 VNNI, which only Kernel::digits uses
  amx,         ///< the same and AMX-TILE, AMX-INT8, likewise
};

std::string_view target_name(Target target);

/// Targets that this build contains and this machine can run, slowest first.
std::vector<Target> available_targets();

/// The target in use: H2LEARN_TARGET when it is set, else the last of available_targets().
/// Throws std::invalid_argument when H2LEARN_TARGET names something not available.
Target active_target();

/// Forces a target for the whole process; "auto" returns to the choice at start.
void set_target(std::string_view name);

}  // namespace h2learn
