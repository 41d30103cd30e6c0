// What the fast simulator counts bits of: strings of bits at regular distances in the packed rows
// of a step's work (the channels of each position, say).
#pragma once

#include <cstdint>

namespace h2learn::accelerator {

/// `count` strings of `length` bits; string i starts at bit `first + i * stride` of `words`.
struct BitStrings {
  const std::uint64_t* words = nullptr;
  std::int64_t first = 0;
  std::int64_t stride = 0;
  std::int64_t count = 0;
  std::int64_t length = 0;
};

/// What the tables of the weight-update engine are addressed with: the windows of `windows` output
/// positions, in order, `together` at a time (the last ones fewer). A window has a string of
/// `length` bits for each tap, starting at bit `first + input position * stride` of the image's
/// row; in the padding it is zero.
struct Windows {
  const std::uint64_t* const* rows = nullptr;  ///< [windows]: the image's row of plane 0
  const std::int32_t* outputs = nullptr;       ///< [windows]: the output position
  std::int64_t windows = 0;
  std::int64_t together = 1;
  const std::int32_t* input_of_output = nullptr;  ///< [output positions * taps] (geometry.hpp)
  std::int64_t taps = 1;
  std::int64_t planes = 1;
  std::int64_t plane_words = 0;  ///< from a row of one plane to that of the next
  std::int64_t first = 0;
  std::int64_t stride = 0;
  std::int64_t length = 0;
};

/// Windows that share a table address: no table is larger (machine.cpp).
constexpr std::int64_t most_together = 12;

/// Words that may be read behind those that hold bits, so that they are combined a vector at a
/// time.
constexpr std::int64_t words_behind = 8;

/// Table addresses that are made alike from the bits of one image: the address of place i has the
/// bits i + offsets[j]. At place i there are as many addresses as its digits in `weights` say.
struct Addresses {
  /// Readable as far as the offsets reach and `words_behind` further.
  const std::uint64_t* words = nullptr;
  const std::int64_t* offsets = nullptr;  ///< [bits], none negative
  std::int64_t bits = 0;
  std::int64_t first_word = 0;  ///< that places of `weights` begin at
  std::int64_t weight_words = 0;
  const std::uint64_t* weights = nullptr;  ///< [digits, weight_words]: digit d counts 2^d
  std::int64_t digits = 0;
};

}  // namespace h2learn::accelerator
