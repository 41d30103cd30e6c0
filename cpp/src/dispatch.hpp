// From the instruction set in use to the table of kernels compiled for it.
//
// Each concept (soma, spikes, pooling, synapse) declares a plain struct of function pointers in
// src/kernels/<concept>.hpp, and its kernel source defines one constant instance of it for each
// instruction set, in namespace h2learn::<target>. A public function validates its arguments,
// picks the table once and calls it: the choice is at the kernel's boundary, never in its loop. It
// asks for the target once, too, since another thread may set another one between two questions.
// What avx512vnni and amx add to avx512 only the digits kernels use (kernels/digits.hpp), which
// have tables of their own for them; all other concepts run avx512's there.
//
// Kernel sources must not leak code compiled for one instruction set into another: no standard
// containers or other external inline functions in them, everything in an unnamed namespace;
// a test reads the object files and fails on any weak symbol. Scratch memory comes from
// scratch.hpp.
#pragma once

#include "h2learn/target.hpp"

#ifdef H2LEARN_X86_TARGETS
#define H2LEARN_DECLARE_KERNELS(Table, name)       \
  namespace baseline {                             \
  extern const Table name;                         \
  }                                                \
  namespace avx2 {                                 \
  extern const Table name;                         \
  }                                                \
  namespace avx512 {                               \
  extern const Table name;                         \
  }                                                \
  namespace detail {                               \
  inline const Table& pick_##name(Target target) { \
    switch (target) {                              \
      case Target::amx:                            \
      case Target::avx512vnni:                     \
      case Target::avx512:                         \
        return avx512::name;                       \
      case Target::avx2:                           \
        return avx2::name;                         \
      default:                                     \
        return baseline::name;                     \
    }                                              \
  }                                                \
  }
#else
#define H2LEARN_DECLARE_KERNELS(Table, name)                         \
  namespace baseline {                                               \
  extern const Table name;                                           \
  }                                                                  \
  namespace detail {                                                 \
  inline const Table& pick_##name(Target) { return baseline::name; } \
  }
#endif
