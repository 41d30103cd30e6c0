// The soma's kernels, one table for each instruction set; see reference/soma.hpp for what the
// two functions take, return and must equal.
#pragma once

#include "dispatch.hpp"
#include "soma_plan.hpp"

namespace h2learn {

struct SomaKernels {
  bool (*forward)(const SomaPlan& plan, const float* currents, const float* initial,
                  std::uint64_t* spikes, std::uint64_t* mask, float* membrane, float* last);
  void (*backward)(const SomaPlan& plan, const SomaGradients& g, double* decay_sums,
                   double* threshold_sums);
};

H2LEARN_DECLARE_KERNELS(SomaKernels, soma)

}  // namespace h2learn
