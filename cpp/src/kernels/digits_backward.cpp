// The input gradient by digits: weights into panels, gradients into planes of bytes, integer sums
// of tiles, and the gradients that they make.
//
// A task is some rows of windows of one image, or whole images, times panels of one group. It
// copies its part of the images as bytes, in one of two layouts. In slabs of 64 channels, an
// element is 64 bytes of each digit, and some images may lie side by side, the element of one
// behind that of the other: a tile's rows are then positions of several images, and where they are
// one position of 16, taps in the padding are left out. With few channels, a row's positions lie
// side by side, plane by plane, so that a run holds several taps.
#include "kernels/digits_backward.hpp"

#include <omp.h>

#include "kernels/bit_run.hpp"
#include "kernels/digits.hpp"
#include "kernels/digits_amx.hpp"
#include "kernels/digits_bytes.hpp"
#include "kernels/digits_dot.hpp"
#include "kernels/digits_pack.hpp"
#include "kernels/digits_tile.hpp"
#include "kernels/synapse_workspace.hpp"
#include "kernels/vec.hpp"
#include "scratch.hpp"

namespace h2learn {
namespace {

constexpr std::uint32_t offset_of_digits = 0x80808080;

// ---- Magnitudes

constexpr int mantissa_bits = 23;

/// Element by element: sums of the exponents of up to 2^23 numbers fit.
H2LEARN_INLINE void add_measures(const float* values, std::int64_t length,
                                 const ColumnMeasures& to) {
  for (std::int64_t i = 0; i < length; ++i) {
    const std::int32_t bits = __builtin_bit_cast(std::int32_t, values[i]) & 0x7fffffff;
    to.largest_bits[i] = to.largest_bits[i] > bits ? to.largest_bits[i] : bits;
    to.exponents[i] += bits >> mantissa_bits;
    to.counts[i] += bits != 0;
  }
}

/// One image's, summed in vectors that stay in registers.
void measure_image(const float* values, std::int64_t length, Magnitudes& found) {
  constexpr std::int64_t chunk = std::int64_t{1} << 20;
  found = {};
  for (std::int64_t begin = 0; begin < length; begin += chunk) {
    const std::int64_t end = least(begin + chunk, length);
    Ints largest = {};
    Ints exponents = {};
    Ints counts = {};
    for (std::int64_t i = begin; i < end; i += lanes) {
      const Ints bits = reinterpret_cast<Ints>(load_first(values + i, end - i)) & 0x7fffffff;
      largest = bits > largest ? bits : largest;
      exponents += bits >> mantissa_bits;
      counts -= bits != 0;
    }
    for (int lane = 0; lane < lanes; ++lane) {
      if (largest[lane] > found.largest_bits) found.largest_bits = largest[lane];
      found.exponents += exponents[lane];
      found.count += counts[lane];
    }
  }
}

void measure_images(const float* values, std::int64_t images, std::int64_t length,
                    Magnitudes* found) {
  const int threads = images * length < parallel_from ? 1 : omp_get_max_threads();
#pragma omp parallel for schedule(static) num_threads(threads)
  for (std::int64_t i = 0; i < images; ++i) measure_image(values + i * length, length, found[i]);
}

/// Weights of some neighbouring channels, all their taps, that are measured in one go.
constexpr std::int64_t measured_weights = 1024;

void measure_channels(const float* weight, const WeightShape& shape, std::int64_t group,
                      std::int64_t first, std::int64_t channels, Magnitudes* found) {
  std::int32_t largest[measured_weights];
  std::int32_t exponents[measured_weights];
  std::int32_t counts[measured_weights];
  for (std::int64_t c = 0; c < channels; ++c) found[c] = {};
  // Of one channel, so many taps at a time: all of them, but for giant windows.
  const std::int64_t taps = least(shape.taps, measured_weights);
  for (std::int64_t tap = 0; tap < shape.taps; tap += taps) {
    const std::int64_t length = channels * least(taps, shape.taps - tap);
    for (std::int64_t i = 0; i < length; ++i) largest[i] = exponents[i] = counts[i] = 0;
    for (std::int64_t n = 0; n < shape.outputs; ++n) {
      const std::int64_t row = (group * shape.outputs + n) * shape.channels + first;
      add_measures(weight + row * shape.taps + tap, length, {largest, exponents, counts});
    }
    for (std::int64_t i = 0; i < length; ++i) {
      Magnitudes& channel = found[i * channels / length];
      if (largest[i] > channel.largest_bits) channel.largest_bits = largest[i];
      channel.exponents += exponents[i];
      channel.count += counts[i];
    }
  }
}

void measure_columns(const float* weight, const WeightShape& shape, Magnitudes* found) {
  const std::int64_t together = most(measured_weights / shape.taps, 1);
  const std::int64_t parts = blocks_of(shape.channels, together);
  const std::int64_t weights = shape.groups * shape.outputs * shape.channels * shape.taps;
  const int threads = weights < parallel_from ? 1 : omp_get_max_threads();
#pragma omp parallel for schedule(dynamic) num_threads(threads)
  for (std::int64_t i = 0; i < shape.groups * parts; ++i) {
    const std::int64_t group = i / parts;
    const std::int64_t first = i % parts * together;
    measure_channels(weight, shape, group, first, least(together, shape.channels - first),
                     found + group * shape.channels + first);
  }
}

// ---- Weights

/// Outputs whose weights are asked for before they are needed.
constexpr std::int64_t prefetched_rows = 8;

/// One output's weights of a panel's channels, `count` of them, to words[length / 4][16
/// columns][4].
void pack_output(const float* weight, std::int64_t count, const double* scales, std::int64_t taps,
                 const std::int32_t* places, std::uint32_t* numbers, std::uint32_t* words) {
  for (std::int64_t i = 0; i < count; ++i) {
    numbers[i] = digits_word(weight[i], scales[i], offset_of_digits);
  }
  for (std::int64_t tap = 0; tap < taps; ++tap) {
    const std::int64_t place = places[tap];
    std::uint32_t* to = words + (place >> 2) * (4 * digits_panel_columns) + (place & 3);
    for (std::int64_t i = tap; i < count; i += taps, to += 4) *to = numbers[i];
  }
}

/// 128 times the sum of one digit of a unit's terms, by columns.
void sum_unit(const std::uint32_t* words, std::int64_t terms, int digit, std::int32_t* sums) {
  for (std::int64_t n = 0; n < digits_panel_columns; ++n) sums[n] = 0;
  for (std::int64_t k = 0; k < terms; k += 4) {
    for (std::int64_t i = 0; i < 4 * digits_panel_columns; ++i) {
      sums[i / 4] += static_cast<std::int8_t>(words[k * digits_panel_columns + i] >> (8 * digit));
    }
  }
  for (std::int64_t n = 0; n < digits_panel_columns; ++n) sums[n] *= 128;
}

/// What a plane of bytes 128 adds to the sums of each order, for every unit of a panel.
void sum_units(const std::uint32_t* words, const BackwardTerms& terms, std::int32_t* sums) {
  for (std::int64_t unit = 0; unit < terms.units(); ++unit) {
    std::int32_t digit_sums[number_digits][digits_panel_columns];
    for (int d = 0; d < number_digits; ++d) {
      sum_unit(words + unit * terms.unit_length() * digits_panel_columns, terms.unit_length(), d,
               digit_sums[d]);
    }
    // Order o takes the weights' digits from o on, each once.
    for (int order = 0; order < backward_orders; ++order, sums += digits_panel_columns) {
      for (std::int64_t n = 0; n < digits_panel_columns; ++n) {
        sums[n] = 0;
        for (int d = order; d < number_digits; ++d) sums[n] += digit_sums[d][n];
      }
    }
  }
}

void pack(const BackwardWeights& from, const BackwardTerms& terms, const DigitsPanels& to,
          std::int32_t* unit_sums) {
  const std::int64_t words = to.digit_bytes();
  const std::int64_t output_weights = digits_panel_columns * from.taps;
  const std::int64_t bytes =
      round_up(output_weights * 8, 64) + round_up(output_weights * 4, 64) + words * 4;
  const int threads = to.size() < parallel_from ? 1 : omp_get_max_threads();
  auto* const memory =
      static_cast<char*>(scratch(ScratchSlot::operands, static_cast<std::size_t>(threads * bytes)));
#pragma omp parallel for schedule(static) num_threads(threads)
  for (std::int64_t p = 0; p < to.groups * to.panels(); ++p) {
    Carver carver(memory + omp_get_thread_num() * bytes);
    auto* const scales = carver.take<double>(output_weights);
    auto* const numbers = carver.take<std::uint32_t>(output_weights);
    auto* const mine = carver.take<std::uint32_t>(words);
    // Places that no weight takes are zeros, for the bytes there may be anything.
    __builtin_memset(mine, 0, static_cast<std::size_t>(words) * sizeof(std::uint32_t));
    const std::int64_t group = p / to.panels();
    const std::int64_t first = p % to.panels() * digits_panel_columns;
    const std::int64_t count = least(digits_panel_columns, to.columns - first) * from.taps;
    for (std::int64_t i = 0; i < count; ++i) {
      scales[i] = from.scales[group * to.columns + first + i / from.taps];
    }
    for (std::int64_t n = 0; n < from.outputs; ++n) {
      const std::int64_t row = (group * from.outputs + n) * to.columns + first;
      // Rows lie far apart, where no prefetcher of the processor's expects them.
      const std::int64_t next = least(prefetched_rows, from.outputs - 1 - n) * to.columns;
      const float* const ahead = from.weight + (row + next) * from.taps;
      for (std::int64_t i = 0; i < count; i += 16) __builtin_prefetch(ahead + i);
      pack_output(from.weight + row * from.taps, count, scales, from.taps,
                  from.places + n * from.taps, numbers, mine);
    }
    std::int8_t* panel = to.bytes + p * to.panel_bytes();
    const std::int64_t piece = terms.chunk * digits_panel_columns;
    for (std::int64_t begin = 0; begin < words; begin += piece) {
      for (int d = 0; d < number_digits; ++d, panel += piece) {
        store_digit(mine + begin, piece, d, panel);
      }
    }
    if (unit_sums != nullptr) {
      sum_units(mine, terms,
                unit_sums + p * terms.units() * backward_orders * digits_panel_columns);
    }
  }
}

// ---- Gradients as bytes

/// Whether tiles compute, of signed bytes; vectors do of unsigned ones, 128 larger.
H2LEARN_INLINE bool by_tiles(const BackwardTerms& terms) {
#if defined(__AMX_INT8__)
  return terms.chunk == tile_bytes;
#else
  (void)terms;
  return false;
#endif
}

/// Digits of `count` numbers to a plane each; may write up to 63 bytes too many.
H2LEARN_INLINE void copy_digits(const float* from, std::int64_t count, std::int32_t exponent,
                                bool is_signed, std::uint8_t* to, std::int64_t plane) {
  for (std::int64_t i = 0; i < count; i += 64, from += 64, to += 64) {
#if defined(__AVX512BW__)
    // With all lanes asked for, since GCC warns of the others' former contents.
    constexpr __mmask16 all = 0xffff;
    const __m512 power = _mm512_set1_ps(static_cast<float>(exponent));
    const __m512i offset = _mm512_set1_epi32(static_cast<std::int32_t>(offset_of_digits));
    // In every 128 bits: byte 0 of four numbers, then bytes 1 ...
    const __m512i by_digit = _mm512_maskz_broadcast_i32x4(
        all, _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
    const __m512i low = _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 1, 5, 9, 13, 17, 21, 25, 29);
    const __m512i high =
        _mm512_setr_epi32(2, 6, 10, 14, 18, 22, 26, 30, 3, 7, 11, 15, 19, 23, 27, 31);
    __m512i words[4];
    H2LEARN_UNROLL
    for (int j = 0; j < 4; ++j) {
      const Floats values =
          i + 16 * j < count ? load_first(from + 16 * j, count - i - 16 * j) : Floats{};
      const __m512i numbers =
          _mm512_maskz_cvtps_epi32(all, _mm512_maskz_scalef_ps(all, values, power));
      words[j] = _mm512_shuffle_epi8(_mm512_add_epi32(numbers, offset), by_digit);
    }
    const __m512i first[2] = {_mm512_permutex2var_epi32(words[0], low, words[1]),
                              _mm512_permutex2var_epi32(words[0], high, words[1])};
    const __m512i second[2] = {_mm512_permutex2var_epi32(words[2], low, words[3]),
                               _mm512_permutex2var_epi32(words[2], high, words[3])};
    const __m512i flip = is_signed ? offset : _mm512_setzero_si512();
    H2LEARN_UNROLL
    for (int half = 0; half < 2; ++half) {
      std::uint8_t* const planes = to + 2 * half * plane;
      const __m512i even = _mm512_maskz_shuffle_i64x2(0xff, first[half], second[half], 0x44);
      const __m512i odd = _mm512_maskz_shuffle_i64x2(0xff, first[half], second[half], 0xee);
      _mm512_storeu_si512(planes, _mm512_xor_si512(even, flip));
      _mm512_storeu_si512(planes + plane, _mm512_xor_si512(odd, flip));
    }
#else
    const std::int64_t some = least(64, count - i);
    const double scale = __builtin_ldexp(1.0, exponent);
    std::uint32_t words[64];
    for (std::int64_t j = 0; j < some; ++j) {
      words[j] = digits_word(from[j], scale, offset_of_digits) ^ (is_signed ? 0 : offset_of_digits);
    }
    for (int d = 0; d < number_digits; ++d) {
      store_digit(words, some, d, reinterpret_cast<std::int8_t*>(to + d * plane));
    }
#endif
  }
}

/// Where a task's bytes lie. An element is one position of one image.
struct Layout {
  std::int64_t images;   ///< side by side
  std::int64_t rows;     ///< of an image, at most
  std::int64_t width;    ///< positions of a row, with padding
  std::int64_t element;  ///< bytes from one to the next
  std::int64_t plane;    ///< from one digit to the next
  std::int64_t row;
  std::int64_t slab;
  std::int64_t bytes;  ///< of all, and of what tiles and copies read or write behind them
};

Layout layout_of(const BackwardProduct& product, std::int64_t images, std::int64_t rows) {
  const Windows& windows = product.windows;
  const BackwardTerms& terms = product.terms;
  Layout layout = {};
  layout.images = images;
  layout.rows = least(rows + windows.window_height - 1, windows.image_height);
  layout.width = windows.width - 1 + windows.window_width;
  layout.element = terms.channels;
  layout.plane = round_up(layout.width * images * terms.channels + bytes_slack, 64);
  layout.row = number_digits * layout.plane;
  layout.slab = layout.rows * layout.row;
  layout.bytes = round_up(terms.slabs * layout.slab + tile_windows * layout.element +
                              terms.run_length + 2 * bytes_slack,
                          64);
  return layout;
}

/// Rows of an image that a task's windows read, and so the rows of its copy: [begin, end).
struct Range {
  std::int64_t begin;
  std::int64_t end;
};

Range rows_of(const Windows& windows, const Task& task) {
  const std::int64_t begin = task.first_row - windows.top;
  return {most(begin, 0),
          least(begin + task.rows + windows.window_height - 1, windows.image_height)};
}

/// One row of one image, without its padding.
void copy_row(const BackwardProduct& product, const Layout& layout, const float* from,
              std::int64_t positions, std::int32_t exponent, std::uint8_t* to) {
  const BackwardTerms& terms = product.terms;
  const bool is_signed = by_tiles(terms);
  const std::int64_t channels = product.outputs;
  if (!terms.in_slabs && product.groups == 1) {
    copy_digits(from, positions * channels, exponent, is_signed, to, layout.plane);
    return;
  }
  for (std::int64_t x = 0; x < positions; ++x) {
    for (std::int64_t s = 0; s < terms.slabs; ++s) {
      copy_digits(from + s * terms.channels, least(terms.channels, channels - s * terms.channels),
                  exponent, is_signed, to + s * layout.slab, layout.plane);
    }
    from += product.groups * channels;
    to += layout.images * layout.element;
  }
}

/// The padding beside a row: positions [begin, end).
void pad_row(const BackwardProduct& product, const Layout& layout, std::int64_t begin,
             std::int64_t end, std::uint8_t* row) {
  if (begin >= end) return;
  const BackwardTerms& terms = product.terms;
  const int zero = by_tiles(terms) ? 0 : 128;
  const std::int64_t position = layout.images * layout.element;
  for (std::int64_t s = 0; s < terms.slabs; ++s) {
    for (int d = 0; d < number_digits; ++d) {
      __builtin_memset(row + s * layout.slab + d * layout.plane + begin * position, zero,
                       static_cast<std::size_t>((end - begin) * position));
    }
  }
}

/// Images side by side, at most layout.images.
void copy_block(const BackwardProduct& product, const Layout& layout, const Task& task,
                std::uint8_t* bytes) {
  const Windows& windows = product.windows;
  const std::int64_t channels = product.groups * product.outputs;
  const Range rows = rows_of(windows, task);
  // Positions of a row of the copy that are inside the image.
  const std::int64_t begin = least(most(windows.left, 0), layout.width);
  const std::int64_t end = most(least(windows.left + windows.image_width, layout.width), begin);
  for (std::int64_t i = 0; i < task.images; ++i) {
    const std::int64_t image = task.first_image + i;
    for (std::int64_t y = rows.begin; y < rows.end; ++y) {
      std::uint8_t* const row = bytes + (y - rows.begin) * layout.row;
      if (i == 0) pad_row(product, layout, 0, begin, row);
      const std::int64_t position =
          (image * windows.image_height + y) * windows.image_width + begin - windows.left;
      copy_row(product, layout,
               product.gradients + position * channels + task.group * product.outputs, end - begin,
               product.exponents[image], row + (begin * layout.images + i) * layout.element);
      if (i == task.images - 1) pad_row(product, layout, end, layout.width, row);
    }
  }
}

// ---- Sums

/// A tile's rows: elements of one row of windows, and which taps they have.
struct Tile {
  const std::uint8_t* origin;  ///< of the first element, in the first row of the copy
  std::int64_t count;
  std::int64_t row;        ///< of windows
  std::int64_t first;      ///< element of that row
  std::int64_t image_row;  ///< that the first row of taps reads, from the copy's first one
  Range runs;              ///< in a row of taps
};

/// Calls visit(unit, gradients' bytes, panel's bytes) for every run that is not all in
/// the padding.
template <typename Visit>
H2LEARN_INLINE void for_each_run(const BackwardProduct& product, const Layout& layout,
                                 const Tile& tile, std::int64_t image_rows,
                                 const std::int8_t* panel, Visit visit) {
  const BackwardTerms& terms = product.terms;
  const std::int64_t run_bytes = terms.run_step * layout.images * layout.element;
  const std::int64_t panel_run = terms.run_length * number_digits * digits_panel_columns;
  for (std::int64_t slab = 0; slab < terms.slabs; ++slab) {
    for (std::int64_t row = 0; row < terms.rows; ++row) {
      const std::int64_t y = tile.image_row + row * terms.row_step;
      if (y < 0 || y >= image_rows) continue;
      const std::int64_t unit = slab * terms.rows + row;
      const std::uint8_t* const bytes = tile.origin + slab * layout.slab + y * layout.row;
      for (std::int64_t run = tile.runs.begin; run < tile.runs.end; ++run) {
        visit(unit, bytes + run * run_bytes, panel + (unit * terms.runs + run) * panel_run);
      }
    }
  }
}

#if defined(__AMX_INT8__)

/// 64 terms of all ten products. Register i, 0 to 3, sums order i; every operand is loaded once.
H2LEARN_INLINE void add_products(const std::uint8_t* gradients, std::int64_t step,
                                 std::int64_t plane, const std::int8_t* weights) {
  constexpr std::int64_t digit = tile_bytes * digits_panel_columns;
  _tile_loadd(4, gradients, step);
  _tile_loadd(5, weights + 3 * digit, tile_bytes);
  _tile_loadd(6, gradients + plane, step);
  _tile_loadd(7, weights + 2 * digit, tile_bytes);
  _tile_dpbssd(0, 4, 5);
  _tile_loadd(4, gradients + 2 * plane, step);
  _tile_dpbssd(1, 6, 5);
  _tile_dpbssd(0, 6, 7);
  _tile_loadd(6, weights + digit, tile_bytes);
  _tile_dpbssd(2, 4, 5);
  _tile_dpbssd(1, 4, 7);
  _tile_dpbssd(0, 4, 6);
  _tile_loadd(4, gradients + 3 * plane, step);
  _tile_dpbssd(3, 4, 5);
  _tile_dpbssd(2, 4, 7);
  _tile_dpbssd(1, 4, 6);
  _tile_loadd(6, weights, tile_bytes);
  _tile_dpbssd(0, 4, 6);
}

void sum_by_tiles(const BackwardProduct& product, const Layout& layout, const Tile& tile,
                  std::int64_t image_rows, const std::int8_t* panel, std::int32_t* sums) {
  finish_stores();
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for_each_run(product, layout, tile, image_rows, panel,
               [&](std::int64_t, const std::uint8_t* gradients, const std::int8_t* weights) {
                 for (std::int64_t k = 0; k < product.terms.run_length; k += tile_bytes) {
                   add_products(gradients + k, layout.element, layout.plane,
                                weights + k * number_digits * digits_panel_columns);
                 }
               });
  _tile_stored(0, sums, tile_bytes);
  _tile_stored(1, sums + tile_sums, tile_bytes);
  _tile_stored(2, sums + 2 * tile_sums, tile_bytes);
  _tile_stored(3, sums + 3 * tile_sums, tile_bytes);
}

#endif

/// The same by vectors, all units. Bytes are 128 larger than digits, so sums begin at what that
/// adds to them, taken away: no partial sum is then larger than one of the digits themselves.
void sum_by_vectors(const BackwardProduct& product, const Layout& layout, const Tile& tile,
                    std::int64_t image_rows, const std::int8_t* panel,
                    const std::int32_t* unit_sums, std::int32_t* sums) {
  constexpr std::int64_t unit_size = backward_orders * digits_panel_columns;
  std::int32_t before[unit_size] = {};
  std::int64_t last = -1;
  for_each_run(product, layout, tile, image_rows, panel,
               [&](std::int64_t unit, const std::uint8_t*, const std::int8_t*) {
                 if (unit == last) return;
                 last = unit;
                 for (std::int64_t i = 0; i < unit_size; ++i) {
                   before[i] -= unit_sums[unit * unit_size + i];
                 }
               });
  for (std::int64_t first = 0; first < tile.count; first += register_rows) {
    std::int64_t row[register_rows];
    H2LEARN_UNROLL
    for (int r = 0; r < register_rows; ++r) {
      row[r] = least(first + r, tile.count - 1) * layout.element;
    }
    for (std::int64_t column = 0; column < digits_panel_columns; column += lanes) {
      Ints sum[register_rows][backward_orders];
      H2LEARN_UNROLL
      for (int order = 0; order < backward_orders; ++order) {
        const Ints start =
            *reinterpret_cast<const UnalignedInts*>(before + order * digits_panel_columns + column);
        H2LEARN_UNROLL
        for (int r = 0; r < register_rows; ++r) sum[r][order] = start;
      }
      for_each_run(product, layout, tile, image_rows, panel + column * 4,
                   [&](std::int64_t, const std::uint8_t* gradients, const std::int8_t* weights) {
                     for (std::int64_t k = 0; k < product.terms.run_length; k += 4) {
                       Ints digit[number_digits];
                       H2LEARN_UNROLL
                       for (int d = 0; d < number_digits; ++d) {
                         digit[d] = load_bytes(weights + d * 4 * digits_panel_columns);
                       }
                       weights += number_digits * 4 * digits_panel_columns;
                       H2LEARN_UNROLL
                       for (int i = 0; i < number_digits; ++i) {
                         H2LEARN_UNROLL
                         for (int r = 0; r < register_rows; ++r) {
                           const FourValues values =
                               values_at<true>(gradients + i * layout.plane + row[r] + k);
                           H2LEARN_UNROLL
                           for (int order = 0; order <= i; ++order) {
                             sum[r][order] = add_dot<true>(sum[r][order], values,
                                                           digit[number_digits - 1 - i + order]);
                           }
                         }
                       }
                     }
                   });
      H2LEARN_UNROLL
      for (int r = 0; r < register_rows; ++r) {
        H2LEARN_UNROLL
        for (int order = 0; order < backward_orders; ++order) {
          *reinterpret_cast<UnalignedInts*>(sums + order * tile_sums +
                                            (first + r) * digits_panel_columns + column) =
              sum[r][order];
        }
      }
    }
  }
}

// ---- Gradients at the inputs

/// Sums of one position, order by order, to the gradients of one panel's columns; zeros where
/// `needed` has no bit.
H2LEARN_INLINE void finish_position(const std::int32_t* sums, double image_factor,
                                    const double* factors, std::uint32_t needed,
                                    std::int64_t columns, float* out) {
  float gradients[digits_panel_columns];
  for (int n = 0; n < digits_panel_columns; ++n) {
    const auto sum = [&](int order) { return static_cast<double>(sums[order * tile_sums + n]); };
    // Each half is exact in a double's 53 bits, and so is 2^16 times one: only their sum is
    // rounded, to what an exact sum would be rounded to.
    const double low = sum(0) + 256 * sum(1);
    const double high = sum(2) + 256 * sum(3);
    gradients[n] = static_cast<float>((low + 65536 * high) * (factors[n] * image_factor));
  }
  for (std::int64_t n = 0; n < columns; n += lanes) {
    store_first(out + n, select(mask_of_bits(needed >> n), load(gradients + n), Floats{}),
                columns - n);
  }
}

/// A panel's columns.
struct Columns {
  std::int64_t first;  ///< of all groups'
  std::int64_t count;
  double factors[digits_panel_columns];
};

Columns columns_of(const BackwardProduct& product, std::int64_t group, std::int64_t panel) {
  const std::int64_t in_group = panel * digits_panel_columns;
  Columns columns = {};
  columns.first = group * product.columns + in_group;
  columns.count = least(digits_panel_columns, product.columns - in_group);
  for (std::int64_t n = 0; n < columns.count; ++n) {
    columns.factors[n] = product.column_factors[columns.first + n];
  }
  return columns;
}

void finish_tile(const BackwardProduct& product, const Layout& layout, const Task& task,
                 const Tile& tile, const Columns& columns, const std::int32_t* sums) {
  const Windows& windows = product.windows;
  const std::int64_t channels = product.groups * product.columns;
  const std::int64_t positions = windows.height * windows.width;
  const std::int64_t words = words_for(positions * channels);
  const std::uint32_t all = 0xffff;
  for (std::int64_t r = 0; r < tile.count; ++r) {
    const std::int64_t inside = (tile.first + r) % layout.images;
    if (inside >= task.images) continue;
    const std::int64_t image = task.first_image + inside;
    const std::int64_t position = tile.row * windows.width + (tile.first + r) / layout.images;
    const std::int64_t feature = position * channels + columns.first;
    const auto needed = product.mask == nullptr
                            ? all
                            : static_cast<std::uint32_t>(
                                  read_bits(product.mask + image * words, feature, columns.count));
    finish_position(sums + r * digits_panel_columns, product.image_factors[image], columns.factors,
                    needed, columns.count, product.out + image * positions * channels + feature);
  }
}

// ---- Tasks

constexpr std::int64_t tasks_per_thread = 4;

/// Of bytes, in which a panel's tiles find them again in the second-level cache.
constexpr std::int64_t most_task_bytes = std::int64_t{5} << 18;

/// Tiles of a task that are enough for a panel to be used for while it is in cache.
constexpr std::int64_t enough_tiles = 16;

struct Cut {
  Layout layout;
  std::int64_t blocks;  ///< of layout.images, one after the other, of a task
  std::int64_t rows;    ///< of windows, of a task
  std::int64_t image_tasks;
  std::int64_t row_tasks;  ///< of one image
  std::int64_t panels;     ///< of a task
  std::int64_t panel_tasks;

  std::int64_t tasks(std::int64_t groups) const {
    return groups * image_tasks * row_tasks * panel_tasks;
  }
};

Tile tile_of(const BackwardProduct& product, const Layout& layout, const Task& task,
             const Range& rows, std::int64_t row, std::int64_t first, const std::uint8_t* bytes) {
  const Windows& windows = product.windows;
  const BackwardTerms& terms = product.terms;
  Tile tile = {};
  tile.origin = bytes + first * layout.element;
  tile.count = least(tile_windows, windows.width * layout.images - first);
  tile.row = task.first_row + row;
  tile.first = first;
  tile.image_row = tile.row - windows.top - rows.begin;
  tile.runs = {0, terms.runs};
  if (terms.in_slabs) {
    // Of positions [x, last], windows.left further left in the image.
    const std::int64_t x = first / layout.images;
    const std::int64_t last = (first + tile.count - 1) / layout.images;
    while (tile.runs.begin < terms.runs && last + tile.runs.begin * terms.run_step < windows.left)
      ++tile.runs.begin;
    while (tile.runs.end > tile.runs.begin &&
           x + (tile.runs.end - 1) * terms.run_step >= windows.left + windows.image_width)
      --tile.runs.end;
  }
  return tile;
}

void run_task(const BackwardProduct& product, const Cut& cut, const Task& task,
              std::uint8_t* bytes) {
  const Layout& layout = cut.layout;
  const BackwardTerms& terms = product.terms;
  const Range rows = rows_of(product.windows, task);
  const std::int64_t blocks = blocks_of(task.images, layout.images);
  const auto block_of = [&](std::int64_t b) {
    Task block = task;
    block.first_image += b * layout.images;
    block.images = least(layout.images, task.images - b * layout.images);
    return block;
  };
  for (std::int64_t b = 0; b < blocks; ++b) {
    copy_block(product, layout, block_of(b), bytes + b * layout.bytes);
  }
  const std::int64_t row_tiles = blocks_of(product.windows.width * layout.images, tile_windows);
  const std::int64_t group_panels = blocks_of(product.columns, digits_panel_columns);
  const std::int64_t panel_bytes = terms.length() * number_digits * digits_panel_columns;
  const std::int64_t panel_sums = terms.units() * backward_orders * digits_panel_columns;
  alignas(64) TileSums sums;
  for (std::int64_t p = task.first_panel; p < task.first_panel + task.panels; ++p) {
    const std::int64_t number = task.group * group_panels + p;
    const std::int8_t* const panel = product.panels + number * panel_bytes;
    const Columns columns = columns_of(product, task.group, p);
    const std::int64_t block_tiles = task.rows * row_tiles;
    for (std::int64_t t = 0; t < blocks * block_tiles; ++t) {
      const Task block = block_of(t / block_tiles);
      const Tile tile =
          tile_of(product, layout, block, rows, t % block_tiles / row_tiles,
                  t % row_tiles * tile_windows, bytes + t / block_tiles * layout.bytes);
      const std::int64_t image_rows = rows.end - rows.begin;
#if defined(__AMX_INT8__)
      if (by_tiles(terms)) {
        sum_by_tiles(product, layout, tile, image_rows, panel, sums);
      } else
#endif
      {
        sum_by_vectors(product, layout, tile, image_rows, panel,
                       product.unit_sums + number * panel_sums, sums);
      }
      finish_tile(product, layout, block, tile, columns, sums);
    }
  }
}

/// Of images side by side, those of which tiles have the least to do; and rows that fit.
void choose_layout(const BackwardProduct& product, Cut& cut) {
  const Windows& windows = product.windows;
  const BackwardTerms& terms = product.terms;
  double best = 0;
  for (std::int64_t images = terms.in_slabs ? tile_windows : 1; images > 0; images /= 2) {
    if (images >= 2 * product.images) continue;
    std::int64_t rows = windows.height;
    Layout layout = layout_of(product, images, rows);
    while (rows > 1 && layout.bytes > most_task_bytes) {
      rows = blocks_of(rows, 2);
      layout = layout_of(product, images, rows);
    }
    const auto tiles = static_cast<double>(blocks_of(windows.width * images, tile_windows));
    const std::int64_t blocks = blocks_of(product.images, images);
    double cost = tiles * static_cast<double>(blocks);
    if (images == tile_windows && windows.width > 1 && terms.runs > 1) {
      cost *= 1 - static_cast<double>(windows.window_width - 1) / 4 /
                      static_cast<double>(windows.width);  // roughly
    }
    // Copies of rows that neighbouring tasks copy, too.
    cost *= 1 + 0.1 * static_cast<double>(layout.rows) / static_cast<double>(rows);
    if (layout.bytes > 2 * most_task_bytes && images > 1) cost *= 2;
    if (best == 0 || cost < best) {
      best = cost;
      cut.layout = layout;
      cut.rows = rows;
    }
  }
  cut.row_tasks = blocks_of(windows.height, cut.rows);
  const std::int64_t blocks = blocks_of(product.images, cut.layout.images);
  const std::int64_t tiles = cut.rows * blocks_of(windows.width * cut.layout.images, tile_windows);
  const std::int64_t together =
      least(blocks_of(enough_tiles, tiles), most(most_task_bytes / cut.layout.bytes, 1));
  cut.image_tasks = blocks_of(blocks, together);
  cut.blocks = blocks_of(blocks, cut.image_tasks);
  cut.image_tasks = blocks_of(blocks, cut.blocks);
}

Cut cut_of(const BackwardProduct& product, std::int64_t threads) {
  Cut cut = {};
  choose_layout(product, cut);
  const std::int64_t panels = blocks_of(product.columns, digits_panel_columns);
  const std::int64_t tasks = product.groups * cut.image_tasks * cut.row_tasks;
  const std::int64_t parts = threads == 1 ? 1 : blocks_of(threads * tasks_per_thread, tasks);
  cut.panels = blocks_of(panels, least(parts, panels));
  cut.panel_tasks = blocks_of(panels, cut.panels);
  return cut;
}

Task task_of(const BackwardProduct& product, const Cut& cut, std::int64_t number) {
  const std::int64_t panel = number % cut.panel_tasks * cut.panels;
  number /= cut.panel_tasks;
  const std::int64_t row = number % cut.row_tasks * cut.rows;
  number /= cut.row_tasks;
  const std::int64_t image = number % cut.image_tasks * cut.blocks * cut.layout.images;
  const std::int64_t panels = blocks_of(product.columns, digits_panel_columns);
  return {number / cut.image_tasks,
          image,
          least(cut.blocks * cut.layout.images, product.images - image),
          row,
          least(cut.rows, product.windows.height - row),
          panel,
          least(cut.panels, panels - panel)};
}

void product(const BackwardProduct& product) {
  const Windows& windows = product.windows;
  const std::int64_t work = product.images * windows.height * windows.width * product.groups *
                            product.columns * product.terms.length();
  const int threads = work < parallel_from ? 1 : omp_get_max_threads();
  const Cut cut = cut_of(product, threads);
  const std::int64_t bytes = cut.blocks * cut.layout.bytes;
  auto* const memory = static_cast<std::uint8_t*>(
      scratch(ScratchSlot::operands, static_cast<std::size_t>(threads * bytes)));
#pragma omp parallel num_threads(threads)
  {
    std::uint8_t* const mine = memory + omp_get_thread_num() * bytes;
#if defined(__AMX_INT8__)
    if (by_tiles(product.terms)) configure_tiles();
#endif
#pragma omp for schedule(dynamic)
    for (std::int64_t t = 0; t < cut.tasks(product.groups); ++t) {
      run_task(product, cut, task_of(product, cut, t), mine);
    }
#if defined(__AMX_INT8__)
    if (by_tiles(product.terms)) release_tiles();
#endif
  }
}

}  // namespace

namespace H2LEARN_TARGET {

#if defined(__AMX_INT8__)
constexpr std::int64_t slab = 64;
constexpr std::int64_t run_step = tile_bytes;
#else
constexpr std::int64_t slab = 0;
constexpr std::int64_t run_step = 4;
#endif

extern const BackwardKernels backward_kernels = {slab, run_step, measure_images, measure_columns,
                                                 pack, product};

}  // namespace H2LEARN_TARGET
}  // namespace h2learn
