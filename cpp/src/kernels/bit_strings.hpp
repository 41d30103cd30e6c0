// The kernels that count bits for the fast simulator, one table for each instruction set; see
// reference/bit_strings.hpp for what they take and must equal.
#pragma once

#include "accelerator/bit_strings.hpp"
#include "dispatch.hpp"

namespace h2learn {

struct BitStringKernels {
  void (*add_ones)(const accelerator::BitStrings& strings, std::int64_t* ones);
  void (*add_fields)(const accelerator::BitStrings& strings, std::int64_t width,
                     std::int64_t* fields);
  void (*most_in_bank)(const accelerator::BitStrings& strings, std::int64_t banks,
                       std::int64_t* most);
  void (*mark_any)(const accelerator::BitStrings& strings, std::int64_t bit, std::uint64_t* any);
  std::int64_t (*count_addresses)(const accelerator::Windows& windows);
};

H2LEARN_DECLARE_KERNELS(BitStringKernels, bit_strings)

}  // namespace h2learn
