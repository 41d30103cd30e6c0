// Events of windows that slide by one: what is set at an input position is listed once a band of
// rows of windows, and every tap reads that list, where gathered rows would be listed anew for
// each. For kernel sources only.
//
// A tap adds the weights of input (y, x) to the sums of output (y, x) - tap, so a group of lists is
// a group of input positions, and a tap moves the rows that it adds to. (Where a stride spreads the
// image, input (y, x) lies at spread * (y, x): nothing is gathered or listed of the zeros between.)
// The positions of a group are read through the same rows of taps: those of a band's first and last
// rows, which some taps leave out, keep to themselves.
#pragma once

#include <cstdint>

#include "kernels/synapse_block.hpp"
#include "kernels/synapse_choice.hpp"
#include "kernels/synapse_gather.hpp"
#include "kernels/synapse_panels.hpp"
#include "kernels/synapse_workspace.hpp"

namespace h2learn {
namespace {

/// The rows of windows that a task computes.
struct Band {
  std::int64_t first_image;
  std::int64_t images;
  std::int64_t first;  ///< row of windows
  std::int64_t rows;   ///< of windows, in each image
};

/// An input position that a band sees. It adds to row `sum` - tap_row * width - tap_column, if
/// `column` - tap_column is a column of windows.
struct TapPosition {
  std::int64_t source;  ///< its word, or its float
  std::int32_t sum;
  std::int32_t column;
};

/// Positions that are read through the rows of taps from `first` to `last`.
struct TapClass {
  std::int32_t begin;  ///< of the positions
  std::int32_t end;
  std::int32_t first;
  std::int32_t last;
};

struct TapGroup {
  ListGroup list;                   ///< its rows are TapPosition::sum
  std::int32_t column[group_rows];  ///< TapPosition::column
  std::int32_t count[group_rows];
  std::int32_t first;  ///< TapClass::first
  std::int32_t last;
};

/// A band's lists, one chunk of channels after the other.
struct TapLists {
  TapPosition* positions;
  TapClass* classes;
  std::int64_t class_count;
  Lists lists;
  TapGroup* groups;
  std::int32_t* first_group;  ///< [chunks + 1]
  std::int32_t* zeros;        ///< [chunks]: list_group's, as it is now
};

/// Channels that are listed together: what every block of a sum has whole multiples of.
H2LEARN_INLINE std::int64_t tap_chunk(std::int64_t channels) {
  std::int64_t chunk = sum_block;
  while (channels % chunk != 0) chunk /= 2;
  return chunk;
}

/// Input rows [begin, end) that a band sees.
struct BandInputs {
  std::int64_t begin;
  std::int64_t end;
};

inline BandInputs band_inputs(const Windows& windows, const Band& band) {
  const std::int64_t top = band.first - windows.top;
  const std::int64_t bottom = top + band.rows - 1 + windows.window_height;
  return {blocks_of(most(top, 0), windows.spread_height),
          least(blocks_of(most(bottom, 0), windows.spread_height), windows.image_height)};
}

/// Input rows of one image that a band of so many rows of windows sees, at most.
inline std::int64_t band_rows(const Windows& windows, std::int64_t rows) {
  return least(blocks_of(rows + windows.window_height - 1, windows.spread_height),
               windows.image_height);
}

/// At most: each row that some taps leave out is one, all others together another.
inline std::int64_t tap_classes(const Windows& windows, std::int64_t rows) {
  return least(2 * windows.window_height, band_rows(windows, rows));
}

/// At most: those of a class may leave one unfilled.
inline std::int64_t tap_groups(const Windows& windows, std::int64_t images, std::int64_t rows) {
  const std::int64_t positions = images * band_rows(windows, rows) * windows.image_width;
  return blocks_of(positions, group_rows) + tap_classes(windows, rows);
}

/// Entries of a band's lists, beyond which they would fill more than a cache.
constexpr std::int64_t most_tap_entries = std::int64_t{1} << 22;

/// True for windows that move by one over channels enough, in tasks of up to `task_rows` rows.
inline bool can_list_taps(const GatheredRows& rows, std::int64_t task_rows) {
  const Windows& windows = rows.windows;
  if (windows.width < least_windows || windows.width > most_windows || windows.stride_height != 1 ||
      windows.stride_width != 1) {
    return false;
  }
  const std::int64_t images = most(task_rows / rows.positions, 1);
  const std::int64_t window_rows = least(blocks_of(task_rows, windows.width), windows.height);
  return tap_chunk(windows.channels) >= least_tap_chunk &&
         tap_groups(windows, images, window_rows) * group_rows * windows.channels <=
             most_tap_entries;
}

inline TapLists carve_taps(Carver& carver, const GatheredRows& rows, std::int64_t images,
                           std::int64_t window_rows) {
  TapLists taps = {};
  const Windows& windows = rows.windows;
  const std::int64_t inputs = images * band_rows(windows, window_rows) * windows.image_width;
  const std::int64_t chunks = windows.channels / tap_chunk(windows.channels);
  const std::int64_t groups = tap_groups(windows, images, window_rows);
  const std::int64_t entries = groups * group_rows * windows.channels + list_slack;
  taps.positions = carver.take<TapPosition>(inputs);
  taps.classes = carver.take<TapClass>(tap_classes(windows, window_rows));
  taps.lists.counts = carver.take<std::int32_t>(inputs);
  taps.lists.order = carver.take<std::int32_t>(inputs);
  taps.lists.offsets = carver.take<std::uint16_t>(entries);
  if (!is_bits(rows)) {
    taps.lists.values = carver.take<float>(entries);
    taps.lists.set = carver.take<std::uint64_t>(inputs * block_words);
  }
  taps.groups = carver.take<TapGroup>(groups * chunks);
  taps.first_group = carver.take<std::int32_t>(chunks + 1);
  taps.zeros = carver.take<std::int32_t>(chunks);
  return taps;
}

inline void find_positions(const GatheredRows& from, std::int64_t group, const Band& band,
                           TapLists& taps) {
  const Windows& windows = from.windows;
  const BandInputs inputs = band_inputs(windows, band);
  const std::int64_t image_stride = is_bits(from) ? from.words_per_image : from.image_stride;
  const std::int64_t channels = is_bits(from) ? windows.channels / 64 : windows.channels;
  std::int32_t count = 0;
  taps.class_count = 0;
  // Where a row lies, counted from the band's first.
  const auto place_of = [&](std::int64_t row) {
    return row * windows.spread_height + windows.top - band.first;
  };
  const auto first_tap = [&](std::int64_t row) { return most(place_of(row) - band.rows + 1, 0); };
  const auto last_tap = [&](std::int64_t row) {
    return least(place_of(row), windows.window_height - 1);
  };
  for (std::int64_t y = inputs.begin; y < inputs.end;) {
    TapClass rows = {count, count, 0, 0};
    rows.first = static_cast<std::int32_t>(first_tap(y));
    rows.last = static_cast<std::int32_t>(last_tap(y));
    for (; y < inputs.end && first_tap(y) == rows.first && last_tap(y) == rows.last; ++y) {
      for (std::int64_t i = 0; i < band.images; ++i) {
        const std::int64_t row = i * band.rows + place_of(y);
        std::int64_t source = (band.first_image + i) * image_stride +
                              (y * windows.image_width * from.groups + group) * channels;
        for (std::int64_t x = 0; x < windows.image_width; ++x, source += from.groups * channels) {
          const std::int64_t column = x * windows.spread_width + windows.left;
          taps.positions[count++] = {source,
                                     static_cast<std::int32_t>(row * windows.width + column),
                                     static_cast<std::int32_t>(column)};
        }
      }
    }
    rows.end = count;
    taps.classes[taps.class_count++] = rows;
  }
}

/// Lists what a band sees of one group of channels.
inline void list_band(const GatheredRows& from, std::int64_t group, const Band& band,
                      TapLists& taps) {
  find_positions(from, group, band, taps);
  const std::int64_t channels = from.windows.channels;
  const std::int64_t depth = tap_chunk(channels);
  std::int32_t entries = 0;
  std::int32_t groups = 0;
  for (std::int64_t chunk = 0; chunk * depth < channels; ++chunk) {
    taps.first_group[chunk] = groups;
    taps.zeros[chunk] = 0;
    const auto bits_of = [&](const TapPosition& at) {
      return from.words + at.source + chunk * depth / 64;
    };
    const auto values_of = [&](const TapPosition& at) {
      return from.values + at.source + chunk * depth;
    };
    for (std::int64_t c = 0; c < taps.class_count; ++c) {
      const TapClass& rows = taps.classes[c];
      const std::int64_t positions = rows.end - rows.begin;
      for (std::int64_t p = 0; p < positions; ++p) {
        const TapPosition& at = taps.positions[rows.begin + p];
        taps.lists.counts[p] =
            is_bits(from) ? count_bits(bits_of(at), depth / 64)
                          : find_values(values_of(at), depth, taps.lists.set + p * block_words);
      }
      sort_rows(taps.lists.counts, positions, taps.lists.order);
      for (std::int64_t p = 0; p < positions; p += group_rows) {
        TapGroup& to = taps.groups[groups++];
        to.first = rows.first;
        to.last = rows.last;
        ListedRow of_group[group_rows] = {};
        const std::int64_t count = least(group_rows, positions - p);
        for (std::int64_t i = 0; i < count; ++i) {
          const std::int32_t position = taps.lists.order[p + i];
          const TapPosition& at = taps.positions[rows.begin + position];
          const bool bits = is_bits(from);
          of_group[i] = {bits ? bits_of(at) : taps.lists.set + position * block_words,
                         bits ? nullptr : values_of(at), at.sum, taps.lists.counts[position]};
          to.column[i] = at.column;
          to.count[i] = of_group[i].count;
        }
        for (std::int64_t i = count; i < group_rows; ++i) {
          to.column[i] = -1;  // in no window
          to.count[i] = 0;
        }
        list_group(of_group, count, depth, 0, taps.lists, to.list, entries);
      }
    }
    taps.first_group[chunk + 1] = groups;
  }
}

/// Makes what fills up the chunk's lists of bits lead to row `zeros` of a panel.
inline void lead_to_zeros(TapLists& taps, std::int64_t chunk, std::int64_t zeros) {
  if (taps.zeros[chunk] == zeros) return;
  taps.zeros[chunk] = static_cast<std::int32_t>(zeros);
  for (std::int64_t g = taps.first_group[chunk]; g < taps.first_group[chunk + 1]; ++g) {
    const TapGroup& group = taps.groups[g];
    for (int r = 0; r < group_rows; ++r) {
      for (std::int64_t entry = group.count[r]; entry < group.list.length; ++entry) {
        taps.lists.offsets[group.list.first + entry * group_rows + r] =
            static_cast<std::uint16_t>(zeros * vector_bytes);
      }
    }
  }
}

/// The part of a block of a sum that one tap and one chunk of channels have.
struct TapTerms {
  std::int64_t chunk;
  std::int64_t row;     ///< of the tap
  std::int64_t column;  ///< of the tap
  bool begins;          ///< the block's first
  bool ends;            ///< the block's last
  bool first;           ///< of the sum's first block
};

/// Adds a panel to the sums of one part: to `block`, and, when that is whole, to `sums`. Where the
/// block is the sum's first, `block` and `sums` are the same.
template <int vectors, bool weighted, bool once>
H2LEARN_TILE void add_tap(const TapLists& taps, const TapTerms& terms, std::int64_t width,
                          const float* panel, Fetch fetch, float* block, float* sums,
                          std::int64_t stride) {
  const std::int64_t shift = terms.row * width + terms.column;
  // With nothing to add, nothing has to become zero, and no block has to be added.
  const bool idle = terms.begins == terms.ends && (!terms.begins || !terms.first);
  for (std::int64_t g = taps.first_group[terms.chunk]; g < taps.first_group[terms.chunk + 1]; ++g) {
    const TapGroup& group = taps.groups[g];
    fetch.step();
    if (terms.row < group.first || terms.row > group.last) continue;
    if (group.list.length == 0 && idle) continue;
    std::int64_t at[group_rows];
    bool any = false;
    H2LEARN_UNROLL
    for (int r = 0; r < group_rows; ++r) {
      const auto column = static_cast<std::uint64_t>(group.column[r] - terms.column);
      at[r] =
          column < static_cast<std::uint64_t>(width) ? (group.list.row[r] - shift) * stride : -1;
      any |= at[r] >= 0;
    }
    if (!any) continue;
    Floats sum[group_rows][vectors] = {};
    if (!terms.begins) {
      H2LEARN_UNROLL
      for (int r = 0; r < group_rows; ++r) {
        if (at[r] < 0) continue;
        H2LEARN_UNROLL
        for (int v = 0; v < vectors; ++v) sum[r][v] = load(block + at[r] + v * lanes);
      }
    }
    add_lists<vectors, weighted, once>(taps.lists, group.list, panel, sum);
    float* const to = terms.ends ? sums : block;
    const bool replaces = !terms.ends || terms.first;
    H2LEARN_UNROLL
    for (int r = 0; r < group_rows; ++r) {
      if (at[r] >= 0) add_to<vectors>(to + at[r], sum[r], replaces);
    }
  }
}

/// The same for the rows that the tap leaves out, `columns` columns of them.
inline void pass_tap(const Windows& windows, const Band& band, const TapTerms& terms, float* block,
                     float* sums, std::int64_t stride, std::int64_t columns) {
  const bool clears = terms.begins && (terms.first || !terms.ends);
  const bool adds = terms.ends && !terms.begins && !terms.first;
  if (!clears && !adds) return;
  const auto outside = [](std::int64_t place, std::int64_t spread, std::int64_t size) {
    return place < 0 || place % spread != 0 || place / spread >= size;
  };
  for (std::int64_t r = 0; r < band.images * band.rows; ++r) {
    const std::int64_t y = band.first + r % band.rows + terms.row - windows.top;
    for (std::int64_t x = 0; x < windows.width; ++x) {
      if (!outside(y, windows.spread_height, windows.image_height) &&
          !outside(x + terms.column - windows.left, windows.spread_width, windows.image_width)) {
        continue;
      }
      const std::int64_t row = (r * windows.width + x) * stride;
      for (std::int64_t column = row; column < row + columns; column += lanes) {
        if (clears) {
          store(block + column, Floats{});
        } else {
          store(sums + column, load(sums + column) + load(block + column));
        }
      }
    }
  }
}

/// Calls visit(terms, begin) for the parts of the block that starts at `block`; `begin` is a
/// part's first term, counted from the block's.
template <typename Visit>
H2LEARN_INLINE void for_each_tap(const Windows& windows, std::int64_t block, std::int64_t length,
                                 Visit visit) {
  const std::int64_t channels = windows.channels;
  const std::int64_t depth = tap_chunk(channels);
  const std::int64_t padded = (windows.width - 1) * windows.stride_width + windows.window_width;
  const std::int64_t number = block / sum_block;
  const std::int64_t end = least(block + sum_block, length);
  for (std::int32_t i = windows.first_of_block[number]; i < windows.first_of_block[number + 1];
       ++i) {
    const WindowRun& run = windows.runs[i];
    for (std::int64_t done = 0; done < run.length; done += depth) {
      const std::int64_t term = run.target + done;
      const std::int64_t column = (run.offset + done) / channels - run.row * padded;
      visit(TapTerms{term % channels / depth, run.row, column, term == block, term + depth == end,
                     block == 0},
            term - block);
    }
  }
}

}  // namespace
}  // namespace h2learn
