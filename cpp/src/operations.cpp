#include "h2learn/operations.hpp"

#include <omp.h>

#include <algorithm>
#include <bit>
#include <cstddef>
#include <vector>

#include "synapse_checks.hpp"

namespace h2learn {
namespace {

/// Set bits of `row` in [begin, begin + length).
std::int64_t popcount_range(const std::uint64_t* row, std::int64_t begin, std::int64_t length) {
  std::int64_t count = 0;
  while (length > 0) {
    const std::int64_t offset = begin % word_bits;
    const std::int64_t bits = std::min(length, word_bits - offset);
    const std::uint64_t mask = ~std::uint64_t{0} >> (word_bits - bits);
    count += std::popcount(row[begin / word_bits] >> offset & mask);
    begin += bits;
    length -= bits;
  }
  return count;
}

/// Set bits of every (input position, group) of one image, summed over planes: what windows,
/// which overlap, then add up without looking at the bits again.
void count_inputs(const Geometry& geometry, const PackedView& inputs, std::int64_t image,
                  std::int64_t* counts) {
  const std::int64_t channels = geometry.channels_per_group();
  for (std::int64_t position = 0; position < geometry.in_positions(); ++position) {
    for (std::int64_t group = 0; group < geometry.groups; ++group) {
      std::int64_t count = 0;
      for (std::int64_t plane = 0; plane < inputs.planes; ++plane) {
        count += popcount_range(inputs.row(plane, image),
                                position * geometry.in_channels + group * channels, channels);
      }
      *counts++ = count;
    }
  }
}

/// The operations of one image, from the counts of its inputs.
std::int64_t count_image(const Geometry& geometry, const std::int32_t* input_of_output,
                         const std::int64_t* counts, const std::int64_t* outputs) {
  const std::int64_t taps = geometry.taps();
  const std::int64_t groups = geometry.groups;
  std::int64_t operations = 0;
  for (std::int64_t position = 0; position < geometry.out_positions(); ++position) {
    for (std::int64_t group = 0; group < groups; ++group) {
      std::int64_t window = 0;
      for (std::int64_t tap = 0; tap < taps; ++tap) {
        const std::int64_t input = input_of_output[position * taps + tap];
        if (input >= 0) window += counts[input * groups + group];
      }
      operations += window * (outputs == nullptr ? geometry.outputs_per_group()
                                                 : outputs[position * groups + group]);
    }
  }
  return operations;
}

}  // namespace

std::int64_t count_operations(const Geometry& geometry, const PackedView& inputs,
                              const std::int64_t* outputs) {
  geometry.validate();
  require_spikes(geometry, inputs);
  const std::vector<std::int32_t> input_of_output = geometry.input_of_output();
  const std::int64_t image_inputs = geometry.in_positions() * geometry.groups;
  const std::int64_t image_outputs = geometry.out_positions() * geometry.groups;
  const int threads = omp_get_max_threads();
  std::vector<std::int64_t> memory(static_cast<std::size_t>(threads * image_inputs));
  std::int64_t operations = 0;
#pragma omp parallel for num_threads(threads) schedule(static) reduction(+ : operations)
  for (std::int64_t image = 0; image < inputs.rows; ++image) {
    std::int64_t* const counts = memory.data() + omp_get_thread_num() * image_inputs;
    count_inputs(geometry, inputs, image, counts);
    operations += count_image(geometry, input_of_output.data(), counts,
                              outputs == nullptr ? nullptr : outputs + image * image_outputs);
  }
  return operations;
}

std::int64_t count_dense_operations(const Geometry& geometry, std::int64_t rows) {
  geometry.validate();
  require_images("rows", rows);
  const std::vector<std::int32_t> input_of_output = geometry.input_of_output();
  const std::int64_t real_taps = std::count_if(input_of_output.begin(), input_of_output.end(),
                                               [](std::int32_t input) { return input >= 0; });
  return rows * real_taps * geometry.channels_per_group() * geometry.out_channels;
}

}  // namespace h2learn
