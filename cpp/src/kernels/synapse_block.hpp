// One block of a product: rows of at most `sum_block` bits or floats times a panel, added to a
// tile of sums. By events (add the panel's rows where something is set) or densely (a
// register-blocked matrix product); both add the same terms in the same order. For kernel
// sources only.
//
// A panel is [depth + 1][vectors * lanes] floats, vectors 1 or 2; its last row is zeros.
#pragma once

#include <cstdint>

#include "kernels/synapse_choice.hpp"
#include "kernels/synapse_lists.hpp"
#include "kernels/synapse_panels.hpp"
#include "kernels/vec.hpp"

namespace h2learn {
namespace {

/// Rows of the dense kernel's tile of registers, by the vectors of a row: what leaves room for
/// one row of the panel.
template <int vectors>
constexpr int tile_rows = (vector_bytes == 64 ? 28 : 12) / vectors;

/// Rows of one block: exactly one of `bits` and `values` is set.
struct BlockRows {
  const std::uint64_t* bits;  ///< [rows][block_words]
  const float* values;        ///< [rows][sum_block]
  std::int64_t rows;
  std::int64_t depth;
};

/// The rows in the form that the chosen method reads; made once, used for every panel.
struct PreparedRows {
  bool event;
  bool far;            ///< all panels together are more than stays near
  const float* dense;  ///< [rows][sum_block]
  std::int64_t rows;
  std::int64_t depth;
  Lists lists;
  float* expanded;  ///< [rows][sum_block] scratch
};

inline void expand_bits(const std::uint64_t* bits, std::int64_t rows, std::int64_t depth,
                        float* values) {
  const Floats one = broadcast(1.0F);
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t k = 0; k < depth; k += lanes) {
      const std::uint64_t word = bits[r * block_words + k / 64];
      const auto piece = static_cast<std::uint32_t>(word >> (k % 64));
      store(values + r * sum_block + k, select_bits(piece, one));
    }
  }
}

/// `vectors`: of all columns that the rows will be multiplied with.
inline void prepare_rows(const BlockRows& from, Method method, std::int64_t vectors,
                         PreparedRows& to) {
  to.rows = from.rows;
  to.depth = from.depth;
  RowOfTerms row = {from.bits != nullptr, 0, static_cast<float>(from.depth),
                    static_cast<float>(vectors)};
  // Where events do not pay for rows of zeros, nothing is counted.
  to.event = method == Method::event || (method == Method::by_density && events_pay(row));
  if (to.event) {
    const std::int64_t set =
        from.bits != nullptr
            ? count_bits(from.bits, from.rows, to.lists.counts)
            : find_values(from.values, from.rows, from.depth, to.lists.set, to.lists.counts);
    row.density = static_cast<float>(set) / static_cast<float>(from.rows * from.depth);
    to.event = method == Method::event || events_pay(row);
  }
  if (to.event) {
    make_lists(from.bits != nullptr ? from.bits : to.lists.set, from.values, from.rows, from.depth,
               to.lists);
  } else if (from.bits != nullptr) {
    expand_bits(from.bits, from.rows, from.depth, to.expanded);
    to.dense = to.expanded;
  } else {
    to.dense = from.values;
  }
}

template <int vectors>
H2LEARN_INLINE void add_to(float* sums, const Floats* block, bool first) {
  H2LEARN_UNROLL
  for (int v = 0; v < vectors; ++v) {
    store(sums + v * lanes, first ? block[v] : load(sums + v * lanes) + block[v]);
  }
}

/// block[group_rows][vectors] += the rows of a panel that a group's lists name.
template <int vectors, bool weighted, bool once>
H2LEARN_INLINE void add_lists(const Lists& lists, const ListGroup& group, const float* panel,
                              Floats (*block)[vectors]) {
  const char* const base = reinterpret_cast<const char*>(panel);
  const std::uint16_t* const offsets = lists.offsets + group.first;
  const float* const values = lists.values + group.first;
  const std::int64_t length = group.length;
  for (std::int64_t entry = 0; entry < length; ++entry) {
    std::uint64_t quads[group_rows / quad_rows];
    H2LEARN_UNROLL
    for (int q = 0; q < group_rows / quad_rows; ++q) {
      quads[q] = quad_offsets(offsets + entry * group_rows + q * quad_rows);
    }
    Floats of_rows[group_rows];
    if constexpr (weighted) entry_values(values + entry * group_rows, of_rows);
    H2LEARN_UNROLL
    for (int r = 0; r < group_rows; ++r) {
      const std::uint64_t offset = offset_of(quads[r / quad_rows], r % quad_rows);
      // cppcheck-suppress invalidPointerCast ; offsets count bytes of a panel of floats
      const float* const row = reinterpret_cast<const float*>(base + offset * vectors);
      H2LEARN_UNROLL
      for (int v = 0; v < vectors; ++v) {
        const Floats terms = load(row + v * lanes);
        if constexpr (weighted) {
          block[r][v] = multiply_add<once>(of_rows[r], terms, block[r][v]);
        } else {
          block[r][v] += terms;
        }
      }
    }
  }
}

/// What is fetched meanwhile: lists read a panel in an order that no processor foresees, so the
/// panel to come is, a few lines for each of `groups`.
class Fetch {
 public:
  Fetch(const float* from, std::int64_t bytes, std::int64_t groups)
      : next_(from), lines_(blocks_of(bytes, most(groups, 1) * line_floats * 4)) {}
  H2LEARN_INLINE void step() {
    for (std::int64_t i = 0; i < lines_; ++i, next_ += line_floats) __builtin_prefetch(next_, 0, 2);
  }

 private:
  static constexpr std::int64_t line_floats = 16;
  const float* next_;
  std::int64_t lines_;
};

template <int vectors, bool weighted, bool once>
H2LEARN_TILE void add_events(const Lists& lists, const float* panel, Fetch fetch, float* sums,
                             std::int64_t stride, bool first) {
  for (std::int64_t g = 0; g < lists.group_count; ++g) {
    const ListGroup& group = lists.groups[g];
    fetch.step();
    Floats block[group_rows][vectors] = {};
    add_lists<vectors, weighted, once>(lists, group, panel, block);
    H2LEARN_UNROLL
    for (int r = 0; r < group_rows; ++r) {
      if (group.row[r] >= 0) add_to<vectors>(sums + group.row[r] * stride, block[r], first);
    }
  }
}

/// Calls visit.operator()<rows>(first) with `rows` a constant between 1 and `most_rows`.
template <int most_rows, typename Visit>
H2LEARN_INLINE void visit_tile(std::int64_t rows, std::int64_t first, Visit visit) {
  if constexpr (most_rows > 1) {
    if (rows < most_rows) return visit_tile<most_rows - 1>(rows, first, visit);
  }
  visit.template operator()<most_rows>(first);
}

/// Cuts `count` rows into as few tiles as possible, of nearly equal size.
template <int most_rows, typename Visit>
H2LEARN_INLINE void for_each_tile(std::int64_t count, Visit visit) {
  std::int64_t first = 0;
  for (std::int64_t tiles = blocks_of(count, most_rows); tiles > 0; --tiles) {
    const std::int64_t rows = blocks_of(count - first, tiles);
    visit_tile<most_rows>(rows, first, visit);
    first += rows;
  }
}

template <int rows, int vectors, bool once>
H2LEARN_TILE void multiply_tile(const float* values, const float* panel, std::int64_t depth,
                                float* sums, std::int64_t stride, bool first) {
  Floats block[rows][vectors] = {};
  for (std::int64_t k = 0; k < depth; ++k) {
    Floats terms[vectors];
    H2LEARN_UNROLL
    for (int v = 0; v < vectors; ++v) terms[v] = load(panel + (k * vectors + v) * lanes);
    H2LEARN_UNROLL
    for (int r = 0; r < rows; ++r) {
      const Floats value = broadcast(values[r * sum_block + k]);
      H2LEARN_UNROLL
      for (int v = 0; v < vectors; ++v) {
        block[r][v] = multiply_add<once>(value, terms[v], block[r][v]);
      }
    }
  }
  H2LEARN_UNROLL
  for (int r = 0; r < rows; ++r) add_to<vectors>(sums + r * stride, block[r], first);
}

template <int vectors, bool once>
inline void multiply_rows(const PreparedRows& rows, const float* panel, float* sums,
                          std::int64_t stride, bool first) {
  for_each_tile<tile_rows<vectors>>(rows.rows, [&]<int count>(std::int64_t r) {
    multiply_tile<count, vectors, once>(rows.dense + r * sum_block, panel, rows.depth,
                                        sums + r * stride, stride, first);
  });
}

/// A panel that is to come.
struct NextPanel {
  const float* panel;
  std::int64_t floats;
};

/// sums[rows][stride] += rows * panel (= when it is the first block).
template <int vectors, bool once>
inline void add_panel(const PreparedRows& rows, bool weighted, const float* panel, NextPanel next,
                      float* sums, std::int64_t stride, bool first) {
  if (!rows.event) {
    multiply_rows<vectors, once>(rows, panel, sums, stride, first);
    return;
  }
  const std::int64_t bytes = next.floats * std::int64_t{sizeof(float)};
  const Fetch fetch(next.panel, rows.far ? bytes : 0, rows.lists.group_count);
  if (weighted) {
    add_events<vectors, true, once>(rows.lists, panel, fetch, sums, stride, first);
  } else {
    add_events<vectors, false, once>(rows.lists, panel, fetch, sums, stride, first);
  }
}

}  // namespace
}  // namespace h2learn
