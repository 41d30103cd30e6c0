// The public operations on packed spikes: check the arguments, choose the instruction set.
#include "h2learn/spikes.hpp"

#include <cmath>
#include <stdexcept>
#include <string>

#include "kernels/spikes.hpp"
#include "reference/spikes.hpp"

namespace h2learn {
namespace {

/// The kernels of the target in use; the scalar ones are the reference itself.
const SpikesKernels& kernels() {
  static constexpr SpikesKernels scalar = {
      &reference::pack,     &reference::pack_nonzero,       &reference::unpack,
      &reference::popcount, &reference::transpose_matrices, &reference::transpose_bits};
  const Target target = active_target();
  return target == Target::scalar ? scalar : detail::pick_spikes(target);
}

void require_between(const char* name, std::int64_t value, std::int64_t least, std::int64_t most) {
  if (value < least || value > most) {
    throw std::invalid_argument(std::string(name) + " must be between " + std::to_string(least) +
                                " and " + std::to_string(most) + ", got " + std::to_string(value));
  }
}

/// Far beyond any memory, and small enough that products of two sizes cannot overflow.
constexpr std::int64_t most_elements = std::int64_t{1} << 31;

void validate(const PackedView& packed) {
  require_between("planes", packed.planes, 1, most_planes);
  require_between("rows", packed.rows, 0, most_elements);
  require_between("features", packed.features, 0, most_elements);
}

}  // namespace

std::int64_t pack(const float* dense, std::int64_t rows, std::int64_t features,
                  std::uint64_t* words) {
  require_between("rows", rows, 0, most_elements);
  require_between("features", features, 0, most_elements);
  if (kernels().pack(dense, rows, features, words)) return -1;
  std::int64_t index = 0;
  while (dense[index] == 0.0F || dense[index] == 1.0F) ++index;
  return index;
}

void pack_nonzero(const float* dense, std::int64_t rows, std::int64_t features,
                  std::uint64_t* words) {
  require_between("rows", rows, 0, most_elements);
  require_between("features", features, 0, most_elements);
  kernels().pack_nonzero(dense, rows, features, words);
}

void unpack(const PackedView& packed, float scale, float* dense) {
  validate(packed);
  if (!std::isfinite(scale)) {
    throw std::invalid_argument("scale must be finite, got " + std::to_string(scale));
  }
  kernels().unpack(packed, scale, dense);
}

std::int64_t popcount(const PackedView& packed) {
  validate(packed);
  return kernels().popcount(packed.words, packed.planes * packed.rows * packed.words_per_row());
}

void popcount_rows(const PackedView& packed, std::int64_t* counts) {
  validate(packed);
  const auto count = kernels().popcount;
  for (std::int64_t r = 0; r < packed.rows; ++r) {
    counts[r] = 0;
    for (std::int64_t p = 0; p < packed.planes; ++p) {
      counts[r] += count(packed.row(p, r), packed.words_per_row());
    }
  }
}

void transpose_features(const PackedView& packed, std::int64_t positions, std::int64_t channels,
                        bool to_positions, std::uint64_t* out) {
  validate(packed);
  require_between("positions", positions, 0, most_elements);
  require_between("channels", channels, 0, most_elements);
  if (positions * channels != packed.features) {
    throw std::invalid_argument("positions * channels must be the features of a row (" +
                                std::to_string(packed.features) + "), got " +
                                std::to_string(positions) + " * " + std::to_string(channels));
  }
  const std::int64_t rows = to_positions ? channels : positions;
  const std::int64_t columns = to_positions ? positions : channels;
  kernels().transpose_matrices(packed.words, packed.planes * packed.rows, packed.words_per_row(),
                               rows, columns, out);
}

void transpose_bits(const std::uint64_t* bits, std::int64_t rows, std::int64_t columns,
                    std::uint64_t* out) {
  require_between("rows", rows, 0, most_elements);
  require_between("columns", columns, 0, most_elements);
  kernels().transpose_bits(bits, rows, columns, out);
}

}  // namespace h2learn
