// Which kernel a product is worth: by the measured density of what can be skipped. Every choice
// gives the same sums. For kernel sources only.
#pragma once

#include <omp.h>

#include <cstdint>

#include "kernels/synapse_gather.hpp"
#include "kernels/synapse_panels.hpp"
#include "kernels/vec.hpp"

namespace h2learn {
namespace {

/// What a row of one block costs, in units of multiplying and adding one vector.
struct Costs {
  int vector_bytes;     ///< that the other numbers are for
  float gather_row;     ///< gathering a row, which windows spare
  float gather_run;     ///< the same, each run that it is gathered from
  float gather_values;  ///< the same, more where the row is of counts or floats
  float list_bit;       ///< looking at one bit for a list
  float list_value;     ///< looking at one float for a list
  float bit_event;      ///< adding one vector at one set bit
  float value_event;    ///< adding one vector, multiplied, at one non-zero
  float start_sum;      ///< one vector's share of walking a list, whatever its length
  float start_tap;      ///< the same where lists are of one tap: each part of a block that has one
  float walk_event;     ///< walking: adding one vector at one set bit
  float next_bit;       ///< scattering: finding a set bit and the sums that it adds to
  float next_output;    ///< scattering: going to one of these sums, an output's
  float next_weight;    ///< the same, a weight's gradient: the next bit often adds to it, too
  float bit_scatter;    ///< scattering: adding one vector
  float start_scatter;  ///< scattering: clearing and adding up one vector of a block's sums
  float narrow;         ///< multiplying and adding one vector where rows of windows are short
  float far;            ///< the same, more for each MiB of windows that a block of positions reads
};

constexpr Costs costs_by_width[] = {
#include "kernels/costs.inc"
};

consteval Costs costs_for(int bytes) {
  for (const Costs& row : costs_by_width) {
    if (row.vector_bytes == bytes) return row;
  }
  __builtin_unreachable();  // not a constant: a width without a row does not compile
}

constexpr Costs costs = costs_for(vector_bytes);

/// Windows in a row up to which they are short: they leave registers of a tile without work.
constexpr std::int64_t narrow_windows = 8;

/// Multiply-adds below which a second thread costs more than it saves.
constexpr std::int64_t parallel_from = std::int64_t{1} << 18;

inline int threads_for(std::int64_t products) {
  return products < parallel_from ? 1 : omp_get_max_threads();
}

/// Positions of windows for each that a position of the image reaches through one tap.
inline std::int64_t spread_of(const Windows& windows) {
  return windows.spread_height * windows.spread_width;
}

inline bool has_windows(const GatheredRows& rows) {
  return spread_of(rows.windows) == 1 && rows.windows.width >= least_windows &&
         rows.windows.width <= most_windows;
}

/// A row of `depth` terms, of which a part `density` is set, times `vectors` vectors of columns.
struct RowOfTerms {
  bool bits;
  float density;
  float depth;
  float vectors;
};

inline float cost_of_dense(const RowOfTerms& row) { return row.vectors * row.depth; }

/// By events, once the row is gathered.
inline float cost_of_events(const RowOfTerms& row) {
  const float listing = row.depth * (row.bits ? costs.list_bit : costs.list_value);
  const float event = row.bits ? costs.bit_event : costs.value_event;
  return listing + row.vectors * (event * row.density * row.depth + costs.start_sum);
}

/// By scattering, a panel at a time; an input's bit is a term of `taps` rows. `next_sum` is
/// costs.next_output or costs.next_weight.
inline float cost_of_scatter(const RowOfTerms& row, float taps, float next_sum) {
  const float panels = __builtin_ceilf(row.vectors / panel_vectors);
  const float bit = panels * (costs.next_bit / taps + next_sum) + row.vectors * costs.bit_scatter;
  return row.density * row.depth * bit + row.vectors * costs.start_scatter;
}

inline bool events_pay(const RowOfTerms& row) { return cost_of_events(row) < cost_of_dense(row); }

/// Part of the spikes or counts that are not zero.
inline float density_of_words(const GatheredRows& rows) {
  const std::int64_t words = plane_words(rows);
  std::int64_t set = 0;
#pragma omp parallel for schedule(static) reduction(+ : set) if (words > 1 << 16)
  for (std::int64_t i = 0; i < words; ++i) {
    std::uint64_t any = 0;
    for (std::int64_t plane = 0; plane < rows.planes; ++plane) any |= rows.words[plane * words + i];
    set += __builtin_popcountll(any);
  }
  return static_cast<float>(set) / static_cast<float>(most(words, 1) * 64);
}

/// What set(begin, end) counts for each of `count` elements, estimated from `pieces` runs of
/// `piece` elements (up to twice as many), spread evenly. By odd steps: not always the same sample
/// of a batch.
template <typename Set>
inline float estimate_density(std::int64_t count, std::int64_t pieces, std::int64_t piece,
                              Set set) {
  const std::int64_t step = most(count / pieces, piece) | 1;
  std::int64_t seen = 0;
  std::int64_t found = 0;
  for (std::int64_t begin = 0; begin < count; begin += step) {
    const std::int64_t end = least(begin + piece, count);
    found += set(begin, end);
    seen += end - begin;
  }
  return static_cast<float>(found) / static_cast<float>(most(seen, 1));
}

/// Part of the floats that are not zero, estimated.
inline float density_of_values(const GatheredRows& rows) {
  const auto not_zero = [&](std::int64_t begin, std::int64_t end) {
    std::int64_t set = 0;
    for (std::int64_t i = begin; i < end; ++i) set += rows.values[i] != 0;
    return set;
  };
  return estimate_density(rows.images * rows.image_stride, 256, 256, not_zero);
}

/// Part of a linear layer's inputs that spike, estimated from some images. What fills up their
/// words does not count.
inline float density_of_images(const GatheredRows& rows) {
  const auto popcounts = [&](std::int64_t begin, std::int64_t end) {
    std::int64_t set = 0;
    for (std::int64_t i = begin * rows.words_per_image; i < end * rows.words_per_image; ++i) {
      set += __builtin_popcountll(rows.words[i]);
    }
    return set;
  };
  return estimate_density(rows.images, 128, 1, popcounts) / static_cast<float>(rows.length);
}

/// True where walking is cheaper than what else can be done with a linear layer of spikes, in tasks
/// of so many vectors of columns.
inline bool walk_pays(const GatheredRows& rows, std::int64_t vectors, Method method) {
  if (method != Method::event && method != Method::by_density) return false;
  const RowOfTerms row = {true, density_of_images(rows),
                          static_cast<float>(least(rows.length, sum_block)),
                          static_cast<float>(vectors)};
  const float cost = row.vectors * costs.walk_event * row.density * row.depth;
  return cost < cost_of_events(row) && (method == Method::event || cost < cost_of_dense(row));
}

/// By events that are listed once for all `taps`, `chunk` terms of a block at a time. Of the row's
/// terms, `reached` are not the zeros of a stride.
inline float cost_of_taps(const RowOfTerms& row, float taps, float chunk, float reached) {
  const float listing = row.depth * (row.bits ? costs.list_bit : costs.list_value);
  const float event = row.bits ? costs.bit_event : costs.value_event;
  return listing * reached / taps + row.vectors * (event * row.density * row.depth +
                                                   costs.start_tap * reached * row.depth / chunk);
}

/// What differs between the products.
struct Reading {
  const float* next_sum;   ///< see cost_of_scatter; null where scattering is impossible
  std::int64_t tap_chunk;  ///< see cost_of_taps; 0 where Choice::taps is impossible
  float windows;           ///< multiplying and adding one vector where the rows are windows
};

inline Choice choose(const GatheredRows& rows, Method method, std::int64_t columns,
                     const Reading& reading) {
  const bool slides = has_windows(rows);
  if (method == Method::tables || method == Method::sampled ||
      (!slides && reading.tap_chunk == 0)) {
    return Choice::gather;
  }
  const bool bits = is_bits(rows);
  RowOfTerms row = {bits, 0, static_cast<float>(least(rows.length, sum_block)),
                    static_cast<float>(blocks_of(columns, lanes))};
  const std::int64_t blocks = blocks_of(rows.length, sum_block);
  const float runs = static_cast<float>(rows.windows.first_of_block[blocks]);
  const float gathering = costs.gather_row + (bits ? 0 : costs.gather_values) +
                          costs.gather_run * runs / static_cast<float>(blocks);
  const float dense = cost_of_dense(row);
  const float windows = dense * reading.windows;
  const Choice densely = !slides || gathering + dense < windows ? Choice::gather : Choice::windows;
  const float least_dense = densely == Choice::gather ? gathering + dense : windows;
  if (method == Method::dense) return densely;
  // Where events do not pay for rows of zeros, nobody need look how many there are.
  const float reached = 1 / static_cast<float>(spread_of(rows.windows));
  const auto by_taps = [&] {
    return cost_of_taps(row, static_cast<float>(rows.length / rows.windows.channels),
                        static_cast<float>(reading.tap_chunk), reached);
  };
  const bool may_skip = method == Method::event || reading.next_sum != nullptr ||
                        gathering + cost_of_events(row) < least_dense ||
                        (reading.tap_chunk > 0 && by_taps() < least_dense);
  if (!may_skip) return densely;
  row.density =
      reached * (rows.words != nullptr ? density_of_words(rows) : density_of_values(rows));
  const float taps = row.depth / static_cast<float>(rows.windows.channels);
  Choice by_events = Choice::gather;
  float cost = gathering + cost_of_events(row);
  if (reading.tap_chunk > 0 && by_taps() < cost) {
    by_events = Choice::taps;
    cost = by_taps();
  }
  if (reading.next_sum != nullptr && cost_of_scatter(row, taps, *reading.next_sum) < cost) {
    by_events = Choice::scatter;
    cost = cost_of_scatter(row, taps, *reading.next_sum);
  }
  if (method == Method::event) return by_events;
  return cost < least_dense ? by_events : densely;
}

}  // namespace
}  // namespace h2learn
