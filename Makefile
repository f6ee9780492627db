# Everything runs in $(VENV), which is made on first use and brought up to date when the packaging files change.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
KEY := $(shell cat pyproject.toml setup.py constraints.txt | cksum | cut -d' ' -f1)
STAMP := $(VENV)/installed-$(KEY)

# malloc keeps freed memory: CPU training is up to three times faster, because buffers are not returned and faulted in again at every step.
# Waiting threads spin for some microseconds only: where loader workers share the cores, longer spinning doubles a training step; none at
# all makes it up to 40 % longer where they do not.
HEAP := OMP_WAIT_POLICY=PASSIVE GOMP_SPINCOUNT=1000 MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=17179869184 MALLOC_TOP_PAD_=268435456
THREADS ?= 2
PYTEST := $(HEAP) OMP_NUM_THREADS=$(THREADS) $(BIN)/python -m pytest

SOURCES := $(wildcard kernels/native/*.cpp kernels/native/*.h)
NATIVE := kernels/native/libvisionrnn_baseline.so

.PHONY: install demo demo-full test test-slow test-gpu lint bench aot wheel clean
.DEFAULT_GOAL := install

install: $(STAMP) $(if $(shell command -v $${CXX:-g++} c++ clang++),$(NATIVE))

# setup.py builds it too; this rule renews it when a source changes
$(NATIVE): $(SOURCES) kernels/native/build.py | $(STAMP)
	$(BIN)/python kernels/native/build.py > /dev/null

wheel: install
	$(BIN)/python -m build --wheel --outdir dist .

$(STAMP):
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[train,mmdet3d,viz,dev]'
	$(BIN)/python -m pip check
	rm -f $(VENV)/installed-*
	touch $@

demo: install
	$(HEAP) $(BIN)/python tools/demo.py

demo-full: install
	$(HEAP) $(BIN)/python tools/demo.py --full

test: install
	$(PYTEST) -m "not slow and not gpu"

test-slow: install
	$(PYTEST) -m "slow and not gpu"

TRITON_TESTS := $(wildcard tests/kernels/test_triton*.py) tests/kernels/test_nonlinear_triton.py tests/kernels/test_rows.py \
	tests/backbones/test_lion_triton.py

test-gpu: install  # the kernels on the GPU that is there, slow cases and real lengths too; then their times
	$(PYTEST) $(TRITON_TESTS)
	$(BIN)/python tools/benchmark.py gpu $(BENCH)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: install
	$(HEAP) $(BIN)/python tools/benchmark.py kernels $(if $(OP),--op $(OP)) $(BENCH)

aot: install  # every Triton kernel for every target, no GPU needed; AOT="--update" renews the table
	$(BIN)/python tools/aot.py $(AOT)

clean:  # what tools wrote; the environment $(VENV), data/ and trained models in work_dirs/ stay
	rm -rf build dist *.egg-info kernels/native/*.so .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -type d -prune -exec rm -rf {} +
