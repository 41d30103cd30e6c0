# make demo   fresh machine -> trains on real data, and simulates the accelerator beside it
# make test   fresh machine -> every check that CI runs
# make bench  speed and memory beside other libraries (bench/RESULTS.md says what to expect)
# make tune   measures what the kernels cost on this machine, for the choice between them
#
# Each command makes the virtual environment it needs; nothing is installed outside the checkout
# except, where make runs as root on Debian, the C++ test libraries.

PYTHON ?= python3
VENV := .venv
BENCH_VENV := .venv-bench
BIN := $(VENV)/bin
JOBS ?= $(shell nproc 2>/dev/null || echo 2)
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check -c constraints.txt
SOURCES := $(shell find cpp bindings python -type f -not -name '*.so' -not -name '*.pyc' 2>/dev/null) \
           CMakeLists.txt pyproject.toml constraints.txt README.md
CXX_FILES = $(shell find cpp bindings bench tests/cpp -name '*.cpp' -o -name '*.hpp')

export CMAKE_BUILD_PARALLEL_LEVEL := $(JOBS)
# Threads that wait sleep instead of spinning: checks may run beside other work.
test: export OMP_WAIT_POLICY := passive

.PHONY: demo test bench tune lint format stubs check-stubs cpp-test sanitize tsan python-test clean

demo: $(VENV)/.demo
	rm -rf runs/demo
	$(BIN)/h2learn train --dataset digits --accelerator h2learn --out runs/demo --json runs/demo/summary.json

test: lint check-stubs cpp-test sanitize python-test
	@echo "make test: everything passed"

# ---- environments

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(VENV)/bin/python $(SOURCES)
	@echo "Installing h2learn and compiling its core (about two minutes the first time) ..."
	$(BIN)/python $(PIP_INSTALL) '.[data]'
	@touch $@

# The core is compiled once, for the package and for the C++ tests: pip builds in build/release.
$(VENV)/.dev: $(VENV)/bin/python $(SOURCES) | cpp-libraries
	$(BIN)/python $(PIP_INSTALL) 'scikit-build-core>=0.10' 'pybind11>=3.0' 'cmake>=3.24' ninja
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python $(PIP_INSTALL) --no-build-isolation '.[dev]' \
	  --config-settings=build-dir=build/release \
	  --config-settings=cmake.define.H2LEARN_TESTS=ON \
	  --config-settings=cmake.define.H2LEARN_WERROR=ON
	@touch $@ $(VENV)/.demo

$(BENCH_VENV)/.done: bench/requirements.txt $(SOURCES)
	test -x $(BENCH_VENV)/bin/python || $(PYTHON) -m venv $(BENCH_VENV)
	$(BENCH_VENV)/bin/python $(PIP_INSTALL) '.[data,plot]' 'cmake>=3.24' ninja
	$(BENCH_VENV)/bin/python $(PIP_INSTALL) --no-deps -r bench/requirements.txt
	@touch $@

# ---- checks

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(CXX_FILES)
	$(BIN)/cppcheck -j $(JOBS) --quiet --error-exitcode=1 --std=c++20 --language=c++ --inline-suppr \
	  --enable=warning,performance,portability --suppress=missingIncludeSystem --suppress=normalCheckLevelMaxBranches \
	  -D__x86_64__ -DH2LEARN_TARGET=baseline -I cpp/include -I cpp/src cpp

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CXX_FILES)

# Type stubs of the private extension module come from its bindings; CI fails when they differ.
STUBGEN = $(BIN)/python -m pybind11_stubgen h2learn._core --root-suffix '' --numpy-array-use-type-var
stubs: $(VENV)/.dev
	$(STUBGEN) -o build/stubs
	cp build/stubs/h2learn/_core.pyi python/h2learn/_core.pyi

check-stubs: $(VENV)/.dev
	$(STUBGEN) -o build/stubs
	diff -u python/h2learn/_core.pyi build/stubs/h2learn/_core.pyi \
	  || { echo "stubs are stale: run 'make stubs'"; exit 1; }

# GoogleTest and google-benchmark: taken from the system, which root gets them for where apt is the
# system's; CMake fetches what is missing, and says so.
.PHONY: cpp-libraries
cpp-libraries:
	@if [ ! -e /usr/include/gtest/gtest.h ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; \
	then apt-get update -qq && apt-get install -y -qq libgtest-dev libbenchmark-dev >/dev/null; fi

CMAKE_TOOLS = PATH="$(CURDIR)/$(BIN):$$PATH"

cpp-test: $(VENV)/.dev
	$(CMAKE_TOOLS) cmake --build build/release --target h2learn_tests h2learn_tune
	$(CMAKE_TOOLS) ctest --test-dir build/release --output-on-failure -j $(JOBS)

sanitize: $(VENV)/.dev cpp-libraries
	$(CMAKE_TOOLS) cmake --preset asan-ubsan
	$(CMAKE_TOOLS) cmake --build --preset asan-ubsan --target h2learn_tests
	$(CMAKE_TOOLS) ctest --preset asan-ubsan -j $(JOBS)

# Not part of `make test`, since it needs a second compiler: ThreadSanitizer understands the
# barriers of Clang's OpenMP runtime, not those of GCC's.
CLANGXX ?= clang++-19
tsan: $(VENV)/.dev cpp-libraries
	@if ! command -v $(CLANGXX) >/dev/null && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; \
	then apt-get install -y -qq clang-19 libomp-19-dev >/dev/null; fi
	$(CMAKE_TOOLS) cmake --preset tsan -DCMAKE_CXX_COMPILER=$(CLANGXX)
	$(CMAKE_TOOLS) cmake --build --preset tsan --target h2learn_tests
	$(CMAKE_TOOLS) ctest --preset tsan -R 'SeveralThreads|Memory'

# As many processes as cores. Two threads in each are enough to test kernels that have threads.
python-test: export OMP_NUM_THREADS := 2
python-test: $(VENV)/.dev
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal

# ---- measurements

HAS_AVX2 := $(shell grep -m 1 -o avx2 /proc/cpuinfo 2>/dev/null)
HAS_AVX512 := $(shell grep -m 1 -o avx512f /proc/cpuinfo 2>/dev/null)
HAS_AMX := $(shell grep -m 1 -o amx_int8 /proc/cpuinfo 2>/dev/null)
BENCH_REPORTS = $(patsubst %,build/%.json,google-benchmark kernels peers peers-atan step \
                $(if $(HAS_AVX2),peers-avx2) $(if $(HAS_AMX),peers-fastest step-fastest) accelerator)
, := ,
STEP_THREADS = $(if $(filter-out 1,$(JOBS)),1$(,)$(JOBS),1)

# Machines whose best kernels are AVX2's have a page of results to themselves.
RESULTS ?= bench/RESULTS$(if $(HAS_AVX512),,$(if $(HAS_AVX2),-avx2)).md

# Ends by filling the sections of a page of results.
bench: $(BENCH_VENV)/.done cpp-libraries
	@test -f '$(RESULTS)' || { echo "error: RESULTS=$(RESULTS): no such page of results"; exit 2; }
	PATH="$(CURDIR)/$(BENCH_VENV)/bin:$$PATH" cmake --preset bench
	PATH="$(CURDIR)/$(BENCH_VENV)/bin:$$PATH" cmake --build --preset bench
	build/bench/bench/h2learn_bench --benchmark_min_time=0.2 \
	  --benchmark_context=commit=$$(git describe --always --dirty '--exclude=*' 2>/dev/null || echo unknown) \
	  --benchmark_out=build/google-benchmark.json --benchmark_out_format=json
	$(BENCH_VENV)/bin/python bench/peers.py --threads $(JOBS) --rounds 3 --json build/peers.json
	$(BENCH_VENV)/bin/python bench/peers.py --threads $(JOBS) --rounds 3 --surrogate atan --json build/peers-atan.json
	$(if $(HAS_AVX2),$(BENCH_VENV)/bin/python bench/peers.py --threads $(JOBS) --rounds 3 --target avx2 \
	  --workloads c --peers h2learn$(,)pytorch$(,)pytorch-channels-last --json build/peers-avx2.json)
	$(BENCH_VENV)/bin/python bench/step.py --threads $(STEP_THREADS) --rounds 3 --json build/step.json
	$(if $(HAS_AMX),$(BENCH_VENV)/bin/python bench/peers.py --threads $(JOBS) --rounds 3 --kernel fastest \
	  --json build/peers-fastest.json)
	$(if $(HAS_AMX),$(BENCH_VENV)/bin/python bench/step.py --threads $(STEP_THREADS) --rounds 3 \
	  --kernel fastest --json build/step-fastest.json)
	$(BENCH_VENV)/bin/python bench/accelerator.py --json build/accelerator.json
	$(BENCH_VENV)/bin/python bench/kernels.py --json build/kernels.json
	$(BENCH_VENV)/bin/python bench/results.py --page $(RESULTS) $(BENCH_REPORTS)

# TUNE=--quick takes a few minutes. What it writes, the next build reads. TUNE=--sampled is for a
# release: it changes the order of additions; TUNE=--digits measures where `fastest` takes digits
# (docs/benchmarks.md).
tune: $(BENCH_VENV)/.done cpp-libraries
	PATH="$(CURDIR)/$(BENCH_VENV)/bin:$$PATH" cmake --preset bench
	PATH="$(CURDIR)/$(BENCH_VENV)/bin:$$PATH" cmake --build --preset bench --target h2learn_tune
	$(BENCH_VENV)/bin/python bench/tune.py --json build/tune.json $(TUNE)

clean:
	rm -rf build $(VENV) $(BENCH_VENV) runs
