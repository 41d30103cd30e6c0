// Blocks of a task's rows that are kept as lists until all columns have been through them. For
// kernel sources only.
//
// Panel after panel of columns then, and of these block after block, so that a panel's sums stay in
// a near cache meanwhile, and rows are listed once for all columns.
#pragma once

#include <cstdint>

#include "kernels/synapse_block.hpp"
#include "kernels/synapse_workspace.hpp"

namespace h2learn {
namespace {

/// What a task adds to: columns, from `sums` on.
struct TaskSums {
  float* sums;  ///< [rows][stride]
  std::int64_t stride;
  std::int64_t columns;  ///< whole vectors
  bool weighted;         ///< rows are of values, not of bits
  bool rounds_once;
};

class KeptBlocks {
 public:
  /// `memory` is carve_rows()'s, of as many blocks as will be added; of one where panels do
  /// not stay or all rows are multiplied densely.
  KeptBlocks(const PreparedRows& memory, Method method, const TaskSums& to)
      : memory_(memory), method_(method), to_(to) {}

  /// Adds a block times its panels, now or later; its rows may be overwritten afterwards, and its
  /// panels too unless they `stay`. `first`: of the sums.
  void add(const BlockRows& block, const float* panels, bool stay, bool first) {
    PreparedRows& rows = rows_[count_];
    rows = memory_;
    rows.lists.groups += count_ * blocks_of(block.rows, group_rows);
    rows.lists.offsets += entries_;
    if (to_.weighted) rows.lists.values += entries_;
    prepare_rows(block, method_, to_.columns / lanes, rows);
    panels_[count_] = panels;
    if (count_ == 0) first_ = first;
    ++count_;
    if (rows.event) entries_ += rows.lists.entries;
    // Rows that are multiplied densely are there once.
    if (!stay || !rows.event || count_ == most_kept_blocks || entries_ > most_kept_entries) {
      multiply();
    }
  }

  /// Adds what was left for later.
  void multiply() {
    visit_rounding(to_.weighted && to_.rounds_once, [&]<bool once>() {
      for (std::int64_t column = 0; column < to_.columns; column += panel_columns) {
        for (std::int64_t i = 0; i < count_; ++i) {
          if (to_.columns - column > lanes) {
            add_column<panel_vectors, once>(i, column);
          } else {
            add_column<1, once>(i, column);
          }
        }
      }
    });
    count_ = 0;
    entries_ = 0;
  }

 private:
  const float* panel(std::int64_t i, std::int64_t column) const {
    return panels_[i] + column * (rows_[i].depth + 1);
  }

  template <int vectors, bool once>
  void add_column(std::int64_t i, std::int64_t column) {
    add_panel<vectors, once>(rows_[i], to_.weighted, panel(i, column), next_panel(i, column),
                             to_.sums + column, to_.stride, first_ && i == 0);
  }

  /// That of the next block or, behind the last, the first of the next columns.
  NextPanel next_panel(std::int64_t i, std::int64_t column) const {
    const bool last = i + 1 == count_;
    if (last) column += panel_columns;
    if (column >= to_.columns) return {};
    const std::int64_t block = last ? 0 : i + 1;
    return {panel(block, column),
            (rows_[block].depth + 1) * least(panel_columns, to_.columns - column)};
  }

  const PreparedRows& memory_;
  Method method_;
  TaskSums to_;
  PreparedRows rows_[most_kept_blocks] = {};
  const float* panels_[most_kept_blocks] = {};
  bool first_ = false;
  std::int64_t count_ = 0;
  std::int64_t entries_ = 0;
};

}  // namespace
}  // namespace h2learn
