// The accelerator's two simulators: a machine whose attributes are the parameters of
// docs/microarchitecture.md, work as arrays, results as arrays.
#include <pybind11/typing.h>

#include <array>
#include <optional>
#include <string>
#include <vector>

#include "bindings.hpp"
#include "h2learn/accelerator/simulate.hpp"

namespace h2learn {
namespace {

using namespace accelerator;

using Words = Array<std::int64_t>;
using Numbers = py::array_t<std::int64_t>;

constexpr std::array engine_names = {"forward", "soma", "gradient", "backward", "update"};
constexpr std::array pass_names = {
    "forward", "soma", "recompute_forward", "recompute_soma", "gradient", "backward", "update"};
constexpr std::array tile_names = {
    "pass",      "part",       "layer",       "block",       "column",     "row",
    "depth",     "load_bytes", "store_bytes", "ready",       "load_issue", "load_done",
    "build_end", "start",      "end",         "store_issue", "store_done"};
static_assert(tile_names.size() == tile_fields && sizeof(Tile) == 8 * tile_fields);

constexpr std::array counter_names = {
#define H2LEARN_NAME(name) #name,
    H2LEARN_COUNTERS(H2LEARN_NAME)
#undef H2LEARN_NAME
};
static_assert(sizeof(Counters) == 8 * counter_names.size());

/// The value whose name is given, among the choices of a parameter.
template <typename Enum, std::size_t n>
Enum from_name(const char* parameter, const std::string& name,
               const std::array<const char*, n>& names) {
  std::string known;
  for (std::size_t i = 0; i < n; ++i) {
    if (name == names[i]) return static_cast<Enum>(i);
    known += (i ? ", " : "") + std::string(names[i]);
  }
  throw std::invalid_argument(std::string(parameter) + " must be one of " + known + ", got '" +
                              name + "'");
}

constexpr std::array schedule_names = {"serial", "layer", "batch"};
constexpr std::array membrane_names = {"store", "recompute"};

void bind_machine(py::module_& m) {
  py::class_<TableEngine>(m, "TableEngine")
      .def_readwrite("rows", &TableEngine::rows)
      .def_readwrite("columns", &TableEngine::columns)
      .def_readwrite("inputs", &TableEngine::inputs)
      .def_readwrite("tables", &TableEngine::tables)
      .def_readwrite("tables_bytes", &TableEngine::tables_bytes)
      .def_readwrite("spikes_bytes", &TableEngine::spikes_bytes)
      .def_readwrite("spikes_banks", &TableEngine::spikes_banks)
      .def_readwrite("psum_bytes", &TableEngine::psum_bytes)
      .def_readwrite("psum_banks", &TableEngine::psum_banks);
  py::class_<ForwardEngine, TableEngine>(m, "ForwardEngine")
      .def_readwrite("weights_bytes", &ForwardEngine::weights_bytes)
      .def_readwrite("weights_banks", &ForwardEngine::weights_banks);
  py::class_<UpdateEngine, TableEngine>(m, "UpdateEngine")
      .def_readwrite("gradients_bytes", &UpdateEngine::gradients_bytes)
      .def_readwrite("gradients_banks", &UpdateEngine::gradients_banks)
      .def_readwrite("compact", &UpdateEngine::compact);
  py::class_<LaneEngine>(m, "LaneEngine")
      .def_readwrite("lanes", &LaneEngine::lanes)
      .def_readwrite("latency_cycles", &LaneEngine::latency_cycles);
  py::class_<GradientUnit, LaneEngine>(m, "GradientUnit")
      .def_readwrite("buffer_bytes", &GradientUnit::buffer_bytes);
  py::class_<BackwardEngine>(m, "BackwardEngine")
      .def_readwrite("groups", &BackwardEngine::groups)
      .def_readwrite("lanes", &BackwardEngine::lanes)
      .def_readwrite("slice", &BackwardEngine::slice)
      .def_readwrite("encode_cycles", &BackwardEngine::encode_cycles)
      .def_readwrite("tile_rows", &BackwardEngine::tile_rows)
      .def_readwrite("weights_bytes", &BackwardEngine::weights_bytes)
      .def_readwrite("weights_banks", &BackwardEngine::weights_banks)
      .def_readwrite("gradients_bytes", &BackwardEngine::gradients_bytes)
      .def_readwrite("psum_bytes", &BackwardEngine::psum_bytes)
      .def_readwrite("input_sparsity", &BackwardEngine::input_sparsity)
      .def_readwrite("output_sparsity", &BackwardEngine::output_sparsity);
  py::class_<Dram>(m, "Dram")
      .def_readwrite("bytes_per_cycle", &Dram::bytes_per_cycle)
      .def_readwrite("latency_cycles", &Dram::latency_cycles)
      .def_readwrite("burst_bytes", &Dram::burst_bytes);
  py::class_<Machine>(m, "Machine")
      .def(py::init<>())
      .def_readonly("forward", &Machine::forward)
      .def_readonly("soma", &Machine::soma)
      .def_readonly("gradient", &Machine::gradient)
      .def_readonly("backward", &Machine::backward)
      .def_readonly("update", &Machine::update)
      .def_readonly("dram", &Machine::dram)
      .def_readwrite("state_bytes", &Machine::state_bytes)
      .def_readwrite("membrane_bytes", &Machine::membrane_bytes)
      .def_readwrite("value_bytes", &Machine::value_bytes)
      .def_readwrite("compressed_gradients", &Machine::compressed_gradients)
      .def_readwrite("parts", &Machine::parts)
      .def_property(
          "schedule",
          [](const Machine& self) {
            return std::string(schedule_names[static_cast<std::size_t>(self.schedule)]);
          },
          [](Machine& self, const std::string& name) {
            self.schedule = from_name<Schedule>("schedule", name, schedule_names);
          })
      .def_property(
          "membrane",
          [](const Machine& self) {
            return std::string(membrane_names[static_cast<std::size_t>(self.membrane)]);
          },
          [](Machine& self, const std::string& name) {
            self.membrane = from_name<Membrane>("membrane", name, membrane_names);
          })
      .def("validate", &Machine::validate);
}

/// Work with the arrays that it points into.
struct BoundLayer {
  LayerWork work;
  Words inputs;
  std::optional<Words> mask;
  std::optional<Words> nonzero;
};

const std::uint64_t* optional_words(const std::string& layer, const char* name,
                                    const std::optional<Words>& array, std::int64_t rows,
                                    std::int64_t width) {
  if (!array) return nullptr;
  if (array->ndim() != 2 || array->shape(0) != rows || array->shape(1) != width) {
    throw std::invalid_argument("layer " + layer + ": " + name + " must be [" +
                                std::to_string(rows) + ", " + std::to_string(width) + "], got " +
                                py::str(array->attr("shape")).cast<std::string>());
  }
  return words_of(*array);
}

BoundLayer make_layer(const std::string& name, const Geometry& geometry, std::int64_t timesteps,
                      std::int64_t samples, const Words& inputs, const std::optional<Words>& mask,
                      const std::optional<Words>& nonzero, bool input_gradient,
                      bool weight_gradient, bool neurons, bool membrane) {
  geometry.validate();
  BoundLayer layer{{}, inputs, mask, nonzero};
  if (timesteps < 1 || samples < 1 || timesteps > (std::int64_t{1} << 31) / samples) {
    throw std::invalid_argument("layer " + name +
                                ": timesteps and samples must be at least 1, got " +
                                std::to_string(timesteps) + " and " + std::to_string(samples));
  }
  const std::int64_t rows = timesteps * samples;
  const std::int64_t width = words_for(geometry.in_features());
  if (inputs.ndim() != 3 || inputs.shape(0) < 1 || inputs.shape(1) != rows ||
      inputs.shape(2) != width) {
    throw std::invalid_argument("layer " + name + ": inputs must be [planes, " +
                                std::to_string(rows) + ", " + std::to_string(width) + "], got " +
                                py::str(inputs.attr("shape")).cast<std::string>());
  }
  layer.work = {name,
                geometry,
                timesteps,
                samples,
                inputs.shape(0),
                words_of(inputs),
                optional_words(name, "mask", mask, rows, width),
                optional_words(name, "nonzero", nonzero, rows, words_for(geometry.out_features())),
                input_gradient,
                weight_gradient,
                neurons,
                membrane};
  return layer;
}

template <typename T>
Numbers numbers(const T* data, std::vector<py::ssize_t> shape) {
  Numbers array(std::move(shape));
  const auto* first = reinterpret_cast<const std::int64_t*>(data);
  std::copy(first, first + array.size(), array.mutable_data());
  return array;
}

py::typing::Dict<py::str, py::object> run(const Machine& machine,
                                          const std::vector<const BoundLayer*>& layers,
                                          bool clocked, bool tiles) {
  StepWork step;
  for (const BoundLayer* layer : layers) step.layers.push_back(layer->work);
  Result result;
  {
    const py::gil_scoped_release release;
    result = clocked ? simulate_clocked(machine, step) : simulate(machine, step);
  }
  const auto size = [](const auto& items) { return static_cast<py::ssize_t>(items.size()); };
  py::typing::Dict<py::str, py::object> out;
  out["cycles"] = result.cycles;
  out["dram_busy_cycles"] = result.dram_busy_cycles;
  out["tail_idle_cycles"] = numbers(result.tail_idle_cycles.data(), {engine_count});
  out["counters"] =
      numbers(result.layers.data(), {size(result.layers), pass_count, size(counter_names)});
  out["resident"] = numbers(result.resident.data(), {size(result.resident)});
  if (tiles) {
    py::list lists;
    for (const auto& list : result.tiles) {
      lists.append(numbers(list.data(), {size(list), tile_fields}));
    }
    out["tiles"] = lists;
  }
  return out;
}

template <std::size_t n>
std::vector<std::string> strings(const std::array<const char*, n>& names) {
  return {names.begin(), names.end()};
}

}  // namespace

void bind_accelerator(py::module_& m) {
  bind_machine(m);
  py::class_<BoundLayer>(m, "LayerWork")
      .def(py::init(&make_layer), py::kw_only(), py::arg("name"), py::arg("geometry"),
           py::arg("timesteps"), py::arg("samples"), py::arg("inputs").noconvert(),
           py::arg("mask").noconvert().none(true), py::arg("nonzero").noconvert().none(true),
           py::arg("input_gradient"), py::arg("weight_gradient"), py::arg("neurons"),
           py::arg("membrane"));
  m.def("simulate", &run, py::arg("machine"), py::arg("layers"), py::kw_only(),
        py::arg("clocked") = false, py::arg("tiles") = true);
  m.def("engine_names", [] { return strings(engine_names); });
  m.def("pass_names", [] { return strings(pass_names); });
  m.def("counter_names", [] { return strings(counter_names); });
  m.def("tile_fields", [] { return strings(tile_names); });
}

}  // namespace h2learn
