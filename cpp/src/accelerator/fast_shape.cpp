#include "accelerator/fast_shape.hpp"

namespace h2learn::accelerator::fast {

std::vector<Part> parts_of(const Machine& machine, const StepWork& step) {
  const std::int64_t samples = step.layers.front().samples;
  const std::int64_t count = std::min(machine.parts, samples);
  std::vector<Part> parts;
  std::int64_t first = 0;
  for (std::int64_t p = 0; p < count; ++p) {
    const std::int64_t here = samples / count + (p < samples % count ? 1 : 0);
    parts.push_back({p, first, here, step.layers.front().timesteps, samples});
    first += here;
  }
  return parts;
}

Layer::Layer(const Machine& machine, const LayerWork& layer_work) : work(&layer_work) {
  const Geometry& g = work->geometry;
  inputs = g.in_channels;
  outputs = g.out_channels;
  groups = g.groups;
  group_inputs = g.channels_per_group();
  group_outputs = g.outputs_per_group();
  input_positions = g.in_positions();
  output_positions = g.out_positions();
  taps = g.taps();
  fan_in = g.fan_in();
  planes = work->planes;
  mask_image_bytes = divide_up(g.in_features(), 8);
  image_bytes = planes * mask_image_bytes;
  neurons_per_image = g.out_features();
  gradient = work->nonzero != nullptr;
  recompute =
      machine.membrane == Membrane::recompute && gradient && work->neurons && work->membrane;
  backward = gradient && work->input_gradient;
  update = gradient && work->weight_gradient;
}

std::vector<Block> cut(std::int64_t images, std::int64_t units, std::int64_t cap,
                       std::int64_t most) {
  std::vector<Block> blocks;
  if (units <= cap) {
    const std::int64_t together = std::min(cap / units, most);
    for (std::int64_t i = 0; i < images; i += together) {
      const auto index = static_cast<std::int64_t>(blocks.size());
      blocks.push_back({index, i, std::min(together, images - i), 0, units, true});
    }
    return blocks;
  }
  for (std::int64_t i = 0; i < images; ++i) {
    for (std::int64_t unit = 0; unit < units; unit += cap) {
      const auto index = static_cast<std::int64_t>(blocks.size());
      blocks.push_back({index, i, 1, unit, std::min(cap, units - unit), unit == 0});
    }
  }
  return blocks;
}

Columns::Columns(const TableEngine& engine, const Layer& layer)
    : size(engine.columns),
      per_group(divide_up(layer.group_outputs, engine.columns)),
      count(layer.groups * per_group) {}

ForwardTiling::ForwardTiling(const Machine& machine, const Layer& layer)
    : columns(machine.forward, layer),
      tile_inputs(machine.forward.rows * machine.forward.inputs),
      row_tiles(divide_up(layer.fan_in, tile_inputs)),
      weight_bytes(layer.outputs * layer.fan_in * machine.value_bytes),
      weights_stay(weight_bytes <= machine.forward.weights_bytes / 2) {}

std::vector<Block> ForwardTiling::blocks(const Machine& machine, const Layer& layer,
                                         const Part& part) const {
  const std::int64_t cap =
      machine.forward.psum_bytes / 2 / (accumulator_bytes * machine.forward.columns);
  return cut(part.images(), layer.output_positions, cap,
             machine.forward.spikes_bytes / 2 / layer.image_bytes);
}

BackwardTiling::BackwardTiling(const Machine& machine, const Layer& layer) {
  const BackwardEngine& engine = machine.backward;
  slices = divide_up(layer.group_inputs, engine.slice);
  reduction = layer.taps * layer.group_outputs;
  const std::int64_t rows = std::min(engine.tile_rows, reduction);
  tile_slices =
      std::min({slices, engine.weights_bytes / 2 / (machine.value_bytes * rows * engine.slice),
                engine.psum_bytes / 2 / (accumulator_bytes * engine.slice)});
  columns_per_group = divide_up(slices, tile_slices);
  column_tiles = layer.groups * columns_per_group;
  row_tiles = divide_up(reduction, engine.tile_rows);
  weight_bytes = layer.outputs * layer.fan_in * machine.value_bytes;
  weights_stay = weight_bytes <= engine.weights_bytes / 2;
}

std::vector<Block> BackwardTiling::blocks(const Machine& machine, const Layer& layer,
                                          const Part& part) const {
  const BackwardEngine& engine = machine.backward;
  const std::int64_t channels = std::min(tile_slices * engine.slice, layer.group_inputs);
  return cut(part.images(), layer.input_positions,
             engine.psum_bytes / 2 / (accumulator_bytes * channels),
             engine.gradients_bytes / 2 / (layer.neurons_per_image * machine.value_bytes));
}

UpdateTiling::UpdateTiling(const Machine& machine, const Layer& layer)
    : columns(machine.update, layer),
      tile_positions(machine.update.rows * machine.update.inputs),
      gradient_bytes(layer.outputs * layer.fan_in * accumulator_bytes) {
  const std::int64_t half = machine.update.psum_bytes / 2;
  accumulators_stay = gradient_bytes <= half;
  input_block =
      accumulators_stay ? layer.fan_in : half / (accumulator_bytes * machine.update.columns);
  input_blocks = divide_up(layer.fan_in, input_block);
}

std::vector<Block> UpdateTiling::blocks(const Machine& machine, const Layer& layer,
                                        const Part& part) const {
  return cut(part.images(), layer.output_positions, unlimited,
             machine.update.spikes_bytes / 2 / layer.image_bytes);
}

std::vector<Block> gradient_blocks(const Machine& machine, const Layer& layer, const Part& part) {
  const std::int64_t neuron_bytes = machine.value_bytes + accumulator_bytes;
  return cut(part.images(), layer.neurons_per_image,
             machine.gradient.buffer_bytes / 2 / neuron_bytes, unlimited);
}

std::vector<std::int64_t> residents_of(const Machine& machine, const std::vector<Layer>& layers,
                                       const Part& part) {
  const std::int64_t images = part.images();
  std::int64_t left = machine.state_bytes / 2;
  std::vector<std::int64_t> resident(layers.size(), 0);
  const auto keep = [&](std::size_t layer, Resident tensor, std::int64_t bytes) {
    if (bytes > left) return std::int64_t{0};
    resident[layer] |= tensor;
    return bytes;
  };
  for (std::size_t l = 0; l < layers.size(); ++l) {
    if (!layers[l].work->neurons) continue;
    const std::int64_t bytes = images * divide_up(layers[l].neurons_per_image, 8);
    left -= keep(l, spikes_stay, bytes);
    if (layers[l].gradient) left -= keep(l, mask_stays, bytes);
  }
  for (std::size_t l = layers.size(); l-- > 0;) {
    const Layer& layer = layers[l];
    if (layer.gradient) {
      left -=
          keep(l, current_gradient_stays, images * layer.neurons_per_image * machine.value_bytes);
    }
    if (l > 0 && layer.backward) {
      left -= keep(l - 1, spike_gradient_stays,
                   images * layer.work->geometry.in_features() * machine.value_bytes);
    }
  }
  for (std::size_t l = 0; l < layers.size(); ++l) {
    const Layer& layer = layers[l];
    if (!layer.gradient || !layer.work->neurons || !layer.work->membrane) continue;
    const std::int64_t bytes =
        keep(l, membrane_stays, images * layer.neurons_per_image * accumulator_bytes);
    // Recomputed membranes are used up before the next layer's are made: they share one place.
    if (machine.membrane == Membrane::store) left -= bytes;
  }
  return resident;
}

}  // namespace h2learn::accelerator::fast
