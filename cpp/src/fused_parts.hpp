// fused_forward() with the size of its parts given.
#pragma once

#include "h2learn/fused_forward.hpp"

namespace h2learn {

/// At most `samples` samples at a time; whatever it is, the results are the same bits.
void fused_forward_in_parts(const Synapses& synapses, const PackedView& inputs, float scale,
                            const Neurons& neurons, std::int64_t samples);
void fused_forward_in_parts(const Synapses& synapses, const float* inputs, std::int64_t images,
                            const Neurons& neurons, std::int64_t samples);

}  // namespace h2learn
