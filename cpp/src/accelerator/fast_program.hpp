// The step's tiles in program order, each with its duration, its bytes and what it waits for, and
// the counters that do not depend on time.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "accelerator/fast_bits.hpp"
#include "accelerator/fast_shape.hpp"

namespace h2learn::accelerator::fast {

/// A tile of an engine; index -1: none.
struct TileId {
  std::int32_t engine = 0;
  std::int32_t index = -1;

  bool exists() const { return index >= 0; }
};

/// What the timing needs of a tile besides its bytes.
struct TileWork {
  std::int64_t build_cycles = 0;
  std::int64_t run_cycles = 0;
  std::array<TileId, 2> data = {};   ///< must be complete before its load is issued
  std::array<TileId, 4> order = {};  ///< must have ended before it starts
};

struct Program {
  std::array<std::vector<TileWork>, engine_count> works;  ///< beside result.tiles
  Result result;                                          ///< without times
};

Program make_program(const Machine& machine, const std::vector<Layer>& layers,
                     const std::vector<Part>& parts, const std::vector<LayerBits>& bits);

}  // namespace h2learn::accelerator::fast
