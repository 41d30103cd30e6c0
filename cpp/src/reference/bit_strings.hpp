// Counting bits for the fast simulator, one bit at a time: what the kernels must equal.
#pragma once

#include "accelerator/bit_strings.hpp"

namespace h2learn::reference {

/// ones[i] += set bits of string i.
void add_ones(const accelerator::BitStrings& strings, std::int64_t* ones);

/// most[i] = the most set bits of string i at places that are equal modulo `banks`.
void most_in_bank(const accelerator::BitStrings& strings, std::int64_t banks, std::int64_t* most);

/// Copies string i to bit `first + i * stride` of `to`, where there are zeros.
void place(const accelerator::BitStrings& strings, std::int64_t first, std::int64_t stride,
           std::uint64_t* to);

/// Addresses that are not zero, by their weights.
std::int64_t count_addresses(const accelerator::Addresses& addresses);

/// Addresses that are not zero: for each plane, tap, bit of a string and `together` windows, one
/// address made of that bit of those windows.
std::int64_t count_window_addresses(const accelerator::Windows& windows);

/// sums[i] += from[i + shifts[j]] for each of `terms` shifts, none negative.
void add_shifted(const std::int64_t* from, const std::int64_t* shifts, std::int64_t terms,
                 std::int64_t count, std::int64_t* sums);

}  // namespace h2learn::reference
