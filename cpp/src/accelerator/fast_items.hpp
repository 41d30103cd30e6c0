// The backward engine's work items, handed in order to the first group that is free.
#pragma once

#include <cstdint>
#include <vector>

namespace h2learn::accelerator::fast {

/// Scratch memory of the list scheduling, kept from tile to tile.
class ItemSchedule {
 public:
  /// When the last of the items ends: each goes to the first of `groups` groups that is free, all
  /// of which are free at 0. Item i takes cycles[i] >= 1, none more than `longest`.
  std::int64_t last_end(const std::vector<std::int64_t>& cycles, std::int64_t longest,
                        std::int64_t groups);

 private:
  std::int64_t by_calendar(const std::vector<std::int64_t>& cycles, std::int64_t longest,
                           std::int64_t groups);
  std::int64_t by_heap(const std::vector<std::int64_t>& cycles, std::int64_t groups);

  std::vector<std::uint32_t> free_at_;   ///< groups that become free at a time, modulo its size
  std::vector<std::uint64_t> occupied_;  ///< a bit for each entry of free_at_ that is not 0
  std::vector<std::int64_t> heap_;
};

}  // namespace h2learn::accelerator::fast
