#include "accelerator/fast_bits.hpp"

#include <bit>
#include <exception>

#include "accelerator/fast_items.hpp"
#include "accelerator/fast_windows.hpp"
#include "kernels/bit_strings.hpp"
#include "reference/bit_strings.hpp"

namespace h2learn::accelerator::fast {
namespace {

using Counts = std::vector<std::int64_t>;

std::size_t at(std::int64_t index) { return static_cast<std::size_t>(index); }

/// The kernels of the target in use; the scalar ones are the reference itself.
const BitStringKernels& kernels() {
  static constexpr BitStringKernels scalar = {&reference::add_ones, &reference::add_fields,
                                              &reference::most_in_bank, &reference::mark_any,
                                              &reference::count_addresses};
  return active_target() == Target::scalar ? scalar : detail::pick_bit_strings();
}

/// What all scans of a layer share.
struct Source {
  Source(const Machine& the_machine, const Layer& the_layer)
      : machine(the_machine),
        layer(the_layer),
        input_of_output(layer.work->geometry.input_of_output()),
        output_of_input(layer.work->geometry.output_of_input()),
        addresses(layer, machine.forward.inputs, output_of_input) {}

  const std::uint64_t* input_row(std::int64_t plane, std::int64_t row) const {
    return layer.work->inputs + (plane * layer.work->rows() + row) * input_words();
  }
  const std::uint64_t* mask_row(std::int64_t row) const {
    return layer.work->mask + row * input_words();
  }
  const std::uint64_t* gradient_row(std::int64_t row) const {
    return layer.work->nonzero + row * words_for(layer.neurons_per_image);
  }
  std::int64_t input_words() const { return words_for(layer.work->geometry.in_features()); }

  /// The channels of `group` at all input positions of a row, and likewise of the outputs.
  BitStrings group_inputs(const std::uint64_t* row, std::int64_t group) const {
    return {row, group * layer.group_inputs, layer.inputs, layer.input_positions,
            layer.group_inputs};
  }
  BitStrings group_outputs(const std::uint64_t* row, std::int64_t group) const {
    return {row, group * layer.group_outputs, layer.outputs, layer.output_positions,
            layer.group_outputs};
  }

  const Machine& machine;
  const Layer& layer;
  std::vector<std::int32_t> input_of_output;
  std::vector<std::int32_t> output_of_input;
  WindowAddresses addresses;
  const BitStringKernels& count = kernels();
};

// ---- images

/// Scans one image of a layer after the other.
class ImageScan {
 public:
  explicit ImageScan(const Source& source) : s_(source), layer_(source.layer) {}

  ImageBits scan(std::int64_t row) {
    ImageBits bits;
    if (layer_.work->mask)
      bits.mask_ones = ones_of(s_.mask_row(row), layer_.work->geometry.in_features());
    if (layer_.gradient) bits.gradients = ones_of(s_.gradient_row(row), layer_.neurons_per_image);
    for (std::int64_t group = 0; group < layer_.groups; ++group) {
      add_windows(row, group, bits);
      if (!s_.machine.forward.tables) continue;
      for (const WindowAddresses::Whole& whole : s_.addresses.whole()) {
        bits.forward_addresses += whole_addresses(row, group, whole);
      }
      if (!s_.addresses.straddling().empty()) {
        bits.forward_addresses += straddling_addresses(row, group);
      }
    }
    return bits;
  }

 private:
  std::int64_t ones_of(const std::uint64_t* row, std::int64_t features) const {
    std::int64_t ones = 0;
    s_.count.add_ones({row, 0, 0, 1, features}, &ones);
    return ones;
  }

  void add_windows(std::int64_t row, std::int64_t group, ImageBits& bits) {
    // One entry more, in front, for what taps read in the padding.
    ones_.assign(at(layer_.input_positions + 1), 0);
    for (std::int64_t plane = 0; plane < layer_.planes; ++plane) {
      s_.count.add_ones(s_.group_inputs(s_.input_row(plane, row), group), ones_.data() + 1);
    }
    gradients_.assign(at(layer_.output_positions), 0);
    if (layer_.update) {
      s_.count.add_ones(s_.group_outputs(s_.gradient_row(row), group), gradients_.data());
    }
    const std::int32_t* input = s_.input_of_output.data();
    for (std::int64_t output = 0; output < layer_.output_positions; ++output) {
      std::int64_t ones = 0;
      for (std::int64_t tap = 0; tap < layer_.taps; ++tap) ones += ones_[at(*input++ + 1)];
      bits.window_ones += ones;
      bits.products += ones * gradients_[at(output)];
    }
  }

  std::int64_t whole_addresses(std::int64_t row, std::int64_t group,
                               const WindowAddresses::Whole& whole) {
    fields_.assign(at(layer_.input_positions), 0);
    for (std::int64_t plane = 0; plane < layer_.planes; ++plane) {
      BitStrings strings = s_.group_inputs(s_.input_row(plane, row), group);
      strings.first += whole.channels.first;
      strings.length = whole.channels.count;
      s_.count.add_fields(strings, s_.machine.forward.inputs, fields_.data());
    }
    std::int64_t total = 0;
    for (std::size_t input = 0; input < fields_.size(); ++input) {
      total += fields_[input] * whole.readers[input];
    }
    return total;
  }

  /// A word of `any_` holds one fragment of one input position, a bit for each plane.
  std::int64_t straddling_addresses(std::int64_t row, std::int64_t group) {
    const std::int64_t stride = layer_.input_positions + 1;
    const auto& fragments = s_.addresses.fragments();
    std::int64_t total = 0;
    for (std::int64_t first = 0; first < layer_.planes; first += word_bits) {
      const std::int64_t planes = std::min(word_bits, layer_.planes - first);
      any_.assign(fragments.size() * at(stride), 0);
      for (std::size_t f = 0; f < fragments.size(); ++f) {
        for (std::int64_t plane = 0; plane < planes; ++plane) {
          BitStrings strings = s_.group_inputs(s_.input_row(first + plane, row), group);
          strings.first += fragments[f].first;
          strings.length = fragments[f].count;
          s_.count.mark_any(strings, plane, any_.data() + f * at(stride) + 1);
        }
      }
      for (std::int64_t output = 0; output < layer_.output_positions; ++output) {
        const std::int32_t* const inputs = s_.input_of_output.data() + output * layer_.taps;
        for (const auto& pieces : s_.addresses.straddling()) {
          std::uint64_t set = 0;
          for (const WindowAddresses::Piece& piece : pieces) {
            set |= any_[at(piece.fragment * stride + inputs[piece.tap] + 1)];
          }
          total += std::popcount(set);
        }
      }
    }
    return total;
  }

  const Source& s_;
  const Layer& layer_;
  Counts ones_;
  Counts gradients_;
  Counts fields_;
  std::vector<std::uint64_t> any_;
};

// ---- backward engine

/// Makes the work items of one block, tile by tile, and schedules them.
class BackwardScan {
 public:
  BackwardScan(const Source& source, const Part& part, const Block& block)
      : s_(source),
        layer_(source.layer),
        engine_(source.machine.backward),
        tiling_(source.machine, source.layer),
        block_(block),
        positions_(block.images * block.units) {
    for (std::int64_t i = 0; i < block.images; ++i) {
      rows_.push_back(part.row(part.reversed(block.first_image + i)));
    }
    find_outputs();
  }

  BackwardBits scan() {
    BackwardBits bits;
    std::int64_t group = -1;
    for (std::int64_t column = 0; column < tiling_.column_tiles; ++column) {
      if (column / tiling_.columns_per_group != group) {
        group = column / tiling_.columns_per_group;
        count_gradients(group, 0, layer_.group_outputs, whole_taps_);
      }
      find_needs(group, column, bits);
      for (std::int64_t row = 0; row < tiling_.row_tiles; ++row) {
        count_reduction(group, row);
        bits.run_cycles.push_back(run_tile(row, bits));
      }
    }
    return bits;
  }

 private:
  /// The output positions that read any input position of the block.
  void find_outputs() {
    first_output_ = layer_.output_positions;
    std::int64_t last = -1;
    const std::int64_t from = block_.first_unit * layer_.taps;
    for (std::int64_t i = from; i < from + block_.units * layer_.taps; ++i) {
      const std::int64_t output = s_.output_of_input[at(i)];
      if (output < 0) continue;
      first_output_ = std::min(first_output_, output);
      last = std::max(last, output);
    }
    outputs_ = std::max<std::int64_t>(last + 1 - first_output_, 0);
  }

  /// Gradients that are not zero among channels [from, to) of the group, for each image and output
  /// position, and one 0 in front of each image for taps that are not valid.
  void count_gradients(std::int64_t group, std::int64_t from, std::int64_t to, Counts& counts) {
    const std::int64_t stride = outputs_ + 1;
    counts.assign(at(block_.images * stride), 0);
    for (std::int64_t i = 0; i < block_.images; ++i) {
      const std::int64_t first =
          first_output_ * layer_.outputs + group * layer_.group_outputs + from;
      s_.count.add_ones({s_.gradient_row(rows_[at(i)]), first, layer_.outputs, outputs_, to - from},
                        counts.data() + i * stride + 1);
    }
  }

  /// n_out and rounds of each position and slice of a column tile, and their sums.
  void find_needs(std::int64_t group, std::int64_t column, BackwardBits& bits) {
    slices_ = tiling_.slices_of(column);
    needs_.resize(at(positions_ * slices_));
    position_needs_.assign(at(positions_), {});
    channels_ = 0;
    for (std::int64_t slice = 0; slice < slices_; ++slice) {
      const std::int64_t first = (tiling_.first_slice(column) + slice) * engine_.slice;
      const std::int64_t channels = std::min(engine_.slice, layer_.group_inputs - first);
      channels_ += channels;
      for (std::int64_t i = 0; i < block_.images; ++i) {
        find_slice(i, slice, group * layer_.group_inputs + first, channels);
      }
    }
    std::int64_t needed = 0;
    for (const Need& need : position_needs_) needed += need.channels;
    bits.needed_channels.push_back(needed);
  }

  void find_slice(std::int64_t image, std::int64_t slice, std::int64_t first,
                  std::int64_t channels) {
    if (layer_.work->mask && engine_.output_sparsity) {
      const BitStrings strings{s_.mask_row(rows_[at(image)]),
                               block_.first_unit * layer_.inputs + first, layer_.inputs,
                               block_.units, channels};
      ones_.assign(at(block_.units), 0);
      most_.resize(at(block_.units));
      s_.count.add_ones(strings, ones_.data());
      s_.count.most_in_bank(strings, engine_.weights_banks, most_.data());
    } else {
      ones_.assign(at(block_.units), channels);
      most_.assign(at(block_.units), divide_up(channels, engine_.weights_banks));
    }
    for (std::int64_t unit = 0; unit < block_.units; ++unit) {
      const std::int64_t position = image * block_.units + unit;
      const std::int64_t needed = ones_[at(unit)];
      const std::int64_t rounds = std::max(divide_up(needed, engine_.lanes), most_[at(unit)]);
      needs_[at(position * slices_ + slice)] = {needed, rounds};
      position_needs_[at(position)].channels += needed;
      position_needs_[at(position)].rounds += rounds;
    }
  }

  /// valid and n_in of each position for a row tile.
  void count_reduction(std::int64_t group, std::int64_t row) {
    const std::int64_t first = row * engine_.tile_rows;
    const std::int64_t last = first + piece(tiling_.reduction, engine_.tile_rows, row) - 1;
    valid_.assign(at(block_.units), 0);
    gradients_.assign(at(positions_), 0);
    for (std::int64_t tap = first / layer_.group_outputs; tap <= last / layer_.group_outputs;
         ++tap) {
      const std::int64_t start = tap * layer_.group_outputs;
      const std::int64_t from = std::max(first - start, std::int64_t{0});
      const std::int64_t to = std::min(last + 1 - start, layer_.group_outputs);
      const bool whole = from == 0 && to == layer_.group_outputs;
      if (!whole) count_gradients(group, from, to, part_of_tap_);
      add_tap(tap, to - from, whole ? whole_taps_ : part_of_tap_);
    }
  }

  void add_tap(std::int64_t tap, std::int64_t channels, const Counts& counts) {
    readers_.resize(at(block_.units));
    for (std::int64_t unit = 0; unit < block_.units; ++unit) {
      const std::int64_t output =
          s_.output_of_input[at((block_.first_unit + unit) * layer_.taps + tap)];
      readers_[at(unit)] = output < 0 ? 0 : output - first_output_ + 1;
      valid_[at(unit)] += output < 0 ? 0 : channels;
    }
    for (std::int64_t i = 0; i < block_.images; ++i) {
      const std::int64_t* const image = counts.data() + i * (outputs_ + 1);
      std::int64_t* const sums = gradients_.data() + i * block_.units;
      for (std::int64_t unit = 0; unit < block_.units; ++unit)
        sums[unit] += image[readers_[at(unit)]];
    }
  }

  std::int64_t run_tile(std::int64_t row, BackwardBits& bits) {
    cycles_.resize(at(positions_ * slices_));
    std::int64_t longest = 1;
    std::int64_t* item = cycles_.data();
    const Need* need = needs_.data();
    for (std::int64_t position = 0; position < positions_; ++position) {
      const std::int64_t valid = valid_[at(position % block_.units)];
      const std::int64_t gradients = engine_.input_sparsity ? gradients_[at(position)] : valid;
      for (std::int64_t slice = 0; slice < slices_; ++slice, ++need, ++item) {
        const bool empty = need->channels == 0 || gradients == 0;
        *item = empty ? 1 : need->rounds * gradients + engine_.encode_cycles;
        longest = std::max(longest, *item);
        bits.items_empty += std::int64_t{empty};
      }
      const Need& all = position_needs_[at(position)];
      bits.offered += channels_ * valid;
      bits.needed += all.channels * gradients;
      bits.skipped_by_gradient += all.channels * (valid - gradients);
      bits.skipped_by_mask += (channels_ - all.channels) * valid;
      bits.lane_turns += all.rounds * gradients;
    }
    bits.items += positions_ * slices_;
    bits.mask_bits += positions_ * channels_;
    bits.psum_writes += bits.needed_channels.back();
    if (row > 0) bits.psum_reads += bits.needed_channels.back();
    return schedule_.last_end(cycles_, longest, engine_.groups);
  }

  struct Need {
    std::int64_t channels = 0;
    std::int64_t rounds = 0;
  };

  const Source& s_;
  const Layer& layer_;
  const BackwardEngine& engine_;
  const BackwardTiling tiling_;
  const Block& block_;
  const std::int64_t positions_;
  Counts rows_;  ///< of the block's images
  std::int64_t first_output_ = 0;
  std::int64_t outputs_ = 0;

  Counts whole_taps_;
  Counts part_of_tap_;
  Counts ones_;
  Counts most_;
  Counts readers_;
  Counts valid_;      ///< [units]
  Counts gradients_;  ///< [positions]
  std::int64_t slices_ = 0;
  std::int64_t channels_ = 0;
  std::vector<Need> needs_;           ///< [positions, slices]
  std::vector<Need> position_needs_;  ///< [positions]
  Counts cycles_;
  ItemSchedule schedule_;
};

// ---- weight-update engine

class UpdateScan {
 public:
  UpdateScan(const Source& source, const Part& part, const Block& block)
      : s_(source),
        layer_(source.layer),
        engine_(source.machine.update),
        tiling_(source.machine, source.layer),
        block_(block) {
    for (std::int64_t i = 0; i < block.images; ++i) {
      rows_.push_back(part.row(part.reversed(block.first_image + i)));
    }
  }

  UpdateBits scan() {
    UpdateBits bits;
    for (std::int64_t column = 0; column < tiling_.columns.count; ++column) {
      bits.column_tile.push_back(static_cast<std::int64_t>(bits.tiles.size()));
      scan_columns(column, bits);
    }
    bits.column_tile.push_back(static_cast<std::int64_t>(bits.tiles.size()));
    return bits;
  }

 private:
  void scan_columns(std::int64_t column, UpdateBits& bits) {
    const std::int64_t group = tiling_.columns.group(column);
    const std::int64_t first = tiling_.columns.first(column);
    const std::int64_t columns =
        piece(layer_.group_outputs, tiling_.columns.size, column % tiling_.columns.per_group);
    // Without compaction all column tiles of a group take the same positions.
    const bool first_of_positions = engine_.compact || first == 0;
    const std::int64_t sharing = engine_.compact ? columns : layer_.group_outputs;
    bits.tiles.push_back({});
    for (const std::int64_t row : rows_) {
      gradients_.assign(at(layer_.output_positions), 0);
      s_.count.add_ones({s_.gradient_row(row), group * layer_.group_outputs + first, layer_.outputs,
                         layer_.output_positions, columns},
                        gradients_.data());
      if (first_of_positions && !engine_.tables) count_window_ones(row, group);
      for (std::int64_t output = 0; output < layer_.output_positions; ++output) {
        if (engine_.compact && gradients_[at(output)] == 0) continue;
        if (bits.tiles.back().positions == tiling_.tile_positions) {
          if (first_of_positions) bits.addresses += sharing * count_addresses(group);
          bits.tiles.push_back({});
        }
        ++bits.tiles.back().positions;
        bits.tiles.back().gradients += gradients_[at(output)];
        if (!first_of_positions) continue;
        if (engine_.tables) {
          window_rows_.push_back(s_.input_row(0, row));
          window_outputs_.push_back(static_cast<std::int32_t>(output));
        } else {
          bits.set_bits += sharing * window_ones_[at(output)];
        }
      }
    }
    if (first_of_positions) bits.addresses += sharing * count_addresses(group);
  }

  /// Of the windows gathered so far, which are then forgotten.
  std::int64_t count_addresses(std::int64_t group) {
    const Windows windows{window_rows_.data(),
                          window_outputs_.data(),
                          static_cast<std::int64_t>(window_rows_.size()),
                          engine_.inputs,
                          s_.input_of_output.data(),
                          layer_.taps,
                          layer_.planes,
                          layer_.work->rows() * s_.input_words(),
                          group * layer_.group_inputs,
                          layer_.inputs,
                          layer_.group_inputs};
    const std::int64_t count = s_.count.count_addresses(windows);
    window_rows_.clear();
    window_outputs_.clear();
    return count;
  }

  /// Set bits in the window of each output position.
  void count_window_ones(std::int64_t row, std::int64_t group) {
    ones_.assign(at(layer_.input_positions + 1), 0);
    for (std::int64_t plane = 0; plane < layer_.planes; ++plane) {
      s_.count.add_ones(s_.group_inputs(s_.input_row(plane, row), group), ones_.data() + 1);
    }
    window_ones_.assign(at(layer_.output_positions), 0);
    const std::int32_t* input = s_.input_of_output.data();
    for (std::int64_t& ones : window_ones_) {
      for (std::int64_t tap = 0; tap < layer_.taps; ++tap) ones += ones_[at(*input++ + 1)];
    }
  }

  const Source& s_;
  const Layer& layer_;
  const UpdateEngine& engine_;
  const UpdateTiling tiling_;
  const Block& block_;
  Counts rows_;  ///< of the block's images
  Counts gradients_;
  Counts ones_;
  Counts window_ones_;
  std::vector<const std::uint64_t*> window_rows_;
  std::vector<std::int32_t> window_outputs_;
};

// ---- gradient unit

/// Gradients that are not zero in each block.
std::int64_t gradients_of(const Source& source, const Part& part, const Block& block) {
  std::int64_t gradients = 0;
  for (std::int64_t i = 0; i < block.images; ++i) {
    const std::int64_t row = part.row(part.reversed(block.first_image + i));
    source.count.add_ones({source.gradient_row(row), block.first_unit, 0, 1, block.units},
                          &gradients);
  }
  return gradients;
}

// ---- all of it, in parallel

/// Below this many bits a second thread costs more than it saves.
constexpr std::int64_t parallel_from_bits = std::int64_t{1} << 18;

std::int64_t bits_of(const Layer& layer) {
  const std::int64_t inputs = layer.work->geometry.in_features() * (layer.planes + 1);
  return layer.work->rows() * (inputs + layer.neurons_per_image);
}

/// Runs body(0) ... body(count - 1), on all threads if so wished; throws one of the exceptions that
/// they threw.
template <typename Body>
void run_all(std::int64_t count, bool parallel, Body body) {
  std::exception_ptr thrown;
#pragma omp parallel for schedule(dynamic) if (parallel)
  for (std::int64_t i = 0; i < count; ++i) {
    try {
      body(i);
    } catch (...) {
#pragma omp critical(h2learn_accelerator_scan)
      thrown = std::current_exception();
    }
  }
  if (thrown) std::rethrow_exception(thrown);
}

/// Something to scan: an image of a layer, or a block of one of its passes.
struct Job {
  Pass pass = Pass::forward;  ///< forward stands for an image
  std::int64_t layer = 0;
  std::int64_t part = 0;
  Block block;
};

}  // namespace

std::vector<LayerBits> scan(const Machine& machine, const std::vector<Layer>& layers,
                            const std::vector<Part>& parts) {
  std::vector<Source> sources;
  sources.reserve(layers.size());
  for (const Layer& layer : layers) sources.emplace_back(machine, layer);

  std::vector<LayerBits> bits(layers.size());
  std::vector<Job> jobs;
  std::int64_t all_bits = 0;
  for (std::size_t l = 0; l < layers.size(); ++l) {
    const Layer& layer = layers[l];
    const auto add = [&](Pass pass, const Part& part, const std::vector<Block>& blocks) {
      for (const Block& block : blocks) {
        jobs.push_back({pass, static_cast<std::int64_t>(l), part.index, block});
      }
      return blocks.size();
    };
    all_bits += bits_of(layer);
    bits[l].images.resize(at(layer.work->rows()));
    for (const Part& part : parts) {
      add(Pass::forward, part, cut(part.images(), 1, 1, 1));
      bits[l].backward.emplace_back(
          layer.backward ? add(Pass::backward, part,
                               BackwardTiling(machine, layer).blocks(machine, layer, part))
                         : 0);
      bits[l].update.emplace_back(
          layer.update
              ? add(Pass::update, part, UpdateTiling(machine, layer).blocks(machine, layer, part))
              : 0);
      bits[l].gradient.emplace_back(
          layer.gradient ? add(Pass::gradient, part, gradient_blocks(machine, layer, part)) : 0);
    }
  }
  const auto count = static_cast<std::int64_t>(jobs.size());
  run_all(count, all_bits >= parallel_from_bits, [&](std::int64_t i) {
    const Job& job = jobs[at(i)];
    const Source& source = sources[at(job.layer)];
    const Part& part = parts[at(job.part)];
    LayerBits& out = bits[at(job.layer)];
    const std::size_t index = at(job.block.index);
    if (job.pass == Pass::forward) {
      const std::int64_t row = part.row(job.block.first_image);
      out.images[at(row)] = ImageScan(source).scan(row);
    } else if (job.pass == Pass::backward) {
      out.backward[at(job.part)][index] = BackwardScan(source, part, job.block).scan();
    } else if (job.pass == Pass::update) {
      out.update[at(job.part)][index] = UpdateScan(source, part, job.block).scan();
    } else {
      out.gradient[at(job.part)][index] = gradients_of(source, part, job.block);
    }
  });
  return bits;
}

}  // namespace h2learn::accelerator::fast
