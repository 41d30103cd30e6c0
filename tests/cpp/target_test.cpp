// The choice of instruction set: listed, forced, refused, and really used.
#include "h2learn/target.hpp"

#include <cstdlib>

#include "kernels/digits.hpp"
#include "kernels/pooling.hpp"
#include "kernels/soma.hpp"
#include "kernels/spikes.hpp"
#include "support.hpp"

namespace h2learn::test {
namespace {

TEST(Target, EveryMachineHasTheReferenceAndTheBaseline) {
  const std::vector<Target> targets = available_targets();
  ASSERT_GE(targets.size(), 2U);
  EXPECT_EQ(targets[0], Target::scalar);
  EXPECT_EQ(targets[1], Target::baseline);
}

TEST(Target, TheForcedOneIsInUse) {
  for (Target target : available_targets()) {
    const ForcedTarget forced(target);
    EXPECT_EQ(active_target(), target);
  }
}

TEST(Target, TheForcedOnesKernelsRun) {
  on_each_target([] {
#ifdef H2LEARN_X86_TARGETS
    // What these two add to avx512 only the digits kernels use.
    if (active_target() == Target::avx512 || active_target() == Target::avx512vnni ||
        active_target() == Target::amx) {
      EXPECT_EQ(&detail::pick_soma(active_target()), &avx512::soma);
      EXPECT_EQ(&detail::pick_spikes(active_target()), &avx512::spikes);
      EXPECT_EQ(&detail::pick_pooling(active_target()), &avx512::pooling);
      return;
    }
    if (active_target() == Target::avx2) {
      EXPECT_EQ(&detail::pick_soma(active_target()), &avx2::soma);
      EXPECT_EQ(&detail::pick_spikes(active_target()), &avx2::spikes);
      EXPECT_EQ(&detail::pick_pooling(active_target()), &avx2::pooling);
      return;
    }
#endif
    EXPECT_EQ(&detail::pick_soma(active_target()), &baseline::soma);
    EXPECT_EQ(&detail::pick_spikes(active_target()), &baseline::spikes);
    EXPECT_EQ(&detail::pick_pooling(active_target()), &baseline::pooling);
  });
}

TEST(Target, DigitsKernelsAreEveryTargetsOwn) {
  on_each_target([] {
    const DigitsKernels* expected = &baseline::digits_kernels;
#ifdef H2LEARN_X86_TARGETS
    if (active_target() == Target::avx2) expected = &avx2::digits_kernels;
    if (active_target() == Target::avx512) expected = &avx512::digits_kernels;
    if (active_target() == Target::avx512vnni) expected = &avx512vnni::digits_kernels;
#ifdef H2LEARN_AMX_TARGET
    if (active_target() == Target::amx) expected = &amx::digits_kernels;
#endif
#endif
    EXPECT_EQ(&detail::pick_digits_kernels(active_target()), expected);
  });
}

TEST(Target, AnUnknownNameIsRefusedAndChangesNothing) {
  const Target before = active_target();
  expect_refused([] { set_target("avx1024"); },
                 {"target", "avx1024", "scalar", "baseline", "auto"});
  EXPECT_EQ(active_target(), before);
}

/// Sets H2LEARN_TARGET until the end of the scope.
class Environment {
 public:
  explicit Environment(const char* value) {
    if (const char* before = std::getenv(name)) before_ = before;
    setenv(name, value, 1);
  }
  ~Environment() {
    if (before_.empty()) {
      unsetenv(name);
    } else {
      setenv(name, before_.c_str(), 1);
    }
    set_target("auto");
  }
  Environment(const Environment&) = delete;
  Environment& operator=(const Environment&) = delete;

 private:
  static constexpr const char* name = "H2LEARN_TARGET";
  std::string before_;
};

TEST(Target, AutoFollowsTheEnvironment) {
  {
    const Environment environment("baseline");
    set_target("auto");
    EXPECT_EQ(active_target(), Target::baseline);
  }
  {
    const Environment environment("auto");
    set_target("auto");
    EXPECT_EQ(active_target(), available_targets().back());
  }
  {
    const Environment environment("pentium");
    expect_refused([] { set_target("auto"); }, {"H2LEARN_TARGET", "pentium"});
  }
}

}  // namespace
}  // namespace h2learn::test
