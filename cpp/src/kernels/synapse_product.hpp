// Forward and backward products. For kernel sources only.
#pragma once

#include "kernels/synapse.hpp"

namespace h2learn::H2LEARN_TARGET {

Choice choose_product(const GatheredRows& rows, std::int64_t columns, Method method);

void gather_product(const GatherProduct& product);

}  // namespace h2learn::H2LEARN_TARGET
