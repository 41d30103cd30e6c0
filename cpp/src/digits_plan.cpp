#include "digits_plan.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>

#include "h2learn/digits.hpp"
#include "kernels/digits.hpp"
#include "synapse_checks.hpp"

namespace h2learn {
namespace {

constexpr int mantissa_bits = 23;
constexpr std::int32_t infinity_bits = 0x7f800000;

std::int32_t magnitude_of(float value) { return std::bit_cast<std::int32_t>(value) & 0x7fffffff; }

}  // namespace

bool forward_fits(const Geometry& geometry, std::int64_t planes) {
  if (planes > max_digits_planes) return false;
  const std::int64_t largest_value = (std::int64_t{1} << planes) - 1;
  return geometry.fan_in() * largest_value < digits_sum_limit;
}

int exponent_of(std::int32_t magnitude_bits) {
  // Integers only: a thread that takes subnormal numbers for zero chooses the same.
  constexpr std::int32_t hidden_bit = 1 << mantissa_bits;
  constexpr std::int32_t largest_mantissa = largest_number >> 7;
  constexpr int bias_of_mantissas = 127 + mantissa_bits;
  std::int32_t field = magnitude_bits >> mantissa_bits;
  std::int32_t mantissa = magnitude_bits & (hidden_bit - 1);
  if (field > 0) {
    mantissa |= hidden_bit;
  } else {
    const int shift = std::countl_zero(static_cast<std::uint32_t>(mantissa)) -
                      std::countl_zero(static_cast<std::uint32_t>(hidden_bit));
    mantissa <<= shift;
    field = 1 - shift;
  }
  // magnitude = mantissa * 2^(field - 150), and 2^7 * mantissa is at the limit or just beyond it.
  return bias_of_mantissas - field + (mantissa <= largest_mantissa ? 7 : 6);
}

double step_beside_typical(const Magnitudes& column, int& exponent) {
  constexpr double bias = 127;
  exponent = 0;
  if (column.count == 0) return -INFINITY;
  if (column.largest_bits >= infinity_bits) return INFINITY;
  exponent = exponent_of(column.largest_bits);
  const double typical =
      static_cast<double>(column.exponents) / static_cast<double>(column.count) - bias;
  return -exponent - typical;
}

bool choose_exponent(const Magnitudes& column, int& exponent) {
  return step_beside_typical(column, exponent) <= digits_from;
}

void measure_row(const float* values, std::int64_t columns, const ColumnMeasures& to) {
  for (std::int64_t n = 0; n < columns; ++n) {
    const std::int32_t bits = magnitude_of(values[n]);
    to.largest_bits[n] = std::max(to.largest_bits[n], bits);
    to.exponents[n] += bits >> mantissa_bits;
    to.counts[n] += bits != 0;
  }
}

namespace {

/// Steps of a block: enough that its sums, once finished, cost little beside them, and few enough
/// for the second-level cache.
constexpr std::int64_t block_steps = 64;

/// Steps whose inputs (of two tiles) and gradients (of two digits) stay in the first-level cache.
constexpr std::int64_t chunk_steps = 16;

std::int64_t blocks_of(std::int64_t n, std::int64_t size) { return (n + size - 1) / size; }

}  // namespace

OuterBlocks::OuterBlocks(const Geometry& geometry, std::int64_t images)
    : geometry_(geometry), images_(images) {
  const std::int64_t height = geometry.out_height();
  bands_ = blocks_of(height, std::max<std::int64_t>(block_steps / geometry.out_width(), 1));
  rows_ = blocks_of(height, bands_);
  bands_ = blocks_of(height, rows_);
  const std::int64_t all_stacks = blocks_of(images, step_images);
  stacks_ = std::max<std::int64_t>(block_steps / geometry.out_positions(), 1);
  stack_blocks_ = blocks_of(all_stacks, stacks_);
  stacks_ = stack_blocks_ == 0 ? 0 : blocks_of(all_stacks, stack_blocks_);
  if (stacks_ > 0) stack_blocks_ = blocks_of(all_stacks, stacks_);
}

bool OuterBlocks::fit(std::int64_t planes) const {
  constexpr std::int64_t widest = 1024;
  constexpr std::int64_t most_inputs = 16384;
  // A channel alone takes the room of 16, and its outputs' of a panel.
  const bool depthwise = geometry_.groups > 1 && geometry_.channels_per_group() == 1;
  return planes <= max_digits_planes && !depthwise && geometry_.out_width() <= widest &&
         stacks_ * most_input_rows() * geometry_.in_width <= most_inputs &&
         most_steps() * step_images * ((std::int64_t{1} << planes) - 1) < digits_sum_limit;
}

std::int64_t OuterBlocks::block_of(std::int64_t position) const {
  const std::int64_t image = position / geometry_.out_positions();
  const std::int64_t row = position % geometry_.out_positions() / geometry_.out_width();
  return image / (stacks_ * step_images) * bands_ + row / rows_;
}

std::int64_t OuterBlocks::most_input_rows() const {
  return std::min(geometry_.in_height,
                  (rows_ - 1) * geometry_.stride_height +
                      (geometry_.kernel_height - 1) * geometry_.dilation_height + 1);
}

OuterBlock OuterBlocks::block(std::int64_t number) {
  OuterBlock block = {};
  block.first_image = number / bands_ * stacks_ * step_images;
  block.stacks = std::min(stacks_, blocks_of(images_ - block.first_image, step_images));
  block.first_row = number % bands_ * rows_;
  block.rows = std::min(rows_, geometry_.out_height() - block.first_row);
  const std::int64_t first = block.first_row * geometry_.stride_height - geometry_.padding_height;
  const std::int64_t end = first + (block.rows - 1) * geometry_.stride_height +
                           (geometry_.kernel_height - 1) * geometry_.dilation_height + 1;
  block.first_input_row = std::clamp<std::int64_t>(first, 0, geometry_.in_height);
  block.input_rows = std::clamp<std::int64_t>(end, block.first_input_row, geometry_.in_height) -
                     block.first_input_row;
  block.chunks = blocks_of(block.stacks * block.rows * geometry_.out_width(), chunk_steps);
  add_runs(block);
  block.runs = runs_.data();
  block.first_run = first_run_.data();
  return block;
}

void OuterBlocks::add_runs(const OuterBlock& block) {
  const std::int64_t taps = geometry_.taps();
  const std::int64_t width = geometry_.out_width();
  const std::int64_t stride = geometry_.stride_width;
  runs_.clear();
  first_run_.clear();
  for (std::int64_t chunk = 0; chunk < block.chunks; ++chunk) {
    const std::int64_t end = std::min((chunk + 1) * chunk_steps, block.stacks * block.rows * width);
    for (std::int64_t tap = 0; tap < taps; ++tap) {
      const std::size_t first = runs_.size();
      first_run_.push_back(static_cast<std::int32_t>(first));
      const std::int64_t down =
          tap / geometry_.kernel_width * geometry_.dilation_height - geometry_.padding_height;
      const std::int64_t right =
          tap % geometry_.kernel_width * geometry_.dilation_width - geometry_.padding_width;
      for (std::int64_t step = chunk * chunk_steps; step < end; ++step) {
        const std::int64_t row = step / width % block.rows;
        const std::int64_t y = (block.first_row + row) * geometry_.stride_height + down;
        const std::int64_t x = step % width * stride + right;
        if (y < 0 || y >= geometry_.in_height || x < 0 || x >= geometry_.in_width) continue;
        const std::int64_t stack = step / width / block.rows;
        const std::int64_t input =
            (stack * block.input_rows + y - block.first_input_row) * geometry_.in_width + x;
        if (runs_.size() > first && runs_.back().output + runs_.back().steps == step &&
            runs_.back().input + runs_.back().steps * stride == input) {
          ++runs_.back().steps;
        } else {
          runs_.push_back({static_cast<std::int32_t>(input), static_cast<std::int32_t>(step), 1});
        }
      }
    }
  }
  first_run_.push_back(static_cast<std::int32_t>(runs_.size()));
}

std::vector<double> powers_of_two(const std::vector<int>& exponents, int sign, double factor) {
  std::vector<double> powers;
  powers.reserve(exponents.size());
  for (int exponent : exponents) powers.push_back(std::ldexp(factor, sign * exponent));
  return powers;
}

Quantization quantize(const Geometry& geometry, const float* weight, std::int64_t planes) {
  const std::int64_t length = geometry.fan_in();
  const std::int64_t columns = geometry.out_channels;
  const BackwardKernels& kernels = *detail::pick_digits_kernels(active_target()).backward;
  std::vector<Magnitudes> measured(static_cast<std::size_t>(columns));
  kernels.measure_images(weight, columns, length, measured.data());
  for (const Magnitudes& column : measured) {
    if (column.largest_bits >= infinity_bits) require_finite("weight", weight, columns * length);
  }
  Quantization chosen;
  if (!forward_fits(geometry, planes)) return chosen;
  chosen.exponents.assign(measured.size(), 0);
  chosen.applies = true;
  for (std::size_t n = 0; n < measured.size() && chosen.applies; ++n) {
    chosen.applies = choose_exponent(measured[n], chosen.exponents[n]);
  }
  return chosen;
}

WindowBytes window_bytes(const Geometry& geometry, std::int64_t padded_row, std::int64_t step) {
  const auto up = [](std::int64_t n, std::int64_t multiple) {
    return (n + multiple - 1) / multiple * multiple;
  };
  const std::int64_t channels = geometry.channels_per_group();
  // Neighbouring taps of a row are neighbours in the image, unless taps are spread.
  const std::int64_t taps = geometry.dilation_width == 1 ? geometry.kernel_width : 1;
  WindowBytes bytes;
  bytes.length = taps * channels;
  const std::int64_t least = up(bytes.length, 4);
  bytes.packed_length = up(bytes.length, step) <= 2 * least ? up(bytes.length, step) : least;
  for (std::int64_t row = 0; row < geometry.kernel_height; ++row) {
    for (std::int64_t tap = 0; tap < geometry.kernel_width; tap += taps) {
      bytes.offsets.push_back(row * geometry.dilation_height * padded_row +
                              tap * geometry.dilation_width * channels);
    }
  }
  return bytes;
}

std::vector<std::int32_t> packed_places(const Geometry& geometry, const WindowBytes& bytes) {
  const std::int64_t channels = geometry.channels_per_group();
  std::vector<std::int32_t> places;
  places.reserve(static_cast<std::size_t>(geometry.fan_in()));
  for (std::int64_t channel = 0; channel < channels; ++channel) {
    for (std::int64_t tap = 0; tap < geometry.taps(); ++tap) {
      const std::int64_t k = tap * channels + channel;
      places.push_back(
          static_cast<std::int32_t>(k / bytes.length * bytes.packed_length + k % bytes.length));
    }
  }
  return places;
}

}  // namespace h2learn
