// The weight's and the bias's gradients. For kernel sources only.
#pragma once

#include <cstdint>

#include "kernels/synapse.hpp"

namespace h2learn::H2LEARN_TARGET {

Choice choose_outer(const GatheredRows& rows, std::int64_t columns, Method method);

void outer_product(const OuterProduct& product);

/// sums[columns] = sum over positions of gradients[positions, columns].
void sum_positions(const float* gradients, std::int64_t positions, std::int64_t columns,
                   float* sums);

}  // namespace h2learn::H2LEARN_TARGET
