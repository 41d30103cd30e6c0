// Synapses and the neurons behind them in one pass, without their currents.
#include "h2learn/fused_forward.hpp"
#include "operands.hpp"

namespace h2learn {
namespace {

Synapses make_synapses(const Geometry& geometry, const Floats& weight, const MaybeFloats& bias,
                       const std::string& kernel, const MaybeFloats& gain,
                       const MaybeFloats& offset) {
  Synapses synapses;
  synapses.geometry = geometry;
  synapses.weight = read("weight", weight, geometry.weights());
  synapses.bias = read("bias", bias, geometry.out_channels);
  synapses.kernel = kernel_from_name(kernel);
  synapses.gain = read("gain", gain, geometry.out_channels);
  synapses.offset = read("offset", offset, geometry.out_channels);
  return synapses;
}

Neurons make_neurons(const SomaOptions& options, const SomaSizes& sizes, const MaybeFloats& initial,
                     Words& spikes, MaybeWords& mask, MaybeFloats& membrane, MaybeFloats& last) {
  Neurons neurons;
  neurons.options = options;
  neurons.steps = sizes.shape.steps;
  neurons.batch = sizes.shape.batch;
  neurons.initial = read("initial", initial, sizes.states);
  neurons.spikes = write("spikes", spikes, sizes.words);
  neurons.mask = write("mask", mask, sizes.words);
  neurons.membrane = write("membrane", membrane, sizes.values);
  neurons.last = write("last", last, sizes.states);
  return neurons;
}

void packed(const Geometry& geometry, const Words& words, float scale, const Floats& weight,
            const MaybeFloats& bias, const std::string& kernel, int lut_inputs, int lut_rows,
            const MaybeFloats& gain, const MaybeFloats& offset, const SomaOptions& options,
            std::int64_t steps, std::int64_t batch, const MaybeFloats& initial, Words& spikes,
            MaybeWords& mask, MaybeFloats& membrane, MaybeFloats& last) {
  const PackedView inputs = packed_inputs(geometry, words);
  Synapses synapses = make_synapses(geometry, weight, bias, kernel, gain, offset);
  synapses.lut = {lut_inputs, lut_rows};
  const SomaSizes sizes(steps, batch, geometry.out_features());
  const Neurons neurons = make_neurons(options, sizes, initial, spikes, mask, membrane, last);
  const py::gil_scoped_release release;
  fused_forward(synapses, inputs, scale, neurons);
}

void dense(const Geometry& geometry, const Floats& inputs, const Floats& weight,
           const MaybeFloats& bias, const std::string& kernel, const MaybeFloats& gain,
           const MaybeFloats& offset, const SomaOptions& options, std::int64_t steps,
           std::int64_t batch, const MaybeFloats& initial, Words& spikes, MaybeWords& mask,
           MaybeFloats& membrane, MaybeFloats& last) {
  const std::int64_t images = images_in("inputs", inputs, geometry.in_features());
  const Synapses synapses = make_synapses(geometry, weight, bias, kernel, gain, offset);
  const SomaSizes sizes(steps, batch, geometry.out_features());
  const Neurons neurons = make_neurons(options, sizes, initial, spikes, mask, membrane, last);
  const float* const values = inputs.data();
  const py::gil_scoped_release release;
  fused_forward(synapses, values, images, neurons);
}

}  // namespace

void bind_fused(py::module_& m) {
  m.def("fused_forward_packed", &packed, py::arg("geometry"), py::arg("words").noconvert(),
        py::arg("scale"), py::arg("weight").noconvert(), py::arg("bias").noconvert().none(true),
        py::arg("kernel"), py::arg("lut_inputs"), py::arg("lut_rows"),
        py::arg("gain").noconvert().none(true), py::arg("offset").noconvert().none(true),
        py::arg("options"), py::arg("steps"), py::arg("batch"),
        py::arg("initial").noconvert().none(true), py::arg("spikes").noconvert(),
        py::arg("mask").noconvert().none(true), py::arg("membrane").noconvert().none(true),
        py::arg("last").noconvert().none(true),
        "What soma_forward makes of forward_packed's currents, which are never stored; where gain\n"
        "and offset [out_channels] are given, of currents * gain + offset.");
  m.def("fused_forward_dense", &dense, py::arg("geometry"), py::arg("inputs").noconvert(),
        py::arg("weight").noconvert(), py::arg("bias").noconvert().none(true), py::arg("kernel"),
        py::arg("gain").noconvert().none(true), py::arg("offset").noconvert().none(true),
        py::arg("options"), py::arg("steps"), py::arg("batch"),
        py::arg("initial").noconvert().none(true), py::arg("spikes").noconvert(),
        py::arg("mask").noconvert().none(true), py::arg("membrane").noconvert().none(true),
        py::arg("last").noconvert().none(true),
        "The same of forward_dense's. With batch images they are the same ones at every step.");
}

}  // namespace h2learn
