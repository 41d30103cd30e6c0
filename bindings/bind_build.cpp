// Build facts and the choice of instruction set.
#include <omp.h>
#include <pybind11/typing.h>

#include <vector>

#include "bindings.hpp"
#include "h2learn/target.hpp"

namespace h2learn {

void bind_build(py::module_& m) {
  m.def(
      "build_info",
      [] {
        py::typing::Dict<py::str, py::str> info;
        info["version"] = py::str(H2LEARN_VERSION);
        info["compiler"] = py::str(H2LEARN_COMPILER);
        info["build_type"] = py::str(H2LEARN_BUILD_TYPE);
        info["sanitizers"] = py::str(H2LEARN_SANITIZERS);
        info["pybind11"] = py::str(PYBIND11_TOSTRING(PYBIND11_VERSION_MAJOR) "." PYBIND11_TOSTRING(
            PYBIND11_VERSION_MINOR));
        info["openmp"] = py::str(std::to_string(_OPENMP));
        return info;
      },
      "Facts of this build: version, compiler, build type, sanitizers, OpenMP date.");
  m.def(
      "available_targets",
      [] {
        std::vector<std::string> names;
        for (Target target : available_targets()) names.emplace_back(target_name(target));
        return names;
      },
      "Instruction-set targets this build has and this machine runs, slowest first.");
  m.def(
      "active_target", [] { return std::string(target_name(active_target())); },
      "The target in use.");
  m.def(
      "set_target", [](const std::string& name) { set_target(name); }, py::arg("name"),
      "Forces a target for the whole process; 'auto' returns to the choice at start.");
  m.def(
      "max_threads", [] { return omp_get_max_threads(); },
      "Threads a kernel called from this thread would use.");
}

}  // namespace h2learn
