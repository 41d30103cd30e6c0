// Images as bytes: one for each spike, or for the count that all planes make, with the padding
// around them. For kernel sources only.
#pragma once

#include <cstdint>

#include "kernels/synapse_gather.hpp"
#include "kernels/vec.hpp"

namespace h2learn {
namespace {

/// Copying writes up to this many bytes too many.
constexpr std::int64_t bytes_slack = 64;

/// Bytes from one row of a padded image to the next.
H2LEARN_INLINE std::int64_t padded_row_bytes(const Windows& windows) {
  return ((windows.width - 1) * windows.stride_width + windows.window_width) * windows.channels;
}

/// Rows of a padded image that `rows` rows of windows read.
H2LEARN_INLINE std::int64_t padded_image_rows(const Windows& windows, std::int64_t rows) {
  return (rows - 1) * windows.stride_height + windows.window_height;
}

/// Eight bits as eight bytes of 0 or 1, the lowest first in memory.
H2LEARN_INLINE std::uint64_t spread_bits(std::uint64_t eight) {
  constexpr std::uint64_t ones = 0x0101010101010101;
  // Byte i keeps bit i, and every byte that is not zero then carries into its top bit.
  const std::uint64_t kept = (eight * ones) & 0x8040201008040201;
  return ((kept + 0x7f * ones) >> 7) & ones;
}

/// Elements [begin, begin + length) of an image, whose planes lie `plane_words` apart.
H2LEARN_INLINE std::uint8_t* copy_values(const std::uint64_t* image, std::int64_t plane_words,
                                         std::int64_t planes, std::int64_t begin,
                                         std::int64_t length, std::uint8_t* to) {
  for (std::int64_t i = 0; i < length; i += 64) {
    const std::int64_t count = least(64, length - i);
#if defined(__AVX512BW__)
    __m512i values = _mm512_setzero_si512();
    for (std::int64_t p = 0; p < planes; ++p) {
      const std::uint64_t bits = bits_at(image + p * plane_words, begin + i, count);
      const auto weight = static_cast<char>(1U << p);
      values = _mm512_or_si512(values, _mm512_maskz_set1_epi8(bits, weight));
    }
    _mm512_storeu_si512(to + i, values);
#else
    std::uint64_t values[8] = {};
    for (std::int64_t p = 0; p < planes; ++p) {
      const std::uint64_t bits = bits_at(image + p * plane_words, begin + i, count);
      for (int j = 0; j < 8; ++j) values[j] |= spread_bits(bits >> (8 * j) & 0xff) << p;
    }
    __builtin_memcpy(to + i, values, sizeof values);
#endif
  }
  return to + length;
}

H2LEARN_INLINE std::uint8_t* fill_zero_bytes(std::uint8_t* to, std::uint8_t* end) {
  __builtin_memset(to, 0, static_cast<std::size_t>(end - to));
  return end;
}

/// What rows [first, first + rows) of an image's windows read, of one group's channels:
/// [padded_image_rows][padded_row_bytes], and slack.
inline void copy_image(const GatheredRows& from, std::int64_t group, std::int64_t image,
                       std::int64_t first, std::int64_t rows, std::uint8_t* to) {
  const Windows& windows = from.windows;
  const std::int64_t channels = windows.channels;
  const std::int64_t row_bytes = padded_row_bytes(windows);
  // Columns of the image inside the copy.
  const std::int64_t end = least(windows.image_width, row_bytes / channels - windows.left);
  const std::uint64_t* const words = from.words + image * from.words_per_image;
  const std::int64_t plane_words = from.images * from.words_per_image;
  for (std::int64_t r = 0; r < padded_image_rows(windows, rows); ++r) {
    std::uint8_t* const row_end = to + row_bytes;
    const std::int64_t y = first * windows.stride_height + r - windows.top;
    if (y >= 0 && y < windows.image_height && end > 0) {
      to = fill_zero_bytes(to, to + windows.left * channels);
      const std::int64_t source = y * windows.image_width * channels * from.groups;
      if (from.groups == 1) {
        to = copy_values(words, plane_words, from.planes, source, end * channels, to);
      } else {
        for (std::int64_t x = 0; x < end; ++x) {
          to = copy_values(words, plane_words, from.planes,
                           source + (x * from.groups + group) * channels, channels, to);
        }
      }
    }
    to = fill_zero_bytes(to, row_end);
  }
}

}  // namespace
}  // namespace h2learn
