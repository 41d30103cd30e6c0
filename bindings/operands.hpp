// Arrays of numbers and words as the kernels' pointers, once their sizes are checked; None is null.
#pragma once

#include <optional>

#include "bindings.hpp"
#include "h2learn/geometry.hpp"
#include "h2learn/soma.hpp"
#include "h2learn/spikes.hpp"

namespace h2learn {

using Floats = Array<float>;
using Words = Array<std::int64_t>;
using MaybeFloats = std::optional<Floats>;
using MaybeWords = std::optional<Words>;

inline const float* read(const char* name, const Floats& array, std::int64_t size) {
  require_size(name, array, size);
  return array.data();
}
inline const float* read(const char* name, const MaybeFloats& array, std::int64_t size) {
  return array ? read(name, *array, size) : nullptr;
}
inline const std::uint64_t* read(const char* name, const Words& array, std::int64_t size) {
  require_size(name, array, size);
  return words_of(array);
}
inline const std::uint64_t* read(const char* name, const MaybeWords& array, std::int64_t size) {
  return array ? read(name, *array, size) : nullptr;
}
inline float* write(const char* name, Floats& array, std::int64_t size) {
  require_size(name, array, size);
  return array.mutable_data();
}
inline float* write(const char* name, MaybeFloats& array, std::int64_t size) {
  return array ? write(name, *array, size) : nullptr;
}
inline std::uint64_t* write(const char* name, Words& array, std::int64_t size) {
  require_size(name, array, size);
  return mutable_words_of(array);
}
inline std::uint64_t* write(const char* name, MaybeWords& array, std::int64_t size) {
  return array ? write(name, *array, size) : nullptr;
}

/// int64[planes, rows, words] of the layer's inputs as a view.
inline PackedView packed_inputs(const Geometry& geometry, const Words& words) {
  const std::int64_t width = words_for(geometry.in_features());
  if (words.ndim() != 3 || words.shape(2) != width) {
    throw std::invalid_argument("words must be [planes, rows, " + std::to_string(width) +
                                "], got " + py::str(words.attr("shape")).cast<std::string>());
  }
  return {words_of(words), words.shape(0), words.shape(1), geometry.in_features()};
}

/// Images in an array that holds `features` elements for each.
inline std::int64_t images_in(const char* name, const Floats& array, std::int64_t features) {
  if (array.size() % features != 0) {
    throw std::invalid_argument(std::string(name) + " must have a multiple of " +
                                std::to_string(features) + " elements, got " +
                                std::to_string(array.size()));
  }
  return array.size() / features;
}

/// Element counts of neurons over T; each size is bounded so that no product overflows.
struct SomaSizes {
  SomaShape shape;
  std::int64_t values;
  std::int64_t states;
  std::int64_t words;

  SomaSizes(std::int64_t steps, std::int64_t batch, std::int64_t features)
      : shape{steps, batch, features} {
    std::int64_t images = 0;
    std::int64_t bits = 0;
    if (steps < 1 || batch < 0 || features < 0 || __builtin_mul_overflow(steps, batch, &images) ||
        __builtin_mul_overflow(images, features + word_bits, &bits)) {
      throw std::invalid_argument("steps must be at least 1, batch and features at least 0, got " +
                                  std::to_string(steps) + ", " + std::to_string(batch) + ", " +
                                  std::to_string(features));
    }
    values = images * features;
    states = batch * features;
    words = images * words_for(features);
  }
};

}  // namespace h2learn
