#include "reference/spikes.hpp"

#include <algorithm>
#include <bit>

namespace h2learn::reference {
namespace {

bool bit_at(const std::uint64_t* words, std::int64_t index) {
  return ((words[index / word_bits] >> (index % word_bits)) & 1U) != 0;
}

void set_bit(std::uint64_t* words, std::int64_t index) {
  words[index / word_bits] |= std::uint64_t{1} << (index % word_bits);
}

}  // namespace

bool pack(const float* dense, std::int64_t rows, std::int64_t features, std::uint64_t* words) {
  const std::int64_t row_words = words_for(features);
  std::fill_n(words, rows * row_words, std::uint64_t{0});
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t f = 0; f < features; ++f) {
      const float value = dense[r * features + f];
      if (value != 0.0F && value != 1.0F) return false;
      if (value == 1.0F) set_bit(words + r * row_words, f);
    }
  }
  return true;
}

void pack_nonzero(const float* dense, std::int64_t rows, std::int64_t features,
                  std::uint64_t* words) {
  const std::int64_t row_words = words_for(features);
  std::fill_n(words, rows * row_words, std::uint64_t{0});
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t f = 0; f < features; ++f) {
      if (dense[r * features + f] != 0.0F) set_bit(words + r * row_words, f);
    }
  }
}

void unpack(const PackedView& packed, float scale, float* dense) {
  for (std::int64_t r = 0; r < packed.rows; ++r) {
    for (std::int64_t f = 0; f < packed.features; ++f) {
      std::int32_t count = 0;
      for (std::int64_t p = 0; p < packed.planes; ++p) {
        count += std::int32_t{bit_at(packed.row(p, r), f)} << p;
      }
      dense[r * packed.features + f] = scale * static_cast<float>(count);
    }
  }
}

std::int64_t popcount(const std::uint64_t* words, std::int64_t count) {
  std::int64_t total = 0;
  for (std::int64_t i = 0; i < count; ++i) total += std::popcount(words[i]);
  return total;
}

void transpose_matrices(const std::uint64_t* bits, std::int64_t matrices, std::int64_t words,
                        std::int64_t rows, std::int64_t columns, std::uint64_t* out) {
  std::fill_n(out, matrices * words, std::uint64_t{0});
  for (std::int64_t m = 0; m < matrices; ++m) {
    for (std::int64_t r = 0; r < rows; ++r) {
      for (std::int64_t c = 0; c < columns; ++c) {
        if (bit_at(bits + m * words, r * columns + c)) set_bit(out + m * words, c * rows + r);
      }
    }
  }
}

void transpose_bits(const std::uint64_t* bits, std::int64_t rows, std::int64_t columns,
                    std::uint64_t* out) {
  std::fill_n(out, columns * words_for(rows), std::uint64_t{0});
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t c = 0; c < columns; ++c) {
      if (bit_at(bits + r * words_for(columns), c)) set_bit(out + c * words_for(rows), r);
    }
  }
}

}  // namespace h2learn::reference
