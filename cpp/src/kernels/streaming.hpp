// Stores that go past the caches, for outputs so large that whoever reads them will not find
// them there: a line is then written without being read first, a third less traffic. As vec.hpp,
// for kernel sources only.
#pragma once

#include "kernels/vec.hpp"

#if !defined(__AVX2__) && defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace h2learn {
namespace {

/// Outputs of at least this size are streamed: more than a core's share of any usual cache.
constexpr std::int64_t stream_from_bytes = std::int64_t{1} << 22;

/// What a streaming store demands of its address.
H2LEARN_INLINE bool aligned_for_streaming(const float* to) {
  return reinterpret_cast<std::uintptr_t>(to) % vector_bytes == 0;
}

H2LEARN_INLINE void put(float* to, Floats value, bool streaming) {
  if (!streaming) return store(to, value);
#if defined(__AVX512F__)
  _mm512_stream_ps(to, value);
#elif defined(__AVX2__)
  _mm256_stream_ps(to, value);
#elif defined(__SSE2__)
  _mm_stream_ps(to, value);
#else
  store(to, value);
#endif
}

/// Makes this thread's streamed stores visible before it tells other threads that it is done.
H2LEARN_INLINE void finish_streaming() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

}  // namespace
}  // namespace h2learn
