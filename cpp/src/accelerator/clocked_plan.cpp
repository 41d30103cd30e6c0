#include "accelerator/clocked_plan.hpp"

#include <algorithm>
#include <bit>
#include <limits>

namespace h2learn::accelerator::clocked {
namespace {

using std::int64_t;

constexpr int64_t half(int64_t bytes) { return bytes / 2; }
constexpr int64_t bits_to_bytes(int64_t bits) { return ceil_div(bits, 8); }
constexpr int64_t unlimited = std::numeric_limits<int64_t>::max();

/// Which tensors of a layer a part keeps on chip.
struct Kept {
  bool spikes = false;
  bool mask = false;
  bool gradient = false;        ///< at the currents
  bool spike_gradient = false;  ///< at the spikes
  bool membrane = false;

  int64_t bits() const {
    return (spikes ? 1 : 0) | (mask ? 2 : 0) | (gradient ? 4 : 0) | (spike_gradient ? 8 : 0) |
           (membrane ? 16 : 0);
  }
};

/// The tiles of a (block, column tile) of the forward engine and the soma tile that drains them.
struct Set {
  std::vector<int64_t> tiles;
  int64_t soma = nothing;
};

struct Part {
  int64_t index = 0;
  std::vector<int64_t> forward;  ///< rows of the workload in the order of the forward sequence
  std::vector<int64_t> backward;
  std::vector<Kept> kept;  ///< of each layer
};

class Planner {
 public:
  Planner(const Machine& machine, const StepWork& step, Plan& plan)
      : machine_(machine), plan_(plan) {
    for (const LayerWork& work : step.layers) {
      plan_.layers.emplace_back(work, static_cast<int64_t>(plan_.layers.size()));
    }
  }

  void run() {
    if (plan_.layers.empty()) return;
    const LayerWork& work = plan_.layers.front().work;
    const int64_t parts = std::min(machine_.parts, work.samples);
    last_backward_.resize(static_cast<std::size_t>(parts));
    int64_t first_sample = 0;
    for (int64_t p = 0; p < parts; ++p) {
      const int64_t samples = work.samples / parts + (p < work.samples % parts ? 1 : 0);
      const Part part = make_part(p, {first_sample, samples});
      first_sample += samples;
      if (p == 0) {
        for (const Kept& kept : part.kept) plan_.resident.push_back(kept.bits());
      }
      const int64_t first_job = job_count();
      const int64_t last_soma = forward_program(part);
      wait_for_earlier_part(p, first_job);
      backward_program(part, last_soma);
    }
    order_engines(parts);
    if (machine_.schedule == Schedule::serial) {
      for (int64_t i = 1; i < job_count(); ++i) job(i).after_end.push_back(i - 1);
    }
  }

 private:
  int64_t job_count() const { return static_cast<int64_t>(plan_.jobs.size()); }
  Job& job(int64_t i) { return plan_.jobs[static_cast<std::size_t>(i)]; }
  Layer& layer(int64_t l) { return plan_.layers[static_cast<std::size_t>(l)]; }
  int64_t layer_count() const { return static_cast<int64_t>(plan_.layers.size()); }
  static const Kept& kept(const Part& part, int64_t l) {
    return part.kept[static_cast<std::size_t>(l)];
  }

  Part make_part(int64_t index, Range samples) {
    Part part;
    part.index = index;
    const LayerWork& work = plan_.layers.front().work;
    for (int64_t sample = samples.first; sample < samples.end(); ++sample) {
      for (int64_t t = 0; t < work.timesteps; ++t) {
        part.forward.push_back(t * work.samples + sample);
      }
    }
    part.backward.assign(part.forward.rbegin(), part.forward.rend());
    part.kept = keep(static_cast<int64_t>(part.forward.size()));
    return part;
  }

  /// "State kept on chip", for a part of n images.
  std::vector<Kept> keep(int64_t n) {
    std::vector<Kept> all(plan_.layers.size());
    int64_t left = half(machine_.state_bytes);
    const auto place = [&left](int64_t bytes) {
      if (bytes > left) return false;
      left -= bytes;
      return true;
    };
    for (const Layer& l : plan_.layers) {
      Kept& kept = all[static_cast<std::size_t>(l.index)];
      const int64_t bytes = n * bits_to_bytes(l.geometry.out_features());
      if (l.work.neurons) kept.spikes = place(bytes);
      if (l.work.neurons && l.has_gradient()) kept.mask = place(bytes);
    }
    for (int64_t i = layer_count() - 1; i >= 0; --i) {
      const Layer& l = layer(i);
      if (l.has_gradient()) {
        all[static_cast<std::size_t>(i)].gradient =
            place(n * l.geometry.out_features() * machine_.value_bytes);
      }
      if (i > 0 && l.has_backward()) {
        all[static_cast<std::size_t>(i - 1)].spike_gradient =
            place(n * l.geometry.in_features() * machine_.value_bytes);
      }
    }
    for (const Layer& l : plan_.layers) {
      if (!l.has_gradient() || !l.work.neurons || !l.work.membrane) continue;
      const int64_t bytes = n * l.geometry.out_features() * accumulator_bytes;
      all[static_cast<std::size_t>(l.index)].membrane =
          machine_.membrane == Membrane::recompute ? bytes <= left : place(bytes);
    }
    return all;
  }

  /// cut(U, cap, most) of the text.
  std::vector<const Block*> cut(const std::vector<int64_t>& sequence, int64_t units, int64_t cap,
                                int64_t most) {
    std::vector<Block> made;
    const auto images = static_cast<int64_t>(sequence.size());
    if (units <= cap) {
      for (const Range& some : pieces(images, std::min(cap / units, most))) {
        made.push_back({.rows = {sequence.begin() + some.first, sequence.begin() + some.end()},
                        .first_image = some.first,
                        .units = {0, units}});
      }
    } else {
      for (int64_t image = 0; image < images; ++image) {
        for (const Range& chunk : pieces(units, cap)) {
          made.push_back({.rows = {sequence[static_cast<std::size_t>(image)]},
                          .first_image = image,
                          .units = chunk,
                          .first_chunk = chunk.first == 0});
        }
      }
    }
    std::vector<const Block*> blocks;
    for (Block& block : made) {
      block.index = static_cast<int64_t>(blocks.size());
      plan_.blocks.push_back(std::move(block));
      blocks.push_back(&plan_.blocks.back());
    }
    return blocks;
  }

  Job make_job(Pass pass, const Part& part, const Layer& l, const Block& block) const {
    Job made;
    made.tile.pass = static_cast<int64_t>(pass);
    made.tile.part = part.index;
    made.tile.layer = l.index;
    made.tile.block = block.index;
    made.layer = &l;
    made.block = &block;
    return made;
  }

  int64_t add(Job made) {
    plan_.jobs.push_back(std::move(made));
    return job_count() - 1;
  }

  int64_t add_to_engine(Job made) {
    const auto engine = static_cast<std::size_t>(engine_of(made.pass()));
    const int64_t id = add(std::move(made));
    plan_.order[engine].push_back(id);
    return id;
  }

  static int64_t image_bytes(const Layer& l) {
    return l.planes * bits_to_bytes(l.geometry.in_features());
  }

  bool fed_by_layer_below(const Layer& l) {
    return l.index > 0 && layer(l.index - 1).work.neurons &&
           l.geometry.in_features() <= layer(l.index - 1).geometry.out_features();
  }

  bool inputs_on_chip(const Part& part, const Layer& l) {
    return fed_by_layer_below(l) && kept(part, l.index - 1).spikes;
  }

  bool mask_on_chip(const Part& part, const Layer& l) {
    return fed_by_layer_below(l) && kept(part, l.index - 1).mask;
  }

  int64_t timestep(int64_t row) const { return row / plan_.layers.front().work.samples; }
  int64_t last_timestep() const { return plan_.layers.front().work.timesteps - 1; }

  // Forward engine and soma.

  /// The forward passes of a part; gives the last soma tile.
  int64_t forward_program(const Part& part) {
    std::vector<Set>& sets = forward_sets_.emplace_back();
    int64_t last_soma = nothing;
    for (const Layer& l : plan_.layers) {
      last_soma = sets_of_pass(part, l, false, last_soma, sets);
    }
    return last_soma;
  }

  /// A forward or recompute_forward pass and its soma pass; every forward tile needs `after`.
  int64_t sets_of_pass(const Part& part, const Layer& l, bool again, int64_t after,
                       std::vector<Set>& sets) {
    const ForwardEngine& engine = machine_.forward;
    const Geometry& g = l.geometry;
    const bool weights_fit = g.weights() * machine_.value_bytes <= half(engine.weights_bytes);
    bool first_of_pass = true;
    for (const Block* block : cut(part.forward, l.out_positions,
                                  half(engine.psum_bytes) / (accumulator_bytes * engine.columns),
                                  half(engine.spikes_bytes) / image_bytes(l))) {
      bool first_of_block = true;
      int64_t column = 0;
      for (int64_t group = 0; group < g.groups; ++group) {
        for (const Range& columns : pieces(l.group_outputs, engine.columns)) {
          Set set;
          for (const Range& rows : pieces(l.fan_in, engine.rows * engine.inputs)) {
            Job made = make_job(again ? Pass::recompute_forward : Pass::forward, part, l, *block);
            made.tile.column = column;
            made.tile.row = static_cast<int64_t>(set.tiles.size());
            made.group = group;
            made.columns = columns;
            made.rows = rows;
            made.first_row = rows.first == 0;
            made.last_row = rows.end() == l.fan_in;
            if (first_of_block && block->first_chunk && !inputs_on_chip(part, l)) {
              made.load_input_bytes = image_bytes(l) * block->images();
            }
            if (!weights_fit) {
              made.load_weights = rows.count * columns.count;
            } else if (first_of_pass) {
              made.load_weights = g.weights();
            }
            made.tile.load_bytes = made.load_input_bytes + made.load_weights * machine_.value_bytes;
            if (after != nothing) made.after_complete.push_back(after);
            set.tiles.push_back(add(std::move(made)));
            first_of_pass = false;
            first_of_block = false;
          }
          set.soma = add(soma_job(part, l, *block, again, column, group, columns));
          job(set.soma).after_complete.push_back(set.tiles.back());
          sets.push_back(set);
          ++column;
        }
      }
    }
    return sets.back().soma;
  }

  Job soma_job(const Part& part, const Layer& l, const Block& block, bool again, int64_t column,
               int64_t group, Range columns) {
    Job made = make_job(again ? Pass::recompute_soma : Pass::soma, part, l, block);
    made.tile.column = column;
    made.group = group;
    made.columns = columns;
    if (!l.work.neurons) return made;
    const Kept& on_chip = kept(part, l.index);
    const int64_t positions = block.images() * block.units.count;
    const int64_t steps = positions * columns.count;
    if (l.geometry.out_features() * accumulator_bytes > half(machine_.membrane_bytes)) {
      const int64_t carried =
          columns.count * std::min(l.out_positions, positions) * accumulator_bytes;
      if (timestep(block.rows.front()) != 0) made.tile.load_bytes += carried;
      if (timestep(block.rows.back()) != last_timestep()) made.tile.store_bytes += carried;
    }
    if (!again) {
      if (!on_chip.spikes) made.tile.store_bytes += bits_to_bytes(steps);
      if (l.has_gradient() && !on_chip.mask) made.tile.store_bytes += bits_to_bytes(steps);
    }
    const bool keeps_membrane =
        machine_.membrane == Membrane::recompute ? again : l.has_gradient() && l.work.membrane;
    if (keeps_membrane && !on_chip.membrane) {
      made.tile.store_bytes += steps * accumulator_bytes;
    }
    return made;
  }

  /// Under `layer` and `batch` a part's forward passes wait for an earlier part's backward ones.
  void wait_for_earlier_part(int64_t p, int64_t first_job) {
    if (machine_.schedule == Schedule::serial) return;
    const int64_t earlier = p - (machine_.schedule == Schedule::batch ? 2 : 1);
    if (earlier < 0) return;
    job(first_job).after_end = last_backward_[static_cast<std::size_t>(earlier)];
  }

  // Gradient unit, backward engine, weight-update engine.

  void backward_program(const Part& part, int64_t last_soma) {
    std::vector<Set>& again = recompute_sets_.emplace_back();
    int64_t arrived = last_soma;       // what the gradient at the spikes waits for
    std::vector<int64_t> update_ends;  // the last tile of each update pass so far
    int64_t last_gradient = nothing;
    for (int64_t i = layer_count() - 1; i >= 0; --i) {
      const Layer& l = layer(i);
      if (!l.has_gradient()) continue;
      int64_t recomputed = nothing;
      if (machine_.membrane == Membrane::recompute && l.work.neurons && l.work.membrane) {
        recomputed = sets_of_pass(part, l, true, arrived, again);
      }
      const std::vector<int64_t> gradients = gradient_pass(part, l, arrived, recomputed);
      if (update_ends.size() >= 2) {
        job(gradients.front()).after_end.push_back(update_ends[update_ends.size() - 2]);
      }
      last_gradient = gradients.back();
      if (l.has_backward()) arrived = backward_pass(part, l, gradients);
      if (l.has_update()) update_ends.push_back(update_pass(part, l, gradients));
    }
    std::vector<int64_t>& last = last_backward_[static_cast<std::size_t>(part.index)];
    if (last_gradient != nothing) last.push_back(last_gradient);
    if (arrived != last_soma) last.push_back(arrived);
    if (!update_ends.empty()) last.push_back(update_ends.back());
  }

  /// Inputs of an image whose gradient the backward engine makes.
  int64_t needed_inputs(const Layer& l, int64_t row) const {
    if (!l.work.mask || !machine_.backward.output_sparsity) return l.geometry.in_features();
    return count_bits(l.mask_row(row), {0, l.geometry.in_features()});
  }

  /// Bytes in DRAM of the gradients at the currents of some units of an image.
  int64_t gradient_bytes(const Layer& l, int64_t row, Range units) const {
    if (!machine_.compressed_gradients) return units.count * machine_.value_bytes;
    return bits_to_bytes(units.count) +
           count_bits(l.nonzero_row(row), units) * machine_.value_bytes;
  }

  std::vector<int64_t> gradient_pass(const Part& part, const Layer& l, int64_t arrived,
                                     int64_t recomputed) {
    const int64_t neurons = l.geometry.out_features();
    const Kept& on_chip = kept(part, l.index);
    const bool carried_in_dram = neurons * accumulator_bytes > half(machine_.membrane_bytes);
    const bool top = l.index + 1 == layer_count() || !layer(l.index + 1).has_backward();
    std::vector<int64_t> tiles;
    for (const Block* block :
         cut(part.backward, neurons,
             half(machine_.gradient.buffer_bytes) / (machine_.value_bytes + accumulator_bytes),
             unlimited)) {
      Job made = make_job(Pass::gradient, part, l, *block);
      const int64_t steps = block->images() * block->units.count;
      int64_t& load = made.tile.load_bytes;
      int64_t& store = made.tile.store_bytes;
      if (top) {
        load += steps * machine_.value_bytes;
      } else if (!on_chip.spike_gradient && block->first_chunk) {
        for (int64_t row : block->rows) {
          load += needed_inputs(layer(l.index + 1), row) * machine_.value_bytes;
        }
      }
      if (l.work.neurons) {
        const int64_t bit_map = block->images() * bits_to_bytes(block->units.count);
        if (!on_chip.mask) load += bit_map;
        if (!on_chip.spikes) load += bit_map;
        if (l.work.membrane && !on_chip.membrane) load += steps * accumulator_bytes;
        if (carried_in_dram) {
          const int64_t carried = std::min(neurons, steps) * accumulator_bytes;
          if (timestep(block->rows.front()) != last_timestep()) load += carried;
          if (timestep(block->rows.back()) != 0) store += carried;
        }
      }
      if (!on_chip.gradient) {
        for (int64_t row : block->rows) store += gradient_bytes(l, row, block->units);
      }
      made.after_complete.push_back(arrived);
      if (recomputed != nothing) made.after_complete.push_back(recomputed);
      tiles.push_back(add_to_engine(std::move(made)));
    }
    return tiles;
  }

  /// The gradient tile that holds the last units of the block's last image.
  int64_t gradients_of(const std::vector<int64_t>& gradients, const Block& block) {
    int64_t found = nothing;
    for (int64_t tile : gradients) {
      const Block& made = *job(tile).block;
      if (made.first_image <= block.last_image() && block.last_image() <= made.last_image()) {
        found = tile;
      }
    }
    return found;
  }

  int64_t backward_pass(const Part& part, const Layer& l, const std::vector<int64_t>& gradients) {
    const BackwardEngine& engine = machine_.backward;
    const Geometry& g = l.geometry;
    const int64_t v = machine_.value_bytes;
    const int64_t reduction = l.taps * l.group_outputs;
    const int64_t slices = std::min(
        {ceil_div(l.group_inputs, engine.slice),
         half(engine.weights_bytes) / (v * std::min(engine.tile_rows, reduction) * engine.slice),
         half(engine.psum_bytes) / (accumulator_bytes * engine.slice)});
    const int64_t tile_channels = std::min(slices * engine.slice, l.group_inputs);
    const bool weights_fit = g.weights() * v <= half(engine.weights_bytes);
    const bool masked = l.work.mask && engine.output_sparsity;
    bool first_of_pass = true;
    int64_t last = nothing;
    for (const Block* block : cut(part.backward, l.in_positions,
                                  half(engine.psum_bytes) / (accumulator_bytes * tile_channels),
                                  half(engine.gradients_bytes) / (g.out_features() * v))) {
      const int64_t gradient_tile = gradients_of(gradients, *block);
      bool first_of_block = true;
      int64_t column = 0;
      for (int64_t group = 0; group < g.groups; ++group) {
        for (const Range& channels : pieces(l.group_inputs, slices * engine.slice)) {
          int64_t row = 0;
          for (const Range& rows : pieces(reduction, engine.tile_rows)) {
            Job made = make_job(Pass::backward, part, l, *block);
            made.tile.column = column;
            made.tile.row = row++;
            made.group = group;
            made.columns = channels;
            made.rows = rows;
            made.first_row = rows.first == 0;
            made.last_row = rows.end() == reduction;
            if (!weights_fit) {
              made.load_weights = rows.count * channels.count;
            } else if (first_of_pass) {
              made.load_weights = g.weights();
            }
            if (first_of_block && block->first_chunk) {
              if (masked && !mask_on_chip(part, l)) {
                made.load_mask_bytes = block->images() * bits_to_bytes(g.in_features());
              }
              if (!kept(part, l.index).gradient) {
                for (int64_t image : block->rows) {
                  made.tile.load_bytes += gradient_bytes(l, image, {0, g.out_features()});
                }
              }
            }
            made.tile.load_bytes += made.load_mask_bytes + made.load_weights * v;
            const bool stays = l.index > 0 && kept(part, l.index - 1).spike_gradient;
            if (made.last_row && !stays) {
              made.tile.store_bytes = needed_channels(l, *block, group, channels) * v;
            }
            made.after_complete.push_back(gradient_tile);
            last = add_to_engine(std::move(made));
            first_of_pass = false;
            first_of_block = false;
          }
          ++column;
        }
      }
    }
    return last;
  }

  /// Σ n_out over the items of a block and column tile.
  int64_t needed_channels(const Layer& l, const Block& block, int64_t group, Range channels) const {
    if (!l.work.mask || !machine_.backward.output_sparsity) {
      return block.images() * block.units.count * channels.count;
    }
    int64_t needed = 0;
    for (int64_t row : block.rows) {
      for (int64_t position = block.units.first; position < block.units.end(); ++position) {
        needed += count_bits(l.mask_row(row),
                             {l.in_feature(position, group, channels.first), channels.count});
      }
    }
    return needed;
  }

  int64_t update_pass(const Part& part, const Layer& l, const std::vector<int64_t>& gradients) {
    const UpdateEngine& engine = machine_.update;
    const Geometry& g = l.geometry;
    const int64_t all_accumulators = g.weights() * accumulator_bytes;
    const bool stay = all_accumulators <= half(engine.psum_bytes);
    const int64_t input_block =
        stay ? l.fan_in : half(engine.psum_bytes) / (accumulator_bytes * engine.columns);
    const bool gradients_on_chip = kept(part, l.index).gradient;
    bool first_of_pass = true;
    int64_t last = nothing;
    for (const Block* block : cut(part.backward, l.out_positions, unlimited,
                                  half(engine.spikes_bytes) / image_bytes(l))) {
      const int64_t gradient_tile = gradients_of(gradients, *block);
      const bool fresh = part.index == 0 && block->index == 0;
      bool first_of_block = true;
      int64_t column = 0;
      for (int64_t group = 0; group < g.groups; ++group) {
        for (const Range& columns : pieces(l.group_outputs, engine.columns)) {
          const std::vector<Site> sites = sites_of(l, *block, group, columns);
          const int64_t left_out = block->images() * l.out_positions - site_count(sites);
          std::vector<Range> row_tiles = pieces(site_count(sites), engine.rows * engine.inputs);
          if (row_tiles.empty()) row_tiles.push_back({0, 0});
          int64_t depth = 0;
          for (const Range& inputs : pieces(l.fan_in, input_block)) {
            for (const Range& some : row_tiles) {
              Job made = make_job(Pass::update, part, l, *block);
              made.tile.column = column;
              made.tile.row = &some - row_tiles.data();
              made.tile.depth = depth;
              made.group = group;
              made.columns = columns;
              made.rows = inputs;
              made.sites = {sites.begin() + some.first, sites.begin() + some.end()};
              made.first_row = some.first == 0;
              made.last_row = some.end() == site_count(sites);
              made.fresh = fresh;
              if (made.first_row) made.left_out = left_out;
              if (first_of_block && !inputs_on_chip(part, l)) {
                made.load_input_bytes = image_bytes(l) * block->images();
              }
              made.tile.load_bytes = made.load_input_bytes;
              if (!gradients_on_chip) made.tile.load_bytes += site_bytes(made);
              const int64_t visit_accumulators = inputs.count * columns.count * accumulator_bytes;
              if (stay && first_of_pass && part.index > 0) {
                made.tile.load_bytes += all_accumulators;
              }
              if (!stay && made.first_row && !fresh) made.tile.load_bytes += visit_accumulators;
              if (!stay && made.last_row) made.tile.store_bytes = visit_accumulators;
              made.after_complete.push_back(gradient_tile);
              last = add_to_engine(std::move(made));
              first_of_pass = false;
              first_of_block = false;
            }
            ++depth;
          }
          ++column;
        }
      }
    }
    if (stay) job(last).tile.store_bytes = all_accumulators;
    return last;
  }

  static int64_t site_count(const std::vector<Site>& sites) {
    return static_cast<int64_t>(sites.size());
  }

  std::vector<Site> sites_of(const Layer& l, const Block& block, int64_t group,
                             Range columns) const {
    std::vector<Site> sites;
    for (int64_t row : block.rows) {
      for (int64_t position = 0; position < l.out_positions; ++position) {
        const Range features = {l.out_feature(position, group, columns.first), columns.count};
        if (!machine_.update.compact || count_bits(l.nonzero_row(row), features) > 0) {
          sites.push_back({row, position});
        }
      }
    }
    return sites;
  }

  /// Bytes in DRAM of the gradients of an update tile.
  int64_t site_bytes(const Job& made) const {
    const Layer& l = *made.layer;
    const int64_t values = site_count(made.sites) * made.columns.count;
    if (!machine_.compressed_gradients) return values * machine_.value_bytes;
    int64_t bytes = bits_to_bytes(values);
    for (const Site& site : made.sites) {
      const Range features = {l.out_feature(site.position, made.group, made.columns.first),
                              made.columns.count};
      bytes += count_bits(l.nonzero_row(site.row), features) * machine_.value_bytes;
    }
    return bytes;
  }

  /// The order of the forward engine and the soma, and what a set waits for in it. The other
  /// engines run in program order.
  void order_engines(int64_t parts) {
    std::vector<const Set*> sets;
    const auto append = [&sets](const std::vector<Set>& more) {
      for (const Set& set : more) sets.push_back(&set);
    };
    const auto forward = [&](int64_t p) { append(forward_sets_[static_cast<std::size_t>(p)]); };
    const auto again = [&](int64_t p) { append(recompute_sets_[static_cast<std::size_t>(p)]); };
    if (machine_.schedule == Schedule::batch) {
      forward(0);
      for (int64_t p = 0; p < parts; ++p) {
        if (p + 1 < parts) forward(p + 1);
        again(p);
      }
    } else {
      for (int64_t p = 0; p < parts; ++p) {
        forward(p);
        again(p);
      }
    }
    std::vector<int64_t>& tiles = plan_.order[static_cast<std::size_t>(Engine::forward)];
    std::vector<int64_t>& soma = plan_.order[static_cast<std::size_t>(Engine::soma)];
    for (std::size_t i = 0; i < sets.size(); ++i) {
      const Set& set = *sets[i];
      const auto psum_half = static_cast<int64_t>(i % 2);
      for (int64_t tile : set.tiles) job(tile).psum_half = psum_half;
      job(set.soma).psum_half = psum_half;
      if (i >= 2) job(set.tiles.front()).after_end.push_back(sets[i - 2]->soma);
      tiles.insert(tiles.end(), set.tiles.begin(), set.tiles.end());
      soma.push_back(set.soma);
    }
  }

  const Machine& machine_;
  Plan& plan_;
  std::vector<std::vector<Set>> forward_sets_;  // of each part
  std::vector<std::vector<Set>> recompute_sets_;
  std::vector<std::vector<int64_t>> last_backward_;  // tiles that end a part's backward program
};

}  // namespace

std::vector<Range> pieces(int64_t total, int64_t size) {
  std::vector<Range> ranges;
  for (int64_t first = 0; first < total; first += size) {
    ranges.push_back({first, std::min(size, total - first)});
  }
  return ranges;
}

int64_t count_bits(const std::uint64_t* row, Range range) {
  int64_t count = 0;
  for (int64_t at = range.first; at < range.end();) {
    const int64_t inside = at % word_bits;
    const int64_t taken = std::min(word_bits - inside, range.end() - at);
    const std::uint64_t low = ~std::uint64_t{0} >> (word_bits - taken);
    count += std::popcount((row[at / word_bits] >> inside) & low);
    at += taken;
  }
  return count;
}

Layer::Layer(const LayerWork& layer_work, int64_t layer_index)
    : work(layer_work),
      geometry(layer_work.geometry),
      index(layer_index),
      planes(layer_work.planes),
      taps(geometry.taps()),
      fan_in(geometry.fan_in()),
      in_positions(geometry.in_positions()),
      out_positions(geometry.out_positions()),
      group_inputs(geometry.channels_per_group()),
      group_outputs(geometry.outputs_per_group()),
      input_of_output(geometry.input_of_output()),
      output_of_input(geometry.output_of_input()) {}

Plan::Plan(const Machine& machine, const StepWork& step) { Planner(machine, step, *this).run(); }

}  // namespace h2learn::accelerator::clocked
