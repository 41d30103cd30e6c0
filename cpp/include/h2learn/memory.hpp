// Memory for large tensors, kept and handed out again. What a training step allocates it
// allocates again in the next one; the system hands out fresh pages, which cost several times
// what a kernel needs to fill them, so large results live in blocks of this pool instead.
//
// The pool never holds more than one and a half times what was in use at once at the highest point
// since the last release_free_blocks(): what is allocated beyond that takes the place of free
// blocks. A block may lie in a piece up to twice its size, and counts as that piece. The half is
// for a step's different sizes, which one after the other do not fit each other's place.
#pragma once

#include <cstdint>

namespace h2learn {

/// Bytes, of the whole process.
struct MemoryStatistics {
  std::int64_t in_use;   ///< pieces of memory whose blocks somebody holds
  std::int64_t free;     ///< blocks kept to be handed out again
  std::int64_t highest;  ///< the most that was ever in use at once
  std::int64_t scratch;  ///< what kernels keep from call to call, of all threads
  std::int64_t weights;  ///< packed weights of small products, and copies to know them again
};

MemoryStatistics memory_statistics();

/// Gives free blocks and packed weights back to the system and forgets the highest point. Scratch
/// memory belongs to its threads and stays.
void release_free_blocks();

/// At least `bytes` of memory from the pool, 64-byte-aligned, with unspecified contents.
class Block {
 public:
  /// Throws std::invalid_argument for a negative number of bytes, std::bad_alloc when there is no
  /// memory even after all free blocks were given back.
  explicit Block(std::int64_t bytes);
  ~Block();
  Block(const Block&) = delete;
  Block& operator=(const Block&) = delete;

  /// What a block lies in.
  struct Piece {
    void* data;
    std::int64_t size;
  };

  void* data() const { return piece_.data; }
  std::int64_t bytes() const { return bytes_; }

 private:
  std::int64_t bytes_;
  Piece piece_;
};

}  // namespace h2learn
