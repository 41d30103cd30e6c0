// The numbers that the engines make, without the time that they take: the order of every addition
// and every rounding of "Arithmetic" in docs/microarchitecture.md, bit for bit. Here are only the
// parameters of a machine that decide a number; the others decide time.
//
// Values are float32 that are rounded to the precision where the machine writes them. Results do
// not depend on the number of threads.
#pragma once

#include <cstdint>

#include "h2learn/accelerator/precision.hpp"
#include "h2learn/geometry.hpp"
#include "h2learn/spikes.hpp"

namespace h2learn::accelerator {

/// An array of tables: `rows` of them feed an adder tree, each covers `inputs` terms.
struct TableArray {
  std::int64_t rows = 32;
  std::int64_t inputs = 6;
  bool tables = true;  ///< false: a conditional fp32 adder takes the terms one after another
};

/// The weight-update engine sums in the order in which it visits positions: by parts of the
/// mini-batch, by blocks of images whose inputs fit half of `spikes_bytes`, backward in time.
struct UpdateArray : TableArray {
  std::int64_t columns = 32;  ///< matters with `compact` only
  std::int64_t spikes_bytes = 512 << 10;
  std::int64_t parts = 4;
  bool compact = false;  ///< leave out positions whose gradients are all zero for a column tile
};

/// Inputs of a layer: value = scale * sum over planes of plane_weights[plane] * bit.
struct PlaneInputs {
  PackedView bits;
  const float* plane_weights = nullptr;  ///< [planes]; null: 2^plane
  float scale = 1.0F;
};

/// currents[rows, out_positions, out_channels] of the forward engine; `weight` in torch's order,
/// `bias[out_channels]` may be null.
void hardware_forward(const Geometry& geometry, const PlaneInputs& inputs, const float* weight,
                      const float* bias, float* currents, Precision precision,
                      const TableArray& array);

/// grad_inputs[images, in_positions, in_channels] of the backward engine from
/// grad_currents[images, out_positions, out_channels]; +0 where `mask` has no bit (null: all).
void hardware_backward(const Geometry& geometry, const float* grad_currents, std::int64_t images,
                       const float* weight, const std::uint64_t* mask, float* grad_inputs,
                       Precision precision);

/// grad_weight, in torch's order, of the weight-update engine. Rows of the inputs and of
/// grad_currents[rows, out_positions, out_channels] are timestep * samples + sample.
void hardware_update(const Geometry& geometry, const PlaneInputs& inputs,
                     const float* grad_currents, std::int64_t timesteps, std::int64_t samples,
                     float* grad_weight, Precision precision, const UpdateArray& array);

}  // namespace h2learn::accelerator
