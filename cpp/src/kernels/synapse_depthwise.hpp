// Depthwise products: each channel has weights of its own, so that a group has one column and one
// element a tap. Lanes are neighbouring channels here, where the other kernels' are a group's
// columns. For kernel sources only.
//
// Terms are added in the order of the other kernels: taps ascending in blocks of sum_block, and of
// the weight update positions ascending, as in summation.hpp. What lies in the padding is left
// out, since it adds zeros.
#pragma once

#include <cstdint>

#include "kernels/synapse_choice.hpp"
#include "kernels/synapse_gather.hpp"
#include "kernels/synapse_workspace.hpp"
#include "kernels/vec.hpp"
#include "scratch.hpp"
#include "summation.hpp"

namespace h2learn {
namespace {

/// Vectors of channels that are summed together, and neighbouring positions: what the registers
/// hold the sums of (or, of a weight update, the gradients).
constexpr int channel_vectors = vector_bytes == 64 ? 4 : 2;
constexpr int tile_positions = 4;
constexpr std::int64_t channel_chunk = channel_vectors * lanes;

/// Runs that a call may list: one for each position and tap.
constexpr std::int64_t most_depthwise_runs = std::int64_t{1} << 22;

inline bool is_depthwise(const GatheredRows& rows, std::int64_t columns, Method method) {
  return rows.groups > 1 && columns == 1 && rows.group_stride == 1 && method != Method::tables &&
         method != Method::sampled && rows.positions * rows.length <= most_depthwise_runs;
}

/// The vectors of a chunk of `count` channels: whole ones, or with zeros behind the last channel.
template <bool whole>
H2LEARN_INLINE void load_channels(const float* from, std::int64_t count, Floats* values) {
  H2LEARN_UNROLL
  for (int v = 0; v < channel_vectors; ++v) {
    const std::int64_t left = count - v * lanes;
    if constexpr (whole) {
      values[v] = load(from + v * lanes);
    } else {
      values[v] = left > 0 ? load_first(from + v * lanes, left) : Floats{};
    }
  }
}

template <bool whole>
H2LEARN_INLINE void store_channels(float* to, std::int64_t count, const Floats* values) {
  H2LEARN_UNROLL
  for (int v = 0; v < channel_vectors; ++v) {
    const std::int64_t left = count - v * lanes;
    if constexpr (whole) {
      store(to + v * lanes, values[v]);
    } else if (left > 0) {
      store_first(to + v * lanes, values[v], left);
    }
  }
}

/// Calls visit.operator()<whole>(first, count) for each chunk of channels.
template <typename Visit>
H2LEARN_INLINE void for_each_chunk(std::int64_t channels, Visit visit) {
  std::int64_t first = 0;
  for (; first + channel_chunk <= channels; first += channel_chunk) {
    visit.template operator()<true>(first, channel_chunk);
  }
  if (first < channels) visit.template operator()<false>(first, channels - first);
}

/// An image's floats: where they are, or spikes and counts written out to `buffer`.
inline const float* image_values(const GatheredRows& rows, std::int64_t image, float* buffer) {
  if (rows.words == nullptr) return rows.values + image * rows.image_stride;
  copy_elements(rows, image, 0, rows.image_stride, buffer);
  return buffer;
}

/// Floats of such a buffer, and what copy_elements() may write behind it.
inline std::int64_t image_buffer(const GatheredRows& rows) {
  return rows.words == nullptr ? 0 : rows.image_stride + lanes;
}

/// to[taps][channels] of weights in torch's order [channels][taps].
inline void transpose_weights(const float* weight, std::int64_t channels, std::int64_t taps,
                              float* to) {
  for (std::int64_t c = 0; c < channels; ++c) {
    for (std::int64_t tap = 0; tap < taps; ++tap) to[tap * channels + c] = weight[c * taps + tap];
  }
}

/// How many elements the inputs of one position lie from those of the position before it, where a
/// tile's positions from `position` on have the same taps and all lie as far apart; else 0.
inline std::int64_t tile_step(const GatheredRows& rows, std::int64_t position, std::int64_t last) {
  // Only where taps follow one another do the first and the last tell of those between.
  if (position + tile_positions > last || spread_of(rows.windows) > 1) return 0;
  const Run* const runs = rows.runs + rows.first_run[position];
  const std::int64_t count = rows.first_run[position + 1] - rows.first_run[position];
  if (count == 0) return 0;
  std::int64_t step = 0;
  for (int i = 1; i < tile_positions; ++i) {
    const Run* const others = rows.runs + rows.first_run[position + i];
    if (rows.first_run[position + i + 1] - rows.first_run[position + i] != count) return 0;
    if (i == 1) step = others->source - runs->source;
    for (const std::int64_t run : {std::int64_t{0}, count - 1}) {
      if (others[run].target != runs[run].target ||
          others[run].source != runs[run].source + i * step) {
        return 0;
      }
    }
  }
  return step;
}

/// sum[position] = `positions` positions' taps that lie inside the image, of one chunk of channels:
/// of one position, or of a tile whose fan-in is one block. `step` is the tile's.
template <int positions, bool whole, bool once>
H2LEARN_INLINE void sum_taps(const GatheredRows& rows, std::int64_t position, std::int64_t step,
                             const float* image, const float* weights, std::int64_t count,
                             Floats (*sum)[channel_vectors]) {
  Floats block[positions][channel_vectors] = {};
  std::int64_t number = 0;  // of the block
  const Run* const last = rows.runs + rows.first_run[position + 1];
  for (const Run* run = rows.runs + rows.first_run[position]; run < last; ++run) {
    if (positions == 1 && run->target / sum_block != number) {
      H2LEARN_UNROLL
      for (int v = 0; v < channel_vectors; ++v) {
        sum[0][v] += block[0][v];
        block[0][v] = Floats{};
      }
      number = run->target / sum_block;
    }
    Floats factors[channel_vectors];
    load_channels<whole>(weights + run->target * rows.groups, count, factors);
    H2LEARN_UNROLL
    for (int p = 0; p < positions; ++p) {
      Floats values[channel_vectors];
      load_channels<whole>(image + run->source + p * step, count, values);
      H2LEARN_UNROLL
      for (int v = 0; v < channel_vectors; ++v) {
        block[p][v] = multiply_add<once>(values[v], factors[v], block[p][v]);
      }
    }
  }
  H2LEARN_UNROLL
  for (int p = 0; p < positions; ++p) {
    H2LEARN_UNROLL
    for (int v = 0; v < channel_vectors; ++v) sum[p][v] += block[p][v];
  }
}

/// Positions of one image from `position` on, finished: one, or a tile.
template <int positions, bool once>
H2LEARN_TILE void gather_tile(const GatherProduct& product, std::int64_t image_number,
                              std::int64_t position, std::int64_t step, const float* image,
                              const float* weights) {
  const GatheredRows& rows = product.rows;
  const std::int64_t channels = rows.groups;
  const std::uint64_t* const mask =
      product.mask == nullptr
          ? nullptr
          : product.mask + image_number * blocks_of(rows.positions * channels, 64);
  const Floats scale = broadcast(product.scale);
  float* const out = product.out + (image_number * rows.positions + position) * channels;
  for_each_chunk(channels, [&]<bool whole>(std::int64_t c, std::int64_t count) {
    Floats sum[positions][channel_vectors] = {};
    sum_taps<positions, whole, once>(rows, position, step, image + c, weights + c, count, sum);
    Floats bias[channel_vectors] = {};
    if (product.bias != nullptr) load_channels<whole>(product.bias + c, count, bias);
    H2LEARN_UNROLL
    for (int p = 0; p < positions; ++p) {
      H2LEARN_UNROLL
      for (int v = 0; v < channel_vectors; ++v) {
        sum[p][v] *= scale;
        if (product.bias != nullptr) sum[p][v] += bias[v];
        const std::int64_t left = least(count - v * lanes, lanes);
        if (mask == nullptr || left <= 0) continue;
        const std::uint64_t needed = bits_at(mask, (position + p) * channels + c + v * lanes, left);
        sum[p][v] = select_bits(static_cast<std::uint32_t>(needed), sum[p][v]);
      }
      store_channels<whole>(out + p * channels + c, count, sum[p]);
    }
  });
}

/// Positions [first, last) of one image.
template <bool once>
inline void gather_positions(const GatherProduct& product, std::int64_t image_number,
                             std::int64_t first, std::int64_t last, const float* image,
                             const float* weights) {
  const bool tiles = product.rows.length <= sum_block;
  for (std::int64_t position = first; position < last;) {
    const std::int64_t step = tiles ? tile_step(product.rows, position, last) : 0;
    if (step != 0) {
      gather_tile<tile_positions, once>(product, image_number, position, step, image, weights);
      position += tile_positions;
    } else {
      gather_tile<1, once>(product, image_number, position, 0, image, weights);
      ++position;
    }
  }
}

/// gather_product() of a depthwise layer.
inline void gather_depthwise(const GatherProduct& product) {
  const GatheredRows& rows = product.rows;
  const std::int64_t channels = rows.groups;
  const int threads = threads_for(rows.images * rows.positions * channels * rows.length);
  float* const weights = static_cast<float*>(scratch(
      ScratchSlot::weights, static_cast<std::size_t>(rows.length * channels) * sizeof(float)));
  transpose_weights(product.weight, channels, rows.length, weights);
  const std::int64_t buffer = round_up(image_buffer(rows), 16);
  float* const buffers = static_cast<float*>(scratch(
      ScratchSlot::operands, static_cast<std::size_t>(threads * most(buffer, 1)) * sizeof(float)));
  // With fewer images than threads, these share the positions.
  const std::int64_t parts = blocks_of(threads, rows.images);
#pragma omp parallel for schedule(dynamic) num_threads(threads)
  for (std::int64_t task = 0; task < rows.images * parts; ++task) {
    const std::int64_t number = task / parts;
    const std::int64_t part = blocks_of(rows.positions, parts);
    const std::int64_t first = least(task % parts * part, rows.positions);
    const std::int64_t last = least(first + part, rows.positions);
    const float* const image = image_values(rows, number, buffers + omp_get_thread_num() * buffer);
    visit_rounding(product.rounds_once, [&]<bool once>() {
      gather_positions<once>(product, number, first, last, image, weights);
    });
  }
}

/// sums[taps][channels] += what one position of an image adds, or the positions of a tile.
template <int positions, bool once>
H2LEARN_TILE void add_positions(const GatheredRows& rows, std::int64_t position, std::int64_t step,
                                const float* image, const float* gradients, float* sums) {
  const std::int64_t channels = rows.groups;
  const Run* const last = rows.runs + rows.first_run[position + 1];
  for_each_chunk(channels, [&]<bool whole>(std::int64_t c, std::int64_t count) {
    Floats gradient[positions][channel_vectors];
    H2LEARN_UNROLL
    for (int p = 0; p < positions; ++p) {
      load_channels<whole>(gradients + p * channels + c, count, gradient[p]);
    }
    for (const Run* run = rows.runs + rows.first_run[position]; run < last; ++run) {
      float* const to = sums + run->target * channels + c;
      Floats sum[channel_vectors];
      load_channels<whole>(to, count, sum);
      H2LEARN_UNROLL
      for (int p = 0; p < positions; ++p) {
        Floats values[channel_vectors];
        load_channels<whole>(image + run->source + p * step + c, count, values);
        H2LEARN_UNROLL
        for (int v = 0; v < channel_vectors; ++v) {
          sum[v] = multiply_add<once>(values[v], gradient[p][v], sum[v]);
        }
      }
      store_channels<whole>(to, count, sum);
    }
  });
}

/// to = or += from.
inline void add_sums(const float* from, std::int64_t size, bool first, float* to) {
  for (std::int64_t i = 0; i < size; ++i) to[i] = first ? from[i] : to[i] + from[i];
}

/// outer_product() of a depthwise layer. Threads share the stretches of positions.
inline void outer_depthwise(const OuterProduct& product) {
  const GatheredRows& rows = product.rows;
  const std::int64_t channels = rows.groups;
  const std::int64_t positions = rows.images * rows.positions;
  const std::int64_t stretches = blocks_of(positions, stretch_positions);
  const std::int64_t size = round_up(channels * rows.length, 16);
  const int threads = threads_for(positions * channels * rows.length);
  const std::int64_t buffer = round_up(image_buffer(rows), 16);
  const std::int64_t each = size + buffer;  // a thread's sums of one block, and its image
  float* const memory = static_cast<float*>(
      scratch(ScratchSlot::operands, static_cast<std::size_t>(threads * each) * sizeof(float)));
  float* const sums = static_cast<float*>(
      scratch(ScratchSlot::output, static_cast<std::size_t>(stretches * size) * sizeof(float)));
#pragma omp parallel for schedule(dynamic) num_threads(threads)
  for (std::int64_t stretch = 0; stretch < stretches; ++stretch) {
    float* const block = memory + omp_get_thread_num() * each;
    const float* image = nullptr;
    const std::int64_t begin = stretch * stretch_positions;
    const std::int64_t end = least(begin + stretch_positions, positions);
    for (std::int64_t first = begin; first < end; first += sum_block) {
      for (std::int64_t i = 0; i < size; ++i) block[i] = 0;
      for (std::int64_t p = first; p < least(first + sum_block, end);) {
        const std::int64_t position = p % rows.positions;
        if (image == nullptr || position == 0) {
          image = image_values(rows, p / rows.positions, block + size);
        }
        const std::int64_t left = least(first + sum_block, end) - p;
        const std::int64_t step = tile_step(rows, position, least(position + left, rows.positions));
        const float* const gradients = product.gradients + p * channels;
        visit_rounding(product.rounds_once, [&]<bool once>() {
          if (step != 0) {
            add_positions<tile_positions, once>(rows, position, step, image, gradients, block);
          } else {
            add_positions<1, once>(rows, position, 0, image, gradients, block);
          }
        });
        p += step != 0 ? tile_positions : 1;
      }
      add_sums(block, size, first == begin, sums + stretch * size);
    }
  }
  for (std::int64_t stretch = 1; stretch < stretches; ++stretch) {
    add_sums(sums + stretch * size, size, false, sums);
  }
  for (std::int64_t c = 0; c < channels; ++c) {
    for (std::int64_t tap = 0; tap < rows.length; ++tap) {
      product.grad_weight[c * rows.length + tap] = sums[tap * channels + c] * product.scale;
    }
  }
}

}  // namespace
}  // namespace h2learn
