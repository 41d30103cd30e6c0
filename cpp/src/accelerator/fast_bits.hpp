// What the fast simulator takes from a step's bits: everything that docs/microarchitecture.md says
// of spikes, masks and gradients that are not zero, summed to what a tile or a counter needs.
#pragma once

#include <cstdint>
#include <vector>

#include "accelerator/fast_shape.hpp"

namespace h2learn::accelerator::fast {

/// Of one image of a layer.
struct ImageBits {
  std::int64_t mask_ones = 0;
  std::int64_t gradients = 0;          ///< that are not zero
  std::int64_t window_ones = 0;        ///< set bits in the windows of all output positions
  std::int64_t forward_addresses = 0;  ///< that are not zero, in the windows of all positions
  std::int64_t products = 0;           ///< of a position's set bits and its gradients not zero
};

/// Of a block of the backward engine. Sums are over the items of all of its tiles.
struct BackwardBits {
  std::vector<std::int64_t> run_cycles;       ///< [column tiles, row tiles]
  std::vector<std::int64_t> needed_channels;  ///< [column tiles]: n_out of the items of a row tile
  std::int64_t offered = 0;                   ///< h * valid
  std::int64_t needed = 0;                    ///< n_out * n_in
  std::int64_t skipped_by_gradient = 0;
  std::int64_t skipped_by_mask = 0;
  std::int64_t items = 0;
  std::int64_t items_empty = 0;
  std::int64_t lane_turns = 0;   ///< rounds * n_in
  std::int64_t mask_bits = 0;    ///< h
  std::int64_t psum_reads = 0;   ///< n_out, not in the first row tile
  std::int64_t psum_writes = 0;  ///< n_out
};

/// Of a block of the weight-update engine.
struct UpdateBits {
  struct Tile {
    std::int64_t positions = 0;
    std::int64_t gradients = 0;  ///< of the tile's columns, not zero
  };
  std::vector<Tile> tiles;                ///< column tile by column tile, the same in every visit
  std::vector<std::int64_t> column_tile;  ///< where each begins in `tiles`, and the end
  std::int64_t addresses = 0;             ///< not zero, summed over columns
  std::int64_t set_bits = 0;              ///< of all addresses, summed over columns
};

struct LayerBits {
  std::vector<ImageBits> images;                    ///< [rows]
  std::vector<std::vector<BackwardBits>> backward;  ///< [parts, blocks]
  std::vector<std::vector<UpdateBits>> update;      ///< [parts, blocks]
  /// [parts, blocks]: gradients of the gradient unit's blocks that are not zero
  std::vector<std::vector<std::int64_t>> gradient;
};

/// Scans the work, on as many threads as OpenMP gives. Scratch memory of each thread: a few
/// numbers for each position of a block and one image's windows.
std::vector<LayerBits> scan(const Machine& machine, const std::vector<Layer>& layers,
                            const std::vector<Part>& parts);

}  // namespace h2learn::accelerator::fast
