// The two simulators of docs/microarchitecture.md. Both check their arguments (validate,
// require_runnable) and return the same numbers; they share no code but these declarations.
#pragma once

#include "h2learn/accelerator/machine.hpp"
#include "h2learn/accelerator/result.hpp"
#include "h2learn/accelerator/work.hpp"

namespace h2learn::accelerator {

/// The one to use: closed forms within a tile, event by event between tiles. Results do not
/// depend on the number of threads.
Result simulate(const Machine& machine, const StepWork& step);

/// The plain one: all state explicit, one tick a cycle. Slow; for verification.
Result simulate_clocked(const Machine& machine, const StepWork& step);

}  // namespace h2learn::accelerator
