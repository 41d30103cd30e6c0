// The pool that large tensors live in.
#include "bindings.hpp"
#include "h2learn/memory.hpp"

namespace h2learn {

void bind_memory(py::module_& m) {
  py::class_<Block>(m, "Block", py::buffer_protocol(),
                    "Bytes from the pool, given back when nobody refers to them.")
      .def(py::init<std::int64_t>(), py::arg("bytes"))
      .def_property_readonly("bytes", &Block::bytes)
      .def_buffer([](const Block& block) {
        return py::buffer_info(static_cast<std::uint8_t*>(block.data()), block.bytes());
      });
  m.def(
      "memory_statistics",
      [] {
        const MemoryStatistics all = memory_statistics();
        return std::map<std::string, std::int64_t>{{"in_use_bytes", all.in_use},
                                                   {"free_bytes", all.free},
                                                   {"highest_bytes", all.highest},
                                                   {"scratch_bytes", all.scratch},
                                                   {"weights_bytes", all.weights}};
      },
      "Bytes of the pool: in use, kept free, the most ever in use; the kernels' scratch; and "
      "packed\n"
      "weights kept from call to call.");
  m.def("release_free_blocks", &release_free_blocks,
        "Gives the pool's free blocks, and kept packed weights, back to the system.");
}

}  // namespace h2learn
