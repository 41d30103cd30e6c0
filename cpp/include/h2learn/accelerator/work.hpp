// What one training step asked of the engines: shapes and the packed operands, which somebody
// else owns. Rows are images, row = timestep * samples + sample; features are ordered
// channels-last (spikes.hpp).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "h2learn/geometry.hpp"
#include "h2learn/spikes.hpp"

namespace h2learn::accelerator {

struct LayerWork {
  std::string name;
  Geometry geometry;
  std::int64_t timesteps = 1;
  std::int64_t samples = 1;
  std::int64_t planes = 1;                 ///< bit planes of the inputs
  const std::uint64_t* inputs = nullptr;   ///< [planes, rows, words_for(in_features)]
  const std::uint64_t* mask = nullptr;     ///< [rows, words_for(in_features)]; null: all needed
  const std::uint64_t* nonzero = nullptr;  ///< [rows, words_for(out_features)]; null: no backward
  bool input_gradient = false;             ///< the backward engine runs
  bool weight_gradient = false;            ///< the weight-update engine runs
  bool neurons = false;                    ///< spiking neurons follow
  bool membrane = false;                   ///< their gradient needs the membrane potential

  std::int64_t rows() const { return timesteps * samples; }
};

/// Layers in the order of the forward pass; each one's output is the next one's input.
struct StepWork {
  std::vector<LayerWork> layers;
};

}  // namespace h2learn::accelerator
