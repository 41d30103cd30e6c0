#include "h2learn/target.hpp"

#include <array>
#include <atomic>
#include <cstdlib>
#include <stdexcept>
#include <utility>

#ifdef H2LEARN_AMX_TARGET
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace h2learn {
namespace {

constexpr std::array<std::pair<Target, std::string_view>, 6> names = {{
    {Target::scalar, "scalar"},
    {Target::baseline, "baseline"},
    {Target::avx2, "avx2"},
    {Target::avx512, "avx512"},
    {Target::avx512vnni, "avx512vnni"},
    {Target::amx, "amx"},
}};

#ifdef H2LEARN_AMX_TARGET
/// Tiles of int8: the processor has them, the kernel saves their state, and lets this process use
/// them. It must be asked for that once, and answers the same from then on.
bool may_use_tiles() {
  static const bool granted = [] {
    unsigned eax = 0;
    unsigned ebx = 0;
    unsigned ecx = 0;
    unsigned edx = 0;
    constexpr unsigned os_saves_state = 1U << 27;  // ecx of leaf 1
    if (__get_cpuid(1, &eax, &ebx, &ecx, &edx) == 0 || (ecx & os_saves_state) == 0) return false;
    constexpr unsigned tiles_of_int8 = 1U << 24 | 1U << 25;  // edx of leaf 7
    if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) == 0 ||
        (edx & tiles_of_int8) != tiles_of_int8) {
      return false;
    }
    unsigned low = 0;
    unsigned high = 0;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    constexpr unsigned tile_state = 1U << 17 | 1U << 18;
    if ((low & tile_state) != tile_state) return false;
    constexpr int request_permission = 0x1023;  // ARCH_REQ_XCOMP_PERM, in kernels since 5.16
    constexpr int tile_data = 18;
    return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
  }();
  return granted;
}
#else
[[maybe_unused]] bool may_use_tiles() { return false; }
#endif

bool machine_runs(Target target) {
#ifdef H2LEARN_X86_TARGETS
  // By feature, never by processor model: a model newer than the compiler must not fall back.
  switch (target) {
    case Target::amx:
      return machine_runs(Target::avx512vnni) && may_use_tiles();
    case Target::avx512vnni:
      return __builtin_cpu_supports("avx512vnni") && machine_runs(Target::avx512);
    case Target::avx512:
      return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
             __builtin_cpu_supports("avx512cd") && machine_runs(Target::avx2);
    case Target::avx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
             __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") &&
             __builtin_cpu_supports("popcnt");
    default:
      return true;
  }
#else
  return target == Target::scalar || target == Target::baseline;
#endif
}

Target from_name(std::string_view name, std::string_view argument) {
  std::string allowed;
  for (Target target : available_targets()) {
    if (target_name(target) == name) return target;
    allowed += std::string(target_name(target)) + ", ";
  }
  throw std::invalid_argument(std::string(argument) + " must be one of " + allowed +
                              "auto (what this machine can run), got '" + std::string(name) + "'");
}

Target choose_at_start() {
  const char* forced = std::getenv("H2LEARN_TARGET");
  if (forced != nullptr && *forced != '\0' && std::string_view(forced) != "auto") {
    return from_name(forced, "H2LEARN_TARGET");
  }
  return available_targets().back();
}

constexpr int unset = -1;
std::atomic<int> current{unset};

}  // namespace

std::string_view target_name(Target target) {
  for (const auto& [value, name] : names) {
    if (value == target) return name;
  }
  return "unknown";
}

std::vector<Target> available_targets() {
  std::vector<Target> targets;
  for (const auto& [target, name] : names) {
    if (machine_runs(target)) targets.push_back(target);
  }
  return targets;
}

Target active_target() {
  int value = current.load(std::memory_order_relaxed);
  if (value == unset) {
    // Where another thread has set one meanwhile, `value` becomes that.
    const int chosen = static_cast<int>(choose_at_start());
    if (current.compare_exchange_strong(value, chosen, std::memory_order_relaxed)) value = chosen;
  }
  return static_cast<Target>(value);
}

void set_target(std::string_view name) {
  const Target target = name == "auto" ? choose_at_start() : from_name(name, "target");
  current.store(static_cast<int>(target), std::memory_order_relaxed);
}

}  // namespace h2learn
