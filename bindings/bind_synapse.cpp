// Synapses: the shape of a layer, its three products, and the count of their operations.
#include "h2learn/backward.hpp"
#include "h2learn/digits.hpp"
#include "h2learn/forward.hpp"
#include "h2learn/geometry.hpp"
#include "h2learn/operations.hpp"
#include "h2learn/weight_update.hpp"
#include "operands.hpp"

namespace h2learn {
namespace {

Geometry make_geometry(std::int64_t in_channels, std::int64_t in_height, std::int64_t in_width,
                       std::int64_t out_channels, std::int64_t kernel_height,
                       std::int64_t kernel_width, std::int64_t stride_height,
                       std::int64_t stride_width, std::int64_t padding_height,
                       std::int64_t padding_width, std::int64_t dilation_height,
                       std::int64_t dilation_width, std::int64_t groups) {
  const Geometry geometry{in_channels,    in_height,     in_width,        out_channels,
                          kernel_height,  kernel_width,  stride_height,   stride_width,
                          padding_height, padding_width, dilation_height, dilation_width,
                          groups};
  geometry.validate();
  return geometry;
}

void bind_geometry(py::module_& m) {
  const Geometry defaults;
  py::class_<Geometry>(m, "Geometry",
                       "Shape of a synapse layer for one image; a linear layer has one position "
                       "and one tap. Sizes in elements.")
      .def(py::init(&make_geometry), py::kw_only(), py::arg("in_channels") = defaults.in_channels,
           py::arg("in_height") = defaults.in_height, py::arg("in_width") = defaults.in_width,
           py::arg("out_channels") = defaults.out_channels,
           py::arg("kernel_height") = defaults.kernel_height,
           py::arg("kernel_width") = defaults.kernel_width,
           py::arg("stride_height") = defaults.stride_height,
           py::arg("stride_width") = defaults.stride_width,
           py::arg("padding_height") = defaults.padding_height,
           py::arg("padding_width") = defaults.padding_width,
           py::arg("dilation_height") = defaults.dilation_height,
           py::arg("dilation_width") = defaults.dilation_width, py::arg("groups") = defaults.groups)
      .def_readonly("in_channels", &Geometry::in_channels)
      .def_readonly("in_height", &Geometry::in_height)
      .def_readonly("in_width", &Geometry::in_width)
      .def_readonly("out_channels", &Geometry::out_channels)
      .def_readonly("kernel_height", &Geometry::kernel_height)
      .def_readonly("kernel_width", &Geometry::kernel_width)
      .def_readonly("stride_height", &Geometry::stride_height)
      .def_readonly("stride_width", &Geometry::stride_width)
      .def_readonly("padding_height", &Geometry::padding_height)
      .def_readonly("padding_width", &Geometry::padding_width)
      .def_readonly("dilation_height", &Geometry::dilation_height)
      .def_readonly("dilation_width", &Geometry::dilation_width)
      .def_readonly("groups", &Geometry::groups)
      .def_property_readonly("out_height", &Geometry::out_height)
      .def_property_readonly("out_width", &Geometry::out_width)
      .def_property_readonly("fan_in", &Geometry::fan_in, "Weights that reach one output.");
}

void forward_packed(const Geometry& geometry, const Words& words, float scale, const Floats& weight,
                    const MaybeFloats& bias, const std::string& kernel, int lut_inputs,
                    int lut_rows, Floats& out) {
  const PackedView spikes = packed_inputs(geometry, words);
  require_size("weight", weight, geometry.weights());
  const float* const bias_data = read("bias", bias, geometry.out_channels);
  require_size("out", out, spikes.rows * geometry.out_features());
  const float* const weight_data = weight.data();
  float* const currents = out.mutable_data();
  const Kernel chosen = kernel_from_name(kernel);
  const py::gil_scoped_release release;
  forward(geometry, spikes, scale, weight_data, bias_data, currents, chosen,
          {lut_inputs, lut_rows});
}

void forward_dense(const Geometry& geometry, const Floats& inputs, const Floats& weight,
                   const MaybeFloats& bias, const std::string& kernel, Floats& out) {
  const std::int64_t images = images_in("inputs", inputs, geometry.in_features());
  require_size("weight", weight, geometry.weights());
  const float* const bias_data = read("bias", bias, geometry.out_channels);
  require_size("out", out, images * geometry.out_features());
  const float* const input_data = inputs.data();
  const float* const weight_data = weight.data();
  float* const currents = out.mutable_data();
  const Kernel chosen = kernel_from_name(kernel);
  const py::gil_scoped_release release;
  forward(geometry, input_data, images, weight_data, bias_data, currents, chosen);
}

void backward_dense(const Geometry& geometry, const Floats& grad_currents, const Floats& weight,
                    const MaybeWords& mask, const std::string& kernel, Floats& out) {
  const std::int64_t images = images_in("grad_currents", grad_currents, geometry.out_features());
  require_size("weight", weight, geometry.weights());
  require_size("out", out, images * geometry.in_features());
  if (mask) require_size("mask", *mask, images * words_for(geometry.in_features()));
  const std::uint64_t* const mask_words = mask ? words_of(*mask) : nullptr;
  const float* const gradients = grad_currents.data();
  const float* const weight_data = weight.data();
  float* const grad_inputs = out.mutable_data();
  const Kernel chosen = kernel_from_name(kernel);
  const py::gil_scoped_release release;
  backward(geometry, gradients, images, weight_data, mask_words, grad_inputs, chosen);
}

void weight_update_packed(const Geometry& geometry, const Words& words, float scale,
                          const Floats& grad_currents, const std::string& kernel, int lut_inputs,
                          int lut_rows, Floats& out) {
  const PackedView spikes = packed_inputs(geometry, words);
  require_size("grad_currents", grad_currents, spikes.rows * geometry.out_features());
  require_size("out", out, geometry.weights());
  const float* const gradients = grad_currents.data();
  float* const grad_weight = out.mutable_data();
  const Kernel chosen = kernel_from_name(kernel);
  const py::gil_scoped_release release;
  weight_update(geometry, spikes, scale, gradients, grad_weight, chosen, {lut_inputs, lut_rows});
}

void weight_update_dense(const Geometry& geometry, const Floats& inputs,
                         const Floats& grad_currents, const std::string& kernel, Floats& out) {
  const std::int64_t images = images_in("inputs", inputs, geometry.in_features());
  require_size("grad_currents", grad_currents, images * geometry.out_features());
  require_size("out", out, geometry.weights());
  const float* const input_data = inputs.data();
  const float* const gradients = grad_currents.data();
  float* const grad_weight = out.mutable_data();
  const Kernel chosen = kernel_from_name(kernel);
  const py::gil_scoped_release release;
  weight_update(geometry, input_data, images, gradients, grad_weight, chosen);
}

void bias_update_rows(const Floats& grad_currents, Floats& out) {
  if (grad_currents.ndim() != 2) {
    throw std::invalid_argument("grad_currents must be [positions, out_channels], got " +
                                py::str(grad_currents.attr("shape")).cast<std::string>());
  }
  const std::int64_t positions = grad_currents.shape(0);
  const std::int64_t out_channels = grad_currents.shape(1);
  require_size("out", out, out_channels);
  const float* const gradients = grad_currents.data();
  float* const grad_bias = out.mutable_data();
  const py::gil_scoped_release release;
  bias_update(gradients, positions, out_channels, grad_bias);
}

bool has_forward_digits(const Geometry& geometry, const Floats& weight, std::int64_t planes) {
  require_size("weight", weight, geometry.weights());
  const float* const weight_data = weight.data();
  const py::gil_scoped_release release;
  return forward_has_digits(geometry, weight_data, planes);
}

bool has_backward_digits(const Geometry& geometry, const Floats& grad_currents,
                         const Floats& weight) {
  const std::int64_t images = images_in("grad_currents", grad_currents, geometry.out_features());
  require_size("weight", weight, geometry.weights());
  const float* const gradients = grad_currents.data();
  const float* const weight_data = weight.data();
  const py::gil_scoped_release release;
  return backward_has_digits(geometry, gradients, images, weight_data);
}

std::int64_t count_packed_operations(const Geometry& geometry, const Words& words,
                                     const MaybeWords& outputs) {
  const PackedView spikes = packed_inputs(geometry, words);
  if (outputs) {
    require_size("outputs", *outputs, spikes.rows * geometry.out_positions() * geometry.groups);
  }
  const std::int64_t* const output_counts = outputs ? outputs->data() : nullptr;
  const py::gil_scoped_release release;
  return count_operations(geometry, spikes, output_counts);
}

}  // namespace

void bind_synapse(py::module_& m) {
  bind_geometry(m);
  m.def("forward_packed", &forward_packed, py::arg("geometry"), py::arg("words").noconvert(),
        py::arg("scale"), py::arg("weight").noconvert(), py::arg("bias").noconvert().none(true),
        py::arg("kernel"), py::arg("lut_inputs"), py::arg("lut_rows"), py::arg("out").noconvert(),
        "out[rows, positions, out_channels] from packed spikes int64[planes, rows, words].");
  m.def("forward_dense", &forward_dense, py::arg("geometry"), py::arg("inputs").noconvert(),
        py::arg("weight").noconvert(), py::arg("bias").noconvert().none(true), py::arg("kernel"),
        py::arg("out").noconvert(),
        "out[images, positions, out_channels] from analog inputs[images, positions, channels].");
  m.def("backward", &backward_dense, py::arg("geometry"), py::arg("grad_currents").noconvert(),
        py::arg("weight").noconvert(), py::arg("mask").noconvert().none(true), py::arg("kernel"),
        py::arg("out").noconvert(),
        "out[images, positions, in_channels], +0 where mask int64[images, words] has no bit.");
  m.def("weight_update_packed", &weight_update_packed, py::arg("geometry"),
        py::arg("words").noconvert(), py::arg("scale"), py::arg("grad_currents").noconvert(),
        py::arg("kernel"), py::arg("lut_inputs"), py::arg("lut_rows"), py::arg("out").noconvert(),
        "out, in the weight's order, from packed spikes int64[planes, rows, words].");
  m.def("weight_update_dense", &weight_update_dense, py::arg("geometry"),
        py::arg("inputs").noconvert(), py::arg("grad_currents").noconvert(), py::arg("kernel"),
        py::arg("out").noconvert(), "out, in the weight's order, from analog inputs.");
  m.def("bias_update", &bias_update_rows, py::arg("grad_currents").noconvert(),
        py::arg("out").noconvert(),
        "out[out_channels]: grad_currents[positions, out_channels] "
        "summed over positions.");
  m.def("forward_has_digits", &has_forward_digits, py::arg("geometry"),
        py::arg("weight").noconvert(), py::arg("planes") = 1,
        "Whether kernel 'digits' computes this layer's currents by digits.");
  m.def("backward_has_digits", &has_backward_digits, py::arg("geometry"),
        py::arg("grad_currents").noconvert(), py::arg("weight").noconvert(),
        "Whether kernel 'digits' computes these input gradients by digits.");
  m.def("count_operations", &count_packed_operations, py::arg("geometry"),
        py::arg("words").noconvert(), py::arg("outputs").noconvert().none(true),
        "Synaptic operations of these spikes: set bits in every window times the outputs they "
        "reach (int64[rows, positions, groups]; None: all).");
  m.def("count_dense_operations", &count_dense_operations, py::arg("geometry"), py::arg("rows"),
        "Multiply-accumulates without skipping; taps in the padding are not counted.");
}

}  // namespace h2learn
