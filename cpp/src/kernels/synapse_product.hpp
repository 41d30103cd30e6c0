// Forward and backward products. For kernel sources only.
#pragma once

#include "kernels/synapse.hpp"

namespace h2learn::H2LEARN_TARGET {

Choice choose_product(const GatheredRows& rows, std::int64_t columns, Method method);

bool reads_in_place(const GatherProduct& product);

void gather_product(const GatherProduct& product);

}  // namespace h2learn::H2LEARN_TARGET
