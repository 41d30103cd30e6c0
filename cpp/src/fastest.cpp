#include "fastest.hpp"

#include <algorithm>
#include <array>
#include <limits>

#include "digits_backward.hpp"
#include "digits_plan.hpp"
#include "h2learn/digits.hpp"
#include "h2learn/target.hpp"
#include "kernels/digits.hpp"

namespace h2learn {
namespace {

/// What a product costs by two kernels beside the dense one, whose time is 1. A product is
/// `rows` x `terms` x `columns` multiplications, where rows are positions of all images, and
/// columns what a row's result has (a weight update's: an input's); `padding` is what digits
/// multiply beside that.
struct DigitsCosts {
  Target target;
  Product product;
  float multiply;           ///< Kernel::digits: multiplying, times the padding
  float by_rows;            ///< quantizing and packing weights, shared by the rows
  float by_terms;           ///< putting a sum together, shared by its terms
  float by_columns;         ///< writing out an operand's bytes, shared by the columns
  float events;             ///< Kernel::event, whatever the layer is
  float events_by_columns;  ///< gathering and listing a row, shared by its columns
  float nonzero;            ///< adding
};

/// Instruction sets and products without a row: there digits do not pay.
constexpr auto all_costs = std::to_array<DigitsCosts>({
    {},  // of no target; an array may not be empty
#include "digits_costs.inc"
});

const DigitsCosts* costs_of(Product product) {
  const Target target = active_target();
  const auto* const found = std::find_if(
      all_costs.begin() + 1, all_costs.end(),
      [&](const DigitsCosts& costs) { return costs.target == target && costs.product == product; });
  return found == all_costs.end() ? nullptr : found;
}

double ratio(std::int64_t a, std::int64_t b) {
  return static_cast<double>(a) / static_cast<double>(b);
}

/// n up to a multiple, over n.
double padded(std::int64_t n, std::int64_t multiple) {
  return ratio((n + multiple - 1) / multiple * multiple, n);
}

/// Bytes that digits multiply over those that there are: runs of a window are packed to whole
/// steps, columns to whole panels, a weight update's images and channels to whole steps and tiles.
/// Infinite where AMX has no tiles for runs so short. (The backward pass packs some layers
/// otherwise, of which only narrow ones differ by more than a quarter.)
double padding_of(Product product, const Geometry& geometry, std::int64_t images,
                  std::int64_t columns) {
  const double of_columns = padded(columns, digits_panel_columns);
  if (product == Product::weight_update) {
    constexpr std::int64_t tile_channels = 16;
    return of_columns * padded(std::max<std::int64_t>(images, 1), step_images) *
           padded(geometry.channels_per_group(), tile_channels);
  }
  Geometry windows = geometry;
  if (product == Product::backward) windows.in_channels = geometry.out_channels;
  const std::int64_t step = detail::pick_digits_kernels(active_target()).run_step;
  const WindowBytes bytes = window_bytes(windows, 0, step);
  if (bytes.packed_length % step != 0) return std::numeric_limits<double>::infinity();
  return of_columns * ratio(bytes.packed_length, bytes.length);
}

double cost_of_digits(const DigitsCosts& costs, const Geometry& geometry, std::int64_t images) {
  const bool backward = costs.product == Product::backward;
  const std::int64_t positions = backward ? geometry.in_positions() : geometry.out_positions();
  const std::int64_t rows = std::max<std::int64_t>(images * positions, 1);
  const std::int64_t columns =
      backward ? geometry.channels_per_group() : geometry.outputs_per_group();
  const std::int64_t terms =
      backward ? geometry.taps() * geometry.outputs_per_group() : geometry.fan_in();
  return costs.multiply * padding_of(costs.product, geometry, images, columns) +
         costs.by_rows * ratio(1, rows) + costs.by_terms * ratio(1, terms) +
         costs.by_columns * ratio(1, columns);
}

bool digits_fit(Product product, const Geometry& geometry, std::int64_t images,
                std::int64_t planes) {
  // Their weights would be packed to be used once; the others read them in place.
  const bool linear = geometry.in_positions() == 1 && geometry.out_positions() == 1;
  if (linear && images <= few_images) return false;
  // Bytes that one tap reads are loaded for one product: digits gain where spikes are many, if at
  // all.
  if (product == Product::weight_update && geometry.taps() == 1) return false;
  if (product == Product::forward) return forward_fits(geometry, planes);
  if (product == Product::backward) return backward_fits(geometry);
  return OuterBlocks(geometry, images).fit(planes);
}

}  // namespace

bool digits_may_pay(Product product, const Geometry& geometry, std::int64_t images,
                    std::int64_t planes) {
  // The others' costs grow with the density: where digits do not pay at the highest, they never do.
  return digits_fit(product, geometry, images, planes) && digits_pay(product, geometry, images, 1);
}

bool digits_pay(Product product, const Geometry& geometry, std::int64_t images, double density,
                double others) {
  const DigitsCosts* const costs = costs_of(product);
  if (costs == nullptr) return false;
  const std::int64_t columns =
      product == Product::backward ? geometry.channels_per_group() : geometry.outputs_per_group();
  const double events =
      costs->events + costs->events_by_columns * ratio(1, columns) + costs->nonzero * density;
  return cost_of_digits(*costs, geometry, images) < std::min({1.0, events, others});
}

Kernel resolved(Kernel kernel, Product product, const Geometry& geometry,
                const PackedView& spikes) {
  if (kernel != Kernel::fastest) return kernel;
  if (!digits_may_pay(product, geometry, spikes.rows, spikes.planes)) return Kernel::automatic;
  const std::int64_t features = std::max<std::int64_t>(spikes.rows * geometry.in_features(), 1);
  // Of counts, planes that share an element are counted twice: at most as many are zeros.
  const double density = std::min(ratio(popcount(spikes), features), 1.0);
  return digits_pay(product, geometry, spikes.rows, density) ? Kernel::digits : Kernel::automatic;
}

}  // namespace h2learn
