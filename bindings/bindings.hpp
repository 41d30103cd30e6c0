// What the bindings share: arrays are taken as they lie in memory, never converted or copied;
// sizes are checked before a pointer leaves this layer; the GIL is released while kernels run.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <stdexcept>
#include <string>

namespace h2learn {

namespace py = pybind11;

/// C-contiguous array of exactly this type. Bind every argument with .noconvert().
template <typename T>
using Array = py::array_t<T, py::array::c_style>;

/// Packed words travel as int64, the widest integer torch supports everywhere.
inline const std::uint64_t* words_of(const Array<std::int64_t>& array) {
  return reinterpret_cast<const std::uint64_t*>(array.data());
}
inline std::uint64_t* mutable_words_of(Array<std::int64_t>& array) {
  return reinterpret_cast<std::uint64_t*>(array.mutable_data());
}

template <typename T>
void require_size(const char* name, const Array<T>& array, std::int64_t expected) {
  if (array.size() != expected) {
    throw std::invalid_argument(std::string(name) + " must have " + std::to_string(expected) +
                                " elements, got " + std::to_string(array.size()));
  }
}

void bind_accelerator(py::module_& m);
void bind_build(py::module_& m);
void bind_datapath(py::module_& m);
void bind_fused(py::module_& m);
void bind_memory(py::module_& m);
void bind_spikes(py::module_& m);
void bind_soma(py::module_& m);
void bind_synapse(py::module_& m);
void bind_pooling(py::module_& m);

}  // namespace h2learn
