// What every synapse function refuses before it computes or overwrites anything.
#pragma once

#include <cstdint>

#include "h2learn/geometry.hpp"
#include "h2learn/kernel.hpp"
#include "h2learn/spikes.hpp"

namespace h2learn {

/// A null pointer is refused unless the array has no elements.
void require_array(const char* name, const void* pointer, std::int64_t elements);

void require_images(const char* name, std::int64_t images);

/// Names the first NaN or infinity by its flat index. A null pointer passes: bias is optional.
void require_finite(const char* name, const float* values, std::int64_t count);

void require_finite(const char* name, float value);

/// Planes, rows, and as many features as the layer has inputs.
void require_spikes(const Geometry& geometry, const PackedView& spikes);

void require_lut(LutShape lut);

}  // namespace h2learn
