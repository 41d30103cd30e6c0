// Counts written out as floats before a product reads them: every tap reads an input, and every
// task again, so that adding up its planes each time would cost more than the product. For kernel
// sources only.
#pragma once

#include <cstdint>

#include "kernels/synapse_choice.hpp"
#include "kernels/synapse_gather.hpp"
#include "scratch.hpp"

namespace h2learn {
namespace {

/// True for rows that expand_counts() is worth it for: tables and scattering read bits.
inline bool expands_counts(const GatheredRows& rows, Method method, Choice choice) {
  return rows.words != nullptr && rows.planes > 1 && method != Method::tables &&
         choice != Choice::scatter;
}

/// The same rows, of floats in this thread's scratch memory (slot `inputs`).
inline GatheredRows expand_counts(const GatheredRows& from) {
  const std::int64_t stride = round_up(from.image_stride, lanes);
  const std::int64_t floats = from.images * stride;
  float* const values = static_cast<float*>(
      scratch(ScratchSlot::inputs, static_cast<std::size_t>(floats + lanes) * sizeof(float)));
#pragma omp parallel for schedule(static) num_threads(threads_for(floats))
  for (std::int64_t image = 0; image < from.images; ++image) {
    copy_elements(from, image, 0, from.image_stride, values + image * stride);
  }
  GatheredRows rows = from;
  rows.words = nullptr;
  rows.planes = 1;
  rows.values = values;
  rows.image_stride = stride;
  return rows;
}

}  // namespace
}  // namespace h2learn
