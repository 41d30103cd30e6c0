// Bit-packed spikes: how a [T, B, ...] tensor of zeros and ones is stored, and the few
// operations that work on the bits themselves.
//
// Layout. A packed tensor is `planes` x `rows` x `words_per_row` 64-bit words. A row is one
// image (one timestep of one sample); its features are ordered channels-last, (h, w, c) with c
// fastest, as torch's channels_last memory format does. Feature f is bit (f mod 64) of word
// (f div 64), least significant bit first, so that on a little-endian machine one row is
//     numpy.packbits(features, bitorder="little")
// followed by zero bytes up to a multiple of eight. The padding bits are zero, always: every
// function here relies on it and preserves it.
//
// Planes. Binary spikes have one plane. An average of spikes is an integer count times a scale:
// bit plane p holds bit p of the count, so that value = scale * sum_p 2^p * bit_p.
#pragma once

#include <cstdint>

namespace h2learn {

constexpr std::int64_t word_bits = 64;

/// Of a count: a float32 holds every integer of so many bits.
constexpr std::int64_t most_planes = 24;

/// Words that hold `features` bits.
constexpr std::int64_t words_for(std::int64_t features) {
  return (features + word_bits - 1) / word_bits;
}

/// A packed tensor somebody else owns. `rows` counts images, `features` the bits of a row.
struct PackedView {
  const std::uint64_t* words = nullptr;
  std::int64_t planes = 1;
  std::int64_t rows = 0;
  std::int64_t features = 0;

  std::int64_t words_per_row() const { return words_for(features); }
  const std::uint64_t* row(std::int64_t plane, std::int64_t r) const {
    return words + (plane * rows + r) * words_per_row();
  }
};

/// Packs float rows of zeros and ones, `dense[rows, features]`, into `words[rows, words_per_row]`.
/// Returns the flat index of the first element that is neither 0 nor 1, or -1 when all are.
std::int64_t pack(const float* dense, std::int64_t rows, std::int64_t features,
                  std::uint64_t* words);

/// Packs where float rows `dense[rows, features]` are not zero into `words[rows, words_per_row]`.
/// -0 is zero; NaN is not.
void pack_nonzero(const float* dense, std::int64_t rows, std::int64_t features,
                  std::uint64_t* words);

/// Writes value = scale * count, `dense[rows, features]`.
void unpack(const PackedView& packed, float scale, float* dense);

/// Set bits over all planes and rows.
std::int64_t popcount(const PackedView& packed);

/// Set bits of each row, summed over planes: `counts[rows]`.
void popcount_rows(const PackedView& packed, std::int64_t* counts);

/// Reorders each row's features from (position, channel) to (channel, position), that is from
/// channels-last to the order that flattening a dense [C, H, W] tensor gives; `to_positions`
/// undoes it. `out` has the planes, rows and words of `packed`; it must not overlap it.
void transpose_features(const PackedView& packed, std::int64_t positions, std::int64_t channels,
                        bool to_positions, std::uint64_t* out);

/// Transposes a bit matrix: `bits[rows, words_for(columns)]` to `out[columns, words_for(rows)]`.
void transpose_bits(const std::uint64_t* bits, std::int64_t rows, std::int64_t columns,
                    std::uint64_t* out);

}  // namespace h2learn
