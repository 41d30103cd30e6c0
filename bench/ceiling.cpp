// What this machine's cores can do at most with one instruction set: multiply-adds from registers,
// of float32 and, where it has instructions for that, of bytes; and reading and copying floats from
// each cache and from memory. Prints JSON.
//
//     ceiling THREADS SECONDS_A_FIGURE
//
// Compiled by ceiling.py once for each instruction set, with VECTOR_BYTES its register's width.
// Every figure is the best of several repeats, since a ceiling is what nothing got above; all
// threads work at once on memory of their own.
#include <omp.h>
#include <unistd.h>
#if defined(__AMX_INT8__)
#include <sys/syscall.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

namespace {

using Vector [[gnu::vector_size(VECTOR_BYTES)]] = float;
constexpr std::size_t lanes = VECTOR_BYTES / sizeof(float);

/// So many independent sums hide the latency of a multiply and an add on two units.
constexpr int sums = 12;
constexpr long chain = 4096;

/// Keeps a value, so that what computed it is not removed.
template <typename T>
void keep(T& value) {
  asm volatile("" : "+m"(value) : : "memory");
}

/// Keeps every element, through one that depends on all: taking the address of an array would make
/// the compiler store it in each iteration.
template <std::size_t count>
void keep_all(const Vector (&sums_of)[count]) {
  Vector total = {};
  for (const Vector& sum : sums_of) total += sum;
  keep(total);
}

double now() {
  using Clock = std::chrono::steady_clock;
  return std::chrono::duration<double>(Clock::now().time_since_epoch()).count();
}

struct Deleter {
  void operator()(float* memory) const { ::operator delete(memory, std::align_val_t{64}); }
};
using Floats = std::unique_ptr<float, Deleter>;

Floats make_floats(std::size_t count) {
  Floats floats(static_cast<float*>(::operator new(count * sizeof(float), std::align_val_t{64})));
  std::fill_n(floats.get(), count, 1.0F);  // by the thread that uses it: its own memory
  return floats;
}

/// The best rate of `work`, which does `amount` a call and thread, over repeats of `seconds / 5`.
template <typename Work>
double best_rate(int threads, double seconds, double amount, const Work& work) {
  std::vector<double> best(5, 0.0);
  for (double& rate : best) {
    long calls = 0;
    double elapsed = 0.0;
#pragma omp parallel num_threads(threads)
    {
#pragma omp barrier
      const double start = now();
      long own = 0;
      do {
        work(omp_get_thread_num());
        ++own;
      } while (now() - start < seconds / 5);
      const double took = now() - start;
#pragma omp critical
      {
        calls += own;
        elapsed = std::max(elapsed, took);
      }
    }
    rate = amount * static_cast<double>(calls) / elapsed;
  }
  return *std::max_element(best.begin(), best.end());
}

double multiply_adds(int threads, double seconds) {
  const double operations = 2.0 * lanes * sums * chain;
  return best_rate(threads, seconds, operations, [](int) {
    float factor_value = 0.999F;
    float term_value = 0.001F;
    keep(factor_value);
    keep(term_value);
    const Vector factor = Vector{} + factor_value;
    const Vector term = Vector{} + term_value;
    Vector sum[sums];
    for (Vector& s : sum) {
      float start = 1.0F;
      keep(start);  // sums known to be equal would be computed once
      s = Vector{} + start;
    }
    for (long i = 0; i < chain; ++i) {
#pragma GCC unroll 12
      for (int j = 0; j < sums; ++j) sum[j] = sum[j] * factor + term;
    }
    keep_all(sum);
  });
}

#if defined(__AMX_INT8__)
/// Linux grants the process its tiles.
bool may_use_bytes() {
  constexpr int request_permission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr int tile_data = 18;
  return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
}

/// 16 rows of 64 bytes times 64 rows of 16, four tiles of sums: what an operand loaded is used for.
double byte_multiply_adds(int threads, double seconds) {
  constexpr int repeats = 1024;
  const double operations = 2.0 * 4 * 16 * 16 * 64 * repeats;
  return best_rate(threads, seconds, operations, [](int) {
    struct alignas(64) Configuration {
      unsigned char palette = 1;
      unsigned char rest[15] = {};
      unsigned short row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      unsigned char rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    } configuration;
    keep(configuration);
    _tile_loadconfig(&configuration);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    _tile_zero(4);
    _tile_zero(5);
    _tile_zero(6);
    _tile_zero(7);
    for (int i = 0; i < repeats; ++i) {
      _tile_dpbusd(0, 4, 6);
      _tile_dpbusd(1, 5, 6);
      _tile_dpbusd(2, 4, 7);
      _tile_dpbusd(3, 5, 7);
    }
    _tile_release();
  });
}
#elif defined(__AVX512VNNI__)
bool may_use_bytes() { return true; }

double byte_multiply_adds(int threads, double seconds) {
  const double operations = 2.0 * 64 * sums * chain;
  return best_rate(threads, seconds, operations, [](int) {
    __m512i values = _mm512_set1_epi8(1);
    __m512i digits = _mm512_set1_epi8(-1);
    keep(values);
    keep(digits);
    __m512i sum[sums];
    for (int j = 0; j < sums; ++j) sum[j] = _mm512_set1_epi32(j);  // equal ones would be one
    for (long i = 0; i < chain; ++i) {
#pragma GCC unroll 12
      for (int j = 0; j < sums; ++j) sum[j] = _mm512_dpbusd_epi32(sum[j], values, digits);
    }
    __m512i total = _mm512_setzero_si512();
    for (const __m512i& s : sum) total = _mm512_add_epi32(total, s);
    keep(total);
  });
}
#else
bool may_use_bytes() { return false; }
double byte_multiply_adds(int, double) { return 0; }
#endif

double read(int threads, double seconds, const std::vector<Floats>& memory, std::size_t count) {
  // Reading the clock takes as long as reading a small cache: once for every 1 MiB.
  const std::size_t times = std::max((std::size_t{1} << 18) / count, std::size_t{1});
  const double bytes = static_cast<double>(times * count * sizeof(float));
  return best_rate(threads, seconds, bytes, [&](int thread) {
    const auto* from =
        reinterpret_cast<const Vector*>(memory[static_cast<std::size_t>(thread)].get());
    Vector sum[8] = {};
    for (std::size_t time = 0; time < times; ++time) {
      for (std::size_t i = 0; i + 8 <= count / lanes; i += 8) {
#pragma GCC unroll 8
        for (std::size_t j = 0; j < 8; ++j) sum[j] += from[i + j];
      }
    }
    keep_all(sum);
  });
}

/// Past the caches where the instruction set can: a plain store reads its line first.
void stream(float* to, Vector value) {
#if defined(__x86_64__) && VECTOR_BYTES == 64
  _mm512_stream_ps(to, value);
#elif defined(__x86_64__) && VECTOR_BYTES == 32
  _mm256_stream_ps(to, value);
#elif defined(__x86_64__)
  _mm_stream_ps(to, value);
#else
  std::memcpy(to, &value, sizeof(value));
#endif
}

/// Bytes read and written, from the first half of each thread's memory to the second.
double copy(int threads, double seconds, const std::vector<Floats>& memory, std::size_t count) {
  const std::size_t half = count / 2;
  const double bytes = 2.0 * static_cast<double>(half * sizeof(float));
  return best_rate(threads, seconds, bytes, [&](int thread) {
    float* const floats = memory[static_cast<std::size_t>(thread)].get();
    for (std::size_t i = 0; i + lanes <= half; i += lanes) {
      Vector value;
      std::memcpy(&value, floats + i, sizeof(value));
      stream(floats + half + i, value);
    }
  });
}

std::size_t cache_bytes(int name, std::size_t otherwise) {
  const long bytes = sysconf(name);
  return bytes > 0 ? static_cast<std::size_t>(bytes) : otherwise;
}

}  // namespace

int main(int count, char** arguments) {
  const int threads = count == 3 ? std::atoi(arguments[1]) : 0;
  const double seconds = count == 3 ? std::atof(arguments[2]) : 0.0;
  if (threads < 1 || !(seconds > 0.0)) {
    std::fprintf(stderr, "usage: ceiling THREADS SECONDS_A_FIGURE\n");
    return 2;
  }
  const auto users = static_cast<std::size_t>(threads);
  const std::size_t l1 = cache_bytes(_SC_LEVEL1_DCACHE_SIZE, std::size_t{32} << 10) / 2;
  const std::size_t l2 = cache_bytes(_SC_LEVEL2_CACHE_SIZE, std::size_t{512} << 10) / 2;
  // A guest may be told a cache of its host that it does not have; this is larger than most.
  const std::size_t most = (std::size_t{512} << 20) / users / 128 * 128 / sizeof(float);

  std::vector<Floats> memory(users);
#pragma omp parallel num_threads(threads)
  memory[static_cast<std::size_t>(omp_get_thread_num())] = make_floats(most);

  const auto floats = [](std::size_t bytes) { return bytes / sizeof(float); };
  std::printf("{\"flops\": %.6g, ", multiply_adds(threads, seconds));
  if (may_use_bytes()) {
    std::printf("\"int8_ops\": %.6g, ", byte_multiply_adds(threads, seconds));
  }
  std::printf("\"l1_bytes_per_second\": %.6g, ", read(threads, seconds, memory, floats(l1)));
  std::printf("\"l2_bytes_per_second\": %.6g, ", read(threads, seconds, memory, floats(l2)));
  std::printf("\"dram_read_bytes_per_second\": %.6g, ", read(threads, seconds, memory, most));
  std::printf("\"dram_copy_bytes_per_second\": %.6g}\n", copy(threads, seconds, memory, most));
  return 0;
}
