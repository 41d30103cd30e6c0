// The synapse's kernels: what the public functions (src/forward.cpp, backward.cpp,
// weight_update.cpp) ask of the instruction set in use.
//
// All three products are one: a left operand whose rows are gathered from the images through the
// layer's windows (bits or floats), against a right operand cut into panels.
//   forward        rows = output positions, length = fan-in,              panels = weights
//   backward       rows = input positions,  length = taps * outputs,      panels = weights
//   weight update  rows = fan-in (the gathered operand, transposed),
//                  length = positions,                                    panels = gradients
// Sums are cut into blocks of `sum_block` terms, so a kernel's unit of work is
// [rows, sum_block] x [sum_block, a panel's columns], added to a tile of sums.
#pragma once

#include <cstdint>

#include "dispatch.hpp"

namespace h2learn {

/// `length` consecutive elements of an image, starting at `source`, which lie at `target` in a
/// gathered row. Elements of the row that no run covers are zeros (the padding).
struct Run {
  std::int32_t source;
  std::int32_t target;
  std::int32_t length;
};

/// Consecutive terms of a sum that are consecutive in a window, too: `length` terms from `target`,
/// `row` rows below the window's origin, from `offset` (in a padded copy of one group's channels).
struct WindowRun {
  std::int32_t row;
  std::int32_t offset;
  std::int32_t target;
  std::int32_t length;
};

/// The same rows as windows that slide over the padded image in equal steps, which lets dense
/// kernels read a padded copy in place of gathered rows where the image is not spread.
struct Windows {
  const WindowRun* runs;
  const std::int32_t* first_of_block;  ///< runs of each block of sum_block terms: [blocks + 1]
  std::int64_t image_height;
  std::int64_t image_width;
  std::int64_t channels;  ///< of a group
  std::int64_t height;    ///< rows of windows
  std::int64_t width;     ///< windows in a row
  std::int64_t stride_height;
  std::int64_t stride_width;
  std::int64_t spread_height;  ///< rows of windows from one row of the image to the next, between
  std::int64_t spread_width;   ///< which are zeros: what a stride makes of a backward pass
  std::int64_t top;            ///< rows of padding above the image; cropped when negative
  std::int64_t left;
  std::int64_t window_height;  ///< from the first to the last tap
  std::int64_t window_width;
};

/// Images and how rows are gathered from them. Exactly one of `words` and `values` is set; words
/// of one plane are spikes, of several counts, which are multiplied as floats are.
struct GatheredRows {
  const Run* runs;                ///< of all positions, each position's by ascending target;
                                  ///< null where nothing is gathered
  const std::int32_t* first_run;  ///< [positions + 1]
  std::int64_t positions;         ///< rows of one image
  std::int64_t images;
  std::int64_t length;        ///< elements of a row
  std::int64_t group_stride;  ///< added to a run's source for each group
  std::int64_t groups;
  const std::uint64_t* words;  ///< [planes, images, words_per_image]
  std::int64_t planes;
  std::int64_t words_per_image;
  const float* values;  ///< [images, image_stride]
  std::int64_t image_stride;
  Windows windows;
};

/// Windows must be so many in a row to fill a register tile, and so few that a row of their sums
/// fits a thread's memory.
constexpr std::int64_t least_windows = 4;
constexpr std::int64_t most_windows = 1024;

/// Channels that Choice::taps lists together, at least: shorter lists cost more than the gathering
/// that they save.
constexpr std::int64_t least_tap_chunk = 64;

/// A linear layer of so few images uses a packed weight hardly more than once.
constexpr std::int64_t few_images = 224;

/// How the work is to be done (kernel.hpp).
/// `sampled`: only where the mask has a bit, each element a sum of its own.
enum class Method { by_density, event, dense, tables, sampled };

/// How the left operand is read.
/// `windows`: multiplied densely, where it lies. `taps`: by events, listed for all taps.
/// `scatter`: added to the sums that a bit reaches, bit by bit. `depthwise`: a channel a lane, by a
/// kernel of its own. `walk`: by events, a row of a linear layer at a time; reads its weights in
/// place.
enum class Choice { gather, windows, taps, scatter, depthwise, walk };

/// Shape of the table engine (LutShape).
struct Tables {
  std::int64_t inputs;
  std::int64_t rows;
};

/// sums[row, group * columns + n] = sum over k of row[k] * panels[group][k][n], with everything
/// that the forward and the backward pass do to a finished sum.
struct GatherProduct {
  GatheredRows rows;
  std::int64_t columns;       ///< of one group
  const float* panels;        ///< as pack_weights() left them; null: `weight` is read in place
  const float* weight;        ///< torch's order
  bool finite_blocks;         ///< of spikes, whichever there are; false: not so, or not known
  bool transposed;            ///< of `weight` [outputs, channels], columns are channels
  float scale;                ///< of spikes and counts; 1 for floats
  bool rounds_once;           ///< a product and its sum, also where the processor cannot
  const float* bias;          ///< [groups * columns] or null; not together with a mask
  const std::uint64_t* mask;  ///< [images, words of positions * groups * columns] or null
  float* out;                 ///< [images * positions, groups * columns]
  Method method;
  Choice choice;
  Tables tables;
};

/// grad_weight[n, c, tap] (torch's order) = sum over rows of row[tap * channels + c] *
/// gradients[row, n], by group.
struct OuterProduct {
  GatheredRows rows;
  std::int64_t columns;  ///< of one group
  std::int64_t taps;
  const float* gradients;  ///< [images * positions, groups * columns]
  float scale;
  bool rounds_once;  ///< as GatherProduct's
  float* grad_weight;
  Method method;
  Choice choice;
  Tables tables;
};

/// Weights in torch's order, [groups * outputs, channels, taps].
struct WeightShape {
  std::int64_t groups;
  std::int64_t outputs;
  std::int64_t channels;
  std::int64_t taps;
};

/// Which product the weights are packed for: it decides what the columns are and how the terms
/// of a sum are ordered.
/// `sampled` is the backward pass' again, each channel's terms in a row:
/// [group][block][channels][dot_block], and zeros up to whole dot_lanes.
enum class PackFor { forward, backward, tables, sampled };

struct SynapseKernels {
  /// A NaN where one of the values is.
  float (*largest_magnitude)(const float* values, std::int64_t count);
  /// Whether gather_product() reads the product's `weight` in place: a linear layer with so few
  /// images that each weight would be packed to be used once, depthwise ones, and Choice::walk.
  bool (*reads_in_place)(const GatherProduct& product);
  /// Floats that pack_weights() needs.
  std::int64_t (*packed_size)(const WeightShape& shape, PackFor use);
  /// Returns false when a weight is not finite.
  bool (*pack_weights)(const WeightShape& shape, PackFor use, const float* weight, float* panels);
  /// By the measured density of `rows`, whose runs are not looked at: they need not be made
  /// where nothing is gathered.
  Choice (*choose_product)(const GatheredRows& rows, std::int64_t columns, Method method);
  Choice (*choose_outer)(const GatheredRows& rows, std::int64_t columns, Method method);
  void (*gather_product)(const GatherProduct& product);
  void (*outer_product)(const OuterProduct& product);
  void (*sum_positions)(const float* gradients, std::int64_t positions, std::int64_t columns,
                        float* sums);
};

H2LEARN_DECLARE_KERNELS(SynapseKernels, synapse_kernels)

}  // namespace h2learn
