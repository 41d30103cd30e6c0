// Scratch memory of the calling thread, reused from call to call so that kernels neither
// allocate in their loops nor instantiate containers for one instruction set.
#pragma once

#include <cstddef>
#include <cstdint>

namespace h2learn {

/// Independent scratch areas, so that functions which call each other do not share one.
enum class ScratchSlot { weights, inputs, operands, output, count };

/// At least `bytes` of 64-byte-aligned memory owned by the calling thread. Its contents are
/// unspecified; it stays valid until the same thread asks for the same slot again.
/// Throws OutOfMemory (out_of_memory.hpp); do not call inside an OpenMP region without catching it
/// there.
void* scratch(ScratchSlot slot, std::size_t bytes);

/// Bytes that all threads hold in such areas.
std::int64_t scratch_bytes();

}  // namespace h2learn
