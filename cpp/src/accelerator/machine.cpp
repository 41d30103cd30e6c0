// What a machine may be, and what work it can run. Shared by both simulators: it decides no time.
#include "h2learn/accelerator/machine.hpp"

#include <algorithm>
#include <initializer_list>
#include <stdexcept>
#include <string>

namespace h2learn::accelerator {
namespace {

using std::int64_t;
using std::string;

// Any product of three parameters, and any sum over a layer, then fits 64 bits.
constexpr int64_t largest_bytes = int64_t{1} << 40;
constexpr int64_t largest_count = 1 << 16;
constexpr int64_t largest_operations = 1'000'000'000'000'000;
// Every tile is kept, so a step of too many would take all memory: a few bytes of work can ask
// for billions.
constexpr int64_t most_tiles = 1 << 22;

[[noreturn]] void refuse(const string& message) { throw std::invalid_argument(message); }

string text(int64_t value) { return std::to_string(value); }

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

void require_range(const string& name, int64_t value, int64_t least, int64_t most) {
  if (value < least || value > most) {
    refuse(name + " must be " + text(least) + " to " + text(most) + ", got " + text(value));
  }
}

/// `need` bytes of `what` must fit half of a buffer.
void require_fits(const string& name, int64_t bytes, int64_t need, const string& what) {
  if (need > bytes / 2) {
    refuse(name + " = " + text(bytes) + " is too small: " + what + " takes " + text(need) +
           " bytes and must fit half of the buffer, so at least " + text(2 * need) + " are needed");
  }
}

void validate_tables(const string& name, const TableEngine& engine, int64_t value_bytes) {
  require_range(name + ".rows", engine.rows, 1, 1024);
  require_range(name + ".columns", engine.columns, 1, 1024);
  require_range(name + ".inputs", engine.inputs, 1, 12);
  require_range(name + ".tables_bytes", engine.tables_bytes, 0, largest_bytes);
  require_range(name + ".spikes_bytes", engine.spikes_bytes, 1, largest_bytes);
  require_range(name + ".spikes_banks", engine.spikes_banks, 1, largest_count);
  require_range(name + ".psum_bytes", engine.psum_bytes, 1, largest_bytes);
  require_range(name + ".psum_banks", engine.psum_banks, 1, largest_count);
  const int64_t tables =
      2 * engine.rows * engine.columns * (int64_t{1} << engine.inputs) * value_bytes;
  if (engine.tables && tables > engine.tables_bytes) {
    refuse(name + ".tables_bytes = " + text(engine.tables_bytes) + " is too small: two banks of " +
           text(engine.rows) + " x " + text(engine.columns) + " tables of 2^" +
           text(engine.inputs) + " entries take " + text(tables) + " bytes");
  }
  require_fits(name + ".psum_bytes", engine.psum_bytes, accumulator_bytes * engine.columns,
               "one accumulator for each of " + text(engine.columns) + " columns");
}

void validate_lanes(const string& name, const LaneEngine& engine) {
  require_range(name + ".lanes", engine.lanes, 1, largest_count);
  require_range(name + ".latency_cycles", engine.latency_cycles, 0, 1000);
}

/// Floats cannot overflow: only used to refuse work beyond any counter.
double dense_operations(const LayerWork& layer) {
  const Geometry& g = layer.geometry;
  return static_cast<double>(layer.rows()) * static_cast<double>(layer.planes) *
         static_cast<double>(g.out_positions()) * static_cast<double>(g.weights());
}

/// Blocks that `images` of `units` each are cut into (docs/microarchitecture.md, "cut").
int64_t blocks_of(int64_t images, int64_t units, int64_t cap, int64_t most) {
  if (units > cap) return images * ceil_div(units, cap);
  return ceil_div(images, std::min(cap / units, most));
}

double product(std::initializer_list<int64_t> factors) {
  double all = 1;
  for (const int64_t factor : factors) all *= static_cast<double>(factor);
  return all;
}

/// Tiles of a layer's largest part times the parts: as many as there can be.
double tiles_of(const Machine& machine, const LayerWork& layer) {
  const Geometry& g = layer.geometry;
  const int64_t parts = std::min(machine.parts, layer.samples);
  const int64_t images = layer.timesteps * ceil_div(layer.samples, parts);
  const int64_t image_bytes = layer.planes * ceil_div(g.in_features(), 8);
  const auto columns = [&](const TableEngine& engine) {
    return g.groups * ceil_div(g.outputs_per_group(), engine.columns);
  };

  const ForwardEngine& forward = machine.forward;
  const int64_t sets = blocks_of(images, g.out_positions(),
                                 forward.psum_bytes / 2 / (accumulator_bytes * forward.columns),
                                 forward.spikes_bytes / 2 / image_bytes);
  const int64_t rows = ceil_div(g.fan_in(), forward.rows * forward.inputs) + 1;  // and the soma
  double tiles = product({parts, sets, columns(forward), rows});
  if (layer.nonzero && layer.neurons && layer.membrane && machine.membrane == Membrane::recompute) {
    tiles *= 2;
  }
  if (!layer.nonzero) return tiles;
  tiles += product({parts, blocks_of(images, g.out_features(),
                                     machine.gradient.buffer_bytes / 2 /
                                         (machine.value_bytes + accumulator_bytes),
                                     images)});
  if (layer.input_gradient) {
    const BackwardEngine& engine = machine.backward;
    const int64_t reduction = g.taps() * g.outputs_per_group();
    const int64_t tile_rows = std::min(engine.tile_rows, reduction);
    const int64_t slices = ceil_div(g.channels_per_group(), engine.slice);
    const int64_t wide = std::min(
        {slices, engine.weights_bytes / 2 / (machine.value_bytes * tile_rows * engine.slice),
         engine.psum_bytes / 2 / (accumulator_bytes * engine.slice)});
    const int64_t channels = std::min(wide * engine.slice, g.channels_per_group());
    const int64_t blocks =
        blocks_of(images, g.in_positions(), engine.psum_bytes / 2 / (accumulator_bytes * channels),
                  engine.gradients_bytes / 2 / (g.out_features() * machine.value_bytes));
    tiles += product(
        {parts, blocks, g.groups, ceil_div(slices, wide), ceil_div(reduction, engine.tile_rows)});
  }
  if (layer.weight_gradient) {
    const UpdateEngine& engine = machine.update;
    const int64_t together = std::min(images, engine.spikes_bytes / 2 / image_bytes);
    const int64_t half = engine.psum_bytes / 2;
    const int64_t deep = g.weights() * accumulator_bytes <= half
                             ? g.fan_in()
                             : half / (accumulator_bytes * engine.columns);
    tiles +=
        product({parts, ceil_div(images, together), columns(engine), ceil_div(g.fan_in(), deep),
                 ceil_div(together * g.out_positions(), engine.rows * engine.inputs)});
  }
  return tiles;
}

void require_image_fits(const LayerWork& layer, const string& name, int64_t bytes, int64_t need,
                        const string& what) {
  if (need > bytes / 2) {
    refuse("layer " + layer.name + " cannot run on this machine: " + what + " take " + text(need) +
           " bytes and must fit half of " + name + " (" + text(bytes) + "); " + name + " = " +
           text(2 * need) + " would do");
  }
}

}  // namespace

void Machine::validate() const {
  if (value_bytes != 2 && value_bytes != 4) {
    refuse("value_bytes must be 2 or 4, got " + text(value_bytes));
  }
  validate_tables("forward", forward, value_bytes);
  require_range("forward.weights_bytes", forward.weights_bytes, 1, largest_bytes);
  require_range("forward.weights_banks", forward.weights_banks, 1, largest_count);
  require_fits("forward.weights_bytes", forward.weights_bytes,
               forward.rows * forward.inputs * forward.columns * value_bytes,
               "a tile of " + text(forward.rows * forward.inputs) + " inputs x " +
                   text(forward.columns) + " columns");
  validate_lanes("soma", soma);
  validate_lanes("gradient", gradient);
  require_range("gradient.buffer_bytes", gradient.buffer_bytes, 1, largest_bytes);
  require_fits("gradient.buffer_bytes", gradient.buffer_bytes, value_bytes + accumulator_bytes,
               "a gradient with its membrane");

  require_range("backward.groups", backward.groups, 1, largest_count);
  require_range("backward.lanes", backward.lanes, 1, largest_count);
  require_range("backward.slice", backward.slice, 1, largest_count);
  require_range("backward.encode_cycles", backward.encode_cycles, 0, 1000);
  require_range("backward.tile_rows", backward.tile_rows, 1, 1 << 20);
  require_range("backward.weights_bytes", backward.weights_bytes, 1, largest_bytes);
  require_range("backward.weights_banks", backward.weights_banks, 1, largest_count);
  require_range("backward.gradients_bytes", backward.gradients_bytes, 1, largest_bytes);
  require_range("backward.psum_bytes", backward.psum_bytes, 1, largest_bytes);
  require_fits("backward.weights_bytes", backward.weights_bytes,
               backward.tile_rows * backward.slice * value_bytes,
               "a tile of " + text(backward.tile_rows) + " gradients x " + text(backward.slice) +
                   " channels");
  require_fits("backward.psum_bytes", backward.psum_bytes, accumulator_bytes * backward.slice,
               "one accumulator for each of " + text(backward.slice) + " channels");

  validate_tables("update", update, value_bytes);
  require_range("update.gradients_bytes", update.gradients_bytes, 1, largest_bytes);
  require_range("update.gradients_banks", update.gradients_banks, 1, largest_count);
  require_fits("update.gradients_bytes", update.gradients_bytes,
               update.rows * update.inputs * update.columns * value_bytes,
               "a tile of " + text(update.rows * update.inputs) + " positions x " +
                   text(update.columns) + " columns");

  require_range("dram.bytes_per_cycle", dram.bytes_per_cycle, 1, 1 << 20);
  require_range("dram.latency_cycles", dram.latency_cycles, 0, 1'000'000);
  require_range("dram.burst_bytes", dram.burst_bytes, 1, largest_count);
  require_range("state_bytes", state_bytes, 0, largest_bytes);
  require_range("membrane_bytes", membrane_bytes, 0, largest_bytes);
  require_range("parts", parts, 1, largest_count);
}

void require_runnable(const Machine& machine, const StepWork& step) {
  double tiles = 0;
  for (const LayerWork& layer : step.layers) {
    const Geometry& g = layer.geometry;
    g.validate();
    const LayerWork& first = step.layers.front();
    if (layer.timesteps < 1 || layer.samples < 1 || layer.planes < 1 || !layer.inputs) {
      refuse("layer " + layer.name + " must have timesteps, samples, planes and inputs");
    }
    if (layer.timesteps != first.timesteps || layer.samples != first.samples) {
      refuse("layer " + layer.name + " has " + text(layer.timesteps) + " timesteps of " +
             text(layer.samples) + " samples, but layer " + first.name + " has " +
             text(first.timesteps) + " of " + text(first.samples));
    }
    if (dense_operations(layer) > static_cast<double>(largest_operations)) {
      refuse("layer " + layer.name + " has more than 10^15 operations, which no counter is for");
    }
    const int64_t image_bytes = layer.planes * ceil_div(g.in_features(), 8);
    require_image_fits(layer, "forward.spikes_bytes", machine.forward.spikes_bytes, image_bytes,
                       "the inputs of one image");
    if (layer.nonzero && layer.input_gradient) {
      require_image_fits(layer, "backward.gradients_bytes", machine.backward.gradients_bytes,
                         g.out_features() * machine.value_bytes, "the gradients of one image");
    }
    if (layer.nonzero && layer.weight_gradient) {
      require_image_fits(layer, "update.spikes_bytes", machine.update.spikes_bytes, image_bytes,
                         "the inputs of one image");
    }
    tiles += tiles_of(machine, layer);
    if (tiles > static_cast<double>(most_tiles)) {
      refuse("with layer " + layer.name + " the step takes more than " + text(most_tiles) +
             " tiles on this machine; larger tiles or buffers, or less work a step, would do");
    }
  }
}

}  // namespace h2learn::accelerator
