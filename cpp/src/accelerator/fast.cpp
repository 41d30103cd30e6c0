// The simulator that users run: what a step's shapes and bits mean for each tile (fast_program),
// then when each tile happens (fast_timing).
#include "accelerator/fast_timing.hpp"
#include "h2learn/accelerator/simulate.hpp"

namespace h2learn::accelerator {

Result simulate(const Machine& machine, const StepWork& step) {
  machine.validate();
  require_runnable(machine, step);
  if (step.layers.empty()) return {};

  std::vector<fast::Layer> layers;
  for (const LayerWork& work : step.layers) layers.emplace_back(machine, work);
  const std::vector<fast::Part> parts = fast::parts_of(machine, step);
  fast::Program program =
      fast::make_program(machine, layers, parts, fast::scan(machine, layers, parts));
  fast::run_program(machine, program);
  return std::move(program.result);
}

}  // namespace h2learn::accelerator
