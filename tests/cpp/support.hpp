// What the core's tests share: reproducible random tensors, each instruction set forced in turn,
// a number of threads for a scope, and comparison bit by bit.
#pragma once

#include <gtest/gtest.h>
#include <omp.h>

#include <cstdint>
#include <cstring>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "h2learn/spikes.hpp"
#include "h2learn/target.hpp"

namespace h2learn::test {

using Floats = std::vector<float>;
using Words = std::vector<std::uint64_t>;

inline std::size_t size(std::int64_t count) { return static_cast<std::size_t>(count); }

/// Forces a target until the end of the scope.
class ForcedTarget {
 public:
  explicit ForcedTarget(Target target) : before_(active_target()) {
    set_target(target_name(target));
  }
  ~ForcedTarget() { set_target(target_name(before_)); }
  ForcedTarget(const ForcedTarget&) = delete;
  ForcedTarget& operator=(const ForcedTarget&) = delete;

 private:
  Target before_;
};

/// Lets kernels use this many threads until the end of the scope.
class Threads {
 public:
  explicit Threads(int count) : before_(omp_get_max_threads()) { omp_set_num_threads(count); }
  ~Threads() { omp_set_num_threads(before_); }
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;

 private:
  int before_;
};

/// Runs `body` on every target of this machine, from `first` on: the scalar reference included,
/// unless it is what the others are compared with.
template <typename Body>
void on_each_target(Body body, Target first = Target::scalar) {
  for (Target target : available_targets()) {
    if (target < first) continue;
    SCOPED_TRACE("target " + std::string(target_name(target)));
    const ForcedTarget forced(target);
    body();
  }
}

/// What `compute` returns must be the same on every target as on the scalar one, which has no
/// threads, and with two threads as with one.
template <typename Compute>
void expect_same_everywhere(Compute compute) {
  const auto expected = [&] {
    const ForcedTarget forced(Target::scalar);
    return compute();
  }();
  const auto compare = [&] {
    for (int count : {1, 2}) {
      SCOPED_TRACE(std::to_string(count) + " threads");
      const Threads threads(count);
      EXPECT_TRUE(compute() == expected);
    }
  };
  on_each_target(compare, Target::baseline);
}

/// The bits of floats, for comparisons in which 0 differs from -0 and NaN equals itself.
inline std::vector<std::uint32_t> bits_of(const Floats& values) {
  std::vector<std::uint32_t> bits(values.size());
  if (!values.empty()) std::memcpy(bits.data(), values.data(), values.size() * sizeof(float));
  return bits;
}

inline Floats random_floats(std::int64_t count, float low, float high, unsigned seed) {
  std::mt19937 generator(seed);
  std::uniform_real_distribution<float> distribution(low, high);
  Floats values(size(count));
  for (float& value : values) value = distribution(generator);
  return values;
}

/// Zeros and ones.
inline Floats random_binary(std::int64_t count, double rate, unsigned seed) {
  std::mt19937 generator(seed);
  std::bernoulli_distribution distribution(rate);
  Floats values(size(count));
  for (float& value : values) value = distribution(generator) ? 1.0F : 0.0F;
  return values;
}

/// Packed bits, padding zero.
inline Words random_words(std::int64_t rows, std::int64_t features, double rate, unsigned seed) {
  Words words(size(rows * words_for(features)));
  const Floats dense = random_binary(rows * features, rate, seed);
  pack(dense.data(), rows, features, words.data());
  return words;
}

inline bool bit(const Words& words, std::int64_t row, std::int64_t features, std::int64_t f) {
  return ((words[size(row * words_for(features) + f / 64)] >> (f % 64)) & 1U) != 0;
}

/// The message of the std::invalid_argument that `body` must throw.
template <typename Body>
std::string message_of(Body body) {
  try {
    body();
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  ADD_FAILURE() << "expected std::invalid_argument";
  return {};
}

/// `body` must throw std::invalid_argument whose message contains each of the parts.
template <typename Body>
void expect_refused(Body body, const std::vector<std::string>& parts) {
  const std::string message = message_of(body);
  for (const std::string& part : parts) {
    EXPECT_NE(message.find(part), std::string::npos)
        << "'" << message << "' does not contain '" << part << "'";
  }
}

}  // namespace h2learn::test
