// Where a packed right operand lies, and packing one whose rows are terms. For kernel sources
// only.
//
// For each group: blocks of `block` terms; for each block: panels of panel_columns columns (the
// last one `lanes` wide when that is enough); for each panel: a row of columns for each term, and
// one row of zeros.
#pragma once

#include <cstdint>

#include "kernels/synapse_gather.hpp"
#include "kernels/transpose.hpp"
#include "kernels/vec.hpp"

namespace h2learn {
namespace {

/// Vectors in a panel's row, and so in the sums a kernel holds for one row.
constexpr int panel_vectors = 2;
constexpr std::int64_t panel_columns = panel_vectors * lanes;

struct PanelLayout {
  std::int64_t length;   ///< terms of a sum
  std::int64_t columns;  ///< of a group
  std::int64_t block;    ///< terms of a block

  std::int64_t padded() const { return round_up(columns, lanes); }
  /// By a shift where it can be: packing asks once a vector, and would divide most of the time.
  std::int64_t number(std::int64_t term) const {
    return block == sum_block ? term / sum_block : term / block;
  }
  std::int64_t depth(std::int64_t term) const {
    return least(block, length - number(term) * block);
  }
  std::int64_t group_floats() const { return (length + number(length + block - 1)) * padded(); }

  /// The panels of the block that starts at `term`, from `column`, where a panel must start.
  std::int64_t panel(std::int64_t group, std::int64_t term, std::int64_t column) const {
    return group * group_floats() + number(term) * (block + 1) * padded() +
           column * (depth(term) + 1);
  }
  std::int64_t panel_width(std::int64_t column) const {
    return least(panel_columns, padded() - column / panel_columns * panel_columns);
  }
  /// One element; `term` may also be the row of zeros, depth(term) of a block's last.
  std::int64_t element(std::int64_t group, std::int64_t term, std::int64_t column) const {
    const std::int64_t first = column / panel_columns * panel_columns;
    return panel(group, term, first) + (term - number(term) * block) * panel_width(column) +
           column - first;
  }
};

/// A vector of columns of one group's panels, for who stores term after term.
class PanelColumn {
 public:
  PanelColumn(const PanelLayout& layout, std::int64_t group, std::int64_t column)
      : layout_(layout),
        first_(column / panel_columns * panel_columns),
        width_(layout.panel_width(column)),
        block_floats_((layout.block + 1) * layout.padded()),
        begin_(group * layout.group_floats() + column - first_) {}

  /// Floats from a term to the next of its block.
  std::int64_t width() const { return width_; }

  std::int64_t element(std::int64_t term) const {
    const std::int64_t number = layout_.number(term);
    const std::int64_t block = number * layout_.block;
    const std::int64_t depth = least(layout_.block, layout_.length - block);
    return begin_ + number * block_floats_ + first_ * (depth + 1) + (term - block) * width_;
  }

 private:
  PanelLayout layout_;
  std::int64_t first_;
  std::int64_t width_;
  std::int64_t block_floats_;
  std::int64_t begin_;
};

/// One vector of columns, `stride` floats from term to term, from rows that hold the terms of a
/// column each, of which the first `columns` exist; zeros beyond.
inline void transpose_columns(const float* rows, std::int64_t row, std::int64_t depth,
                              std::int64_t columns, std::int64_t stride, float* to) {
  for (std::int64_t k = 0; k < depth; k += lanes) {
    Floats tile[lanes];
    for (int i = 0; i < lanes; ++i) {
      tile[i] = i < columns ? load_first(rows + i * row + k, depth - k) : Floats{};
    }
    transpose(tile);
    for (int i = 0; i < lanes && k + i < depth; ++i) store(to + (k + i) * stride, tile[i]);
  }
}

/// Panels of one block, `columns` (whole vectors) wide, and their rows of zeros, from rows that
/// hold a term's columns each, of which `left` exist. A row at a time: each may lie on a page of
/// its own, where no processor fetches ahead by itself.
inline void pack_rows(const float* from, std::int64_t stride, std::int64_t depth,
                      std::int64_t columns, std::int64_t left, float* panels) {
  constexpr std::int64_t ahead = 8;
  for (std::int64_t k = 0; k <= depth; ++k) {
    const float* const row = from + k * stride;
    for (std::int64_t column = 0; column < columns; column += lanes) {
      const std::int64_t panel = column / panel_columns * panel_columns;
      const std::int64_t width = least(panel_columns, columns - panel);
      if (k + ahead < depth) __builtin_prefetch(row + ahead * stride + column);
      store(panels + panel * (depth + 1) + k * width + column - panel,
            k < depth ? load_first(row + column, left - column) : Floats{});
    }
  }
}

}  // namespace
}  // namespace h2learn
