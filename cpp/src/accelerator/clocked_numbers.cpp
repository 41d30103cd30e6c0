#include "accelerator/clocked_numbers.hpp"

#include <bit>
#include <cmath>
#include <stdexcept>
#include <string>

namespace h2learn::accelerator::clocked {
namespace {

using std::int64_t;

std::size_t size(int64_t count) { return static_cast<std::size_t>(count); }

int64_t operand_count(const Job& job) {
  return job.pass() == Pass::update ? static_cast<int64_t>(job.sites.size()) : job.rows.count;
}

/// Index into the layer's weights, [N, C_g, taps], of an output channel and a fan-in index.
int64_t weight_index(const Layer& layer, int64_t output, int64_t fan_in) {
  const int64_t tap = fan_in / layer.group_inputs;
  const int64_t channel = fan_in % layer.group_inputs;
  return (output * layer.group_inputs + channel) * layer.taps + tap;
}

/// Neighbours first, level by level; the operands are padded with zeros to a power of two.
float pairwise_sum(std::vector<float> operands) {
  operands.resize(std::bit_ceil(operands.size()), 0.0F);
  for (std::size_t left = operands.size() / 2; left > 0; left /= 2) {
    for (std::size_t i = 0; i < left; ++i) operands[i] = operands[2 * i] + operands[2 * i + 1];
  }
  return operands.front();
}

void require(bool condition, const std::string& message) {
  if (!condition) throw std::invalid_argument(message);
}

}  // namespace

Numbers::Numbers(const Machine& machine, const StepWork& step, Precision precision,
                 std::vector<LayerValues>& values)
    : machine_(machine), precision_(precision), values_(values) {
  require(bytes_of(precision) == machine.value_bytes,
          "precision must have value_bytes = " + std::to_string(machine.value_bytes) + ", has " +
              std::to_string(bytes_of(precision)));
  require(values.size() == step.layers.size(), "values must be those of " +
                                                   std::to_string(step.layers.size()) +
                                                   " layers, got " + std::to_string(values.size()));
  for (std::size_t l = 0; l < values.size(); ++l) {
    const LayerWork& work = step.layers[l];
    LayerValues& layer = values[l];
    const bool backward = work.nonzero && work.input_gradient;
    const bool update = work.nonzero && work.weight_gradient;
    require(layer.weight != nullptr, "layer " + work.name + " must have weights");
    require(layer.grad_currents != nullptr || (!backward && !update),
            "layer " + work.name + " must have grad_currents");
    require(layer.plane_weights.empty() ||
                layer.plane_weights.size() == static_cast<std::size_t>(work.planes),
            "layer " + work.name + " must have " + std::to_string(work.planes) +
                " plane_weights or none, got " + std::to_string(layer.plane_weights.size()));
    const Geometry& g = work.geometry;
    layer.currents.assign(size(work.rows() * g.out_features()), 0.0F);
    layer.grad_inputs.assign(size(backward ? work.rows() * g.in_features() : 0), 0.0F);
    layer.weight_gradient.assign(size(update ? g.weights() : 0), 0.0F);
  }
}

const TableEngine& Numbers::engine(const Job& job) const {
  if (job.pass() == Pass::update) return machine_.update;
  return machine_.forward;
}

float Numbers::plane_weight(const Job& job, int64_t plane) const {
  const std::vector<float>& weights = values(job).plane_weights;
  return weights.empty() ? std::ldexp(1.0F, static_cast<int>(plane)) : weights[size(plane)];
}

/// As it stands in the engine's buffer.
float Numbers::operand(const Job& job, int64_t column, int64_t index) const {
  const Layer& layer = *job.layer;
  if (job.pass() == Pass::update) {
    const Site& site = job.sites[size(index)];
    const int64_t feature = layer.out_feature(site.position, job.group, job.columns.first + column);
    return round_to(precision_,
                    values(job).grad_currents[site.row * layer.geometry.out_features() + feature]);
  }
  const int64_t output = job.group * layer.group_outputs + job.columns.first + column;
  return round_to(precision_,
                  values(job).weight[weight_index(layer, output, job.rows.first + index)]);
}

void Numbers::write_entry(const Job& job, int64_t bank, int64_t entry) {
  const int64_t inputs = engine(job).inputs;
  const int64_t entries = int64_t{1} << inputs;
  const int64_t operands = operand_count(job);
  const int64_t tables = ceil_div(operands, inputs);
  std::vector<float>& table = banks(job)[size(bank)];
  if (entry == 0) {
    table.assign(size(job.columns.count * tables * entries), 0.0F);
    return;
  }
  const int64_t lowest = std::countr_zero(static_cast<std::uint64_t>(entry));
  const int64_t without_lowest = entry & (entry - 1);
  for (int64_t column = 0; column < job.columns.count; ++column) {
    for (int64_t t = 0; t < tables; ++t) {
      const int64_t index = t * inputs + lowest;
      if (index >= operands) continue;  // a short table: no index has this bit
      float* of_pe = table.data() + (column * tables + t) * entries;
      const float value = operand(job, column, index);
      of_pe[entry] =
          without_lowest == 0 ? value : round_to(precision_, of_pe[without_lowest] + value);
    }
  }
}

void Numbers::write_operands(const Job& job, int64_t bank) {
  std::vector<float>& stored = banks(job)[size(bank)];
  stored.clear();
  for (int64_t column = 0; column < job.columns.count; ++column) {
    for (int64_t i = 0; i < operand_count(job); ++i) stored.push_back(operand(job, column, i));
  }
}

std::vector<float> Numbers::tree_sums(const Job& job, int64_t bank,
                                      const std::vector<std::uint8_t>& bits) {
  const TableEngine& of = engine(job);
  const int64_t operands = operand_count(job);
  const std::vector<Range> tables = pieces(operands, of.inputs);
  const std::vector<float>& stored = banks(job)[size(bank)];
  std::vector<float> sums;
  for (int64_t column = 0; column < job.columns.count; ++column) {
    std::vector<float> leaves(size(of.rows), 0.0F);
    for (std::size_t t = 0; t < tables.size(); ++t) {
      if (of.tables) {
        int64_t index = 0;
        for (int64_t i = 0; i < tables[t].count; ++i) {
          index |= static_cast<int64_t>(bits[size(tables[t].first + i)]) << i;
        }
        const auto at = column * static_cast<int64_t>(tables.size()) + static_cast<int64_t>(t);
        leaves[t] = stored[size((at << of.inputs) + index)];
      } else {
        for (int64_t i = tables[t].first; i < tables[t].end(); ++i) {
          if (bits[size(i)]) leaves[t] = leaves[t] + stored[size(column * operands + i)];
        }
      }
    }
    sums.push_back(pairwise_sum(std::move(leaves)));
  }
  return sums;
}

void Numbers::accumulate_forward(const Job& job, int64_t place, int64_t plane,
                                 const std::vector<float>& sums) {
  std::vector<float>& psums = psums_[size(job.psum_half)];
  const int64_t columns = job.columns.count;
  if (job.first_row && plane == 0) {
    psums.resize(size(job.block->images() * job.block->units.count * columns));
  }
  const float weight = plane_weight(job, plane);
  for (int64_t column = 0; column < columns; ++column) {
    float& psum = psums[size(place * columns + column)];
    if (job.first_row && plane == 0) psum = 0.0F;
    const float product = weight * sums[size(column)];
    psum = psum + product;
  }
}

void Numbers::drain(const Job& soma, Range steps) {
  const Layer& layer = *soma.layer;
  const Block& block = *soma.block;
  LayerValues& of = values(soma);
  const std::vector<float>& psums = psums_[size(soma.psum_half)];
  for (int64_t i = steps.first; i < steps.end(); ++i) {
    const int64_t place = i / soma.columns.count;
    const int64_t row = block.rows[size(place / block.units.count)];
    const int64_t position = block.units.first + place % block.units.count;
    const int64_t channel =
        soma.group * layer.group_outputs + soma.columns.first + i % soma.columns.count;
    const float scaled = of.scale * psums[size(i)];
    of.currents[size((row * layer.out_positions + position) * layer.geometry.out_channels +
                     channel)] = of.bias ? scaled + of.bias[channel] : scaled;
  }
}

void Numbers::multiply(const Job& job, int64_t image, int64_t position, Range channels) {
  const Layer& layer = *job.layer;
  LayerValues& of = values(job);
  const int64_t row = job.block->rows[size(image)];
  for (int64_t c = channels.first; c < channels.end(); ++c) {
    const int64_t feature = layer.in_feature(position, job.group, c);
    if (layer.work.mask && !bit(layer.mask_row(row), feature)) continue;
    float& psum = of.grad_inputs[size(row * layer.geometry.in_features() + feature)];
    for (int64_t r = job.rows.first; r < job.rows.end(); ++r) {
      const int64_t tap = r / layer.group_outputs;
      const int64_t n = r % layer.group_outputs;
      const int64_t output = layer.output_of_input[size(position * layer.taps + tap)];
      if (output < 0) continue;
      const int64_t from = layer.out_feature(output, job.group, n);
      if (!bit(layer.nonzero_row(row), from)) continue;
      const float gradient =
          round_to(precision_, of.grad_currents[row * layer.geometry.out_features() + from]);
      if (gradient == 0.0F) continue;
      const int64_t fan_in = tap * layer.group_inputs + c;
      const int64_t output_channel = job.group * layer.group_outputs + n;
      const float weight =
          round_to(precision_, of.weight[weight_index(layer, output_channel, fan_in)]);
      const float product = weight * gradient;
      psum = psum + product;
    }
    if (job.last_row) psum = round_to(precision_, psum);
  }
}

void Numbers::accumulate_update(const Job& job, int64_t place, int64_t plane,
                                const std::vector<float>& sums) {
  const Layer& layer = *job.layer;
  std::vector<float>& accumulators = values(job).weight_gradient;
  const float weight = plane_weight(job, plane);
  for (int64_t column = 0; column < job.columns.count; ++column) {
    const int64_t output = job.group * layer.group_outputs + job.columns.first + column;
    float& accumulator = accumulators[size(weight_index(layer, output, job.rows.first + place))];
    const float product = weight * sums[size(column)];
    accumulator = accumulator + product;
  }
}

void Numbers::finish() {
  for (LayerValues& layer : values_) {
    for (float& gradient : layer.weight_gradient) gradient = layer.scale * gradient;
  }
}

}  // namespace h2learn::accelerator::clocked
