// The numbers that the units compute as they tick, when they are asked for ("Arithmetic" in
// docs/microarchitecture.md). The units decide what happens when; this is what then happens to the
// values, in the order in which it happens.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "accelerator/clocked_plan.hpp"
#include "h2learn/accelerator/values.hpp"

namespace h2learn::accelerator::clocked {

class Numbers {
 public:
  /// Sizes the outputs of `values`. Throws std::invalid_argument when they contradict the work.
  Numbers(const Machine& machine, const StepWork& step, Precision precision,
          std::vector<LayerValues>& values);

  /// Entry `entry` of the tables of all PEs of the job, in one of the two banks.
  void write_entry(const Job& job, std::int64_t bank, std::int64_t entry);

  /// Where there are no tables: the operands of the job, rounded, in one of the two banks.
  void write_operands(const Job& job, std::int64_t bank);

  /// What the adder trees of the columns give for these bits, one for each operand of a column.
  std::vector<float> tree_sums(const Job& job, std::int64_t bank,
                               const std::vector<std::uint8_t>& bits);

  /// psum += w_plane · sum, at `place`: a position of the block.
  void accumulate_forward(const Job& job, std::int64_t place, std::int64_t plane,
                          const std::vector<float>& sums);

  /// Drains some psums of a set, (position, column) ascending, into currents.
  void drain(const Job& soma, Range steps);

  /// Adds the products of an item to the psums of its channels, which stand where the gradients at
  /// the inputs will be, and rounds them there in the last row tile.
  void multiply(const Job& job, std::int64_t image, std::int64_t position, Range channels);

  /// accumulator += w_plane · sum, at `place`: a fan-in index of the input block.
  void accumulate_update(const Job& job, std::int64_t place, std::int64_t plane,
                         const std::vector<float>& sums);

  /// Scales the weight gradients, when the last part has been added.
  void finish();

 private:
  /// Of an engine's two banks, [columns, tables, 2^inputs]; without tables [columns, operands].
  using Banks = std::array<std::vector<float>, 2>;

  LayerValues& values(const Job& job) const {
    return values_[static_cast<std::size_t>(job.layer->index)];
  }
  const TableEngine& engine(const Job& job) const;
  Banks& banks(const Job& job) { return job.pass() == Pass::update ? update_ : forward_; }
  float plane_weight(const Job& job, std::int64_t plane) const;
  float operand(const Job& job, std::int64_t column, std::int64_t index) const;

  const Machine& machine_;
  Precision precision_;
  std::vector<LayerValues>& values_;
  Banks forward_, update_;
  std::array<std::vector<float>, 2> psums_;  ///< of a set each, [positions, columns]
};

}  // namespace h2learn::accelerator::clocked
