// Linear layers of few spikes. A row of spikes walks through all its events once for a chunk of
// columns, with its sums in registers from the first event to the last; a task packs the chunk's
// weights right before its rows go through them. For kernel sources only.
//
// Lists of blocks (synapse_lists.hpp) are sorted, interleaved, and added to sums in memory, which
// is much work where a block has two or three events. Here the last event of a block says so, and
// the block is then added to the sum, in the order of the other kernels.
#pragma once

#include <omp.h>

#include <cstdint>

#include "kernels/synapse_block.hpp"
#include "kernels/synapse_panels.hpp"
#include "kernels/synapse_workspace.hpp"
#include "scratch.hpp"

namespace h2learn {
namespace {

/// Vectors of a chunk of columns.
constexpr int walk_vectors = 4;

/// Terms up to which a chunk's weights stay in a second- or third-level cache.
constexpr std::int64_t most_walk_terms = std::int64_t{1} << 13;

/// Rows of a piece, which one thread lists; and of a wave, all that are listed before they are
/// walked through: at most so many rows, and so many bits, so that its lists have at most 128 MiB.
constexpr std::int64_t piece_rows = 256;
constexpr std::int64_t most_wave_rows = std::int64_t{1} << 14;
constexpr std::int64_t most_wave_bits = std::int64_t{1} << 24;

/// Rows for which a task packs a chunk of weights, at least.
constexpr std::int64_t least_walk_rows = 128;

struct WalkEvent {
  std::uint32_t term;
  std::int32_t ends;  ///< all ones if it is its block's last, else 0
};

/// A row's events.
struct WalkRow {
  const WalkEvent* begin;
  const WalkEvent* end;
};

/// Events that list_events() may write before and behind those that there are.
constexpr std::int64_t walk_slack_before = 1;
constexpr std::int64_t walk_slack_behind = 2;
constexpr std::int64_t walk_slack = walk_slack_before + walk_slack_behind;

/// True for spikes of a linear layer: an image is a row, and not padded.
inline bool can_walk(const GatheredRows& rows) {
  const Windows& windows = rows.windows;
  return is_bits(rows) && rows.groups == 1 && rows.positions == 1 && windows.image_height == 1 &&
         windows.image_width == 1 && windows.window_height == 1 && windows.window_width == 1 &&
         windows.top == 0 && windows.left == 0 && rows.length <= most_walk_terms;
}

/// Lists what is set in a row; returns the end. At 1 % words seldom have more than two events,
/// and a branch for each would often be foreseen wrongly: so two are written, whether they are
/// there or not.
H2LEARN_INLINE WalkEvent* list_events(const std::uint64_t* words, std::int64_t word_count,
                                      WalkEvent* to) {
  // Counting the zeros of 0 is undefined; what it gives here is written over or never read.
  constexpr std::uint64_t any = std::uint64_t{1} << 63;
  for (std::int64_t w = 0; w < word_count; ++w) {
    const auto first = static_cast<std::uint32_t>(w * 64);
    const auto event = [&](std::uint64_t set) {
      return WalkEvent{first + static_cast<std::uint32_t>(__builtin_ctzll(set)), 0};
    };
    const int count = popcount(words[w]);
    std::uint64_t set = words[w];
    to[0] = event(set | any);
    set &= set - 1;
    to[1] = event(set | any);
    for (int i = 2; i < count; ++i) {
      set &= set - 1;
      to[i] = event(set);
    }
    to += count;
    // Where the block has no event, the one before it ends a block already.
    if (w % block_words == block_words - 1 || w == word_count - 1) to[-1].ends = -1;
  }
  return to;
}

/// out[count][stride] = scale * sums + bias, of a chunk of columns, of which `left` exist.
/// At each event the block times one or zero, which is exact, is added to the sum by one
/// multiply-add. An infinite block times zero would be a NaN: unless `finite_blocks`, a mask is
/// laid over it in a step of its own, and so where there is no instruction for a multiply-add.
template <int vectors, bool finite_blocks>
H2LEARN_TILE void walk_rows(const WalkRow* rows, std::int64_t count, const float* panel,
                            float scale, const float* bias, std::int64_t left, float* out,
                            std::int64_t stride) {
  for (std::int64_t r = 0; r < count; ++r, out += stride) {
    Floats block[vectors] = {};
    Floats sum[vectors] = {};
    for (const WalkEvent* event = rows[r].begin; event < rows[r].end; ++event) {
      const float* const weights = panel + std::int64_t{event->term} * (vectors * lanes);
      const Ints ends = broadcast(event->ends);
      const Floats one_or_zero = keep_masked(broadcast(1.0F), ends);
      H2LEARN_UNROLL
      for (int v = 0; v < vectors; ++v) {
        block[v] += load(weights + v * lanes);
        if constexpr (finite_blocks && has_fused) {
          sum[v] = multiply_add(block[v], one_or_zero, sum[v]);
        } else {
          sum[v] += keep_masked(block[v], ends);
        }
        block[v] = drop_masked(block[v], ends);
      }
    }
    H2LEARN_UNROLL
    for (int v = 0; v < vectors; ++v) {
      const std::int64_t columns = left - v * lanes;
      Floats value = sum[v] * scale;
      if (bias != nullptr) value += load_first(bias + v * lanes, columns);
      store_first(out + v * lanes, value, columns);
    }
  }
}

/// How a wave is shared out: chunks of columns times parts of the rows.
struct WalkCut {
  std::int64_t chunks;
  std::int64_t parts;
  std::int64_t part_rows;
};

inline WalkCut cut_walk(std::int64_t rows, std::int64_t columns, std::int64_t tasks) {
  WalkCut cut = {blocks_of(columns, walk_vectors * lanes), 1, rows};
  // Each task packs its weights, so rows are cut only where there are too few chunks.
  if (tasks > cut.chunks) {
    cut.part_rows = most(blocks_of(rows, blocks_of(tasks, cut.chunks)), least_walk_rows);
    cut.parts = blocks_of(rows, cut.part_rows);
  }
  return cut;
}

/// Rows of a wave, whose events are listed at a time: whole pieces.
inline std::int64_t wave_rows(std::int64_t length) {
  return least(most(most_wave_bits / length / piece_rows, 1) * piece_rows, most_wave_rows);
}

/// Lists the events of rows [begin, end) to `to`, and says in rows[0, end - begin) where each row's
/// are.
inline void list_piece(const GatheredRows& from, std::int64_t begin, std::int64_t end,
                       WalkEvent* to, WalkRow* rows) {
  const std::int64_t word_count = from.words_per_image;
  for (std::int64_t r = begin; r < end; ++r) {
    const WalkEvent* const first = to;
    to = list_events(from.words + r * word_count, word_count, to);
    rows[r - begin] = {first, to};
  }
}

struct WalkMemory {
  std::int64_t* first_event;  ///< [pieces]: where each begins in its wave's events
  WalkRow* rows;              ///< [wave_rows]
  float* panels;              ///< [threads][length][walk_vectors * lanes]
  WalkEvent* events;          ///< of a wave
};

/// A wave: rows [begin, end).
inline void walk_wave(const GatherProduct& product, std::int64_t begin, std::int64_t end,
                      int threads, std::int64_t tasks, const WalkMemory& memory) {
  const std::int64_t length = product.rows.length;
  const std::int64_t count = end - begin;
  const std::int64_t pieces = blocks_of(count, piece_rows);
  const WalkCut cut = cut_walk(count, product.columns, tasks);
#pragma omp parallel num_threads(threads)
  {
#pragma omp for schedule(static)
    for (std::int64_t piece = 0; piece < pieces; ++piece) {
      const std::int64_t first = begin + piece * piece_rows;
      list_piece(product.rows, first, least(first + piece_rows, end),
                 memory.events + memory.first_event[first / piece_rows],
                 memory.rows + piece * piece_rows);
    }
    float* const panel = memory.panels + omp_get_thread_num() * (length * walk_vectors * lanes);
#pragma omp for schedule(dynamic)
    for (std::int64_t task = 0; task < cut.chunks * cut.parts; ++task) {
      const std::int64_t column = task / cut.parts * walk_vectors * lanes;
      const std::int64_t row = task % cut.parts * cut.part_rows;
      const std::int64_t left = least(product.columns - column, walk_vectors * lanes);
      const std::int64_t vectors = blocks_of(left, lanes);
      for (std::int64_t v = 0; v < vectors; ++v) {
        transpose_columns(product.weight + (column + v * lanes) * length, length, length,
                          left - v * lanes, vectors * lanes, panel + v * lanes);
      }
      visit_tile<walk_vectors>(vectors, 0, [&]<int count_of>(std::int64_t) {
        const auto walk =
            product.finite_blocks ? walk_rows<count_of, true> : walk_rows<count_of, false>;
        walk(memory.rows + row, least(cut.part_rows, count - row), panel, product.scale,
             product.bias == nullptr ? nullptr : product.bias + column, left,
             product.out + (begin + row) * product.columns + column, product.columns);
      });
    }
  }
}

/// gather_product() of Choice::walk; `tasks` are as many as its threads should find.
inline void walk_product(const GatherProduct& product, int threads, std::int64_t tasks) {
  const GatheredRows& from = product.rows;
  const std::int64_t wave = least(wave_rows(from.length), from.images);
  const std::int64_t pieces = blocks_of(from.images, piece_rows);
  WalkMemory memory = {};
  const auto carve = [&](Carver carver) {
    memory.first_event = carver.take<std::int64_t>(pieces);
    memory.rows = carver.take<WalkRow>(wave);
    memory.panels = carver.take<float>(threads * from.length * walk_vectors * lanes);
    return carver.used();
  };
  carve(Carver(static_cast<char*>(scratch(ScratchSlot::operands, carve(Carver(nullptr))))));
#pragma omp parallel for schedule(static) num_threads(threads)
  for (std::int64_t piece = 0; piece < pieces; ++piece) {
    const std::int64_t begin = piece * piece_rows;
    const std::int64_t rows = least(piece_rows, from.images - begin);
    memory.first_event[piece] = walk_slack + count_bits(from.words + begin * from.words_per_image,
                                                        rows * from.words_per_image);
  }
  // Counts become places; memory for the largest wave, before anything is written.
  const std::int64_t wave_pieces = blocks_of(wave, piece_rows);
  std::int64_t largest = 0;
  for (std::int64_t piece = 0; piece < pieces; piece += wave_pieces) {
    std::int64_t events = 0;
    for (std::int64_t p = piece; p < least(piece + wave_pieces, pieces); ++p) {
      const std::int64_t count = memory.first_event[p];
      memory.first_event[p] = events + walk_slack_before;
      events += count;
    }
    largest = most(largest, events);
  }
  memory.events = static_cast<WalkEvent*>(
      scratch(ScratchSlot::inputs, static_cast<std::size_t>(largest) * sizeof(WalkEvent)));
  for (std::int64_t begin = 0; begin < from.images; begin += wave) {
    walk_wave(product, begin, least(begin + wave, from.images), threads, tasks, memory);
  }
}

}  // namespace
}  // namespace h2learn
