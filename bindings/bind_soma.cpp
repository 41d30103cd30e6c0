// Neuron dynamics over T: SomaOptions, and the fused forward and backward passes.
#include <tuple>

#include "h2learn/soma.hpp"
#include "operands.hpp"

namespace h2learn {
namespace {

Reset reset_from_name(const std::string& name) {
  if (name == "hard") return Reset::hard;
  if (name == "soft") return Reset::soft;
  throw std::invalid_argument("reset must be one of hard, soft, got '" + name + "'");
}

const char* name_of(Reset reset) { return reset == Reset::hard ? "hard" : "soft"; }

Surrogate surrogate_from_name(const std::string& name) {
  if (name == "rect") return Surrogate::rect;
  if (name == "triangle") return Surrogate::triangle;
  if (name == "atan") return Surrogate::atan;
  if (name == "sigmoid") return Surrogate::sigmoid;
  throw std::invalid_argument("surrogate must be one of rect, triangle, atan, sigmoid, got '" +
                              name + "'");
}

const char* name_of(Surrogate surrogate) {
  switch (surrogate) {
    case Surrogate::rect:
      return "rect";
    case Surrogate::triangle:
      return "triangle";
    case Surrogate::atan:
      return "atan";
    case Surrogate::sigmoid:
      return "sigmoid";
  }
  return "unknown";
}

SomaOptions make_options(float decay, float threshold, bool inclusive, const std::string& reset,
                         bool detach_reset, bool decay_input, const std::string& surrogate,
                         float width, float scale) {
  const SomaOptions options{decay,
                            threshold,
                            inclusive,
                            reset_from_name(reset),
                            detach_reset,
                            decay_input,
                            surrogate_from_name(surrogate),
                            width,
                            scale};
  options.validate();
  return options;
}

void forward(const SomaOptions& options, std::int64_t steps, std::int64_t batch,
             std::int64_t features, const Floats& currents, const MaybeFloats& initial,
             Words& spikes, MaybeWords& mask, MaybeFloats& membrane, MaybeFloats& last) {
  const SomaSizes sizes(steps, batch, features);
  const float* const x = read("currents", currents, sizes.values);
  const float* const h = read("initial", initial, sizes.states);
  std::uint64_t* const s = write("spikes", spikes, sizes.words);
  std::uint64_t* const m = write("mask", mask, sizes.words);
  float* const u = write("membrane", membrane, sizes.values);
  float* const l = write("last", last, sizes.states);
  const py::gil_scoped_release unlocked;
  soma_forward(options, sizes.shape, x, h, s, m, u, l);
}

std::tuple<double, double> backward(
    const SomaOptions& options, std::int64_t steps, std::int64_t batch, std::int64_t features,
    const Floats& grad_spikes, const std::optional<PoolGeometry>& pool,
    const MaybeFloats& grad_last, const Words& spikes, const MaybeWords& mask,
    const MaybeFloats& membrane, const MaybeFloats& currents, const MaybeFloats& initial,
    Floats& grad_currents, MaybeFloats& grad_initial, bool want_decay, bool want_threshold) {
  const SomaSizes sizes(steps, batch, features);
  double decay = 0.0;
  double threshold = 0.0;
  SomaGradients g;
  if (pool) require_pool(*pool, sizes.shape);
  const std::int64_t averages = pool ? steps * batch * pool->out_features() : 0;
  g.grad_spikes = read("grad_spikes", grad_spikes, pool ? averages : sizes.values);
  g.pool = pool ? &*pool : nullptr;
  g.grad_last = read("grad_last", grad_last, sizes.states);
  g.spikes = read("spikes", spikes, sizes.words);
  g.mask = read("mask", mask, sizes.words);
  g.membrane = read("membrane", membrane, sizes.values);
  g.currents = read("currents", currents, sizes.values);
  g.initial = read("initial", initial, sizes.states);
  g.grad_currents = write("grad_currents", grad_currents, sizes.values);
  g.grad_initial = write("grad_initial", grad_initial, sizes.states);
  g.grad_decay = want_decay ? &decay : nullptr;
  g.grad_threshold = want_threshold ? &threshold : nullptr;
  {
    const py::gil_scoped_release unlocked;
    soma_backward(options, sizes.shape, g);
  }
  return {decay, threshold};
}

void bind_options(py::module_& m) {
  const SomaOptions defaults;
  py::class_<SomaOptions>(m, "SomaOptions", "Options of a neuron; checked when made, read-only.")
      .def(py::init(&make_options), py::kw_only(), py::arg("decay") = defaults.decay,
           py::arg("threshold") = defaults.threshold, py::arg("inclusive") = defaults.inclusive,
           py::arg("reset") = name_of(defaults.reset),
           py::arg("detach_reset") = defaults.detach_reset,
           py::arg("decay_input") = defaults.decay_input,
           py::arg("surrogate") = name_of(defaults.surrogate), py::arg("width") = defaults.width,
           py::arg("scale") = defaults.scale)
      .def_readonly("decay", &SomaOptions::decay)
      .def_readonly("threshold", &SomaOptions::threshold)
      .def_readonly("inclusive", &SomaOptions::inclusive)
      .def_property_readonly("reset", [](const SomaOptions& o) { return name_of(o.reset); })
      .def_readonly("detach_reset", &SomaOptions::detach_reset)
      .def_readonly("decay_input", &SomaOptions::decay_input)
      .def_property_readonly("surrogate", [](const SomaOptions& o) { return name_of(o.surrogate); })
      .def_readonly("width", &SomaOptions::width)
      .def_readonly("scale", &SomaOptions::scale)
      .def_property_readonly("needs_membrane", &SomaOptions::needs_membrane,
                             "Whether the backward pass reads the membrane itself.")
      .def_property_readonly(
          "compact", [](const SomaOptions& o) { return is_compact(o.surrogate); },
          "Whether the surrogate is zero outside its width, so that it has a mask.");
}

}  // namespace

void bind_soma(py::module_& m) {
  bind_options(m);
  m.def("soma_forward", &forward, py::arg("options"), py::arg("steps"), py::arg("batch"),
        py::arg("features"), py::arg("currents").noconvert(),
        py::arg("initial").noconvert().none(true), py::arg("spikes").noconvert(),
        py::arg("mask").noconvert().none(true), py::arg("membrane").noconvert().none(true),
        py::arg("last").noconvert().none(true),
        "currents[T, B, F] to spikes[T, B, words] and, where not None, mask, membrane[T, B, F]\n"
        "and last[B, F]. ValueError names the first current that is not finite.");
  m.def("soma_backward", &backward, py::arg("options"), py::arg("steps"), py::arg("batch"),
        py::arg("features"), py::kw_only(), py::arg("grad_spikes").noconvert(),
        py::arg("pool") = py::none(), py::arg("grad_last").noconvert() = py::none(),
        py::arg("spikes").noconvert(), py::arg("mask").noconvert() = py::none(),
        py::arg("membrane").noconvert() = py::none(), py::arg("currents").noconvert() = py::none(),
        py::arg("initial").noconvert() = py::none(), py::arg("grad_currents").noconvert(),
        py::arg("grad_initial").noconvert() = py::none(), py::arg("want_decay") = false,
        py::arg("want_threshold") = false,
        "Gradients of the currents and, where asked, of the initial membrane; returns the\n"
        "gradients of decay and threshold, 0.0 where not wanted. With a pool, grad_spikes are the\n"
        "gradients at the averages of its windows.");
}

}  // namespace h2learn
