// The kernels that count bits for the fast simulator, one table for each instruction set; see
// reference/bit_strings.hpp for what they take and must equal.
#pragma once

#include "accelerator/bit_strings.hpp"
#include "dispatch.hpp"

namespace h2learn {

struct BitStringKernels {
  void (*add_ones)(const accelerator::BitStrings& strings, std::int64_t* ones);
  void (*most_in_bank)(const accelerator::BitStrings& strings, std::int64_t banks,
                       std::int64_t* most);
  void (*place)(const accelerator::BitStrings& strings, std::int64_t first, std::int64_t stride,
                std::uint64_t* to);
  std::int64_t (*count_addresses)(const accelerator::Addresses& addresses);
  std::int64_t (*count_window_addresses)(const accelerator::Windows& windows);
  void (*add_shifted)(const std::int64_t* from, const std::int64_t* shifts, std::int64_t terms,
                      std::int64_t count, std::int64_t* sums);
};

H2LEARN_DECLARE_KERNELS(BitStringKernels, bit_strings)

}  // namespace h2learn
