// A thread's memory for a product: measured first, then carved out of one piece that was
// allocated before the threads start, so that nothing can fail between them. For kernel sources
// only.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/synapse_block.hpp"

namespace h2learn {
namespace {

/// Rows of sums must not lie a power of two apart, or they compete for the same few cache lines.
constexpr std::int64_t stride_slack = lanes;

/// Hands out 64-byte-aligned arrays; without memory behind it, it only adds up their sizes.
class Carver {
 public:
  explicit Carver(char* memory) : memory_(memory) {}
  std::size_t used() const { return used_; }

  template <typename T>
  T* take(std::int64_t count) {
    constexpr std::size_t alignment = 64;
    T* const array = memory_ == nullptr ? nullptr : reinterpret_cast<T*>(memory_ + used_);
    used_ += (static_cast<std::size_t>(count) * sizeof(T) + alignment - 1) / alignment * alignment;
    return array;
  }

 private:
  char* memory_;
  std::size_t used_ = 0;
};

/// Blocks whose lists are kept at a time; none is added to lists of more entries, which would not
/// stay near.
constexpr std::int64_t most_kept_blocks = 8;
constexpr std::int64_t most_kept_entries = std::int64_t{1} << 16;

/// What prepare_rows() needs for blocks of `rows` rows, and KeptBlocks to keep the lists of
/// `blocks` of them; `bits`: rows are those, not values.
inline PreparedRows carve_rows(Carver& carver, std::int64_t rows, bool bits, Method method,
                               std::int64_t blocks) {
  PreparedRows prepared = {};
  Lists& lists = prepared.lists;
  lists.counts = carver.take<std::int32_t>(rows);
  if (method != Method::dense) {
    const std::int64_t kept = least(blocks, most_kept_blocks);
    const std::int64_t entries = (kept > 1 ? most_kept_entries : 0) + list_capacity(rows);
    lists.order = carver.take<std::int32_t>(rows);
    lists.groups = carver.take<ListGroup>(kept * blocks_of(rows, group_rows));
    lists.offsets = carver.take<std::uint16_t>(entries);
    if (!bits) {
      lists.values = carver.take<float>(entries);
      lists.set = carver.take<std::uint64_t>(rows * block_words);
    }
  }
  if (method != Method::event && bits) prepared.expanded = carver.take<float>(rows * sum_block);
  return prepared;
}

}  // namespace
}  // namespace h2learn
