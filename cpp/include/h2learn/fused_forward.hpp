// Currents and the neurons that they reach, in one pass: forward() and soma_forward() for a few
// samples at a time, whose currents take each other's place in one block of memory.
//
// Spikes, mask, membrane and last membrane are those of the two one after the other, bit by bit.
#pragma once

#include <cstdint>

#include "h2learn/forward.hpp"
#include "h2learn/geometry.hpp"
#include "h2learn/soma.hpp"
#include "h2learn/spikes.hpp"

namespace h2learn {

/// What makes currents of inputs; as forward() takes it.
struct Synapses {
  Geometry geometry;
  const float* weight = nullptr;
  const float* bias = nullptr;
  Kernel kernel = Kernel::automatic;
  LutShape lut = {};
  /// Where not null, [out_channels] each: a current x becomes x * gain + offset, rounded after
  /// either operation. It is what a batch normalisation does in evaluation.
  const float* gain = nullptr;
  const float* offset = nullptr;
};

/// What makes spikes of currents, and where they go; as soma_forward() takes it, with T steps and B
/// samples.
struct Neurons {
  SomaOptions options;
  std::int64_t steps = 1;
  std::int64_t batch = 0;
  const float* initial = nullptr;
  std::uint64_t* spikes = nullptr;
  std::uint64_t* mask = nullptr;
  float* membrane = nullptr;
  float* last = nullptr;
};

/// From spikes or counts; `inputs` has steps * batch rows, row = t * batch + b.
void fused_forward(const Synapses& synapses, const PackedView& inputs, float scale,
                   const Neurons& neurons);

/// From analog inputs[images, in_positions, in_channels], with steps * batch images, or with
/// batch: the same ones at every step, whose currents are then computed once.
void fused_forward(const Synapses& synapses, const float* inputs, std::int64_t images,
                   const Neurons& neurons);

}  // namespace h2learn
