// Gathering rows of a block of positions out of the images (im2col, a block at a time): bits or
// floats, cut into blocks of `sum_block` elements. For kernel sources only.
#pragma once

#include <cstddef>
#include <cstdint>

#include "h2learn/forward.hpp"
#include "h2learn/spikes.hpp"
#include "kernels/synapse.hpp"
#include "kernels/vec.hpp"

namespace h2learn {
namespace {

constexpr std::int64_t block_words = sum_block / 64;

H2LEARN_INLINE std::int64_t least(std::int64_t a, std::int64_t b) { return a < b ? a : b; }
H2LEARN_INLINE std::int64_t most(std::int64_t a, std::int64_t b) { return a > b ? a : b; }
H2LEARN_INLINE std::int64_t blocks_of(std::int64_t n, std::int64_t size) {
  return (n + size - 1) / size;
}
H2LEARN_INLINE std::int64_t round_up(std::int64_t n, std::int64_t multiple) {
  return blocks_of(n, multiple) * multiple;
}

/// `count` (1 to 64) bits from bit `begin`; never reads a word that holds none of them.
H2LEARN_INLINE std::uint64_t bits_at(const std::uint64_t* words, std::int64_t begin,
                                     std::int64_t count) {
  const std::int64_t offset = begin & 63;  // not %, which has to mind negative numbers
  const std::uint64_t* const word = words + (begin >> 6);
  std::uint64_t bits = word[0] >> offset;
  if (offset + count > 64) bits |= word[1] << (64 - offset);
  return bits & (~std::uint64_t{0} >> (64 - count));
}

/// True for rows of single bits; counts and floats are rows of values.
H2LEARN_INLINE bool is_bits(const GatheredRows& rows) {
  return rows.words != nullptr && rows.planes == 1;
}

/// Words from one plane to the next.
H2LEARN_INLINE std::int64_t plane_words(const GatheredRows& rows) {
  return rows.images * rows.words_per_image;
}

H2LEARN_INLINE const std::uint64_t* image_words(const GatheredRows& rows, std::int64_t plane,
                                                std::int64_t image) {
  return rows.words + plane * plane_words(rows) + image * rows.words_per_image;
}

/// 2^plane.
H2LEARN_INLINE float plane_weight(std::int64_t plane) {
  return static_cast<float>(std::int64_t{1} << plane);
}

/// `length` elements of an image, from element `begin`, as floats; returns the end. What are not
/// floats already may write up to a vector too many.
H2LEARN_INLINE float* copy_elements(const GatheredRows& from, std::int64_t image,
                                    std::int64_t begin, std::int64_t length, float* to) {
  if (from.words == nullptr) {
    __builtin_memcpy(to, from.values + image * from.image_stride + begin,
                     static_cast<std::size_t>(length) * sizeof(float));
    return to + length;
  }
  const std::uint64_t* const words = image_words(from, 0, image);
  for (std::int64_t i = 0; i < length; i += 64) {
    const std::int64_t count = least(64, length - i);
    std::uint64_t bits[most_planes];
    for (std::int64_t plane = 0; plane < from.planes; ++plane) {
      bits[plane] = bits_at(words + plane * plane_words(from), begin + i, count);
    }
    for (std::int64_t j = 0; j < count; j += lanes) {
      Floats weight = broadcast(1.0F);
      Floats value = select_bits(static_cast<std::uint32_t>(bits[0] >> j), weight);
      for (std::int64_t plane = 1; plane < from.planes; ++plane) {
        weight += weight;
        value += select_bits(static_cast<std::uint32_t>(bits[plane] >> j), weight);
      }
      store(to + i + j, value);
    }
  }
  return to + length;
}

/// Visits, in order, the pieces of a row's runs that fall into elements [begin, end) of the row:
/// visit(source, target - begin, length).
template <typename Visit>
H2LEARN_INLINE void for_each_piece(const GatheredRows& from, std::int64_t position,
                                   std::int64_t begin, std::int64_t end, Visit visit) {
  const Run* const last = from.runs + from.first_run[position + 1];
  for (const Run* run = from.runs + from.first_run[position]; run < last; ++run) {
    const std::int64_t run_begin = most(run->target, begin);
    const std::int64_t run_end = least(std::int64_t{run->target} + run->length, end);
    if (run_begin >= end) break;
    if (run_begin < run_end) {
      visit(run->source + run_begin - run->target, run_begin - begin, run_end - run_begin);
    }
  }
}

/// Bits of elements [begin, end) of rows [first, first + count) of one plane and group, to
/// bits[block][count][row_words]: a row is cut into blocks of 64 * row_words bits. Bits of the
/// last block that lie behind `end` are zeros.
H2LEARN_INLINE void gather_bits(const GatheredRows& from, std::int64_t plane, std::int64_t group,
                                std::int64_t first, std::int64_t count, std::int64_t begin,
                                std::int64_t end, std::int64_t row_words, std::uint64_t* bits) {
  const std::int64_t blocks = blocks_of(end - begin, 64 * row_words);
  for (std::int64_t i = 0; i < blocks * count * row_words; ++i) bits[i] = 0;
  std::int64_t image = first / from.positions;
  std::int64_t position = first % from.positions;
  for (std::int64_t r = 0; r < count; ++r) {
    const std::uint64_t* const words = image_words(from, plane, image);
    const auto word_at = [&](std::int64_t target) {
      const std::int64_t word = target / 64;
      if (blocks == 1) return bits + r * row_words + word;
      return bits + (word / row_words * count + r) * row_words + word % row_words;
    };
    for_each_piece(from, position, begin, end,
                   [&](std::int64_t source, std::int64_t target, std::int64_t length) {
                     source += group * from.group_stride;
                     if ((source | target) % 64 == 0) {
                       for (; length >= 64; length -= 64, source += 64, target += 64) {
                         *word_at(target) = words[source / 64];
                       }
                     }
                     while (length > 0) {
                       const std::int64_t piece = least(length, 64 - target % 64);
                       *word_at(target) |= bits_at(words, source, piece) << (target % 64);
                       source += piece;
                       target += piece;
                       length -= piece;
                     }
                   });
    if (++position == from.positions) {
      position = 0;
      ++image;
    }
  }
}

/// Values of elements [begin, begin + block) of rows [first, first + count) of one group, to
/// values[count][block]; behind the row's end there are zeros up to a multiple of a vector. May
/// write up to a vector behind the last row.
H2LEARN_INLINE void gather_values(const GatheredRows& from, std::int64_t group, std::int64_t first,
                                  std::int64_t count, std::int64_t begin, float* values,
                                  std::int64_t block = sum_block) {
  const std::int64_t end = least(begin + block, from.length);
  const std::int64_t padded = round_up(end - begin, lanes);
  std::int64_t image = first / from.positions;
  std::int64_t position = first % from.positions;
  for (std::int64_t r = 0; r < count; ++r, values += block) {
    std::int64_t done = 0;
    for_each_piece(from, position, begin, end,
                   [&](std::int64_t source, std::int64_t target, std::int64_t length) {
                     for (; done < target; ++done) values[done] = 0;
                     copy_elements(from, image, source + group * from.group_stride, length,
                                   values + done);
                     done += length;
                   });
    for (; done < padded; ++done) values[done] = 0;
    if (++position == from.positions) {
      position = 0;
      ++image;
    }
  }
}

}  // namespace
}  // namespace h2learn
