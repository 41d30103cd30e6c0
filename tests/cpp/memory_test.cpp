// The pool of large tensors: what it hands out again, and what it may hold.
#include "h2learn/memory.hpp"

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <thread>
#include <vector>

#include "scratch.hpp"

namespace h2learn {
namespace {

constexpr std::int64_t mib = std::int64_t{1} << 20;

class Memory : public ::testing::Test {
 protected:
  void SetUp() override { release_free_blocks(); }
  void TearDown() override { release_free_blocks(); }
};

TEST_F(Memory, BlocksAreAlignedWritableAndAtLeastAsLargeAsAsked) {
  for (std::int64_t bytes :
       {std::int64_t{0}, std::int64_t{1}, std::int64_t{4095}, mib, 3 * mib + 1, 17 * mib + 12345}) {
    const Block block(bytes);
    EXPECT_EQ(block.bytes(), bytes);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(block.data()) % 64, 0U);
    std::memset(block.data(), 0xAB, static_cast<std::size_t>(bytes));
    EXPECT_GE(memory_statistics().in_use, bytes);
    // At most an eighth more, and the smallest piece.
    EXPECT_LE(memory_statistics().in_use, bytes + bytes / 8 + 4096);
  }
}

TEST_F(Memory, ABlockIsHandedOutAgain) {
  void* first = nullptr;
  {
    const Block block(5 * mib);
    first = block.data();
  }
  EXPECT_GE(memory_statistics().free, 5 * mib);
  const Block again(5 * mib - 100);
  EXPECT_EQ(again.data(), first);
  EXPECT_EQ(memory_statistics().free, 0);
}

TEST_F(Memory, ASmallerBlockMayLieInALargerPiece) {
  void* larger = nullptr;
  {
    const Block block(8 * mib);
    larger = block.data();
  }
  const Block half(5 * mib);
  EXPECT_EQ(half.data(), larger);
  EXPECT_EQ(half.bytes(), 5 * mib);
  const std::int64_t in_use = memory_statistics().in_use;
  { const Block wasteful(2 * mib); }
  const Block small(mib / 2);  // less than half of what is free
  EXPECT_LE(memory_statistics().in_use, in_use + mib);
}

TEST_F(Memory, HoldsAtMostHalfMoreThanWasInUseAtOnce) {
  for (std::int64_t bytes = mib; bytes < 40 * mib; bytes += 3 * mib) {
    const Block block(bytes);
    const MemoryStatistics now = memory_statistics();
    EXPECT_LE(now.in_use + now.free, now.highest + now.highest / 2);
  }
  const Block small(mib);
  const Block large(38 * mib);
  const MemoryStatistics now = memory_statistics();
  EXPECT_LE(now.in_use + now.free, now.highest + now.highest / 2);
}

TEST_F(Memory, ReleaseGivesBackWhatIsFreeOnly) {
  const Block kept(2 * mib);
  { const Block gone(9 * mib); }
  release_free_blocks();
  const MemoryStatistics now = memory_statistics();
  EXPECT_EQ(now.free, 0);
  EXPECT_GE(now.in_use, 2 * mib);
  EXPECT_EQ(now.highest, now.in_use);
}

TEST_F(Memory, RefusesSizesThatAreNone) {
  EXPECT_THROW(Block(-1), std::invalid_argument);
  EXPECT_THROW(Block((std::int64_t{1} << 60) + 1), std::invalid_argument);
  EXPECT_THROW(Block(std::int64_t{1} << 59), std::bad_alloc);
  EXPECT_EQ(memory_statistics().in_use, 0);
}

TEST_F(Memory, ThreadsShareIt) {
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([t] {
      for (std::int64_t i = 1; i < 200; ++i) {
        const Block block((i * (t + 1)) % 7 * mib / 4 + 1);
        std::memset(block.data(), t, static_cast<std::size_t>(block.bytes()));
        const char* const bytes = static_cast<const char*>(block.data());
        EXPECT_EQ(bytes[block.bytes() - 1], t);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(memory_statistics().in_use, 0);
}

TEST_F(Memory, ScratchIsCountedWhileItsThreadLives) {
  const std::int64_t before = memory_statistics().scratch;
  std::thread([before] {
    scratch(ScratchSlot::inputs, static_cast<std::size_t>(mib));
    EXPECT_GE(memory_statistics().scratch, before + mib);
  }).join();
  EXPECT_EQ(memory_statistics().scratch, before);
}

}  // namespace
}  // namespace h2learn
