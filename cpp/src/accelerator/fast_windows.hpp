// How the forward engine's table addresses (`inputs` consecutive fan-in indices, one bit each) fall
// on the taps of a window. Those that lie within one tap are counted once for each input position,
// however many windows it is in; only those that straddle taps are looked at window by window.
#pragma once

#include <cstdint>
#include <vector>

#include "accelerator/fast_shape.hpp"

namespace h2learn::accelerator::fast {

class WindowAddresses {
 public:
  /// Channels of a group, at one input position.
  struct Channels {
    std::int64_t first = 0;
    std::int64_t count = 0;
    bool operator==(const Channels&) const = default;
  };

  /// Channels that are whole addresses of the taps that begin at the same place within an address.
  struct Whole {
    Channels channels;
    std::vector<std::int64_t> readers;  ///< [input positions]: taps of any window that read them
  };

  /// A part of a straddling address: `fragments()[fragment]` as seen through `tap`.
  struct Piece {
    std::int64_t tap = 0;
    std::int64_t fragment = 0;
  };

  WindowAddresses(const Layer& layer, std::int64_t inputs,
                  const std::vector<std::int32_t>& output_of_input);

  const std::vector<Whole>& whole() const { return whole_; }
  const std::vector<Channels>& fragments() const { return fragments_; }
  const std::vector<std::vector<Piece>>& straddling() const { return straddling_; }

 private:
  void add_whole(const Layer& layer, std::int64_t tap, Channels channels,
                 const std::vector<std::int32_t>& output_of_input);
  std::int64_t fragment(Channels channels);

  std::vector<Whole> whole_;
  std::vector<Channels> fragments_;
  std::vector<std::vector<Piece>> straddling_;
};

}  // namespace h2learn::accelerator::fast
