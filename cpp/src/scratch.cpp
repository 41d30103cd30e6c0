#include "scratch.hpp"

#include <array>
#include <cstdlib>
#include <memory>
#include <new>

namespace h2learn {
namespace {

struct Free {
  void operator()(void* memory) const { std::free(memory); }
};

struct Area {
  std::unique_ptr<void, Free> memory;
  std::size_t bytes = 0;
};

}  // namespace

void* scratch(ScratchSlot slot, std::size_t bytes) {
  thread_local std::array<Area, static_cast<std::size_t>(ScratchSlot::count)> areas;
  Area& area = areas[static_cast<std::size_t>(slot)];
  constexpr std::size_t alignment = 64;
  if (bytes > area.bytes || area.memory == nullptr) {
    const std::size_t rounded = (bytes + alignment) / alignment * alignment;
    area.memory.reset();
    area.bytes = 0;
    area.memory.reset(std::aligned_alloc(alignment, rounded));
    if (area.memory == nullptr) throw std::bad_alloc();
    area.bytes = rounded;
  }
  return area.memory.get();
}

}  // namespace h2learn
