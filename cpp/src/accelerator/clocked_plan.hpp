// Which tiles exist, in which order, what each waits for and what it moves: the part of
// docs/microarchitecture.md that is decided before the clock starts. Written as the text is, with
// the bits counted one by one; the time that a tile takes is not known here.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <vector>

#include "h2learn/accelerator/machine.hpp"
#include "h2learn/accelerator/result.hpp"
#include "h2learn/accelerator/work.hpp"

namespace h2learn::accelerator::clocked {

constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

struct Range {
  std::int64_t first = 0;
  std::int64_t count = 0;
  std::int64_t end() const { return first + count; }
};

/// Consecutive ranges of `size` that make up `total`, the last one shorter.
std::vector<Range> pieces(std::int64_t total, std::int64_t size);

/// Set bits among `range` of a packed row.
std::int64_t count_bits(const std::uint64_t* row, Range range);

inline bool bit(const std::uint64_t* row, std::int64_t feature) {
  return ((row[feature / word_bits] >> (feature % word_bits)) & 1U) != 0;
}

/// A layer's work with its shape taken apart.
struct Layer {
  Layer(const LayerWork& layer_work, std::int64_t layer_index);

  const LayerWork& work;
  const Geometry& geometry;
  std::int64_t index;
  std::int64_t planes;
  std::int64_t taps, fan_in;
  std::int64_t in_positions, out_positions;
  std::int64_t group_inputs, group_outputs;   ///< C_g, N_g
  std::vector<std::int32_t> input_of_output;  ///< geometry.hpp
  std::vector<std::int32_t> output_of_input;

  bool has_gradient() const { return work.nonzero != nullptr; }
  bool has_backward() const { return has_gradient() && work.input_gradient; }
  bool has_update() const { return has_gradient() && work.weight_gradient; }

  const std::uint64_t* input_row(std::int64_t plane, std::int64_t row) const {
    return work.inputs + (plane * work.rows() + row) * words_for(geometry.in_features());
  }
  const std::uint64_t* mask_row(std::int64_t row) const {
    return work.mask + row * words_for(geometry.in_features());
  }
  const std::uint64_t* nonzero_row(std::int64_t row) const {
    return work.nonzero + row * words_for(geometry.out_features());
  }
  std::int64_t in_feature(std::int64_t position, std::int64_t group, std::int64_t channel) const {
    return position * geometry.in_channels + group * group_inputs + channel;
  }
  std::int64_t out_feature(std::int64_t position, std::int64_t group, std::int64_t channel) const {
    return position * geometry.out_channels + group * group_outputs + channel;
  }
};

/// Images of a pass's sequence that are worked on together, or some units of one image.
struct Block {
  std::int64_t index = 0;
  std::vector<std::int64_t> rows;  ///< of the workload, in the order of the sequence
  std::int64_t first_image = 0;    ///< of the sequence
  Range units;                     ///< of each image
  bool first_chunk = true;

  std::int64_t images() const { return static_cast<std::int64_t>(rows.size()); }
  std::int64_t last_image() const { return first_image + images() - 1; }
};

/// An output position of an image.
struct Site {
  std::int64_t row = 0;
  std::int64_t position = 0;
};

constexpr std::int64_t nothing = -1;

/// A tile: what is to be done, what it waits for, and how far it is.
struct Job {
  Tile tile;  ///< the times are written as they happen
  const Layer* layer = nullptr;
  const Block* block = nullptr;
  std::int64_t group = 0;
  Range columns;            ///< channels of the group: inputs in the backward engine, else outputs
  Range rows;               ///< fan-in indices; in the backward engine reduction indices r
  std::vector<Site> sites;  ///< weight update: the positions of the tile
  bool first_row = false;   ///< of its (block, column tile); weight update: of its visit
  bool last_row = false;
  bool fresh = false;             ///< weight update: the accumulators start from nothing
  std::int64_t left_out = 0;      ///< weight update: positions that compaction took away
  std::int64_t psum_half = 0;     ///< forward and soma: which half of the psums
  std::int64_t load_weights = 0;  ///< how many of them the load brings
  std::int64_t load_input_bytes = 0;
  std::int64_t load_mask_bytes = 0;

  std::vector<std::int64_t> after_complete;  ///< data prerequisites (indices of jobs)
  std::vector<std::int64_t> after_end;       ///< order prerequisites

  bool loaded = false;
  bool built = false;
  bool ended = false;
  bool stored = false;  ///< by the DRAM; of no meaning where nothing is stored
  bool complete = false;

  Pass pass() const { return static_cast<Pass>(tile.pass); }
};

struct Plan {
  Plan(const Machine& machine, const StepWork& step);
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;

  std::deque<Layer> layers;
  std::deque<Block> blocks;
  std::vector<Job> jobs;                                      ///< in program order
  std::array<std::vector<std::int64_t>, engine_count> order;  ///< jobs of each engine
  std::vector<std::int64_t> resident;                         ///< as Result's
};

}  // namespace h2learn::accelerator::clocked
