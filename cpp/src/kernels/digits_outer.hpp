// The weight gradient by digits (h2learn/digits.hpp): inputs as bytes, a channel's in a row, times
// gradients as digits, 16 columns a panel. A step of the sums is one position of 64 images
// (OuterBlock): a tap's inputs there fill a cache line, whatever the tap, and nothing is gathered.
// Tiles that begin elsewhere in a line take longer to load than to multiply. For kernel sources
// only.
#pragma once

#include <omp.h>

#include <cstdint>

#include "kernels/digits_amx.hpp"
#include "kernels/digits_bytes.hpp"
#include "kernels/digits_pack.hpp"
#include "kernels/digits_tile.hpp"
#include "kernels/transpose.hpp"
#include "scratch.hpp"

namespace h2learn {
namespace {

// ---- Inputs as bytes

constexpr std::int64_t chunk_channels = 64;

/// 64 values of 0 or `value`, by bits, stored or added to what is there.
H2LEARN_INLINE void spread_word(std::uint64_t bits, int plane, std::uint8_t* to) {
#if defined(__AVX512BW__)
  __m512i values = _mm512_maskz_set1_epi8(bits, static_cast<char>(1U << plane));
  if (plane > 0) values = _mm512_or_si512(values, _mm512_loadu_si512(to));
  _mm512_storeu_si512(to, values);
#else
  std::uint64_t values[8] = {};
  if (plane > 0) __builtin_memcpy(values, to, sizeof values);
  for (int i = 0; i < 8; ++i) values[i] |= spread_bits(bits >> (8 * i) & 0xff) << plane;
  __builtin_memcpy(to, values, sizeof values);
#endif
}

/// Values of up to 64 channels at positions [first, first + count) of a block's input rows, count
/// up to word_lanes, of a stack's 64 images.
void spread_chunk(const DigitsOuter& outer, const OuterBlock& block, std::int64_t group,
                  std::int64_t channel, std::int64_t stack, std::int64_t first,
                  std::int64_t count) {
  const Windows& windows = outer.rows.windows;
  const std::int64_t channels = least(chunk_channels, windows.channels - channel);
  const std::int64_t all_channels = windows.channels * outer.rows.groups;
  const std::int64_t bit = (block.first_input_row * windows.image_width + first) * all_channels +
                           group * windows.channels + channel;
  const std::int64_t image = block.first_image + stack * step_images;
  const std::int64_t images = least(step_images, outer.rows.images - image);
  std::uint8_t* const to = outer.bytes + (group * outer.byte_rows() + channel) * outer.byte_stride +
                           (stack * block.input_rows * windows.image_width + first) * step_images;
  for (std::int64_t plane = 0; plane < outer.rows.planes; ++plane) {
    Words rows[step_images] = {};
    for (std::int64_t i = 0; i < images; ++i) {
      const std::uint64_t* const words = image_words(outer.rows, plane, image + i);
      for (std::int64_t j = 0; j < count; ++j) {
        rows[i][j] = bits_at(words, bit + j * all_channels, channels);
      }
    }
    transpose_words(rows);
    for (std::int64_t c = 0; c < channels; ++c) {
      for (std::int64_t j = 0; j < count; ++j) {
        spread_word(rows[c][j], static_cast<int>(plane),
                    to + c * outer.byte_stride + j * step_images);
      }
    }
  }
}

// ---- Gradients as digits

/// Bits of a float's exponent field and mantissa.
constexpr std::int32_t magnitude_bits = 0x7fffffff;
constexpr int mantissa_bits = 23;

/// A strip of `vectors` vectors of columns, whose measures stay in registers; of the last vector
/// `last` columns.
template <int vectors>
H2LEARN_INLINE void measure_strip(const float* gradients, std::int64_t count, std::int64_t columns,
                                  std::int64_t last, const ColumnMeasures& to) {
  Ints largest[vectors] = {};
  Ints exponents[vectors] = {};
  Ints counts[vectors] = {};
  for (std::int64_t i = 0; i < count; ++i, gradients += columns) {
    H2LEARN_UNROLL
    for (int v = 0; v < vectors; ++v) {
      const Floats value = load_first(gradients + v * lanes, v + 1 < vectors ? lanes : last);
      const Ints bits = reinterpret_cast<Ints>(value) & magnitude_bits;
      largest[v] = bits > largest[v] ? bits : largest[v];
      exponents[v] += bits >> mantissa_bits;
      counts[v] -= bits != 0;
    }
  }
  for (int v = 0; v < vectors; ++v) {
    for (int lane = 0; lane < (v + 1 < vectors ? lanes : last); ++lane) {
      const int n = v * lanes + lane;
      to.largest_bits[n] =
          largest[v][lane] > to.largest_bits[n] ? largest[v][lane] : to.largest_bits[n];
      to.exponents[n] += exponents[v][lane];
      to.counts[n] += counts[v][lane];
    }
  }
}

void measure_rows(const float* gradients, std::int64_t count, std::int64_t columns,
                  const ColumnMeasures& to) {
  constexpr int vectors = 4;
  std::int64_t n = 0;
  const auto from = [&] {
    return ColumnMeasures{to.largest_bits + n, to.exponents + n, to.counts + n};
  };
  for (; n + vectors * lanes <= columns; n += vectors * lanes) {
    measure_strip<vectors>(gradients + n, count, columns, lanes, from());
  }
  for (; n < columns; n += lanes) {
    measure_strip<1>(gradients + n, count, columns, least(lanes, columns - n), from());
  }
}

/// Digits of all columns of four images at one position; `from` is null where there is no image.
void pack_images(const DigitsOuter& outer, const float* const (&from)[4], const float* scales,
                 std::int64_t quad) {
  const std::int64_t all_columns = outer.all_columns();
  for (std::int64_t group = 0; group < outer.rows.groups; ++group) {
    for (std::int64_t column = 0; column < outer.columns; column += lanes) {
      const std::int64_t first = group * outer.columns + column;
      const std::int64_t columns = least(lanes, outer.columns - column);
      const Floats scale = load_first(scales + first, columns);
      const Floats other_scale = load_first(scales + all_columns + first, columns);
      Ints words[4];
      for (int i = 0; i < 4; ++i) {
        words[i] = from[i] == nullptr
                       ? Ints{}
                       : digits_words(load_first(from[i] + first, columns), scale, other_scale);
      }
      const std::int64_t panel = group * outer.panel_count() + column / digits_panel_columns;
      exchange_bytes(words);
      std::int8_t* const to = outer.panels + panel * outer.panel_bytes() +
                              quad * 4 * digits_panel_columns + column % digits_panel_columns * 4;
      for (int d = 0; d < number_digits; ++d) {
        *reinterpret_cast<UnalignedInts*>(to + d * outer.digit_bytes()) = words[d];
      }
    }
  }
}

/// Digits of all columns at step `step` of a block.
void pack_gradients(const DigitsOuter& outer, const OuterBlock& block, std::int64_t step,
                    const float* scales) {
  const std::int64_t positions = block.rows * outer.out_width;
  const std::int64_t image = block.first_image + step / positions * step_images;
  const std::int64_t position = block.first_row * outer.out_width + step % positions;
  const std::int64_t image_size = outer.out_height * outer.out_width * outer.all_columns();
  for (std::int64_t i = 0; i < step_images; i += 4) {
    const float* from[4] = {};
    for (std::int64_t j = 0; j < least(4, outer.rows.images - image - i); ++j) {
      from[j] = outer.gradients + (image + i + j) * image_size + position * outer.all_columns();
    }
    pack_images(outer, from, scales, (step * step_images + i) / 4);
  }
}

// ---- The product

/// A task: channels, so many that a panel is not fetched too often, and so few that their bytes
/// stay in the second-level cache while taps read them again; and taps, so few that their sums do,
/// too, and that every thread has some tasks.
struct OuterTasks {
  std::int64_t channels;
  std::int64_t taps;

  H2LEARN_INLINE std::int64_t channel_tasks(const DigitsOuter& outer) const {
    return blocks_of(outer.byte_rows(), channels);
  }
  H2LEARN_INLINE std::int64_t tap_tasks(const DigitsOuter& outer) const {
    return blocks_of(outer.taps, taps);
  }
  /// Numbers of a task's sums.
  H2LEARN_INLINE std::int64_t sums() const {
    return channels / tile_windows * taps * number_digits * tile_sums;
  }
};

OuterTasks tasks_of(const DigitsOuter& outer, int threads) {
  constexpr std::int64_t most_taps = 16;
  constexpr std::int64_t tasks_per_thread = 4;
  OuterTasks tasks = {};
  tasks.channels = least(outer.taps < 4 ? 256 : chunk_channels, outer.byte_rows());
  const std::int64_t others = outer.rows.groups * outer.panel_count() * tasks.channel_tasks(outer);
  const std::int64_t wanted = threads == 1 ? 1 : blocks_of(threads * tasks_per_thread, others);
  tasks.taps = least(blocks_of(outer.taps, least(wanted, outer.taps)), most_taps);
  return tasks;
}

/// What a task multiplies.
struct OuterTask {
  const std::uint8_t* bytes;  ///< of its first channel
  const std::int8_t* panel;
  std::int64_t tiles;  ///< of 16 channels
  std::int64_t first_tap;
  std::int64_t taps;
  std::int32_t* sums;  ///< [tiles][taps][digits][tile_sums]

  H2LEARN_INLINE std::int32_t* sums_of(std::int64_t tile, std::int64_t tap) const {
    return sums + (tile * taps + tap) * number_digits * tile_sums;
  }
};

#if defined(__AMX_INT8__)

void sum_task(const DigitsOuter& outer, const OuterBlock& block, const OuterTask& task) {
  OuterTiles work = {};
  work.stride = outer.byte_stride;
  work.step = outer.rows.windows.stride_width * step_images;
  work.digit_bytes = outer.digit_bytes();
  for (std::int64_t chunk = 0; chunk < block.chunks; ++chunk) {
    work.begin = chunk == 0;
    for (int digit = 0; digit < number_digits; digit += 2) {
      work.terms = task.panel + digit * work.digit_bytes;
      for (std::int64_t tile = 0; tile < task.tiles; tile += 2) {
        work.rows = task.bytes + tile * tile_windows * outer.byte_stride;
        for (std::int64_t tap = 0; tap < task.taps; ++tap) {
          const std::int32_t* const first =
              block.first_run + chunk * outer.taps + task.first_tap + tap;
          if (first[0] == first[1] && !work.begin) continue;
          std::int32_t* const one = task.sums_of(tile, tap) + digit * tile_sums;
          if (tile + 1 < task.tiles) {
            std::int32_t* const two = task.sums_of(tile + 1, tap) + digit * tile_sums;
            add_runs<2>(work, block.runs + first[0], block.runs + first[1], one, two);
          } else {
            add_runs<1>(work, block.runs + first[0], block.runs + first[1], one, one);
          }
        }
      }
    }
  }
  finish_stores();
}

#else

/// Steps that are summed up at a time.
constexpr std::int64_t most_steps = 64;

void sum_task(const DigitsOuter& outer, const OuterBlock& block, const OuterTask& task) {
  std::int64_t offsets[most_steps];
  for (std::int64_t i = 0; i < most_steps; ++i) {
    offsets[i] = i * outer.rows.windows.stride_width * step_images;
  }
  DigitsProduct product = {};
  product.rows = outer.rows;
  product.panels.length = outer.panel_steps * step_images;
  product.run_offsets = offsets;
  product.run_length = step_images;
  alignas(64) TileSums some;
  for (std::int64_t tile = 0; tile < task.tiles; ++tile) {
    for (std::int64_t tap = 0; tap < task.taps; ++tap) {
      std::int32_t* const to = task.sums_of(tile, tap);
      __builtin_memset(to, 0, number_digits * tile_sums * sizeof *to);
      for (std::int64_t chunk = 0; chunk < block.chunks; ++chunk) {
        const std::int32_t* const first =
            block.first_run + chunk * outer.taps + task.first_tap + tap;
        for (std::int32_t r = first[0]; r < first[1]; ++r) {
          const OuterRun& run = block.runs[r];
          for (std::int64_t step = 0; step < run.steps; step += most_steps) {
            product.runs = least(most_steps, run.steps - step);
            const TileRows rows = {task.bytes + tile * tile_windows * outer.byte_stride +
                                       run.input * step_images + step * offsets[1],
                                   outer.byte_stride, tile_windows};
            sum_tile_by_vectors(
                product, rows,
                task.panel + (run.output + step) * step_images * digits_panel_columns, some);
            for (std::int64_t i = 0; i < number_digits * tile_sums; ++i) to[i] += some[i];
          }
        }
      }
    }
  }
}

#endif

/// A block's products of one task, added to `sums` or put there. `number`: of the panel, in all
/// groups.
void multiply_outer(const DigitsOuter& outer, const OuterBlock& block, const OuterTasks& tasks,
                    std::int64_t number, std::int64_t channel, std::int64_t first_tap,
                    const double* factors, bool first, std::int32_t* memory) {
  const std::int64_t group = number / outer.panel_count();
  OuterTask task = {};
  task.bytes = outer.bytes + (group * outer.byte_rows() + channel) * outer.byte_stride;
  task.panel = outer.panels + number * outer.panel_bytes();
  task.tiles = least(tasks.channels, outer.byte_rows() - channel) / tile_windows;
  task.first_tap = first_tap;
  task.taps = least(tasks.taps, outer.taps - first_tap);
  task.sums = memory;
  sum_task(outer, block, task);
  double column_factors[digits_panel_columns] = {};
  const std::int64_t in_group = number % outer.panel_count() * digits_panel_columns;
  for (std::int64_t n = 0; n < least(digits_panel_columns, outer.columns - in_group); ++n) {
    column_factors[n] = factors[group * outer.columns + in_group + n];
  }
  for (std::int64_t tap = 0; tap < task.taps; ++tap) {
    double* to = outer.sums + number * outer.panel_sums() +
                 ((first_tap + tap) * outer.byte_rows() + channel) * digits_panel_columns;
    for (std::int64_t tile = 0; tile < task.tiles; ++tile) {
      const std::int32_t* row = task.sums_of(tile, tap);
      for (std::int64_t k = 0; k < tile_windows; ++k, to += digits_panel_columns) {
        for (int n = 0; n < digits_panel_columns; ++n) {
          const double sum = value_of_sums(row, column_factors, n);
          to[n] = first ? sum : to[n] + sum;
        }
        row += digits_panel_columns;
      }
    }
  }
}

/// A panel's sums of 16 channels to their weights, whose order is torch's.
void finish_channels(const DigitsOuter& outer, std::int64_t group, std::int64_t panel,
                     std::int64_t channel) {
  const std::int64_t channels = outer.rows.windows.channels;
  const std::int64_t in_group = panel * digits_panel_columns;
  const double* const sums =
      outer.sums + (group * outer.panel_count() + panel) * outer.panel_sums();
  for (std::int64_t n = 0; n < least(digits_panel_columns, outer.columns - in_group); ++n) {
    float* to = outer.grad_weight +
                ((group * outer.columns + in_group + n) * channels + channel) * outer.taps;
    for (std::int64_t c = channel; c < least(channel + tile_windows, channels); ++c) {
      for (std::int64_t tap = 0; tap < outer.taps; ++tap) {
        *to++ = static_cast<float>(sums[(tap * outer.byte_rows() + c) * digits_panel_columns + n]);
      }
    }
  }
}

void measure_outer(const DigitsOuter& outer, const OuterBlock& block, const ColumnMeasures& to) {
  const std::int64_t columns = outer.all_columns();
  const std::int64_t images =
      least(block.stacks * step_images, outer.rows.images - block.first_image);
  const std::int64_t positions = block.rows * outer.out_width;
  const int threads =
      images * positions * columns < digits_parallel_from ? 1 : omp_get_max_threads();
  const auto bytes = static_cast<std::size_t>(threads * 3 * columns) * sizeof(std::int32_t);
  auto* const memory = static_cast<std::int32_t*>(scratch(ScratchSlot::inputs, bytes));
  __builtin_memset(memory, 0, bytes);
#pragma omp parallel num_threads(threads)
  {
    std::int32_t* const mine = memory + omp_get_thread_num() * 3 * columns;
    const ColumnMeasures measures = {mine, mine + columns, mine + 2 * columns};
#pragma omp for schedule(static)
    for (std::int64_t i = 0; i < images; ++i) {
      const std::int64_t row = (block.first_image + i) * outer.out_height + block.first_row;
      measure_rows(outer.gradients + row * outer.out_width * columns, positions, columns, measures);
    }
  }
  for (std::int64_t t = 0; t < threads; ++t) {
    const std::int32_t* const from = memory + t * 3 * columns;
    for (std::int64_t n = 0; n < columns; ++n) {
      to.largest_bits[n] = from[n] > to.largest_bits[n] ? from[n] : to.largest_bits[n];
      to.exponents[n] += from[columns + n];
      to.counts[n] += from[2 * columns + n];
    }
  }
}

void add_outer(const DigitsOuter& outer, const OuterBlock& block, const float* scales,
               const double* factors, bool first) {
  const Windows& windows = outer.rows.windows;
  const std::int64_t groups = outer.rows.groups;
  const std::int64_t chunks = blocks_of(windows.channels, chunk_channels);
  const std::int64_t positions = block.input_rows * windows.image_width;
  const std::int64_t pieces = blocks_of(positions, word_lanes);
  const std::int64_t steps = block.stacks * block.rows * outer.out_width;
  const std::int64_t work =
      steps * step_images * outer.taps * windows.channels * outer.all_columns();
  const int threads = work < digits_parallel_from ? 1 : omp_get_max_threads();
  const OuterTasks tasks = tasks_of(outer, threads);
  auto* const memory = static_cast<std::int32_t*>(
      scratch(ScratchSlot::inputs,
              static_cast<std::size_t>(threads * tasks.sums()) * sizeof(std::int32_t)));
#pragma omp parallel num_threads(threads)
  {
    std::int32_t* const mine = memory + omp_get_thread_num() * tasks.sums();
#pragma omp for schedule(dynamic) nowait
    for (std::int64_t t = 0; t < groups * chunks * block.stacks * pieces; ++t) {
      const std::int64_t place = t % pieces * word_lanes;
      const std::int64_t chunk = t / pieces / block.stacks;
      spread_chunk(outer, block, chunk / chunks, chunk % chunks * chunk_channels,
                   t / pieces % block.stacks, place, least(word_lanes, positions - place));
    }
#pragma omp for schedule(dynamic)
    for (std::int64_t step = 0; step < steps; ++step) pack_gradients(outer, block, step, scales);
#if defined(__AMX_INT8__)
    configure_tiles();
#endif
#pragma omp for schedule(dynamic)
    for (std::int64_t t = 0;
         t < groups * tasks.channel_tasks(outer) * tasks.tap_tasks(outer) * outer.panel_count();
         ++t) {
      // Panels are the innermost: a task's channels stay in the cache from one to the next.
      const std::int64_t panel = t % outer.panel_count();
      const std::int64_t taps = t / outer.panel_count() % tasks.tap_tasks(outer);
      const std::int64_t rest = t / outer.panel_count() / tasks.tap_tasks(outer);
      multiply_outer(outer, block, tasks,
                     rest / tasks.channel_tasks(outer) * outer.panel_count() + panel,
                     rest % tasks.channel_tasks(outer) * tasks.channels, taps * tasks.taps, factors,
                     first, mine);
    }
#if defined(__AMX_INT8__)
    release_tiles();
#endif
  }
}

void finish_outer(const DigitsOuter& outer) {
  const std::int64_t tiles = outer.byte_rows() / tile_windows;
  const std::int64_t weights = outer.all_columns() * outer.rows.windows.channels * outer.taps;
  const int threads = weights < digits_parallel_from ? 1 : omp_get_max_threads();
#pragma omp parallel for schedule(static) num_threads(threads)
  for (std::int64_t t = 0; t < outer.rows.groups * outer.panel_count() * tiles; ++t) {
    finish_channels(outer, t / tiles / outer.panel_count(), t / tiles % outer.panel_count(),
                    t % tiles * tile_windows);
  }
}

}  // namespace
}  // namespace h2learn
