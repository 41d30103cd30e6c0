// Pooling of packed spikes and its gradients.
#include "bindings.hpp"
#include "h2learn/pooling.hpp"

namespace h2learn {
namespace {

using Floats = Array<float>;
using Words = Array<std::int64_t>;

/// The number of whole rows of `row_size` elements in an array of any shape.
template <typename T>
std::int64_t rows_of(const char* name, const Array<T>& array, std::int64_t row_size) {
  if (array.size() % row_size != 0) {
    throw std::invalid_argument(std::string(name) + " must hold whole images of " +
                                std::to_string(row_size) + " elements, got " +
                                std::to_string(array.size()));
  }
  return array.size() / row_size;
}

PackedView spikes_of(const PoolGeometry& geometry, const Words& words) {
  const std::int64_t features = geometry.in_features();
  return {words_of(words), 1, rows_of("words", words, words_for(features)), features};
}

using ForwardPool = void (*)(const PoolGeometry&, const PackedView&, std::uint64_t*);

void forward(ForwardPool pool, std::int64_t planes, const PoolGeometry& geometry,
             const Words& words, Words& out) {
  const PackedView spikes = spikes_of(geometry, words);
  require_size("out", out, planes * spikes.rows * words_for(geometry.out_features()));
  std::uint64_t* const result = mutable_words_of(out);
  const py::gil_scoped_release unlocked;
  pool(geometry, spikes, result);
}

void bind_average_backward(const PoolGeometry& geometry, const Floats& grad_outputs,
                           Floats& grad_inputs) {
  const std::int64_t rows = rows_of("grad_outputs", grad_outputs, geometry.out_features());
  require_size("grad_inputs", grad_inputs, rows * geometry.in_features());
  const float* const from = grad_outputs.data();
  float* const to = grad_inputs.mutable_data();
  const py::gil_scoped_release unlocked;
  average_pool_backward(geometry, from, rows, to);
}

void bind_max_backward(const PoolGeometry& geometry, const Words& words, const Floats& grad_outputs,
                       Floats& grad_inputs) {
  const PackedView spikes = spikes_of(geometry, words);
  require_size("grad_outputs", grad_outputs, spikes.rows * geometry.out_features());
  require_size("grad_inputs", grad_inputs, spikes.rows * geometry.in_features());
  const float* const from = grad_outputs.data();
  float* const to = grad_inputs.mutable_data();
  const py::gil_scoped_release unlocked;
  max_pool_backward(geometry, spikes, from, to);
}

PoolGeometry make_geometry(std::int64_t channels, std::int64_t in_height, std::int64_t in_width,
                           std::int64_t kernel_height, std::int64_t kernel_width,
                           std::int64_t stride_height, std::int64_t stride_width) {
  const PoolGeometry geometry{channels,     in_height,     in_width,    kernel_height,
                              kernel_width, stride_height, stride_width};
  geometry.validate();
  return geometry;
}

}  // namespace

void bind_pooling(py::module_& m) {
  const PoolGeometry defaults;
  py::class_<PoolGeometry>(m, "PoolGeometry",
                           "Windows of one image, without padding; checked when made.")
      .def(py::init(&make_geometry), py::kw_only(), py::arg("channels") = defaults.channels,
           py::arg("in_height"), py::arg("in_width"),
           py::arg("kernel_height") = defaults.kernel_height,
           py::arg("kernel_width") = defaults.kernel_width,
           py::arg("stride_height") = defaults.stride_height,
           py::arg("stride_width") = defaults.stride_width)
      .def_readonly("channels", &PoolGeometry::channels)
      .def_readonly("in_height", &PoolGeometry::in_height)
      .def_readonly("in_width", &PoolGeometry::in_width)
      .def_readonly("kernel_height", &PoolGeometry::kernel_height)
      .def_readonly("kernel_width", &PoolGeometry::kernel_width)
      .def_readonly("stride_height", &PoolGeometry::stride_height)
      .def_readonly("stride_width", &PoolGeometry::stride_width)
      .def_property_readonly("planes", &PoolGeometry::planes,
                             "Bit planes of a count of the window's spikes.")
      .def_property_readonly("out_height", &PoolGeometry::out_height)
      .def_property_readonly("out_width", &PoolGeometry::out_width);
  m.def(
      "count_pool",
      [](const PoolGeometry& geometry, const Words& words, Words& out) {
        forward(&count_pool, geometry.planes(), geometry, words, out);
      },
      py::arg("geometry"), py::arg("words").noconvert(), py::arg("out").noconvert(),
      "Counts of spikes in each window: words[rows, words] to out[planes, rows, out_words].");
  m.def(
      "max_pool",
      [](const PoolGeometry& geometry, const Words& words, Words& out) {
        forward(&max_pool, 1, geometry, words, out);
      },
      py::arg("geometry"), py::arg("words").noconvert(), py::arg("out").noconvert(),
      "OR over each window: words[rows, words] to out[rows, out_words].");
  m.def("average_pool_backward", &bind_average_backward, py::arg("geometry"),
        py::arg("grad_outputs").noconvert(), py::arg("grad_inputs").noconvert(),
        "float32[rows, out_features] to float32[rows, in_features], channels-last.");
  m.def("max_pool_backward", &bind_max_backward, py::arg("geometry"), py::arg("words").noconvert(),
        py::arg("grad_outputs").noconvert(), py::arg("grad_inputs").noconvert(),
        "Gradient to each window's first spike, or to its first element when none fired.");
}

}  // namespace h2learn
