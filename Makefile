# Works on a bare Debian 12 with Python 3.11: `make demo`, `make test`.
# Overridable: PYTHON (builds the environment), VENV (its folder), XVFB_RUN (empty: use $DISPLAY).

PYTHON ?= python3
VENV ?= .venv
XVFB_RUN ?= xvfb-run -a -s "-screen 0 1400x900x24"
BIN = $(VENV)/bin

# What Qt and the virtual display need; pip brings everything else. libglib2.0-bin stands for
# the library libglib2.0-0, whose name differs between releases (libglib2.0-0t64).
APT_PACKAGES = xauth xvfb libgl1 libegl1 libfontconfig1 libglib2.0-bin libdbus-1-3 \
	libxkbcommon-x11-0 libxcb-cursor0 libxcb-icccm4 libxcb-keysyms1 libxcb-shape0 \
	libxcb-xinerama0 libxcb-image0 libxcb-render-util0

.PHONY: help demo docs test test-lowest test-under-load kill-test random-user fuzz versions lint interoperability \
	test-interoperability screenshots methods-page formats-page pretrain samples study settings-study \
	automatic-study gate-study bench \
	bench-document bench-window bench-scaling bench-gpu \
	performance-page clean distclean display-packages

help:
	@echo "make demo         segment, finetune and export a sample into demo-output/ (no display)"
	@echo "make test         run the tests on a virtual display"
	@echo "make kill-test    kill 200 sessions and see that nothing they saved is lost"
	@echo "make test-lowest  run them with the lowest versions allowed, in an environment of its own"
	@echo "make test-under-load  run them beside two busy loops"
	@echo "make random-user  a user who does anything in any order, 100 times"
	@echo "make fuzz         damaged files of every format, for FUZZ_SECONDS (600)"
	@echo "make versions     print Python, platform and packages of the environment"
	@echo "make lint         ruff, mypy and the import contracts"
	@echo "make interoperability  exchange checkpoints with micro-sam, in an environment of its own"
	@echo "make screenshots  take the pictures of docs/ again"
	@echo "make docs         build a site from docs/ into build/site"
	@echo "make methods-page write the tables of docs/methods.md again"
	@echo "make formats-page write the tables of docs/formats.md again"
	@echo "make pretrain     train the built-in model on from its present weights (hours)"
	@echo "make samples      draw the synthetic samples of the package again"
	@echo "make study        compare the PEFT methods on real images (hours; goes on where stopped)"
	@echo "make gate-study   how often the wrong model goes live (two hours; goes on where stopped)"
	@echo "make automatic-study  segmentation without prompts, before and after trainings (two hours)"
	@echo "make settings-study  compare settings of a training (hours; goes on where stopped)"
	@echo "make bench        time and memory beside segment-anything and micro-sam (half an hour)"
	@echo "make bench-document  how fast annotations are saved, and how large projects get"
	@echo "make bench-window  actions and times of a day in the real window"
	@echo "make bench-scaling  how time and memory grow; bench-gpu: on a CUDA device"
	@echo "make performance-page  put what the benchmarks wrote into docs/performance.md"
	@echo "make clean        remove caches and outputs; distclean: the environment, too"

demo: $(VENV)/.installed
	$(BIN)/napari-peftsam demo --output demo-output

# Tests compute on one thread each; PYTEST_ARGS="-n 0" runs them in one process.
PYTEST_PROCESSES = -n logical --maxprocesses 4 --dist worksteal
PYTEST = -m pytest $(PYTEST_PROCESSES) $(PYTEST_ARGS)
test: display-packages $(VENV)/.installed-dev
	$(XVFB_RUN) $(BIN)/python $(PYTEST)

# 200 sessions killed at random moments, 30 of them with training; the suite does 17 and 3.
kill-test: $(VENV)/.installed-dev
	KILLS=170 TRAINING_KILLS=30 $(BIN)/python -m pytest $(PYTEST_PROCESSES) \
		tests/document/test_kill.py tests/app/test_kill_training.py $(PYTEST_ARGS)

# A user who does anything in any order, 100 times; the suite does 10.
random-user: display-packages $(VENV)/.installed-dev
	EPISODES=100 $(XVFB_RUN) $(BIN)/python -m pytest $(PYTEST_PROCESSES) \
		tests/widgets/test_random_user.py $(PYTEST_ARGS)

# Damaged files of every format; what goes wrong is kept in fuzz-output/.
FUZZ_SECONDS ?= 600
fuzz: $(VENV)/.installed-dev
	$(BIN)/python -m tests.fuzzing.fuzz --seconds $(FUZZ_SECONDS) --output fuzz-output

# The lowest versions that pyproject.toml allows.
LOWEST = $(VENV)-lowest
test-lowest: display-packages
	$(MAKE) VENV=$(LOWEST) $(LOWEST)/.installed-lowest
	$(call print_versions,$(LOWEST)/bin/python)
	$(XVFB_RUN) $(LOWEST)/bin/python $(PYTEST)

# A test that waits for the clock instead of the event fails here.
test-under-load: display-packages $(VENV)/.installed-dev
	$(XVFB_RUN) $(BIN)/python tests/under_load.py $(BIN)/python $(PYTEST)

versions: $(VENV)/.installed-dev
	$(call print_versions,$(BIN)/python)

define print_versions
@$(1) -c 'import platform; print("Python", platform.python_version(), platform.platform())'
@$(1) -m pip list --format freeze
endef

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# micro-sam needs segment-anything-py, which installs the same module as our segment-anything;
# hence another environment, and torch a second time. Not part of `make test`.
interoperability:
	$(MAKE) VENV=$(VENV)-interoperability test-interoperability

test-interoperability: display-packages $(VENV)/.installed-interoperability
	$(BIN)/python -m pytest tests/interoperability $(PYTEST_ARGS)

screenshots: display-packages $(VENV)/.installed-dev
	$(XVFB_RUN) $(BIN)/python docs/make_screenshots.py

docs: $(VENV)/.installed
	$(BIN)/python -m pip install --group docs
	$(BIN)/python docs/make_site.py

methods-page: $(VENV)/.installed
	$(BIN)/python docs/make_methods.py

formats-page: $(VENV)/.installed
	$(BIN)/python docs/make_formats.py

# How the shipped weights were made, each version from the one before, see the model card. A
# second call goes on where the first was stopped; without a run folder it starts from the last
# committed weights. The other images of FLUO are held out. At the lowest priority and on one
# thread, so that it can run beside other work. PRETRAIN_ARGS come last and win, as in
# PRETRAIN_ARGS="--device cuda --workers 8" or PRETRAIN_ARGS="--output runs/other".
FLUO ?= ../shared/data/dsb_fluo
PRETRAIN_STEPS ?= 1500
pretrain: $(VENV)/.installed
	OMP_NUM_THREADS=1 nice -n 19 $(BIN)/python -m napari_peftsam.pretraining --start builtin \
		--steps $(PRETRAIN_STEPS) --learning-rate 5e-4 --real-share 0.25 --validate-every 300 \
		--workers 0 --commit "$$(git rev-parse HEAD)" --real $(FLUO) --real-names \
		$(addprefix dsb_fluo_,000 001 004 005 008 011 013 015 017 018 019) $(PRETRAIN_ARGS)

samples: $(VENV)/.installed
	$(BIN)/python -m napari_peftsam.pretraining samples napari_peftsam/samples/data/synthetic

# One line of runs/peft_study.jsonl per training; those that are there are not done again. As in
# STUDY_ARGS="--steps 40 --seeds 0".
study: $(VENV)/.installed
	$(BIN)/python tests/benchmarks/peft_study.py $(STUDY_ARGS)
	$(BIN)/python tests/benchmarks/peft_study.py --write docs/study.md $(STUDY_ARGS)

# One line of runs/gate_study.jsonl per simulated session, as `study` does.
gate-study: $(VENV)/.installed
	$(BIN)/python tests/benchmarks/gate_study.py $(GATE_ARGS)
	$(BIN)/python tests/benchmarks/gate_study.py --write docs/gate.md $(GATE_ARGS)

# The same for segmentation without prompts; runs/automatic_study.jsonl.
automatic-study: $(VENV)/.installed
	$(BIN)/python tests/benchmarks/automatic_study.py $(STUDY_ARGS)

# The same for settings of a training; runs/recipe_study.jsonl.
settings-study: $(VENV)/.installed
	$(BIN)/python tests/benchmarks/recipe_study.py $(STUDY_ARGS)

# micro-sam is measured where its environment can be installed (7 GB); a quick run does without.
# The last words win, as in BENCH_ARGS="--rounds 1 --threads 2".
MICRO_SAM = $(VENV)-interoperability
bench: $(VENV)/.installed
ifeq ($(findstring --quick,$(BENCH_ARGS)),)
	-$(MAKE) VENV=$(MICRO_SAM) $(MICRO_SAM)/.installed-interoperability
endif
	$(BIN)/python tests/benchmarks/bench.py --micro-sam $(MICRO_SAM)/bin/python $(BENCH_ARGS)

# As in BENCH_ARGS="--only steps".
bench-document: $(VENV)/.installed
	$(BIN)/python tests/benchmarks/document.py $(BENCH_ARGS)

# A day in the real window, as in BENCH_ARGS="--images FOLDER --labels FOLDER".
bench-window: display-packages $(VENV)/.installed-dev
	$(XVFB_RUN) $(BIN)/python tests/benchmarks/window.py $(BENCH_ARGS)

bench-scaling: $(VENV)/.installed
	$(BIN)/python tests/benchmarks/scaling.py $(BENCH_ARGS)

# As in BENCH_ARGS="--micro-sam .venv-interoperability/bin/python".
bench-gpu: $(VENV)/.installed
	$(BIN)/python tests/benchmarks/gpu.py $(BENCH_ARGS)

performance-page: $(VENV)/.installed
	$(BIN)/python docs/make_performance.py

clean:
	rm -rf build dist demo-output .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	find napari_peftsam tests -name __pycache__ -type d -prune -exec rm -rf {} +

# The environments and the manifest's link, which belongs to their editable installs.
distclean: clean
	rm -rf $(VENV) $(LOWEST) $(VENV)-interoperability napari_peftsam/napari.yaml

# torch and torchvision in one command: pip must not mix builds of the two.
$(VENV)/.installed: pyproject.toml hatch_build.py $(VENV)/.created
	$(BIN)/python -m pip install torch torchvision
	$(BIN)/python -m pip install -e .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml $(VENV)/.installed
	$(BIN)/python -m pip install --group dev
	@touch $@

$(VENV)/.installed-lowest: pyproject.toml hatch_build.py $(VENV)/.created
	$(BIN)/python -m pip install uv
	$(BIN)/uv pip install --python $(BIN)/python --resolution lowest-direct -e . --group test
	@touch $@

# Of two distributions with one module the last one counts; installed once more, it is whole.
# The tests of the main environment see the other one.
$(VENV)/.installed-interoperability: pyproject.toml $(VENV)/.installed
	$(BIN)/python -m pip install --group interoperability
	$(BIN)/python -m pip install --force-reinstall --no-deps segment-anything-py
	@touch $@

# --group came with pip 25.1.
$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || $(call apt_install,python3-venv)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --upgrade 'pip>=25.1'
	@touch $@

display-packages:
	@command -v dpkg-query >/dev/null || exit 0; \
	missing=; \
	for package in $(APT_PACKAGES); do \
		dpkg-query -W -f='$${Status}' $$package 2>/dev/null | grep -q 'ok installed' || \
			missing="$$missing $$package"; \
	done; \
	[ -z "$$missing" ] || $(call apt_install,$$missing)

# As root install $(1), otherwise say how.
define apt_install
if [ "$$(id -u)" = 0 ]; then \
	apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $(1); \
else \
	echo "System packages are missing; run: sudo apt-get install --no-install-recommends" $(1) >&2; \
	exit 1; \
fi
endef
