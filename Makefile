# The two commands: `make demo` trains a detector on this machine's CPU, `make test` passes the tests.

# The Python to make .venv with: 3.10 or 3.11; empty: whichever of them is found.
PYTHON ?=
VENV := .venv
RUN := $(VENV)/bin/python
DEMO_OUT := demo_out
DEMO_DATA := tests/data/blood_cells
DEMO_MINUTES := 2
PEERS := .venv-peers
ORACLES := .venv-oracles
ELSEWHERE := .venv-elsewhere
TORCH := .venv-torch

.PHONY: demo test test-slow soak bench test-oracles test-elsewhere test-torch check lock docs clean image image-test image-test-gpu image-test-torch

demo: $(VENV)/ready
	@rm -rf $(DEMO_OUT) && mkdir $(DEMO_OUT)
	@$(RUN) -m common.suggest $(DEMO_DATA) --out $(DEMO_OUT)/job.json --minutes $(DEMO_MINUTES) --set log_dir=$(DEMO_OUT) > $(DEMO_OUT)/suggestion.txt
	@cat $(DEMO_OUT)/suggestion.txt
	@sh -c "$$(tail -n 1 $(DEMO_OUT)/suggestion.txt) --linger 0"
	@$(RUN) -m common.predict $(DEMO_OUT) $(DEMO_DATA)/detect_valid/BloodImage_000*.jpg --out $(DEMO_OUT)/predicted --pictures
	@echo
	@echo "Pictures: $(DEMO_OUT)/predicted/pictures; the model and its report: $(DEMO_OUT) (report.html)"
	@echo "Curves:   $(VENV)/bin/tensorboard --load_fast=false --logdir $(DEMO_OUT)"
	@echo "Next:     train on your own images: \"Your first model\" in README.md"

# Files of tests run beside one another; a file's own tests share the jobs that they look at, and stay together.
# `test` leaves to `test-slow` what takes seconds each and shows what a cheaper test shows of a sibling: whole jobs of the
# dear networks, every script where one stands for all, long fuzzing.
PYTEST := $(RUN) -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder
test: $(VENV)/ready-for-development
	@$(PYTEST) -m "not slow and not soak"

test-slow: $(VENV)/ready-for-development
	@$(PYTEST) -m "slow and not soak"

# What takes minutes to show: jobs of every script killed at many random instants, and many more fuzzed files.
soak: $(VENV)/ready-for-development
	@$(RUN) -m pytest -m soak
	@FUZZ=10 $(RUN) -m pytest tests/test_fuzzing.py tests/test_mutations.py

# Every benchmark beside GluonCV, PyTorch and pycocotools, as one table, and into benchmarks/RESULTS.md; takes the better part of an hour.
# BENCH=--quick shows in a few that all of them run.
BENCH ?=
bench: $(VENV)/ready
	-@$(MAKE) --no-print-directory $(PEERS)/ready
	@$(RUN) benchmarks/run.py $(BENCH)

# PyTorch and NumPy 2 cannot live beside GluonCV. PEERS_OPTIONS are pip's: with an --extra-index-url that has PyTorch's CPU
# builds they are much smaller. Where they cannot be installed the table says so.
PEERS_OPTIONS ?=
$(PEERS)/ready: benchmarks/requirements-peers.lock
	@"$$(readlink -f $(RUN))" -m venv $(PEERS)
	@$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check $(PEERS_OPTIONS) -r $<
	@touch $@

# Our readers of labels beside independent ones, which have an environment of their own; where that cannot be installed
# the tests say that they are skipped.
test-oracles: $(VENV)/ready-for-development
	-@$(MAKE) --no-print-directory $(ORACLES)/ready
	@$(RUN) -m pytest -rs tests/test_oracles.py

$(ORACLES)/ready: tests/oracles/requirements.lock
	@"$$(readlink -f $(RUN))" -m venv $(ORACLES)
	@$(ORACLES)/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

# ONNX files where no framework is: `predict` and `evaluate` with requirements-onnx.lock alone on those of PYTHONS that are
# here, and the programs of docs/deploy.md for OpenVINO and ncnn.
PYTHONS ?= python3.10 python3.11 python3.12 python3.13
test-elsewhere: $(VENV)/ready-for-development
	-@$(MAKE) --no-print-directory $(ELSEWHERE)/ready
	@$(RUN) -m pytest -rs tests/test_elsewhere.py

$(ELSEWHERE)/ready: requirements-onnx.lock tests/oracles/runtimes.lock .ci/elsewhere.sh
	@bash .ci/elsewhere.sh $(ELSEWHERE) tests/oracles/runtimes.lock $(PYTHONS)
# The engine of PyTorch beside MXNet's, in an environment of its own that looks into the other one; it needs PyTorch's
# build for the CPU (0.2 GB; that for GPUs is 2.7 GB), where pip finds it: TORCH_OPTIONS are pip's, such as an
# --extra-index-url that has it. Where it cannot be installed this says so. TORCH_TESTS are pytest's options: -m soak tries
# every network.
TORCH_OPTIONS ?=
TORCH_TESTS ?=
test-torch: $(VENV)/ready-for-development
	-@$(MAKE) --no-print-directory $(TORCH)/ready
	@if [ -e $(TORCH)/ready ]; then $(TORCH)/bin/python -m pytest -rs tests/common/engine/pytorch $(TORCH_TESTS); \
	else echo "test-torch: NOT TESTED: PyTorch's build for the CPU cannot be installed here (see TORCH_OPTIONS in the Makefile)"; fi

$(TORCH)/ready: tests/common/engine/pytorch/requirements.lock
	@"$$(readlink -f $(RUN))" -m venv $(TORCH)
	@$(RUN) -c "import sysconfig; print(sysconfig.get_path('purelib'))" \
		> "$$($(TORCH)/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/visualtl.pth"
	@$(TORCH)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps $(TORCH_OPTIONS) -r $<
	@touch $@

# Formatting, linting and types, as the gate sees them.
check: $(VENV)/ready-for-development
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(RUN) configs/generate.py --check

$(VENV)/ready: requirements.lock .ci/requirements.sh
	@bash .ci/requirements.sh "$(PYTHON)" $(VENV) requirements.lock
	@touch $@

$(VENV)/ready-for-development: requirements-dev.lock .ci/requirements.sh
	@bash .ci/requirements.sh "$(PYTHON)" $(VENV) requirements-dev.lock
	@touch $@ $(VENV)/ready

# The container image, by docker or, where there is none, by buildah. VARIANT=gpu makes that for GPUs by MXNet,
# VARIANT=torch that by PyTorch; BASE_IMAGE=, PIP_INDEX_URL= and MXNET= are those of the Dockerfile.
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
VARIANT ?= cpu
IMAGE ?= visualtl:$(VERSION)$(if $(filter-out cpu,$(VARIANT)),-$(VARIANT))
BUILD ?= $(if $(shell command -v docker),docker build,buildah bud --format docker)
BUILD_OPTIONS ?=
image:
	$(BUILD) --tag $(IMAGE) --build-arg VARIANT=$(VARIANT) \
		$(foreach name,BASE_IMAGE PIP_INDEX_URL MXNET,$(if $($(name)),--build-arg $(name)=$($(name)))) $(BUILD_OPTIONS) .

# Build the image and run jobs in it; needs root, buildah and debootstrap, and takes minutes.
image-test:
	python3 .ci/image_test.py

# The same for GPUs, on the CPU: downloads 2.5 GB and needs 25 GB of disk and gcc.
image-test-gpu:
	python3 .ci/image_test.py --variant gpu

# And for those that PyTorch computes on: downloads 2.5 GB and needs 30 GB of disk.
image-test-torch:
	python3 .ci/image_test.py --variant torch

# Write configuration schemas and the tables of the documents anew after a change of the configuration classes.
docs: $(VENV)/ready-for-development
	$(RUN) configs/generate.py

# Solve the dependencies of pyproject.toml anew; needs uv.
PYTORCH := 2.13.0
LOCK := uv pip compile -q --universal --python-version 3.10 --generate-hashes --no-header --no-annotate --no-emit-index-url
# What uv says of a package that all supported machines get, once another one differs between Python's versions.
EVERYWHERE := python_full_version < '3.12' and platform_machine == 'x86_64' and sys_platform == 'linux'
lock:
	$(LOCK) pyproject.toml -o requirements.lock
	$(LOCK) --group dev pyproject.toml -o requirements-dev.lock
	@sed -i "s/ ; $(EVERYWHERE) / /" requirements.lock requirements-dev.lock
	$(LOCK) --no-config requirements-onnx.in -o requirements-onnx.lock
	@sed -n 's/^\([a-z0-9-]*==[^ ]*\).*/\1/p' requirements.lock > torch.constraints
	echo 'torch==$(PYTORCH)' | $(LOCK) --no-config -c torch.constraints - | $(RUN) .ci/torch_lock.py > requirements-torch.lock
	@rm torch.constraints

clean:
	rm -rf $(VENV) $(PEERS) $(ORACLES) $(ELSEWHERE) $(TORCH) $(DEMO_OUT)
