// The soma as soma.hpp writes it, one neuron at a time: what the vector kernels must equal bit
// for bit, and the documentation of the order in which they round.
#pragma once

#include "soma_plan.hpp"

namespace h2learn::reference {

/// phi(v) as SomaPlan defines it.
float surrogate(const SomaPlan& plan, float v);

/// False when a current or an initial membrane is not finite; the outputs are then unspecified.
bool soma_forward(const SomaPlan& plan, const float* currents, const float* initial,
                  std::uint64_t* spikes, std::uint64_t* mask, float* membrane, float* last);

/// `decay_sums` and `threshold_sums` receive [batch * words] partial sums, one for each block
/// of 64 features; each may be null. Their order is fixed: over t descending for one neuron,
/// then over the neurons of the block, ascending.
void soma_backward(const SomaPlan& plan, const SomaGradients& g, double* decay_sums,
                   double* threshold_sums);

}  // namespace h2learn::reference
