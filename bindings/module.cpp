// The private extension module h2learn._core: only a list of what is registered.
#include "bindings.hpp"

PYBIND11_MODULE(_core, m) {
  m.doc() = "C++ core of h2learn. Private: use the h2learn package.";
  h2learn::bind_build(m);
  h2learn::bind_memory(m);
  h2learn::bind_spikes(m);
  h2learn::bind_pooling(m);
  h2learn::bind_soma(m);
  h2learn::bind_synapse(m);
  h2learn::bind_fused(m);
  h2learn::bind_accelerator(m);
  h2learn::bind_datapath(m);
}
