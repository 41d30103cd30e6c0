// The operations of spikes.hpp, one bit at a time: what the vector kernels must equal.
#pragma once

#include "h2learn/spikes.hpp"

namespace h2learn::reference {

/// False when an element is neither 0 nor 1; the words are then unspecified.
bool pack(const float* dense, std::int64_t rows, std::int64_t features, std::uint64_t* words);

void pack_nonzero(const float* dense, std::int64_t rows, std::int64_t features,
                  std::uint64_t* words);

void unpack(const PackedView& packed, float scale, float* dense);

/// Set bits of `count` words.
std::int64_t popcount(const std::uint64_t* words, std::int64_t count);

/// `matrices` bit matrices of `rows` x `columns`, each a run of bits without padding between its
/// rows, starting at a multiple of `words`; the transposed ones lie in `out` in the same way.
/// The padding bits after each matrix are zero.
void transpose_matrices(const std::uint64_t* bits, std::int64_t matrices, std::int64_t words,
                        std::int64_t rows, std::int64_t columns, std::uint64_t* out);

void transpose_bits(const std::uint64_t* bits, std::int64_t rows, std::int64_t columns,
                    std::uint64_t* out);

}  // namespace h2learn::reference
