#include "accelerator/fast_program.hpp"

#include <limits>
#include <stdexcept>

namespace h2learn::accelerator::fast {
namespace {

std::size_t at(std::int64_t index) { return static_cast<std::size_t>(index); }

/// Additions that fill one table: every entry but that of nothing and those of one operand.
std::int64_t table_additions(const TableEngine& engine) {
  return (std::int64_t{1} << engine.inputs) - 1 - engine.inputs;
}

std::int64_t table_entries(const TableEngine& engine) {
  return (std::int64_t{1} << engine.inputs) - 1;
}

/// Cycles from reading the last operand of a tile to its sum being accumulated.
std::int64_t drain_cycles(const TableEngine& engine) { return ceil_log2(engine.rows) + 2; }

/// A tile of a table engine: `streamed` operands are looked up one after the other in tables that
/// cover `tabled` others, in each of `columns`.
struct TableTile {
  std::int64_t streamed;
  std::int64_t tabled;
  std::int64_t columns;
  std::int64_t planes;

  /// Cycles from one look-up to the next.
  std::int64_t interval(const TableEngine& engine) const {
    return std::max({std::int64_t{1}, divide_up(columns, engine.psum_banks),
                     divide_up(tabled, engine.spikes_banks * spike_bank_bits)});
  }
  std::int64_t run_cycles(const TableEngine& engine) const {
    const std::int64_t passes = engine.tables ? 1 : engine.inputs;
    return streamed * planes * interval(engine) * passes + drain_cycles(engine);
  }
  std::int64_t build_cycles(const TableEngine& engine, std::int64_t banks) const {
    const std::int64_t fetch = divide_up(tabled * columns, banks);
    return engine.tables ? std::max(table_entries(engine), fetch) : fetch;
  }
  std::int64_t tables(const TableEngine& engine) const { return divide_up(tabled, engine.inputs); }

  /// Everything about tables that no bit decides; addresses that are zero are counted as all
  /// addresses, until `count_addresses`.
  void count_tables(const TableEngine& engine, Counters& counters) const {
    if (!engine.tables) return;
    const std::int64_t builds = tables(engine) * columns;
    counters.table_builds += builds;
    counters.table_writes += builds * table_entries(engine);
    counters.additions += builds * table_additions(engine);
    counters.table_reads_skipped += builds * streamed * planes;
  }
};

/// Moves `addresses` (summed over columns) from those that are zero to those that are not.
void count_addresses(std::int64_t addresses, Counters& counters) {
  counters.table_reads += addresses;
  counters.table_reads_skipped -= addresses;
  counters.additions += addresses;
}

class ProgramBuilder {
 public:
  ProgramBuilder(const Machine& machine, const std::vector<Layer>& layers,
                 const std::vector<Part>& parts, const std::vector<LayerBits>& bits)
      : machine_(machine), layers_(layers), parts_(parts), bits_(bits) {
    program_.result.layers.resize(layers.size());
    for (const Part& part : parts) residents_.push_back(residents_of(machine, layers, part));
    program_.result.resident = residents_.front();
    last_soma_.resize(parts.size());
    ends_.resize(parts.size());
  }

  Program make() {
    const bool ahead = machine_.schedule == Schedule::batch;
    if (ahead) forward_part(parts_.front());
    for (std::size_t p = 0; p < parts_.size(); ++p) {
      if (!ahead) forward_part(parts_[p]);
      if (ahead && p + 1 < parts_.size()) forward_part(parts_[p + 1]);
      backward_part(parts_[p]);
    }
    count_addresses_and_bits();
    return std::move(program_);
  }

 private:
  /// A tile to be, and what it waits for.
  struct Draft {
    Tile tile;
    TileWork work;
    std::size_t data = 0;
    std::size_t order = 0;

    void needs(TileId id) {
      if (id.exists()) work.data[data++] = id;
    }
    void follows(TileId id) {
      if (id.exists()) work.order[order++] = id;
    }
  };

  /// Where the tiles that are being made belong.
  struct Place {
    Pass pass = Pass::forward;
    const Part& part;
    std::int64_t layer = 0;
  };

  const Layer& layer_of(const Place& place) const { return layers_[at(place.layer)]; }
  const LayerBits& bits_of(const Place& place) const { return bits_[at(place.layer)]; }
  Counters& counters_of(Pass pass, std::int64_t layer) {
    return program_.result.layers[at(layer)][static_cast<std::size_t>(pass)];
  }
  Counters& counters_of(const Place& place) { return counters_of(place.pass, place.layer); }

  bool stays(const Place& place, Resident tensor) const {
    return (residents_[at(place.part.index)][at(place.layer)] & tensor) != 0;
  }
  /// Whether a tensor of the layer below stays, or is there at all.
  bool stays_below(const Place& place, Resident tensor) const {
    return place.layer > 0 && (residents_[at(place.part.index)][at(place.layer - 1)] & tensor) != 0;
  }

  /// Whether the layer's inputs (or their mask) are what stays of the layer below: more features
  /// than that one has outputs must come from elsewhere.
  bool inputs_stay(const Place& place, Resident tensor) const {
    if (!stays_below(place, tensor)) return false;
    const Layer& layer = layers_[at(place.layer)];
    return layer.inputs * layer.input_positions <= layers_[at(place.layer - 1)].neurons_per_image;
  }

  Draft draft(const Place& place, const Block& block) const {
    Draft draft;
    draft.tile.pass = static_cast<std::int64_t>(place.pass);
    draft.tile.part = place.part.index;
    draft.tile.layer = place.layer;
    draft.tile.block = block.index;
    return draft;
  }

  /// Appends a tile to its engine and counts what every tile counts.
  TileId add(const Place& place, Draft& draft) {
    if (machine_.schedule == Schedule::serial) draft.follows(latest_);
    const auto engine = static_cast<std::size_t>(engine_of(place.pass));
    std::vector<Tile>& tiles = program_.result.tiles[engine];
    if (tiles.size() >= static_cast<std::size_t>(std::numeric_limits<std::int32_t>::max())) {
      throw std::length_error("the step has more than 2^31 tiles");
    }
    latest_ = {static_cast<std::int32_t>(engine), static_cast<std::int32_t>(tiles.size())};
    tiles.push_back(draft.tile);
    program_.works[engine].push_back(draft.work);
    Counters& counters = counters_of(place);
    ++counters.tiles;
    counters.run_cycles += draft.work.run_cycles;
    counters.loads += draft.tile.load_bytes > 0 ? 1 : 0;
    counters.stores += draft.tile.store_bytes > 0 ? 1 : 0;
    counters.load_bytes += draft.tile.load_bytes;
    counters.store_bytes += draft.tile.store_bytes;
    counters.load_bursts += divide_up(draft.tile.load_bytes, machine_.dram.burst_bytes);
    counters.store_bursts += divide_up(draft.tile.store_bytes, machine_.dram.burst_bytes);
    return latest_;
  }

  // ---- program order

  void forward_part(const Part& part) {
    std::vector<TileId> after;
    const std::int64_t behind = machine_.schedule == Schedule::batch ? 2 : 1;
    if (machine_.schedule != Schedule::serial && part.index >= behind) {
      after = ends_[at(part.index - behind)];
    }
    TileId below;
    for (std::size_t l = 0; l < layers_.size(); ++l) {
      below =
          table_pass({Pass::forward, part, static_cast<std::int64_t>(l)}, Pass::soma, below, after);
    }
    last_soma_[at(part.index)] = below;
  }

  void backward_part(const Part& part) {
    TileId latest_backward = last_soma_[at(part.index)];
    std::array<TileId, engine_count> ends;
    std::vector<TileId> updates;
    for (auto l = static_cast<std::int64_t>(layers_.size()); l-- > 0;) {
      const Layer& layer = layers_[at(l)];
      TileId recomputed;
      if (layer.recompute) {
        std::vector<TileId> nothing;
        recomputed = table_pass({Pass::recompute_forward, part, l}, Pass::recompute_soma,
                                latest_backward, nothing);
      }
      std::vector<TileId> gradients;
      if (layer.gradient) {
        const TileId trailed = updates.size() >= 2 ? updates[updates.size() - 2] : TileId{};
        gradients = gradient_pass({Pass::gradient, part, l}, latest_backward, recomputed, trailed);
        ends[static_cast<std::size_t>(Engine::gradient)] = gradients.back();
      }
      if (layer.backward) {
        latest_backward = backward_pass({Pass::backward, part, l}, gradients);
        ends[static_cast<std::size_t>(Engine::backward)] = latest_backward;
      }
      if (layer.update) {
        updates.push_back(update_pass({Pass::update, part, l}, gradients));
        ends[static_cast<std::size_t>(Engine::update)] = updates.back();
      }
    }
    for (const TileId end : ends) {
      if (end.exists()) ends_[at(part.index)].push_back(end);
    }
  }

  // ---- forward engine and soma

  /// The sets of a forward or recompute_forward pass, each with its soma tile; returns the last.
  /// `after` holds what the first tile follows, and is emptied by it.
  TileId table_pass(const Place& place, Pass soma, TileId data, std::vector<TileId>& after) {
    const Layer& layer = layer_of(place);
    const ForwardTiling tiling(machine_, layer);
    bool first_of_pass = true;
    TileId last;
    for (const Block& block : tiling.blocks(machine_, layer, place.part)) {
      for (std::int64_t column = 0; column < tiling.columns.count; ++column) {
        TileId end;
        for (std::int64_t row = 0; row < tiling.row_tiles; ++row) {
          Draft tile = forward_tile(place, tiling, block, column, row, first_of_pass);
          first_of_pass = false;
          tile.needs(data);
          if (row == 0) tile.follows(set_before_last_);
          for (const TileId id : after) tile.follows(id);
          after.clear();
          end = add(place, tile);
        }
        last = soma_tile({soma, place.part, place.layer}, tiling, block, column, end);
        set_before_last_ = last_set_;
        last_set_ = last;
      }
    }
    return last;
  }

  std::int64_t columns_of(const Layer& layer, const Columns& columns, std::int64_t tile) const {
    return piece(layer.group_outputs, columns.size, tile % columns.per_group);
  }

  Draft forward_tile(const Place& place, const ForwardTiling& tiling, const Block& block,
                     std::int64_t column, std::int64_t row, bool first_of_pass) {
    const Layer& layer = layer_of(place);
    const ForwardEngine& engine = machine_.forward;
    const std::int64_t positions = block.images * block.units;
    const std::int64_t columns = columns_of(layer, tiling.columns, column);
    const TableTile size{positions, piece(layer.fan_in, tiling.tile_inputs, row), columns,
                         layer.planes};
    Draft draft = this->draft(place, block);
    draft.tile.column = column;
    draft.tile.row = row;
    draft.work.build_cycles = size.build_cycles(engine, engine.weights_banks);
    draft.work.run_cycles = size.run_cycles(engine);

    const bool loads_images =
        column == 0 && row == 0 && block.first_chunk && !inputs_stay(place, spikes_stay);
    const std::int64_t image_bytes = loads_images ? layer.image_bytes * block.images : 0;
    std::int64_t weights = size.tabled * columns;
    if (tiling.weights_stay) weights = first_of_pass ? layer.outputs * layer.fan_in : 0;
    draft.tile.load_bytes = image_bytes + weights * machine_.value_bytes;

    Counters& counters = counters_of(place);
    const std::int64_t sums = positions * columns;
    counters.operations_offered += sums * layer.planes * size.tabled;
    size.count_tables(engine, counters);
    counters.weight_reads += size.tabled * columns;
    counters.weight_writes += weights;
    counters.spike_read_bits += positions * layer.planes * size.tabled;
    counters.spike_write_bits += 8 * image_bytes;
    counters.psum_reads += sums * (row == 0 ? layer.planes - 1 : layer.planes);
    counters.psum_writes += sums * layer.planes;
    return draft;
  }

  TileId soma_tile(const Place& place, const ForwardTiling& tiling, const Block& block,
                   std::int64_t column, TileId end) {
    const Layer& layer = layer_of(place);
    const bool neurons = layer.work->neurons;
    const std::int64_t columns = columns_of(layer, tiling.columns, column);
    const std::int64_t positions = block.images * block.units;
    const std::int64_t steps = positions * columns;
    Draft draft = this->draft(place, block);
    draft.tile.column = column;
    draft.work.run_cycles =
        divide_up(steps, std::min(machine_.soma.lanes, machine_.forward.psum_banks)) +
        machine_.soma.latency_cycles;

    const bool first_time = place.pass == Pass::soma;
    if (neurons) {
      carry_membranes(place, draft, columns * std::min(layer.output_positions, positions),
                      place.part.timestep(block.first_image) != 0,
                      place.part.timestep(block.last_image()) != place.part.timesteps - 1);
      if (first_time && !stays(place, spikes_stay)) draft.tile.store_bytes += divide_up(steps, 8);
      if (first_time && layer.gradient && !stays(place, mask_stays)) {
        draft.tile.store_bytes += divide_up(steps, 8);
      }
      const bool keeps = layer.gradient && layer.work->membrane &&
                         first_time == (machine_.membrane == Membrane::store);
      if (keeps && !stays(place, membrane_stays)) {
        draft.tile.store_bytes += accumulator_bytes * steps;
      }
    }

    Counters& counters = counters_of(place);
    counters.additions += neurons ? 2 * steps : steps;
    counters.psum_reads += steps;
    if (neurons) {
      counters.multiplications += steps;
      counters.comparisons += 2 * steps;
      counters.membrane_reads += steps;
      counters.membrane_writes += steps;
      if (first_time) counters.spike_write_bits += steps;
      if (first_time && layer.gradient) counters.mask_write_bits += steps;
    }
    draft.needs(end);
    return add(place, draft);
  }

  /// What a block takes over from the block before it, and hands to the next, where the membrane
  /// buffer is too small to hold a layer's.
  void carry_membranes(const Place& place, Draft& draft, std::int64_t neurons, bool takes,
                       bool hands) const {
    const std::int64_t needed = layer_of(place).neurons_per_image * accumulator_bytes;
    if (needed <= machine_.membrane_bytes / 2) return;
    if (takes) draft.tile.load_bytes += neurons * accumulator_bytes;
    if (hands) draft.tile.store_bytes += neurons * accumulator_bytes;
  }

  // ---- gradient unit

  /// For each image of the backward sequence, the tile with the last of its units.
  std::vector<TileId> gradient_pass(const Place& place, TileId latest_backward, TileId recomputed,
                                    TileId trailed) {
    const Layer& layer = layer_of(place);
    std::vector<TileId> of_image(at(place.part.images()));
    for (const Block& block : gradient_blocks(machine_, layer, place.part)) {
      Draft tile = gradient_tile(place, block);
      tile.needs(latest_backward);
      tile.needs(recomputed);
      if (block.index == 0) tile.follows(trailed);
      const TileId id = add(place, tile);
      for (std::int64_t i = 0; i < block.images; ++i) of_image[at(block.first_image + i)] = id;
    }
    return of_image;
  }

  Draft gradient_tile(const Place& place, const Block& block) {
    const Layer& layer = layer_of(place);
    const bool neurons = layer.work->neurons;
    const bool membrane = neurons && layer.work->membrane;
    const std::int64_t steps = block.images * block.units;
    const std::int64_t map_bytes = block.images * divide_up(block.units, 8);
    Draft draft = this->draft(place, block);
    draft.work.run_cycles =
        divide_up(steps, machine_.gradient.lanes) + machine_.gradient.latency_cycles;

    draft.tile.load_bytes = spike_gradient_bytes(place, block);
    if (neurons) {
      if (!stays(place, mask_stays)) draft.tile.load_bytes += map_bytes;
      if (!stays(place, spikes_stay)) draft.tile.load_bytes += map_bytes;
      if (membrane && !stays(place, membrane_stays)) {
        draft.tile.load_bytes += accumulator_bytes * steps;
      }
      const Part& part = place.part;
      carry_membranes(place, draft, std::min(layer.neurons_per_image, steps),
                      part.timestep(part.reversed(block.first_image)) != part.timesteps - 1,
                      part.timestep(part.reversed(block.last_image())) != 0);
    }
    if (!stays(place, current_gradient_stays)) {
      const std::int64_t gradients = bits_of(place).gradient[at(place.part.index)][at(block.index)];
      draft.tile.store_bytes += machine_.compressed_gradients
                                    ? map_bytes + machine_.value_bytes * gradients
                                    : steps * machine_.value_bytes;
    }

    Counters& counters = counters_of(place);
    if (neurons) {
      counters.additions += membrane ? 2 * steps : steps;
      counters.multiplications += membrane ? 3 * steps : steps;
      counters.spike_read_bits += steps;
      counters.mask_read_bits += steps;
      if (membrane) counters.membrane_reads += steps;
    }
    counters.gradient_reads += steps;
    counters.gradient_writes += steps;
    return draft;
  }

  /// Bytes of the gradient at the spikes that a block of the gradient unit loads.
  std::int64_t spike_gradient_bytes(const Place& place, const Block& block) const {
    const auto next = at(place.layer + 1);
    if (next == layers_.size() || !layers_[next].backward) {
      return block.images * block.units * machine_.value_bytes;
    }
    if (!block.first_chunk || stays(place, spike_gradient_stays)) return 0;
    const Layer& above = layers_[next];
    std::int64_t values = 0;
    for (std::int64_t i = 0; i < block.images; ++i) {
      const std::int64_t row = place.part.row(place.part.reversed(block.first_image + i));
      values += above.work->mask && machine_.backward.output_sparsity
                    ? bits_[next].images[at(row)].mask_ones
                    : above.work->geometry.in_features();
    }
    return values * machine_.value_bytes;
  }

  // ---- backward engine

  TileId backward_pass(const Place& place, const std::vector<TileId>& gradients) {
    const Layer& layer = layer_of(place);
    const BackwardTiling tiling(machine_, layer);
    const bool has_mask = layer.work->mask && machine_.backward.output_sparsity;
    Counters& counters = counters_of(place);
    bool first_of_pass = true;
    TileId last;
    for (const Block& block : tiling.blocks(machine_, layer, place.part)) {
      const BackwardBits& bits = bits_of(place).backward[at(place.part.index)][at(block.index)];
      for (std::int64_t column = 0; column < tiling.column_tiles; ++column) {
        for (std::int64_t row = 0; row < tiling.row_tiles; ++row) {
          Draft tile = draft(place, block);
          tile.tile.column = column;
          tile.tile.row = row;
          tile.work.run_cycles = bits.run_cycles[at(column * tiling.row_tiles + row)];
          std::int64_t weights = backward_weights(layer, tiling, column, row);
          if (tiling.weights_stay) weights = first_of_pass ? layer.outputs * layer.fan_in : 0;
          tile.tile.load_bytes = weights * machine_.value_bytes;
          counters.weight_writes += weights;
          if (column == 0 && row == 0 && block.first_chunk) {
            tile.tile.load_bytes += current_gradient_bytes(place, block);
            if (has_mask && !inputs_stay(place, mask_stays)) {
              tile.tile.load_bytes += block.images * layer.mask_image_bytes;
              counters.mask_write_bits += 8 * block.images * layer.mask_image_bytes;
            }
          }
          if (row + 1 == tiling.row_tiles && !stays_below(place, spike_gradient_stays)) {
            tile.tile.store_bytes = bits.needed_channels[at(column)] * machine_.value_bytes;
          }
          tile.needs(gradients[at(block.last_image())]);
          last = add(place, tile);
          first_of_pass = false;
        }
      }
      count_items(bits, has_mask, counters);
    }
    return last;
  }

  /// Of a tile: its rows times its channels.
  std::int64_t backward_weights(const Layer& layer, const BackwardTiling& tiling,
                                std::int64_t column, std::int64_t row) const {
    const std::int64_t first = tiling.first_slice(column) * machine_.backward.slice;
    const std::int64_t channels =
        std::min(tiling.slices_of(column) * machine_.backward.slice, layer.group_inputs - first);
    return piece(tiling.reduction, machine_.backward.tile_rows, row) * channels;
  }

  std::int64_t current_gradient_bytes(const Place& place, const Block& block) const {
    if (stays(place, current_gradient_stays)) return 0;
    const Layer& layer = layer_of(place);
    if (!machine_.compressed_gradients) {
      return block.images * layer.neurons_per_image * machine_.value_bytes;
    }
    std::int64_t bytes = block.images * divide_up(layer.neurons_per_image, 8);
    for (std::int64_t i = 0; i < block.images; ++i) {
      const std::int64_t row = place.part.row(place.part.reversed(block.first_image + i));
      bytes += bits_of(place).images[at(row)].gradients * machine_.value_bytes;
    }
    return bytes;
  }

  void count_items(const BackwardBits& bits, bool has_mask, Counters& counters) const {
    counters.operations_offered += bits.offered;
    counters.operations_needed += bits.needed;
    counters.skipped_by_gradient += bits.skipped_by_gradient;
    counters.skipped_by_mask += bits.skipped_by_mask;
    counters.items += bits.items;
    counters.items_empty += bits.items_empty;
    counters.lane_slots += bits.lane_turns * machine_.backward.lanes;
    counters.additions += bits.needed;
    counters.multiplications += bits.needed;
    counters.weight_reads += bits.needed;
    if (has_mask) counters.mask_read_bits += bits.mask_bits;
    counters.gradient_reads += bits.lane_turns;
    counters.psum_reads += bits.psum_reads;
    counters.psum_writes += bits.psum_writes;
  }

  // ---- weight-update engine

  TileId update_pass(const Place& place, const std::vector<TileId>& gradients) {
    const Layer& layer = layer_of(place);
    const UpdateTiling tiling(machine_, layer);
    const std::vector<Block> blocks = tiling.blocks(machine_, layer, place.part);
    TileId last;
    for (const Block& block : blocks) {
      const UpdateBits& bits = bits_of(place).update[at(place.part.index)][at(block.index)];
      for (std::int64_t column = 0; column < tiling.columns.count; ++column) {
        for (std::int64_t depth = 0; depth < tiling.input_blocks; ++depth) {
          const std::int64_t first = bits.column_tile[at(column)];
          const std::int64_t rows = bits.column_tile[at(column) + 1] - first;
          for (std::int64_t row = 0; row < rows; ++row) {
            Draft tile = update_tile(place, tiling, block, bits.tiles[at(first + row)],
                                     {column, row, depth});
            const bool ends_visit = row + 1 == rows;
            const bool ends_pass = ends_visit && depth + 1 == tiling.input_blocks &&
                                   column + 1 == tiling.columns.count &&
                                   block.index + 1 == static_cast<std::int64_t>(blocks.size());
            if (tiling.accumulators_stay ? ends_pass : ends_visit) {
              tile.tile.store_bytes = visit_bytes(layer, tiling, column, depth);
            }
            tile.needs(gradients[at(block.last_image())]);
            last = add(place, tile);
          }
          count_compaction(place, tiling, block, bits, column, depth);
        }
      }
      Counters& counters = counters_of(place);
      if (machine_.update.tables) {
        count_addresses(bits.addresses, counters);
      } else {
        counters.additions += bits.set_bits;
      }
    }
    return last;
  }

  /// Of the weight gradients that a visit, or if they stay the whole pass, loads and stores.
  std::int64_t visit_bytes(const Layer& layer, const UpdateTiling& tiling, std::int64_t column,
                           std::int64_t depth) const {
    if (tiling.accumulators_stay) return tiling.gradient_bytes;
    return piece(layer.fan_in, tiling.input_block, depth) *
           columns_of(layer, tiling.columns, column) * accumulator_bytes;
  }

  struct UpdatePlace {
    std::int64_t column;
    std::int64_t row;
    std::int64_t depth;
  };

  Draft update_tile(const Place& place, const UpdateTiling& tiling, const Block& block,
                    const UpdateBits::Tile& positions, const UpdatePlace& where) {
    const Layer& layer = layer_of(place);
    const UpdateEngine& engine = machine_.update;
    const std::int64_t columns = columns_of(layer, tiling.columns, where.column);
    const std::int64_t fan_in = piece(layer.fan_in, tiling.input_block, where.depth);
    const TableTile size{fan_in, positions.positions, columns, layer.planes};
    const bool any = positions.positions > 0;
    Draft draft = this->draft(place, block);
    draft.tile.column = where.column;
    draft.tile.row = where.row;
    draft.tile.depth = where.depth;
    draft.work.build_cycles = any ? size.build_cycles(engine, engine.gradients_banks) : 0;
    draft.work.run_cycles = any ? size.run_cycles(engine) : 1;

    const bool first_of_block = where.column == 0 && where.row == 0 && where.depth == 0;
    const std::int64_t image_bytes =
        first_of_block && !inputs_stay(place, spikes_stay) ? layer.image_bytes * block.images : 0;
    draft.tile.load_bytes = image_bytes;
    if (!stays(place, current_gradient_stays)) {
      const std::int64_t values = positions.positions * columns;
      draft.tile.load_bytes +=
          machine_.compressed_gradients
              ? divide_up(values, 8) + machine_.value_bytes * positions.gradients
              : values * machine_.value_bytes;
    }
    const bool fresh = place.part.index == 0 && block.index == 0;
    const bool loads_sums = tiling.accumulators_stay
                                ? first_of_block && block.index == 0 && place.part.index > 0
                                : where.row == 0 && !fresh;
    if (loads_sums) draft.tile.load_bytes += visit_bytes(layer, tiling, where.column, where.depth);

    Counters& counters = counters_of(place);
    counters.spike_write_bits += 8 * image_bytes;
    if (!any) return draft;
    const std::int64_t sums = fan_in * columns;
    counters.operations_offered += positions.positions * layer.planes * sums;
    size.count_tables(engine, counters);
    counters.spike_read_bits += positions.positions * layer.planes * fan_in;
    counters.gradient_reads += positions.positions * columns;
    counters.gradient_writes += positions.positions * columns;
    counters.psum_reads += sums * (fresh && where.row == 0 ? layer.planes - 1 : layer.planes);
    counters.psum_writes += sums * layer.planes;
    return draft;
  }

  /// The work of the positions that a visit leaves out.
  void count_compaction(const Place& place, const UpdateTiling& tiling, const Block& block,
                        const UpdateBits& bits, std::int64_t column, std::int64_t depth) {
    const Layer& layer = layer_of(place);
    std::int64_t left_out = block.images * layer.output_positions;
    for (std::int64_t t = bits.column_tile[at(column)]; t < bits.column_tile[at(column) + 1]; ++t) {
      left_out -= bits.tiles[at(t)].positions;
    }
    const std::int64_t skipped = left_out * layer.planes *
                                 piece(layer.fan_in, tiling.input_block, depth) *
                                 columns_of(layer, tiling.columns, column);
    counters_of(place).operations_offered += skipped;
    counters_of(place).skipped_by_gradient += skipped;
  }

  // ---- what only the bits of whole layers decide

  void count_addresses_and_bits() {
    for (std::size_t l = 0; l < layers_.size(); ++l) {
      const Layer& layer = layers_[l];
      ImageBits all;
      for (const ImageBits& image : bits_[l].images) {
        all.window_ones += image.window_ones;
        all.forward_addresses += image.forward_addresses;
        all.products += image.products;
      }
      for (const Pass pass : {Pass::forward, Pass::recompute_forward}) {
        if (pass == Pass::recompute_forward && !layer.recompute) continue;
        Counters& counters = counters_of(pass, static_cast<std::int64_t>(l));
        // Each address is looked up in the tables of all output channels of its group.
        counters.operations_needed += all.window_ones * layer.group_outputs;
        if (machine_.forward.tables) {
          count_addresses(all.forward_addresses * layer.group_outputs, counters);
        } else {
          counters.additions += all.window_ones * layer.group_outputs;
        }
      }
      if (layer.update) {
        counters_of(Pass::update, static_cast<std::int64_t>(l)).operations_needed += all.products;
      }
    }
  }

  const Machine& machine_;
  const std::vector<Layer>& layers_;
  const std::vector<Part>& parts_;
  const std::vector<LayerBits>& bits_;
  Program program_;
  std::vector<std::vector<std::int64_t>> residents_;  ///< [parts, layers]
  std::vector<TileId> last_soma_;                     ///< of each part's forward pass
  /// Of each part, the last tiles of its backward half that are not the forward engine's.
  std::vector<std::vector<TileId>> ends_;
  TileId latest_;
  TileId last_set_;  ///< the soma tile of the last set, and of the one before it
  TileId set_before_last_;
};

}  // namespace

Program make_program(const Machine& machine, const std::vector<Layer>& layers,
                     const std::vector<Part>& parts, const std::vector<LayerBits>& bits) {
  return ProgramBuilder(machine, layers, parts, bits).make();
}

}  // namespace h2learn::accelerator::fast
