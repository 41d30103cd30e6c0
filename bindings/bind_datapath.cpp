// The engines' own arithmetic: the three products of a synapse as the accelerator computes them.
#include <optional>

#include "bindings.hpp"
#include "h2learn/accelerator/datapath.hpp"

namespace h2learn {
namespace {

using namespace accelerator;

using Floats = Array<float>;
using Words = Array<std::int64_t>;

Precision precision_from_name(const std::string& name) {
  if (name == "fp32") return Precision::fp32;
  if (name == "fp16") return Precision::fp16;
  if (name == "bf16") return Precision::bf16;
  throw std::invalid_argument("precision must be one of fp32, fp16, bf16, got '" + name + "'");
}

/// int64[planes, rows, words] of the layer's inputs and the weight of each plane.
PlaneInputs plane_inputs(const Geometry& geometry, const Words& words, const Floats& plane_weights,
                         float scale) {
  const std::int64_t width = words_for(geometry.in_features());
  if (words.ndim() != 3 || words.shape(2) != width) {
    throw std::invalid_argument("words must be [planes, rows, " + std::to_string(width) +
                                "], got " + py::str(words.attr("shape")).cast<std::string>());
  }
  require_size("plane_weights", plane_weights, words.shape(0));
  return {{words_of(words), words.shape(0), words.shape(1), geometry.in_features()},
          plane_weights.data(),
          scale};
}

void forward(const Geometry& geometry, const Words& words, const Floats& plane_weights, float scale,
             const Floats& weight, const std::optional<Floats>& bias, const std::string& precision,
             std::int64_t rows, std::int64_t inputs, bool tables, Floats& out) {
  const PlaneInputs planes = plane_inputs(geometry, words, plane_weights, scale);
  require_size("weight", weight, geometry.weights());
  if (bias) require_size("bias", *bias, geometry.out_channels);
  require_size("out", out, planes.bits.rows * geometry.out_features());
  const float* const bias_data = bias ? bias->data() : nullptr;
  const float* const weight_data = weight.data();
  float* const currents = out.mutable_data();
  const Precision format = precision_from_name(precision);
  const py::gil_scoped_release release;
  hardware_forward(geometry, planes, weight_data, bias_data, currents, format,
                   {rows, inputs, tables});
}

void backward(const Geometry& geometry, const Floats& grad_currents, const Floats& weight,
              const std::optional<Words>& mask, const std::string& precision, Floats& out) {
  const std::int64_t images = grad_currents.size() / geometry.out_features();
  require_size("grad_currents", grad_currents, images * geometry.out_features());
  require_size("weight", weight, geometry.weights());
  if (mask) require_size("mask", *mask, images * words_for(geometry.in_features()));
  require_size("out", out, images * geometry.in_features());
  const std::uint64_t* const mask_words = mask ? words_of(*mask) : nullptr;
  const float* const gradients = grad_currents.data();
  const float* const weight_data = weight.data();
  float* const grad_inputs = out.mutable_data();
  const Precision format = precision_from_name(precision);
  const py::gil_scoped_release release;
  hardware_backward(geometry, gradients, images, weight_data, mask_words, grad_inputs, format);
}

void update(const Geometry& geometry, const Words& words, const Floats& plane_weights, float scale,
            const Floats& grad_currents, std::int64_t timesteps, std::int64_t samples,
            const std::string& precision, std::int64_t rows, std::int64_t inputs, bool tables,
            std::int64_t columns, std::int64_t spikes_bytes, std::int64_t parts, bool compact,
            Floats& out) {
  const PlaneInputs planes = plane_inputs(geometry, words, plane_weights, scale);
  require_size("grad_currents", grad_currents, planes.bits.rows * geometry.out_features());
  require_size("out", out, geometry.weights());
  const float* const gradients = grad_currents.data();
  float* const grad_weight = out.mutable_data();
  const Precision format = precision_from_name(precision);
  UpdateArray array;
  array.rows = rows;
  array.inputs = inputs;
  array.tables = tables;
  array.columns = columns;
  array.spikes_bytes = spikes_bytes;
  array.parts = parts;
  array.compact = compact;
  const py::gil_scoped_release release;
  hardware_update(geometry, planes, gradients, timesteps, samples, grad_weight, format, array);
}

}  // namespace

void bind_datapath(py::module_& m) {
  m.def(
      "hardware_forward", &forward, py::arg("geometry"), py::arg("words").noconvert(),
      py::arg("plane_weights").noconvert(), py::arg("scale"), py::arg("weight").noconvert(),
      py::arg("bias").noconvert().none(true), py::arg("precision"), py::arg("rows"),
      py::arg("inputs"), py::arg("tables"), py::arg("out").noconvert(),
      "out[rows, positions, out_channels] of the forward engine from int64[planes, rows, words].");
  m.def("hardware_backward", &backward, py::arg("geometry"), py::arg("grad_currents").noconvert(),
        py::arg("weight").noconvert(), py::arg("mask").noconvert().none(true), py::arg("precision"),
        py::arg("out").noconvert(),
        "out[images, positions, in_channels] of the backward engine, +0 where mask has no bit.");
  m.def("hardware_update", &update, py::arg("geometry"), py::arg("words").noconvert(),
        py::arg("plane_weights").noconvert(), py::arg("scale"),
        py::arg("grad_currents").noconvert(), py::arg("timesteps"), py::arg("samples"),
        py::arg("precision"), py::arg("rows"), py::arg("inputs"), py::arg("tables"),
        py::arg("columns"), py::arg("spikes_bytes"), py::arg("parts"), py::arg("compact"),
        py::arg("out").noconvert(),
        "out, in the weight's order, of the weight-update engine; a row of words and of "
        "grad_currents is timestep * samples + sample.");
}

}  // namespace h2learn
