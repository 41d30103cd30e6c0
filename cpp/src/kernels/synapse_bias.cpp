// The bias's gradient: sums over positions, in the order of summation.hpp.
#include "kernels/synapse_choice.hpp"
#include "kernels/synapse_outer.hpp"
#include "scratch.hpp"
#include "summation.hpp"

namespace h2learn {
namespace {

/// Columns summed together.
constexpr int chunk_vectors = 4;
constexpr std::int64_t chunk_columns = chunk_vectors * lanes;

/// to[chunk_columns] = the sums of one stretch; only the first `columns` are read or meant.
void sum_stretch(const float* gradients, std::int64_t positions, std::int64_t stride,
                 std::int64_t columns, float* to) {
  Floats total[chunk_vectors] = {};
  for (std::int64_t begin = 0; begin < positions; begin += sum_block) {
    Floats block[chunk_vectors] = {};
    for (std::int64_t m = begin; m < least(begin + sum_block, positions); ++m) {
      H2LEARN_UNROLL
      for (int v = 0; v < chunk_vectors; ++v) {
        if (columns > v * lanes) {
          block[v] += load_first(gradients + m * stride + v * lanes, columns - v * lanes);
        }
      }
    }
    for (int v = 0; v < chunk_vectors; ++v) total[v] = begin == 0 ? block[v] : total[v] + block[v];
  }
  for (int v = 0; v < chunk_vectors; ++v) store(to + v * lanes, total[v]);
}

}  // namespace

namespace H2LEARN_TARGET {

void sum_positions(const float* gradients, std::int64_t positions, std::int64_t columns,
                   float* sums) {
  const std::int64_t stretches = blocks_of(positions, stretch_positions);
  const std::int64_t padded = round_up(columns, chunk_columns);
  const std::int64_t chunks = padded / chunk_columns;
  float* const parts = static_cast<float*>(
      scratch(ScratchSlot::output, static_cast<std::size_t>(stretches * padded) * sizeof(float)));
#pragma omp parallel for schedule(dynamic) if (positions * columns > parallel_from)
  for (std::int64_t t = 0; t < stretches * chunks; ++t) {
    const std::int64_t position = t / chunks * stretch_positions;
    const std::int64_t column = t % chunks * chunk_columns;
    sum_stretch(gradients + position * columns + column,
                least(stretch_positions, positions - position), columns, columns - column,
                parts + t / chunks * padded + column);
  }
  for (std::int64_t column = 0; column < columns; ++column) {
    float sum = stretches == 0 ? 0 : parts[column];
    for (std::int64_t s = 1; s < stretches; ++s) sum += parts[s * padded + column];
    sums[column] = sum;
  }
}

}  // namespace H2LEARN_TARGET
}  // namespace h2learn
