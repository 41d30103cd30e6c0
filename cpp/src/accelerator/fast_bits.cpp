#include "accelerator/fast_bits.hpp"

#include <algorithm>
#include <exception>
#include <optional>

#include "accelerator/fast_items.hpp"
#include "accelerator/fast_windows.hpp"
#include "kernels/bit_strings.hpp"
#include "reference/bit_strings.hpp"

namespace h2learn::accelerator::fast {
namespace {

using Counts = std::vector<std::int64_t>;

std::size_t at(std::int64_t index) { return static_cast<std::size_t>(index); }

/// The kernels of the target in use; the scalar ones are the reference itself.
const BitStringKernels& bit_string_kernels() {
  static constexpr BitStringKernels scalar = {
      &reference::add_ones,        &reference::most_in_bank,           &reference::place,
      &reference::count_addresses, &reference::count_window_addresses, &reference::add_shifted};
  const Target target = active_target();
  return target == Target::scalar ? scalar : detail::pick_bit_strings(target);
}

/// What all scans of a layer share.
struct Source {
  Source(const Machine& the_machine, const Layer& the_layer, const Part& largest_part)
      : machine(the_machine), layer(the_layer), kernels(bit_string_kernels()), image(the_layer) {
    if (machine.forward.tables) forward = AddressCount::forward(layer, machine.forward.inputs);
    if (layer.update && machine.update.tables && !machine.update.compact) {
      find_update_addresses(largest_part);
    }
  }

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
  std::int64_t plane_words() const { return layer.work->rows() * input_words(); }

  /// The first output position of image `i` of a block at which an address of the update engine
  /// begins, when no position is left out.
  std::int64_t first_update(std::int64_t i) const {
    const std::int64_t inputs = machine.update.inputs;
    return (inputs - i * layer.output_positions % inputs) % inputs;
  }

  const Machine& machine;
  const Layer& layer;
  const BitStringKernels& kernels;
  PaddedImage image;
  std::optional<AddressCount> forward;
  std::vector<std::optional<AddressCount>> update;  ///< by where the first of them begins

 private:
  void find_update_addresses(const Part& largest_part) {
    update.resize(at(machine.update.inputs));
    const UpdateTiling tiling(machine, layer);
    const std::int64_t images = tiling.blocks(machine, layer, largest_part).front().images;
    for (std::int64_t i = 0; i < std::min(images, machine.update.inputs); ++i) {
      const std::int64_t first = first_update(i);
      std::optional<AddressCount>& count = update[at(first)];
      if (count || first + machine.update.inputs > layer.output_positions) continue;
      count = AddressCount::update(layer, machine.update.inputs, first);
    }
  }
};

// ---- images

/// Scans one image of a layer after the other.
class ImageScan {
 public:
  explicit ImageScan(const Source& source)
      : s_(source), layer_(source.layer), ones_(source.layer, source.image) {}

  ImageBits scan(std::int64_t row) {
    ImageBits bits;
    if (layer_.work->mask) {
      s_.kernels.add_ones({s_.mask_row(row), 0, 0, 1, layer_.work->geometry.in_features()},
                          &bits.mask_ones);
    }
    for (std::int64_t group = 0; group < layer_.groups; ++group) {
      add_windows(row, group, bits);
      if (s_.forward) add_addresses(row, group, bits);
    }
    return bits;
  }

 private:
  void add_windows(std::int64_t row, std::int64_t group, ImageBits& bits) {
    ones_.count(s_.kernels, s_.input_row(0, row), s_.plane_words(), group);
    gradients_.assign(at(layer_.output_positions), 0);
    if (layer_.gradient) {
      s_.kernels.add_ones({s_.gradient_row(row), group * layer_.group_outputs, layer_.outputs,
                           layer_.output_positions, layer_.group_outputs},
                          gradients_.data());
    }
    const std::int64_t width = layer_.work->geometry.out_width();
    const std::int64_t stride = layer_.work->geometry.stride_width;
    const std::int64_t* gradients = gradients_.data();
    for (std::int64_t output = 0; output < layer_.output_positions; output += width) {
      std::int64_t window = s_.image.window(output);
      for (std::int64_t x = 0; x < width; ++x, window += stride) {
        bits.window_ones += ones_.in(window);
        bits.gradients += *gradients;
        bits.products += ones_.in(window) * *gradients++;
      }
    }
  }

  void add_addresses(std::int64_t row, std::int64_t group, ImageBits& bits) {
    for (std::int64_t plane = 0; plane < layer_.planes; ++plane) {
      s_.image.fill(s_.kernels, s_.input_row(plane, row), group, s_.forward->reach(), words_);
      bits.forward_addresses += s_.forward->count(s_.kernels, words_);
    }
  }

  const Source& s_;
  const Layer& layer_;
  WindowOnes ones_;
  Counts gradients_;
  std::vector<std::uint64_t> words_;
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
    place_block();
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
  /// Where the block's input positions lie, and the gradients that reach them: both on rows that
  /// are `width_` wide, the gradients where stride 1 would put them, zeros between and around them,
  /// so that the gradient that an input reads through a tap is always at the same distance.
  void place_block() {
    const Geometry& g = layer_.work->geometry;
    const std::int64_t reach = g.dilation_height * (g.kernel_height - 1);
    const std::int64_t reach_across = g.dilation_width * (g.kernel_width - 1);
    const std::int64_t first_row = block_.first_unit / g.in_width;
    const std::int64_t rows = (block_.first_unit + block_.units - 1) / g.in_width - first_row + 1;
    width_ = g.in_width + reach_across;
    height_ = rows + reach;
    for (std::int64_t unit = 0; unit < block_.units; ++unit) {
      const std::int64_t position = block_.first_unit + unit;
      place_of_unit_.push_back((position / g.in_width - first_row) * width_ +
                               position % g.in_width);
    }
    for (std::int64_t tap = 0; tap < layer_.taps; ++tap) {
      shift_of_tap_.push_back((g.kernel_height - 1 - tap / g.kernel_width) * g.dilation_height *
                                  width_ +
                              (g.kernel_width - 1 - tap % g.kernel_width) * g.dilation_width);
    }
    // Outputs further up or down than the block's own rows and the kernel reach no input of it.
    const std::int64_t top = first_row + g.padding_height - reach;
    const std::int64_t left = g.padding_width - reach_across;
    for (std::int64_t output = 0; output < layer_.output_positions; ++output) {
      const std::int64_t y = output / g.out_width() * g.stride_height - top;
      const std::int64_t x = output % g.out_width() * g.stride_width - left;
      if (y < 0 || y >= height_ || x < 0 || x >= width_) continue;
      if (outputs_.empty() || outputs_.back().first + outputs_.back().count != output ||
          g.stride_width > 1 || output % g.out_width() == 0) {
        outputs_.push_back({output, 0, y * width_ + x});
      }
      ++outputs_.back().count;
    }
    present_.assign(at(height_ * width_), 0);
    for (const Outputs& outputs : outputs_) {
      std::fill_n(present_.begin() + outputs.place, outputs.count, 1);
    }
  }

  /// Gradients that are not zero among channels [from, to) of the group, for each image, placed.
  void count_gradients(std::int64_t group, std::int64_t from, std::int64_t to, Counts& counts) {
    counts.assign(at(block_.images * height_ * width_), 0);
    if (outputs_.empty()) return;
    const std::int64_t first = outputs_.front().first;
    const std::int64_t count = outputs_.back().first + outputs_.back().count - first;
    for (std::int64_t i = 0; i < block_.images; ++i) {
      ones_.assign(at(count), 0);
      s_.kernels.add_ones({s_.gradient_row(rows_[at(i)]),
                           first * layer_.outputs + group * layer_.group_outputs + from,
                           layer_.outputs, count, to - from},
                          ones_.data());
      std::int64_t* const image = counts.data() + i * height_ * width_;
      for (const Outputs& outputs : outputs_) {
        std::copy_n(ones_.data() + outputs.first - first, outputs.count, image + outputs.place);
      }
    }
  }

  /// n_out and rounds of each position and slice of a column tile, and their sums.
  void find_needs(std::int64_t group, std::int64_t column, BackwardBits& bits) {
    slices_ = tiling_.slices_of(column);
    needs_.resize(at(positions_ * slices_));
    position_needs_.assign(at(positions_), {});
    channels_ = 0;
    const std::int64_t most = std::min(engine_.slice, layer_.group_inputs);
    while (static_cast<std::int64_t>(turns_.size()) <= most) {
      turns_.push_back(divide_up(static_cast<std::int64_t>(turns_.size()), engine_.lanes));
    }
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
      s_.kernels.add_ones(strings, ones_.data());
      if (channels > engine_.weights_banks) {
        s_.kernels.most_in_bank(strings, engine_.weights_banks, most_.data());
      } else {  // a bank for each
        for (std::int64_t unit = 0; unit < block_.units; ++unit) {
          most_[at(unit)] = std::min<std::int64_t>(ones_[at(unit)], 1);
        }
      }
    } else {
      ones_.assign(at(block_.units), channels);
      most_.assign(at(block_.units), divide_up(channels, engine_.weights_banks));
    }
    for (std::int64_t unit = 0; unit < block_.units; ++unit) {
      const std::int64_t position = image * block_.units + unit;
      const std::int64_t needed = ones_[at(unit)];
      const std::int64_t rounds = std::max(turns_[at(needed)], most_[at(unit)]);
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
    sums_.assign(at(block_.images * height_ * width_), 0);
    whole_shifts_.clear();
    for (std::int64_t tap = first / layer_.group_outputs; tap <= last / layer_.group_outputs;
         ++tap) {
      const std::int64_t start = tap * layer_.group_outputs;
      const std::int64_t from = std::max(first - start, std::int64_t{0});
      const std::int64_t to = std::min(last + 1 - start, layer_.group_outputs);
      add_valid(tap, to - from);
      if (from == 0 && to == layer_.group_outputs) {
        whole_shifts_.push_back(shift_of_tap_[at(tap)]);
      } else {
        count_gradients(group, from, to, part_of_tap_);
        add_taps(part_of_tap_, {shift_of_tap_[at(tap)]});
      }
    }
    add_taps(whole_taps_, whole_shifts_);
    for (std::int64_t i = 0; i < block_.images; ++i) {
      const std::int64_t* const sums = sums_.data() + i * height_ * width_;
      std::int64_t* const gradients = gradients_.data() + i * block_.units;
      for (std::int64_t unit = 0; unit < block_.units; ++unit) {
        gradients[unit] = sums[place_of_unit_[at(unit)]];
      }
    }
  }

  void add_valid(std::int64_t tap, std::int64_t channels) {
    for (std::int64_t unit = 0; unit < block_.units; ++unit) {
      valid_[at(unit)] +=
          channels * present_[at(place_of_unit_[at(unit)] + shift_of_tap_[at(tap)])];
    }
  }

  void add_taps(const Counts& counts, const Counts& shifts) {
    // Those of the last image reach no further than its own gradients.
    const auto count = static_cast<std::int64_t>(counts.size()) - shift_of_tap_.front();
    s_.kernels.add_shifted(counts.data(), shifts.data(), static_cast<std::int64_t>(shifts.size()),
                           count, sums_.data());
  }

  std::int64_t run_tile(std::int64_t row, BackwardBits& bits) {
    cycles_.resize(at(positions_ * slices_));
    std::int64_t longest = 1;
    std::int64_t* item = cycles_.data();
    const Need* need = needs_.data();
    for (std::int64_t position = 0; position < positions_;) {
      for (std::int64_t unit = 0; unit < block_.units; ++unit, ++position) {
        const std::int64_t valid = valid_[at(unit)];
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
  /// Neighbouring output positions from `first` on, and where the first of them is placed.
  struct Outputs {
    std::int64_t first = 0;
    std::int64_t count = 0;
    std::int64_t place = 0;
  };

  const Source& s_;
  const Layer& layer_;
  const BackwardEngine& engine_;
  const BackwardTiling tiling_;
  const Block& block_;
  const std::int64_t positions_;
  Counts rows_;  ///< of the block's images
  std::int64_t width_ = 0;
  std::int64_t height_ = 0;
  Counts place_of_unit_;
  Counts shift_of_tap_;  ///< from a unit's place to that of the gradient
  std::vector<Outputs> outputs_;
  Counts present_;  ///< [height, width]: 1 where an output is placed

  Counts whole_taps_;   ///< [images, height, width]
  Counts part_of_tap_;  ///< likewise
  Counts sums_;         ///< likewise, over taps
  Counts whole_shifts_;
  Counts ones_;
  Counts most_;
  Counts turns_;      ///< [needed channels]: of all lanes
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
        block_(block),
        ones_(source.layer, source.image) {
    for (std::int64_t i = 0; i < block.images; ++i) {
      rows_.push_back(part.row(part.reversed(block.first_image + i)));
    }
  }

  UpdateBits scan() {
    UpdateBits bits;
    if (engine_.compact) {
      for (std::int64_t column = 0; column < tiling_.columns.count; ++column) {
        bits.column_tile.push_back(static_cast<std::int64_t>(bits.tiles.size()));
        scan_compacted(column, bits);
      }
    } else {
      count_tiles(bits);
      for (std::int64_t group = 0; group < layer_.groups; ++group) {
        if (engine_.tables) {
          bits.addresses += layer_.group_outputs * count_addresses(group);
        } else {
          bits.set_bits += layer_.group_outputs * count_ones(group);
        }
      }
    }
    bits.column_tile.push_back(static_cast<std::int64_t>(bits.tiles.size()));
    return bits;
  }

 private:
  std::int64_t columns_of(std::int64_t column) const {
    return piece(layer_.group_outputs, tiling_.columns.size, column % tiling_.columns.per_group);
  }
  /// The first output channel of a column tile, over all groups.
  std::int64_t first_of(std::int64_t column) const {
    return tiling_.columns.group(column) * layer_.group_outputs + tiling_.columns.first(column);
  }

  // ---- all positions

  void count_tiles(UpdateBits& bits) {
    const std::int64_t positions = block_.images * layer_.output_positions;
    const std::int64_t tiles = divide_up(positions, tiling_.tile_positions);
    for (std::int64_t column = 0; column < tiling_.columns.count; ++column) {
      bits.column_tile.push_back(column * tiles);
      for (std::int64_t tile = 0; tile < tiles; ++tile) {
        bits.tiles.push_back({piece(positions, tiling_.tile_positions, tile), 0});
      }
    }
    for (std::int64_t i = 0; i < block_.images; ++i) {
      const std::int64_t start = i * layer_.output_positions;
      for (std::int64_t from = 0; from < layer_.output_positions;) {
        const std::int64_t tile = (start + from) / tiling_.tile_positions;
        const std::int64_t to =
            std::min(layer_.output_positions, (tile + 1) * tiling_.tile_positions - start);
        count_gradients(rows_[at(i)], from, to - from, &bits.tiles[at(tile)], tiles);
        from = to;
      }
    }
  }

  /// Adds the gradients at some positions of an image to the tiles that take them; those of the
  /// next column tile lie `tiles` further on.
  void count_gradients(std::int64_t row, std::int64_t from, std::int64_t positions,
                       UpdateBits::Tile* tile, std::int64_t tiles) {
    const std::uint64_t* const words = s_.gradient_row(row);
    const std::int64_t first = from * layer_.outputs;
    if (tiling_.columns.count == 1) {
      s_.kernels.add_ones({words, first, 0, 1, positions * layer_.outputs}, &tile->gradients);
      return;
    }
    if (positions < tiling_.columns.per_group) {
      for (std::int64_t p = 0; p < positions; ++p) {
        count_gradients_of(words, first + p * layer_.outputs, tile, tiles);
      }
      return;
    }
    for (std::int64_t column = 0; column < tiling_.columns.count; ++column) {
      gradients_.assign(at(positions), 0);
      s_.kernels.add_ones(
          {words, first + first_of(column), layer_.outputs, positions, columns_of(column)},
          gradients_.data());
      for (const std::int64_t gradients : gradients_) tile[column * tiles].gradients += gradients;
    }
  }

  /// The same for one position, whose gradients begin at bit `first`.
  void count_gradients_of(const std::uint64_t* words, std::int64_t first, UpdateBits::Tile* tile,
                          std::int64_t tiles) {
    const Columns& columns = tiling_.columns;
    const std::int64_t whole = layer_.group_outputs / columns.size;
    for (std::int64_t column = 0; column < columns.count; column += columns.per_group) {
      gradients_.assign(at(columns.per_group), 0);
      s_.kernels.add_ones({words, first + first_of(column), columns.size, whole, columns.size},
                          gradients_.data());
      if (whole < columns.per_group) {
        const std::int64_t last = column + whole;
        s_.kernels.add_ones({words, first + first_of(last), 0, 1, columns_of(last)},
                            &gradients_.back());
      }
      for (std::int64_t c = 0; c < columns.per_group; ++c) {
        tile[(column + c) * tiles].gradients += gradients_[at(c)];
      }
    }
  }

  /// Addresses within an image are counted all at once, others window by window.
  std::int64_t count_addresses(std::int64_t group) {
    std::int64_t count = 0;
    for (std::int64_t i = 0; i < block_.images; ++i) {
      const std::int64_t row = rows_[at(i)];
      const std::int64_t first = s_.first_update(i);
      const std::int64_t whole = (layer_.output_positions - first) / engine_.inputs;
      if (first + engine_.inputs > layer_.output_positions) {
        gather(row, 0, layer_.output_positions);
        continue;
      }
      gather(row, 0, first);
      gather(row, first + whole * engine_.inputs, layer_.output_positions);
      const AddressCount& within = *s_.update[at(first)];
      for (std::int64_t plane = 0; plane < layer_.planes; ++plane) {
        s_.image.fill(s_.kernels, s_.input_row(plane, row), group, within.reach(), words_);
        count += within.count(s_.kernels, words_);
      }
    }
    return count + count_gathered(group);
  }

  std::int64_t count_ones(std::int64_t group) {
    std::int64_t count = 0;
    for (const std::int64_t row : rows_) {
      ones_.count(s_.kernels, s_.input_row(0, row), s_.plane_words(), group);
      for (std::int64_t output = 0; output < layer_.output_positions; ++output) {
        count += ones_.in(s_.image.window(output));
      }
    }
    return count;
  }

  // ---- positions with gradients only

  void scan_compacted(std::int64_t column, UpdateBits& bits) {
    const std::int64_t group = tiling_.columns.group(column);
    const std::int64_t columns = columns_of(column);
    bits.tiles.push_back({});
    for (const std::int64_t row : rows_) {
      gradients_.assign(at(layer_.output_positions), 0);
      s_.kernels.add_ones({s_.gradient_row(row), first_of(column), layer_.outputs,
                           layer_.output_positions, columns},
                          gradients_.data());
      if (!engine_.tables) {
        ones_.count(s_.kernels, s_.input_row(0, row), s_.plane_words(), group);
      }
      for (std::int64_t output = 0; output < layer_.output_positions; ++output) {
        if (gradients_[at(output)] == 0) continue;
        if (bits.tiles.back().positions == tiling_.tile_positions) {
          bits.addresses += columns * count_gathered(group);
          bits.tiles.push_back({});
        }
        ++bits.tiles.back().positions;
        bits.tiles.back().gradients += gradients_[at(output)];
        if (engine_.tables) {
          gather(row, output, output + 1);
        } else {
          bits.set_bits += columns * ones_.in(s_.image.window(output));
        }
      }
    }
    bits.addresses += columns * count_gathered(group);
  }

  // ---- windows one by one

  void gather(std::int64_t row, std::int64_t from, std::int64_t to) {
    for (std::int64_t output = from; output < to; ++output) {
      window_rows_.push_back(s_.input_row(0, row));
      window_outputs_.push_back(static_cast<std::int32_t>(output));
    }
  }

  /// Addresses of the windows gathered so far, which are then forgotten.
  std::int64_t count_gathered(std::int64_t group) {
    if (window_rows_.empty()) return 0;
    if (input_of_output_.empty()) input_of_output_ = layer_.work->geometry.input_of_output();
    const Windows windows{window_rows_.data(),
                          window_outputs_.data(),
                          static_cast<std::int64_t>(window_rows_.size()),
                          engine_.inputs,
                          input_of_output_.data(),
                          layer_.taps,
                          layer_.planes,
                          s_.plane_words(),
                          group * layer_.group_inputs,
                          layer_.inputs,
                          layer_.group_inputs};
    const std::int64_t count = s_.kernels.count_window_addresses(windows);
    window_rows_.clear();
    window_outputs_.clear();
    return count;
  }

  const Source& s_;
  const Layer& layer_;
  const UpdateEngine& engine_;
  const UpdateTiling tiling_;
  const Block& block_;
  Counts rows_;  ///< of the block's images
  WindowOnes ones_;
  Counts gradients_;
  std::vector<std::uint64_t> words_;
  std::vector<std::int32_t> input_of_output_;
  std::vector<const std::uint64_t*> window_rows_;
  std::vector<std::int32_t> window_outputs_;
};

// ---- gradient unit

/// Gradients that are not zero in each block.
std::int64_t gradients_of(const Source& source, const Part& part, const Block& block) {
  std::int64_t gradients = 0;
  for (std::int64_t i = 0; i < block.images; ++i) {
    const std::int64_t row = part.row(part.reversed(block.first_image + i));
    source.kernels.add_ones({source.gradient_row(row), block.first_unit, 0, 1, block.units},
                            &gradients);
  }
  return gradients;
}

// ---- all of it, in parallel

/// Below this many bits a second thread costs more than it saves.
constexpr std::int64_t parallel_from_bits = std::int64_t{1} << 18;

/// Images of about this many bits are scanned together.
constexpr std::int64_t bits_of_a_job = std::int64_t{1} << 16;

std::int64_t image_bits(const Layer& layer) {
  return layer.work->geometry.in_features() * (layer.planes + 1) + layer.neurons_per_image;
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

/// Something to scan: some images of a layer, or a block of one of its passes.
struct Job {
  Pass pass = Pass::forward;  ///< forward stands for images
  std::int64_t layer = 0;
  std::int64_t part = 0;
  Block block;
};

}  // namespace

std::vector<LayerBits> scan(const Machine& machine, const std::vector<Layer>& layers,
                            const std::vector<Part>& parts) {
  std::int64_t all_bits = 0;
  for (const Layer& layer : layers) all_bits += layer.work->rows() * image_bits(layer);
  const bool parallel = all_bits >= parallel_from_bits;

  std::vector<Source> sources;
  sources.reserve(layers.size());
  for (const Layer& layer : layers) sources.emplace_back(machine, layer, parts.front());

  std::vector<LayerBits> bits(layers.size());
  std::vector<Job> jobs;
  for (std::size_t l = 0; l < layers.size(); ++l) {
    const Layer& layer = layers[l];
    const auto add = [&](Pass pass, const Part& part, const std::vector<Block>& blocks) {
      for (const Block& block : blocks) {
        jobs.push_back({pass, static_cast<std::int64_t>(l), part.index, block});
      }
      return blocks.size();
    };
    const std::int64_t together = std::max<std::int64_t>(bits_of_a_job / image_bits(layer), 1);
    bits[l].images.resize(at(layer.work->rows()));
    for (const Part& part : parts) {
      add(Pass::forward, part, cut(part.images(), 1, together, together));
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
  run_all(count, parallel, [&](std::int64_t i) {
    const Job& job = jobs[at(i)];
    const Source& source = sources[at(job.layer)];
    const Part& part = parts[at(job.part)];
    LayerBits& out = bits[at(job.layer)];
    const std::size_t index = at(job.block.index);
    if (job.pass == Pass::forward) {
      ImageScan images(source);
      for (std::int64_t image = job.block.first_image; image <= job.block.last_image(); ++image) {
        const std::int64_t row = part.row(image);
        out.images[at(row)] = images.scan(row);
      }
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
