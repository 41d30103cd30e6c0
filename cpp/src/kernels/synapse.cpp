// The table of synapse kernels for one instruction set.
#include "kernels/synapse.hpp"

#include "kernels/synapse_outer.hpp"
#include "kernels/synapse_pack.hpp"
#include "kernels/synapse_product.hpp"

namespace h2learn::H2LEARN_TARGET {

extern const SynapseKernels synapse_kernels = {largest_magnitude, reads_in_place, packed_size,
                                               pack_weights,      choose_product, choose_outer,
                                               gather_product,    outer_product,  sum_positions};

}  // namespace h2learn::H2LEARN_TARGET
