// Times a layer's products by each single kernel, for tune.py, which fits the costs by which `auto`
// chooses (cpp/src/kernels/costs.inc, cpp/src/sampled_costs.inc), and `fastest`
// (cpp/src/digits_costs.inc).
//
//     h2learn_tune TARGET ROUNDS < layers
//
// A line of input is a product and its operand's density; a line of output the nanoseconds of each
// kernel that can compute it, as JSON:
//
//     PRODUCT C H W N KERNEL PADDING STRIDE IMAGES DENSITY
//     {"event": ..., "dense": ..., "windows": ..., "scatter": ..., "auto": ..., "chosen": "gather"}
//
// PRODUCT is forward or weight_update (bits), backward, forward_values or weight_update_values
// (floats). The choice between them is made here and not by the kernels' own costs, so that what
// they would never choose is measured, too. `auto` is their choice, made in its time; `chosen` is
// how it reads the operand: gathered rows decide between events and dense block by block.
//
// Whole backward passes, as a layer calls them, under a mask of whose bits a part is set:
//
//     masked_backward C H W N KERNEL PADDING STRIDE IMAGES DENSITY NEEDED
//     {"event": ..., "dense": ..., "sampled": ..., "auto": ..., "chosen": "sampled" or "others"}
//
// And whole products of bits or, backward, of floats without a mask:
//
//     digits_forward, digits_backward or digits_weight_update C H W N KERNEL PADDING STRIDE IMAGES
//         DENSITY
//     {"event": ..., "dense": ..., "digits": ..., "auto": ..., "chosen": "digits" or "others"}
//
// `auto` is `fastest` then. A product that digits do not compute, and leave to `auto`, has none.
//
// Kernels take turns, and medians count. Times are of the one thread's processor time: other
// programs may run beside it.
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <ctime>
#include <functional>
#include <iostream>
#include <limits>
#include <memory>
#include <random>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "h2learn/backward.hpp"
#include "h2learn/forward.hpp"
#include "h2learn/weight_update.hpp"
#include "kernels/synapse_scatter.hpp"
#include "kernels/synapse_taps.hpp"
#include "kernels/synapse_walk.hpp"
#include "synapse_plan.hpp"

namespace {

using namespace h2learn;

/// Operands that take turns: where a kernel branches by what is set, a processor learns those of a
/// few that come again and again, which those of a training do not.
constexpr std::size_t operand_sets = 8;

/// A turn runs its kernel for about so long.
constexpr double turn_ns = 2e6;

struct Job {
  std::string product;
  Geometry geometry;
  std::int64_t images;
  double density;
  double needed;  ///< part of the mask that is set

  bool is_masked() const { return product == "masked_backward"; }
  bool is_digits() const { return product.starts_with("digits_"); }
  bool has_values() const { return product != "forward" && product != "weight_update"; }
  bool is_outer() const { return product.starts_with("weight_update"); }
};

Job parse(const std::string& line) {
  std::istringstream text(line);
  Job job = {};
  Geometry& geometry = job.geometry;
  text >> job.product >> geometry.in_channels >> geometry.in_height >> geometry.in_width >>
      geometry.out_channels >> geometry.kernel_height >> geometry.padding_height >>
      geometry.stride_height >> job.images >> job.density;
  geometry.kernel_width = geometry.kernel_height;
  geometry.padding_width = geometry.padding_height;
  geometry.stride_width = geometry.stride_height;
  if (job.is_masked()) text >> job.needed;
  const std::vector<std::string> products = {
      "forward",        "weight_update",        "backward",
      "forward_values", "weight_update_values", "masked_backward",
      "digits_forward", "digits_backward",      "digits_weight_update"};
  if (!text || std::find(products.begin(), products.end(), job.product) == products.end() ||
      job.images < 1) {
    throw std::invalid_argument("not a product: " + line);
  }
  geometry.validate();
  return job;
}

class Random {
 public:
  explicit Random(double density) : set_(density) {}
  bool bit() { return set_(generator_); }
  float value() { return static_cast<float>(generator_() % 2001) * 1e-3F - 1; }
  std::vector<float> values(std::int64_t count, bool sparse) {
    std::vector<float> result(static_cast<std::size_t>(count));
    for (float& v : result) v = !sparse || bit() ? value() + 2 : 0;
    return result;
  }
  std::vector<std::uint64_t> words(std::int64_t rows, std::int64_t features) {
    const std::int64_t row_words = words_for(features);
    std::vector<std::uint64_t> result(static_cast<std::size_t>(rows * row_words));
    for (std::int64_t r = 0; r < rows; ++r) {
      for (std::int64_t i = 0; i < features; ++i) {
        const std::uint64_t one = bit() ? 1 : 0;
        result[static_cast<std::size_t>(r * row_words + i / word_bits)] |= one << (i % word_bits);
      }
    }
    return result;
  }

 private:
  std::mt19937_64 generator_{1};
  std::bernoulli_distribution set_;
};

double now_ns() {
  timespec time = {};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return 1e9 * static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec);
}

/// The product, ready to be computed by any kernel.
class Product {
 public:
  explicit Product(const Job& job)
      : outer_(job.is_outer()),
        geometry_(job.geometry),
        plan_(geometry_, rows_of(job)),
        random_(job.density) {
    const bool backward = job.product == "backward";
    const std::int64_t features = backward ? geometry_.out_features() : geometry_.in_features();
    for (std::size_t i = 0; i < operand_sets; ++i) {
      if (job.has_values()) {
        values_.push_back(random_.values(job.images * features, true));
        rows_ = plan_.of_values(values_.back().data(), job.images);
      } else {
        words_.push_back(random_.words(job.images, features));
        rows_ = plan_.of_spikes({words_.back().data(), 1, job.images, features});
      }
    }
    // Runs for all kernels: those that gather need them, the others look away.
    plan_.add_runs(Choice::gather, rows_);
    columns_ = backward ? geometry_.channels_per_group() : geometry_.outputs_per_group();
    weight_ = random_.values(geometry_.weights(), false);
    if (outer_) {
      gradients_ = random_.values(job.images * geometry_.out_features(), false);
      return;
    }
    out_.resize(static_cast<std::size_t>(job.images * rows_.positions * columns_));
    product_.rows = rows_;
    product_.columns = columns_;
    product_.scale = 1;
    product_.rounds_once = job.product == "forward_values";
    product_.out = out_.data();
    use_ = backward ? PackFor::backward : PackFor::forward;
    kept_ = add_weights(kernels_, geometry_, use_, weight_.data(), product_);
  }

  bool has_windows() const { return h2learn::has_windows(rows_); }
  bool can_scatter() const { return h2learn::can_scatter(rows_); }
  bool can_walk() const { return !outer_ && h2learn::can_walk(rows_); }
  bool can_list_taps() const { return !outer_ && h2learn::can_list_taps(rows_, few_images); }

  Choice choose(Method method) const {
    return outer_ ? kernels_.choose_outer(rows_, columns_, method)
                  : kernels_.choose_product(rows_, columns_, method);
  }

  void run(Method method, Choice choice) {
    next_set();
    if (!outer_) {
      product_.rows = rows_;
      product_.method = method;
      product_.choice = choice;
      // Walking packs weights of its own: where it can be chosen, the others pay for theirs, too.
      if (can_walk()) kept_ = add_weights(kernels_, geometry_, use_, weight_.data(), product_);
      kernels_.gather_product(product_);
      return;
    }
    OuterProduct product = {};
    product.rows = rows_;
    product.columns = columns_;
    product.taps = geometry_.taps();
    product.gradients = gradients_.data();
    product.scale = 1;
    product.grad_weight = weight_.data();
    product.method = method;
    product.choice = choice;
    kernels_.outer_product(product);
  }

 private:
  static GatherPlan::Rows rows_of(const Job& job) {
    return job.product == "backward" ? GatherPlan::Rows::readers : GatherPlan::Rows::windows;
  }

  void next_set() {
    set_ = (set_ + 1) % operand_sets;
    if (words_.empty()) {
      rows_.values = values_[set_].data();
    } else {
      rows_.words = words_[set_].data();
    }
  }

  const SynapseKernels& kernels_ = detail::pick_synapse_kernels(active_target());
  bool outer_;
  Geometry geometry_;
  GatherPlan plan_;
  Random random_;
  std::vector<std::vector<float>> values_;
  std::vector<std::vector<std::uint64_t>> words_;
  std::size_t set_ = 0;
  std::vector<float> weight_;
  std::vector<float> gradients_;
  std::vector<float> out_;
  GatheredRows rows_ = {};
  std::int64_t columns_ = 0;
  PackFor use_ = PackFor::forward;
  std::shared_ptr<const PackedWeights> kept_;
  GatherProduct product_ = {};
};

struct Way {
  const char* name;
  std::function<void()> run;
  std::int64_t repeats = 1;
  std::vector<double> ns = {};
};

/// Nanoseconds of one run, over `repeats`.
double time_of(const Way& way) {
  const double start = now_ns();
  for (std::int64_t i = 0; i < way.repeats; ++i) way.run();
  return (now_ns() - start) / static_cast<double>(way.repeats);
}

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

void measure(std::vector<Way> ways, const char* chosen, int rounds) {
  for (Way& way : ways) {
    time_of(way);
    const double once = time_of(way);
    way.repeats = std::max<std::int64_t>(1, std::llround(turn_ns / std::max(once, 1.0)));
  }
  for (int round = 0; round < rounds; ++round) {
    for (Way& way : ways) way.ns.push_back(time_of(way));
  }
  std::printf("{");
  for (const Way& way : ways) std::printf("\"%s\": %.6g, ", way.name, median(way.ns));
  std::printf("\"chosen\": \"%s\"}\n", chosen);
  std::fflush(stdout);
}

void measure_product(const Job& job, int rounds) {
  Product product(job);
  const auto choose = [&] { return product.choose(Method::by_density); };
  std::vector<Way> ways = {{"event", [&] { product.run(Method::event, Choice::gather); }},
                           {"dense", [&] { product.run(Method::dense, Choice::gather); }},
                           {"auto", [&] { product.run(Method::by_density, choose()); }}};
  if (product.has_windows()) {
    ways.push_back({"windows", [&] { product.run(Method::dense, Choice::windows); }});
  }
  if (product.can_scatter()) {
    ways.push_back({"scatter", [&] { product.run(Method::event, Choice::scatter); }});
  }
  if (product.can_list_taps()) {
    ways.push_back({"taps", [&] { product.run(Method::event, Choice::taps); }});
  }
  if (product.can_walk()) {
    ways.push_back({"walk", [&] { product.run(Method::event, Choice::walk); }});
  }
  const Choice choice = choose();
  measure(std::move(ways),
          choice == Choice::windows   ? "windows"
          : choice == Choice::taps    ? "taps"
          : choice == Choice::scatter ? "scatter"
          : choice == Choice::walk    ? "walk"
                                      : "gather",
          rounds);
}

void measure_masked_backward(const Job& job, int rounds) {
  const Geometry& geometry = job.geometry;
  Random random(job.density);
  Random random_bits(job.needed);
  std::vector<std::vector<float>> gradients;
  std::vector<std::vector<std::uint64_t>> masks;
  for (std::size_t i = 0; i < operand_sets; ++i) {
    gradients.push_back(random.values(job.images * geometry.out_features(), true));
    masks.push_back(random_bits.words(job.images, geometry.in_features()));
  }
  std::size_t set = 0;
  const std::vector<float> weight = Random(1).values(geometry.weights(), false);
  std::vector<float> out(static_cast<std::size_t>(job.images * geometry.in_features()));
  const auto run = [&](Kernel kernel) {
    set = (set + 1) % operand_sets;
    backward(geometry, gradients[set].data(), job.images, weight.data(), masks[set].data(),
             out.data(), kernel);
  };
  const bool few = needs_few(geometry, gradients[0].data(), job.images, masks[0].data());
  measure({{"event", [&] { run(Kernel::event); }},
           {"dense", [&] { run(Kernel::dense); }},
           {"sampled", [&] { run(Kernel::sampled); }},
           {"auto", [&] { run(Kernel::automatic); }}},
          few ? "sampled" : "others", rounds);
}

/// A product as a layer calls it, ready to be computed by any kernel.
class WholeProduct {
 public:
  explicit WholeProduct(const Job& job)
      : job_(job),
        spikes_(job.product == "digits_backward"
                    ? std::vector<std::uint64_t>()
                    : Random(job.density).words(job.images, job.geometry.in_features())),
        gradients_(Random(job.product == "digits_backward" ? job.density : 1)
                       .values(job.images * job.geometry.out_features(), true)),
        weight_(Random(1).values(job.geometry.weights(), false)) {
    const Geometry& geometry = job.geometry;
    const std::int64_t results =
        job.product == "digits_forward"    ? job.images * geometry.out_features()
        : job.product == "digits_backward" ? job.images * geometry.in_features()
                                           : geometry.weights();
    out_.resize(static_cast<std::size_t>(results));
  }

  void run(Kernel kernel) {
    if (job_.product == "digits_forward") {
      forward(job_.geometry, view(), 1, weight_.data(), nullptr, out_.data(), kernel);
    } else if (job_.product == "digits_backward") {
      backward(job_.geometry, gradients_.data(), job_.images, weight_.data(), nullptr, out_.data(),
               kernel);
    } else {
      weight_update(job_.geometry, view(), 1, gradients_.data(), out_.data(), kernel);
    }
  }

  std::vector<float> result(Kernel kernel) {
    run(kernel);
    return out_;
  }

 private:
  PackedView view() const { return {spikes_.data(), 1, job_.images, job_.geometry.in_features()}; }

  Job job_;
  std::vector<std::uint64_t> spikes_;
  std::vector<float> gradients_;
  std::vector<float> weight_;
  std::vector<float> out_;
};

void measure_digits(const Job& job, int rounds) {
  WholeProduct product(job);
  const auto way = [&](const char* name, Kernel kernel) {
    return Way{name, [&product, kernel] { product.run(kernel); }};
  };
  std::vector<Way> ways = {way("event", Kernel::event), way("dense", Kernel::dense),
                           way("auto", Kernel::fastest)};
  // Sums that are rounded otherwise tell digits from what they leave to `auto`.
  const std::vector<float> digits = product.result(Kernel::digits);
  const bool has_digits = digits != product.result(Kernel::automatic);
  if (has_digits) ways.push_back(way("digits", Kernel::digits));
  const bool chosen = has_digits && product.result(Kernel::fastest) == digits;
  measure(std::move(ways), chosen ? "digits" : "others", rounds);
}

}  // namespace

int main(int count, char** arguments) {
  try {
    const int rounds = count == 3 ? std::stoi(arguments[2]) : 0;
    if (rounds < 1) throw std::invalid_argument("usage: h2learn_tune TARGET ROUNDS < layers");
    set_target(arguments[1]);
    omp_set_num_threads(1);
    for (std::string line; std::getline(std::cin, line);) {
      const Job job = parse(line);
      if (job.is_masked()) {
        measure_masked_backward(job, rounds);
      } else if (job.is_digits()) {
        measure_digits(job, rounds);
      } else {
        measure_product(job, rounds);
      }
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 2;
  }
  return 0;
}
