// Forward and backward products. For kernel sources only.
#pragma once

#include "kernels/synapse.hpp"

namespace h2learn::H2LEARN_TARGET {

void gather_product(const GatherProduct& product);

}  // namespace h2learn::H2LEARN_TARGET
