#include "h2learn/memory.hpp"

#include <algorithm>
#include <cstdlib>
#include <list>
#include <mutex>
#include <new>
#include <stdexcept>
#include <string>

#include "out_of_memory.hpp"
#include "packed_weights.hpp"
#include "process_wide.hpp"
#include "scratch.hpp"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace h2learn {

using Piece = Block::Piece;

namespace {

constexpr std::int64_t page = 4096;
constexpr std::int64_t huge_page = std::int64_t{1} << 21;

/// Sizes come in steps of an eighth, so that tensors of nearly one size share blocks.
std::int64_t size_of_piece(std::int64_t bytes) {
  std::int64_t step = page;
  while (step * 16 < bytes) step *= 2;
  return std::max((bytes + step - 1) / step * step, step);
}

void* allocate(std::int64_t size) {
  const std::int64_t alignment = size < huge_page ? page : huge_page;
  const std::int64_t rounded = (size + alignment - 1) / alignment * alignment;
  void* const data =
      std::aligned_alloc(static_cast<std::size_t>(alignment), static_cast<std::size_t>(rounded));
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  // Where the system offers large pages on demand: fewer faults, fewer misses of the TLB.
  if (data != nullptr && alignment == huge_page) {
    madvise(data, static_cast<std::size_t>(rounded), MADV_HUGEPAGE);
  }
#endif
  return data;
}

class Pool {
 public:
  Piece take(std::int64_t size) {
    const std::lock_guard<std::mutex> lock(mutex_);
    Piece piece = {nullptr, size};
    const auto found = find_free(size);
    if (found != free_.end()) {
      piece = *found;
      free_bytes_ -= piece.size;
      free_.erase(found);
    } else {
      const std::int64_t allowed = std::max(highest_ + highest_ / 2, in_use_ + size);
      drop_oldest_until(allowed - in_use_ - size);
      piece.data = allocate(size);
      if (piece.data == nullptr) {
        drop_oldest_until(0);
        piece.data = allocate(size);
      }
      if (piece.data == nullptr) throw OutOfMemory("a tensor", size);
    }
    in_use_ += piece.size;
    highest_ = std::max(highest_, in_use_);
    return piece;
  }

  void give(Piece piece) noexcept {
    const std::lock_guard<std::mutex> lock(mutex_);
    in_use_ -= piece.size;
    try {
      free_.push_back(piece);
      free_bytes_ += piece.size;
    } catch (const std::bad_alloc&) {
      std::free(piece.data);
    }
  }

  void release() {
    const std::lock_guard<std::mutex> lock(mutex_);
    drop_oldest_until(0);
    highest_ = in_use_;
  }

  MemoryStatistics statistics() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return {in_use_, free_bytes_, highest_, scratch_bytes(), kept_weight_bytes()};
  }

  std::mutex& mutex() { return mutex_; }

 private:
  /// The smallest free piece that is large enough and not more than twice as large; of equals the
  /// one freed last, the likeliest to be in a cache still.
  std::list<Piece>::iterator find_free(std::int64_t size) {
    auto best = free_.end();
    for (auto piece = free_.begin(); piece != free_.end(); ++piece) {
      if (piece->size < size || piece->size > 2 * size) continue;
      if (best == free_.end() || piece->size <= best->size) best = piece;
    }
    return best;
  }

  void drop_oldest_until(std::int64_t bytes) {
    while (free_bytes_ > bytes) {
      std::free(free_.front().data);
      free_bytes_ -= free_.front().size;
      free_.pop_front();
    }
  }

  std::mutex mutex_;
  std::list<Piece> free_;  ///< the one freed last is the last
  std::int64_t free_bytes_ = 0;
  std::int64_t in_use_ = 0;
  std::int64_t highest_ = 0;
};

Pool& pool() { return process_wide<Pool>(); }

std::int64_t require_bytes(std::int64_t bytes) {
  constexpr std::int64_t most = std::int64_t{1} << 60;
  if (bytes < 0 || bytes > most) {
    throw std::invalid_argument("bytes must be 0 to " + std::to_string(most) + ", got " +
                                std::to_string(bytes));
  }
  return bytes;
}

}  // namespace

MemoryStatistics memory_statistics() { return pool().statistics(); }

void release_free_blocks() {
  pool().release();
  forget_packed_weights();
}

Block::Block(std::int64_t bytes)
    : bytes_(require_bytes(bytes)), piece_(pool().take(size_of_piece(bytes))) {}

Block::~Block() { pool().give(piece_); }

}  // namespace h2learn
