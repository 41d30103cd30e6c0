#include "accelerator/fast_items.hpp"

#include <algorithm>
#include <bit>
#include <functional>

namespace h2learn::accelerator::fast {
namespace {

/// A calendar this long still fits a core's second-level cache.
constexpr std::int64_t longest_in_calendar = std::int64_t{1} << 16;

}  // namespace

std::int64_t ItemSchedule::last_end(const std::vector<std::int64_t>& cycles, std::int64_t longest,
                                    std::int64_t groups) {
  if (static_cast<std::int64_t>(cycles.size()) <= groups) {
    return cycles.empty() ? 0 : *std::max_element(cycles.begin(), cycles.end());
  }
  return longest < longest_in_calendar ? by_calendar(cycles, longest, groups)
                                       : by_heap(cycles, groups);
}

// Groups are alike, so that only how many become free at a time matters, and no item ends more
// than `longest` cycles ahead: a ring of counts, with a bit map to leap over empty times.
std::int64_t ItemSchedule::by_calendar(const std::vector<std::int64_t>& cycles,
                                       std::int64_t longest, std::int64_t groups) {
  const auto size =
      std::bit_ceil(static_cast<std::uint64_t>(std::max<std::int64_t>(longest + 1, 64)));
  const std::uint64_t places = size - 1;
  const std::uint64_t words = size / 64;
  free_at_.assign(size, 0);
  occupied_.assign(words, 0);
  std::uint32_t* const free_at = free_at_.data();
  std::uint64_t* const occupied = occupied_.data();

  std::uint64_t now = 0;
  std::int64_t last = 0;
  const std::int64_t* item = cycles.data();
  const std::int64_t* const end = item + cycles.size();
  auto free = static_cast<std::int64_t>(groups);
  while (true) {
    for (const std::int64_t* const stop = item + std::min(free, end - item); item < stop; ++item) {
      const std::uint64_t done = now + static_cast<std::uint64_t>(*item);
      last = std::max(last, static_cast<std::int64_t>(done));
      const std::uint64_t place = done & places;
      ++free_at[place];
      occupied[place / 64] |= std::uint64_t{1} << (place % 64);
    }
    if (item == end) return last;
    const std::uint64_t next = now + 1;
    std::uint64_t word = next / 64;
    std::uint64_t bits = occupied[word & (words - 1)] & (~std::uint64_t{0} << (next % 64));
    while (bits == 0) bits = occupied[++word & (words - 1)];
    now = word * 64 + static_cast<std::uint64_t>(std::countr_zero(bits));
    const std::uint64_t place = now & places;
    free = free_at[place];
    free_at[place] = 0;
    occupied[place / 64] &= ~(std::uint64_t{1} << (place % 64));
  }
}

std::int64_t ItemSchedule::by_heap(const std::vector<std::int64_t>& cycles, std::int64_t groups) {
  heap_.assign(static_cast<std::size_t>(groups), 0);
  std::int64_t last = 0;
  for (const std::int64_t taken : cycles) {
    std::pop_heap(heap_.begin(), heap_.end(), std::greater<>{});
    heap_.back() += taken;
    last = std::max(last, heap_.back());
    std::push_heap(heap_.begin(), heap_.end(), std::greater<>{});
  }
  return last;
}

}  // namespace h2learn::accelerator::fast
