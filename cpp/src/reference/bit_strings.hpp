// Counting bits for the fast simulator, one bit at a time: what the kernels must equal.
#pragma once

#include "accelerator/bit_strings.hpp"

namespace h2learn::reference {

/// ones[i] += set bits of string i.
void add_ones(const accelerator::BitStrings& strings, std::int64_t* ones);

/// fields[i] += fields of `width` (1 to 64) consecutive bits of string i, from its start on, that
/// are not zero. The length is a multiple of the width.
void add_fields(const accelerator::BitStrings& strings, std::int64_t width, std::int64_t* fields);

/// most[i] = the most set bits of string i at places that are equal modulo `banks`.
void most_in_bank(const accelerator::BitStrings& strings, std::int64_t banks, std::int64_t* most);

/// Sets bit `bit` (0 to 63) of any[i] where string i has a set bit.
void mark_any(const accelerator::BitStrings& strings, std::int64_t bit, std::uint64_t* any);

/// Addresses that are not zero: for each plane, tap, bit of a string and `together` windows, one
/// address made of that bit of those windows.
std::int64_t count_addresses(const accelerator::Windows& windows);

}  // namespace h2learn::reference
