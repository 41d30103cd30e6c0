// How the fast simulator cuts a step into parts, passes, blocks and tiles: everything that
// docs/microarchitecture.md says of shapes, before any bit is looked at.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "h2learn/accelerator/machine.hpp"
#include "h2learn/accelerator/result.hpp"
#include "h2learn/accelerator/work.hpp"

namespace h2learn::accelerator::fast {

constexpr std::int64_t divide_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

/// The length of piece `index` when `total` is cut into pieces of `size`, the last one shorter.
constexpr std::int64_t piece(std::int64_t total, std::int64_t size, std::int64_t index) {
  return std::min(size, total - index * size);
}

constexpr std::int64_t ceil_log2(std::int64_t value) {
  std::int64_t log = 0;
  while ((std::int64_t{1} << log) < value) ++log;
  return log;
}

/// Consecutive samples that go through the engines together.
struct Part {
  std::int64_t index = 0;
  std::int64_t first_sample = 0;
  std::int64_t samples = 0;
  std::int64_t timesteps = 0;
  std::int64_t all_samples = 0;  ///< of the step

  std::int64_t images() const { return timesteps * samples; }

  /// Timestep and row of image `i` of the forward sequence (0 ... images() - 1).
  std::int64_t timestep(std::int64_t i) const { return i % timesteps; }
  std::int64_t row(std::int64_t i) const {
    return timestep(i) * all_samples + first_sample + i / timesteps;
  }
  /// The image of the forward sequence that is image `i` of the backward sequence, and back.
  std::int64_t reversed(std::int64_t i) const { return images() - 1 - i; }
};

std::vector<Part> parts_of(const Machine& machine, const StepWork& step);

/// A layer's sizes under the names of the document, and which of its passes exist.
struct Layer {
  Layer(const Machine& machine, const LayerWork& layer_work);

  const LayerWork* work;
  std::int64_t inputs;   ///< C
  std::int64_t outputs;  ///< N
  std::int64_t groups;
  std::int64_t group_inputs;      ///< C_g
  std::int64_t group_outputs;     ///< N_g
  std::int64_t input_positions;   ///< P_in
  std::int64_t output_positions;  ///< P_out
  std::int64_t taps;
  std::int64_t fan_in;             ///< K
  std::int64_t planes;             ///< q
  std::int64_t image_bytes;        ///< of inputs, all planes
  std::int64_t mask_image_bytes;   ///< of the inputs' mask
  std::int64_t neurons_per_image;  ///< N * P_out
  bool recompute;
  bool gradient;
  bool backward;
  bool update;
};

/// Consecutive images of a sequence with all of their units, or a chunk of one image's units.
struct Block {
  std::int64_t index = 0;
  std::int64_t first_image = 0;
  std::int64_t images = 0;
  std::int64_t first_unit = 0;
  std::int64_t units = 0;  ///< of each image
  bool first_chunk = true;

  std::int64_t last_image() const { return first_image + images - 1; }
};

constexpr std::int64_t unlimited = std::numeric_limits<std::int64_t>::max();

std::vector<Block> cut(std::int64_t images, std::int64_t units, std::int64_t cap,
                       std::int64_t most);

/// Output channels that a table engine takes at a time; numbered over all groups.
struct Columns {
  std::int64_t size;
  std::int64_t per_group;
  std::int64_t count;

  Columns(const TableEngine& engine, const Layer& layer);
  std::int64_t group(std::int64_t tile) const { return tile / per_group; }
  std::int64_t first(std::int64_t tile) const { return tile % per_group * size; }  ///< in the group
};

struct ForwardTiling {
  Columns columns;
  std::int64_t tile_inputs;  ///< fan-in indices of a row tile
  std::int64_t row_tiles;
  std::int64_t weight_bytes;
  bool weights_stay;

  ForwardTiling(const Machine& machine, const Layer& layer);
  std::vector<Block> blocks(const Machine& machine, const Layer& layer, const Part& part) const;
};

struct BackwardTiling {
  std::int64_t slices;       ///< of a group of channels
  std::int64_t tile_slices;  ///< J
  std::int64_t columns_per_group;
  std::int64_t column_tiles;
  std::int64_t reduction;  ///< taps * N_g
  std::int64_t row_tiles;
  std::int64_t weight_bytes;
  bool weights_stay;

  BackwardTiling(const Machine& machine, const Layer& layer);
  std::vector<Block> blocks(const Machine& machine, const Layer& layer, const Part& part) const;

  /// Of a column tile, within its group.
  std::int64_t first_slice(std::int64_t tile) const {
    return tile % columns_per_group * tile_slices;
  }
  std::int64_t slices_of(std::int64_t tile) const {
    return piece(slices, tile_slices, tile % columns_per_group);
  }
};

struct UpdateTiling {
  Columns columns;
  bool accumulators_stay;
  std::int64_t input_block;
  std::int64_t input_blocks;
  std::int64_t tile_positions;
  std::int64_t gradient_bytes;  ///< of all of the layer's weights

  UpdateTiling(const Machine& machine, const Layer& layer);
  std::vector<Block> blocks(const Machine& machine, const Layer& layer, const Part& part) const;
};

std::vector<Block> gradient_blocks(const Machine& machine, const Layer& layer, const Part& part);

/// A bit for each tensor of a layer that stays on chip (result.hpp).
enum Resident : std::int64_t {
  spikes_stay = 1,
  mask_stays = 2,
  current_gradient_stays = 4,
  spike_gradient_stays = 8,
  membrane_stays = 16,
};

/// For each layer, what of a part stays on chip.
std::vector<std::int64_t> residents_of(const Machine& machine, const std::vector<Layer>& layers,
                                       const Part& part);

}  // namespace h2learn::accelerator::fast
