// Packing, unpacking, counting and transposing bits, vectorised. The unit of packing is a word,
// 64 floats; that of transposing a square of 64 by 64 bits, several squares at a time, one in
// each 64-bit lane of the vectors.
#include "kernels/spikes.hpp"

#include <cstring>

#include "kernels/bit_run.hpp"
#include "kernels/lane_mask.hpp"
#include "kernels/streaming.hpp"
#include "kernels/transpose.hpp"

namespace h2learn::H2LEARN_TARGET {
namespace {

constexpr int block = 64;
constexpr int vectors = block / lanes;

/// Below these sizes a second thread costs more than it saves.
constexpr std::int64_t parallel_from_floats = std::int64_t{1} << 17;
constexpr std::int64_t parallel_from_words = std::int64_t{1} << 14;

H2LEARN_INLINE std::int64_t words_of_row(std::int64_t features) { return (features + 63) / 64; }

/// Packs `count` floats, at most 64, into one word; false when one is neither 0 nor 1.
H2LEARN_INLINE bool pack_word(const float* dense, std::int64_t count, std::uint64_t* word) {
  const Floats one = broadcast(1.0F);
  std::uint64_t ones = 0;
  std::uint64_t zeros = 0;
#pragma GCC unroll 16
  for (int i = 0; i < vectors; ++i) {
    const std::int64_t left = count - i * lanes;
    if (left <= 0) break;
    const Floats value =
        left >= lanes ? load(dense + i * lanes) : load_first(dense + i * lanes, left);
    ones |= bits_of(equal(value, one)) << (i * lanes);
    zeros |= bits_of(equal(value, Floats{})) << (i * lanes);
  }
  *word = ones;
  return ((ones | zeros) & low_bits(count)) == low_bits(count);
}

bool pack(const float* dense, std::int64_t rows, std::int64_t features, std::uint64_t* words) {
  const std::int64_t row_words = words_of_row(features);
  bool binary = true;
#pragma omp parallel if (rows * features >= parallel_from_floats)
  {
    bool all_binary = true;
#pragma omp for schedule(static) nowait
    for (std::int64_t i = 0; i < rows * row_words; ++i) {
      const std::int64_t first = i % row_words * block;
      const std::int64_t left = features - first;
      const float* const from = dense + i / row_words * features + first;
      // The constant lets the compiler drop the checks for a row's end from the usual case.
      all_binary &=
          left >= block ? pack_word(from, block, words + i) : pack_word(from, left, words + i);
    }
    if (!all_binary) {
#pragma omp atomic write
      binary = false;
    }
  }
  return binary;
}

/// Packs where `count` floats, at most 64, are not zero.
H2LEARN_INLINE std::uint64_t nonzero_word(const float* dense, std::int64_t count) {
  std::uint64_t zeros = 0;
#pragma GCC unroll 16
  for (int i = 0; i < vectors; ++i) {
    const std::int64_t left = count - i * lanes;
    if (left <= 0) break;
    const Floats value =
        left >= lanes ? load(dense + i * lanes) : load_first(dense + i * lanes, left);
    zeros |= bits_of(equal(value, Floats{})) << (i * lanes);
  }
  return ~zeros & low_bits(count);
}

void pack_nonzero(const float* dense, std::int64_t rows, std::int64_t features,
                  std::uint64_t* words) {
  const std::int64_t row_words = words_of_row(features);
#pragma omp parallel for schedule(static) if (rows * features >= parallel_from_floats)
  for (std::int64_t i = 0; i < rows * row_words; ++i) {
    const std::int64_t first = i % row_words * block;
    const std::int64_t left = features - first;
    const float* const from = dense + i / row_words * features + first;
    // The constant lets the compiler drop the checks for a row's end from the usual case.
    words[i] = left >= block ? nonzero_word(from, block) : nonzero_word(from, left);
  }
}

/// Everything that unpacking one word needs to know.
struct Unpack {
  const std::uint64_t* words = nullptr;
  std::int64_t planes = 0;
  std::int64_t plane_words = 0;
  Floats scale = {};
  bool streaming = false;
};

H2LEARN_INLINE Floats count_of(const Unpack& job, std::int64_t word, int shift) {
  Floats count = {};
  float weight = 1.0F;
  for (std::int64_t p = 0; p < job.planes; ++p) {
    const std::uint64_t bits = job.words[p * job.plane_words + word] >> shift;
    count = count + pick(lanes_of(bits), broadcast(weight), Floats{});
    weight *= 2.0F;
  }
  return count;
}

H2LEARN_INLINE void unpack_word(const Unpack& job, std::int64_t word, float* dense) {
  const bool streaming = job.streaming && aligned_for_streaming(dense);
  for (int i = 0; i < vectors; ++i) {
    put(dense + i * lanes, job.scale * count_of(job, word, i * lanes), streaming);
  }
}

H2LEARN_INLINE void unpack_part(const Unpack& job, std::int64_t word, std::int64_t count,
                                float* dense) {
  for (std::int64_t i = 0; i < count; i += lanes) {
    const Floats values = job.scale * count_of(job, word, static_cast<int>(i));
    store_first(dense + i, values, count - i);
  }
}

void unpack(const PackedView& packed, float scale, float* dense) {
  const std::int64_t features = packed.features;
  const std::int64_t row_words = words_of_row(features);
  const std::int64_t values = packed.rows * features;
  const bool large = values * static_cast<std::int64_t>(sizeof(float)) >= stream_from_bytes;
  const Unpack job{packed.words, packed.planes, packed.rows * row_words, broadcast(scale), large};
#pragma omp parallel if (values >= parallel_from_floats)
  {
#pragma omp for schedule(static) nowait
    for (std::int64_t i = 0; i < job.plane_words; ++i) {
      const std::int64_t first = i % row_words * block;
      const std::int64_t left = features - first;
      float* const to = dense + i / row_words * features + first;
      if (left >= block) {
        unpack_word(job, i, to);
      } else {
        unpack_part(job, i, left, to);
      }
    }
    finish_streaming();
  }
}

std::int64_t popcount(const std::uint64_t* words, std::int64_t count) {
  std::int64_t total = 0;
#pragma omp parallel if (count >= parallel_from_words)
  {
    std::int64_t mine = 0;
#pragma omp for schedule(static) nowait
    for (std::int64_t i = 0; i < count; ++i) mine += __builtin_popcountll(words[i]);
#pragma omp atomic
    total += mine;
  }
  return total;
}

/// One square in each lane.
constexpr int squares = word_lanes;

/// Row r of `squares` squares of 64 by 64 bits.
union Tile {
  Words rows[block];
  std::uint64_t words[block][squares];
};

/// Matrices of bits that follow each other, and the transposed ones. Strides count bits.
struct Transposition {
  const std::uint64_t* in;
  std::uint64_t* out;
  std::int64_t rows;
  std::int64_t columns;
  std::int64_t in_words;  ///< of one matrix
  std::int64_t out_words;
  std::int64_t in_stride;  ///< from one row to the next
  std::int64_t out_stride;

  H2LEARN_INLINE std::int64_t row_squares() const { return words_of_row(rows); }
  H2LEARN_INLINE std::int64_t squares_each() const { return row_squares() * words_of_row(columns); }
};

/// Where one square lies: numbered matrix by matrix, then along the rows of the output.
struct Square {
  std::int64_t matrix;
  std::int64_t row;
  std::int64_t column;
  std::int64_t rows;
  std::int64_t columns;

  H2LEARN_INLINE Square(const Transposition& job, std::int64_t index)
      : matrix(index / job.squares_each()) {
    const std::int64_t within = index % job.squares_each();
    row = within % job.row_squares() * block;
    column = within / job.row_squares() * block;
    rows = job.rows - row < block ? job.rows - row : block;
    columns = job.columns - column < block ? job.columns - column : block;
  }
};

H2LEARN_INLINE void fill(const Transposition& job, const Square& square, Tile& tile, int lane) {
  const std::uint64_t* const from = job.in + square.matrix * job.in_words;
  for (std::int64_t r = 0; r < square.rows; ++r) {
    const std::int64_t bit = (square.row + r) * job.in_stride + square.column;
    tile.words[r][lane] = read_bits(from, bit, square.columns);
  }
  for (std::int64_t r = square.rows; r < block; ++r) tile.words[r][lane] = 0;
}

H2LEARN_INLINE void drain(const Transposition& job, const Square& square, const Tile& tile,
                          int lane) {
  std::uint64_t* const to = job.out + square.matrix * job.out_words;
  for (std::int64_t c = 0; c < square.columns; ++c) {
    const std::int64_t bit = (square.column + c) * job.out_stride + square.row;
    or_bits(to, bit, square.rows, tile.words[c][lane]);
  }
}

void transpose_squares(const Transposition& job, std::int64_t from, std::int64_t to) {
  Tile tile;
  for (std::int64_t first = from; first < to; first += squares) {
    const int here = static_cast<int>(to - first < squares ? to - first : squares);
    for (int lane = 0; lane < here; ++lane) fill(job, Square(job, first + lane), tile, lane);
    transpose_words(tile.rows);
    for (int lane = 0; lane < here; ++lane) drain(job, Square(job, first + lane), tile, lane);
  }
}

/// Threads share out whole multiples of `apart` squares: no two write bits of the same word.
void transpose_all(const Transposition& job, std::int64_t matrices, std::int64_t apart) {
  std::memset(job.out, 0, static_cast<std::size_t>(matrices * job.out_words) * 8);
  const std::int64_t total = matrices * job.squares_each();
  const std::int64_t share = apart * squares;
#pragma omp parallel for schedule(static) if (total * block >= parallel_from_words)
  for (std::int64_t from = 0; from < total; from += share) {
    transpose_squares(job, from, from + share < total ? from + share : total);
  }
}

#if defined(__BMI2__)
/// Of matrices with so few rows or columns the squares would be empty for the most part.
constexpr std::int64_t few = 8;

/// Every bit `each` behind another: masks[o] has the bits i with i % each == o.
struct EveryBit {
  std::int64_t each;
  std::uint64_t masks[few] = {};

  explicit EveryBit(std::int64_t number) : each(number) {
    for (std::int64_t i = 0; i < block; ++i) masks[i % each] |= std::uint64_t{1} << i;
  }
};

/// One matrix of few rows: bits of its rows take turns in the output.
H2LEARN_INLINE void interleave_rows(const EveryBit& every, const std::uint64_t* in,
                                    std::int64_t columns, std::uint64_t* out) {
  const std::int64_t rows = every.each;
  for (std::int64_t first = 0; first < rows * columns; first += block) {
    std::uint64_t word = 0;
    std::int64_t row = first % rows;
    std::int64_t column = first / rows;
    for (std::int64_t offset = 0; offset < rows && column < columns; ++offset) {
      const std::uint64_t mask = every.masks[offset];
      const std::int64_t ones = __builtin_popcountll(mask);
      const std::int64_t count = columns - column < ones ? columns - column : ones;
      word |= _pdep_u64(read_bits(in, row * columns + column, count), mask);
      if (++row == rows) {
        row = 0;
        ++column;
      }
    }
    out[first / block] = word;
  }
}

/// One matrix of few columns, which is the other way round.
H2LEARN_INLINE void pick_columns(const EveryBit& every, const std::uint64_t* in, std::int64_t rows,
                                 std::uint64_t* out) {
  const std::int64_t columns = every.each;
  for (std::int64_t first = 0; first < rows * columns; first += block) {
    std::int64_t column = first % columns;
    std::int64_t row = first / columns;
    for (std::int64_t offset = 0; offset < columns && row < rows; ++offset) {
      const std::uint64_t mask = every.masks[offset];
      const std::int64_t ones = __builtin_popcountll(mask);
      const std::int64_t count = rows - row < ones ? rows - row : ones;
      const std::uint64_t picked = _pext_u64(in[first / block], mask) & low_bits(count);
      or_bits(out, column * rows + row, count, picked);
      if (++column == columns) {
        column = 0;
        ++row;
      }
    }
  }
}

/// False where a matrix has neither few rows nor few columns.
bool transpose_few(const std::uint64_t* bits, std::int64_t matrices, std::int64_t words,
                   std::int64_t rows, std::int64_t columns, std::uint64_t* out) {
  if (rows > few && columns > few) return false;
  std::memset(out, 0, static_cast<std::size_t>(matrices * words) * 8);
  const EveryBit every(rows <= few ? rows : columns);
#pragma omp parallel for schedule(static) if (matrices * words >= parallel_from_words)
  for (std::int64_t matrix = 0; matrix < matrices; ++matrix) {
    const std::uint64_t* const from = bits + matrix * words;
    if (rows <= few) {
      interleave_rows(every, from, columns, out + matrix * words);
    } else {
      pick_columns(every, from, rows, out + matrix * words);
    }
  }
  return true;
}
#endif

void transpose_matrices(const std::uint64_t* bits, std::int64_t matrices, std::int64_t words,
                        std::int64_t rows, std::int64_t columns, std::uint64_t* out) {
#if defined(__BMI2__)
  if (rows > 0 && columns > 0 && transpose_few(bits, matrices, words, rows, columns, out)) return;
#endif
  const Transposition job{bits, out, rows, columns, words, words, columns, rows};
  if (job.squares_each() > 0) transpose_all(job, matrices, job.squares_each());
}

void transpose_bits(const std::uint64_t* bits, std::int64_t rows, std::int64_t columns,
                    std::uint64_t* out) {
  const std::int64_t in_row = words_of_row(columns);
  const std::int64_t out_row = words_of_row(rows);
  const Transposition job{bits,        out,         rows, columns, rows * in_row, columns * out_row,
                          in_row * 64, out_row * 64};
  if (job.squares_each() > 0) transpose_all(job, 1, 1);
}

}  // namespace

extern const SpikesKernels spikes = {&pack,     &pack_nonzero,       &unpack,
                                     &popcount, &transpose_matrices, &transpose_bits};

}  // namespace h2learn::H2LEARN_TARGET
