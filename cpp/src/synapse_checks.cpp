#include "synapse_checks.hpp"

#include <cmath>
#include <cstdio>
#include <stdexcept>
#include <string>

namespace h2learn {
namespace {

void require_between(const char* name, std::int64_t value, std::int64_t least, std::int64_t most) {
  if (value < least || value > most) {
    throw std::invalid_argument(std::string(name) + " must be " + std::to_string(least) + " to " +
                                std::to_string(most) + ", got " + std::to_string(value));
  }
}

std::string number(float value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.9g", static_cast<double>(value));
  return text;
}

}  // namespace

void require_array(const char* name, const void* pointer, std::int64_t elements) {
  if (pointer == nullptr && elements > 0) {
    throw std::invalid_argument(std::string(name) + " must hold " + std::to_string(elements) +
                                " elements, got a null pointer");
  }
}

void require_images(const char* name, std::int64_t images) {
  if (images < 0) {
    throw std::invalid_argument(std::string(name) + " must be at least 0, got " +
                                std::to_string(images));
  }
}

void require_finite(const char* name, const float* values, std::int64_t count) {
  if (values == nullptr) return;
  // A chunk at a time, without a branch inside, so that the compiler can vectorise the check:
  // x * 0 is 0 for every finite x and NaN for the others.
  constexpr std::int64_t chunk = 1024;
  for (std::int64_t begin = 0; begin < count; begin += chunk) {
    const std::int64_t end = begin + chunk < count ? begin + chunk : count;
    int bad = 0;
    for (std::int64_t i = begin; i < end; ++i) bad |= values[i] * 0.0F != 0.0F;
    if (bad == 0) continue;
    std::int64_t i = begin;
    while (std::isfinite(values[i])) ++i;
    throw std::invalid_argument(std::string(name) + " must be finite, got " + number(values[i]) +
                                " at flat index " + std::to_string(i));
  }
}

void require_finite(const char* name, float value) {
  if (!std::isfinite(value)) {
    throw std::invalid_argument(std::string(name) + " must be finite, got " + number(value));
  }
}

void require_spikes(const Geometry& geometry, const PackedView& spikes) {
  require_between("planes", spikes.planes, 1, most_planes);
  require_images("rows", spikes.rows);
  if (spikes.features != geometry.in_features()) {
    throw std::invalid_argument("features must be in_height * in_width * in_channels = " +
                                std::to_string(geometry.in_features()) + ", got " +
                                std::to_string(spikes.features));
  }
  require_array("words", spikes.words, spikes.planes * spikes.rows * spikes.words_per_row());
}

void require_lut(LutShape lut) {
  require_between("lut inputs", lut.inputs, 1, 12);
  require_between("lut rows", lut.rows, 1, 1024);
}

}  // namespace h2learn
