// What Kernel::fastest stands for: Kernel::digits where it is the sooner done, else
// Kernel::automatic. The one place of that choice, for all three products.
//
// It follows from the instruction set, the layer's shape and the measured density, by a model of
// times beside the dense kernel's (digits_costs.inc). So it differs between machines, and with it
// the last bits of sums; automatic's choices never do.
#pragma once

#include <cstdint>

#include "h2learn/geometry.hpp"
#include "h2learn/kernel.hpp"
#include "h2learn/spikes.hpp"

namespace h2learn {

enum class Product { forward, backward, weight_update };

/// Whether digits may pay on the target in use, whatever the density is: if not, nobody need
/// measure it. `planes` are those of the spikes or counts.
bool digits_may_pay(Product product, const Geometry& geometry, std::int64_t images,
                    std::int64_t planes = 1);

/// Whether they do where a part `density` of the operand (spikes; of the backward pass gradients at
/// the outputs) is not zero. `others`: the least that another kernel costs beside the dense one.
bool digits_pay(Product product, const Geometry& geometry, std::int64_t images, double density,
                double others = 1);

/// `kernel`, or the one that Kernel::fastest stands for in a product of these spikes.
Kernel resolved(Kernel kernel, Product product, const Geometry& geometry, const PackedView& spikes);

}  // namespace h2learn
