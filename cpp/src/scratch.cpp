#include "scratch.hpp"

#include <array>
#include <atomic>
#include <cstdlib>

#include "out_of_memory.hpp"

namespace h2learn {
namespace {

std::atomic<std::int64_t> held{0};

class Area {
 public:
  Area() = default;
  ~Area() { reset(); }
  Area(const Area&) = delete;
  Area& operator=(const Area&) = delete;

  void* at_least(std::size_t bytes) {
    constexpr std::size_t alignment = 64;
    if (bytes > bytes_ || memory_ == nullptr) {
      const std::size_t rounded = (bytes + alignment) / alignment * alignment;
      reset();
      memory_ = std::aligned_alloc(alignment, rounded);
      if (memory_ == nullptr) {
        throw OutOfMemory("a kernel's scratch", static_cast<std::int64_t>(rounded));
      }
      bytes_ = rounded;
      held += static_cast<std::int64_t>(rounded);
    }
    return memory_;
  }

 private:
  void reset() {
    std::free(memory_);
    held -= static_cast<std::int64_t>(bytes_);
    memory_ = nullptr;
    bytes_ = 0;
  }

  void* memory_ = nullptr;
  std::size_t bytes_ = 0;
};

}  // namespace

void* scratch(ScratchSlot slot, std::size_t bytes) {
  thread_local std::array<Area, static_cast<std::size_t>(ScratchSlot::count)> areas;
  return areas[static_cast<std::size_t>(slot)].at_least(bytes);
}

std::int64_t scratch_bytes() { return held; }

}  // namespace h2learn
