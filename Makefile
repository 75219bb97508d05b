# stepdr: `make pipeline` runs everything on the profile quick, `make test` tests everything. Both set up .venv first.
SHELL := /bin/bash
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3 python; do \
  $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
PROFILE ?= quick
SEED ?= 0
RUN ?= reports/quick-seed0
VLLM ?= vllm
BIN := .venv/bin
# No network after set-up; idle threads sleep, for spinning ones starve the others on a small machine.
export HF_HUB_OFFLINE ?= 1
export HF_HUB_DISABLE_TELEMETRY = 1
export TOKENIZERS_PARALLELISM = false
export OMP_WAIT_POLICY = PASSIVE
export GOMP_SPINCOUNT = 0

.DEFAULT_GOAL := help
.PHONY: help setup model pipeline test kills parity tools clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/.ready model ## make .venv with everything in it, and prepare the model

.venv/.ready: setup.py settings.ini constraints.txt
	@test -n "$(PYTHON)" || { echo "stepdr needs Python 3.11 or newer: install it, or make setup PYTHON=/path/to/python" >&2; exit 1; }
	@echo "==> environment: $$($(PYTHON) --version) in .venv (a few minutes the first time)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[train,data,ray,tools,asr,notebooks,dev]'
	@$(MAKE) --no-print-directory tools
	@touch $@

# Programs that are not Python packages. What cannot be installed is reported, never a failure: `stepdr doctor` says what it is for.
tools: ## install tmux, bubblewrap, chromium, tesseract ... where apt-get can
	@missing=""; \
	command -v tmux >/dev/null || missing="$$missing tmux"; \
	command -v bwrap >/dev/null || missing="$$missing bubblewrap"; \
	command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || missing="$$missing chromium"; \
	command -v tesseract >/dev/null && tesseract --list-langs 2>/dev/null | grep -q chi_sim || missing="$$missing tesseract-ocr tesseract-ocr-chi-sim"; \
	command -v espeak-ng >/dev/null || missing="$$missing espeak-ng"; \
	command -v vim >/dev/null || missing="$$missing vim-tiny"; \
	ls /usr/share/fonts/*/*/*.tt[cf] 2>/dev/null | grep -qi 'wqy\|cjk' || missing="$$missing fonts-wqy-microhei"; \
	test -n "$$missing" || exit 0; \
	as=""; if [ "$$(id -u)" != 0 ]; then as="sudo -n"; fi; \
	if ! command -v apt-get >/dev/null || { [ -n "$$as" ] && ! $$as true 2>/dev/null; }; then \
	  echo "warning: not installed, and no right to install here:$$missing (stepdr doctor says what for)" >&2; exit 0; fi; \
	echo "==> Debian packages:$$missing"; \
	{ $$as apt-get update -qq && $$as env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing; } >/dev/null 2>&1 \
	  || echo "warning: apt-get could not install:$$missing (stepdr doctor says what for)" >&2

# What cannot be fetched is reported, never a failure here: `stepdr doctor` says it again, and what needs the model says so in one line.
model: .venv/.ready ## fetch and prepare the pretrained model (once; offline afterwards)
	@$(BIN)/stepdr model smollm2 || echo "warning: without it nothing can be trained from smollm2; the same command tries again" >&2

pipeline: setup ## run the whole profile quick: data, training, evaluation, report
	@$(BIN)/stepdr run --profile $(PROFILE) --seed $(SEED)

test: setup ## run every notebook's checks, then every test
	@echo "==> notebooks"
	@$(BIN)/nbdev_test --n_workers 2
	@echo "==> tests"
	@$(BIN)/python -m pytest -q -n 2 --dist loadfile --max-worker-restart 0 tests

# Trains the real model twice, with few steps, which is too long for `make test`.
kills: setup ## kill the profile quick, with few steps, in each stage: do its numbers stay the same?
	@$(BIN)/python -m pytest -q tests/real_kills.py

# vLLM is a program of an environment of its own: VLLM=/path/to/vllm; RUN= names the folder of a run.
parity: setup ## serve a run's model by vLLM: does research give the same there as here?
	@$(BIN)/python benchmarks/serving.py $(RUN) --vllm $(VLLM)

clean: ## remove the environment and build files (runs in reports/ stay)
	rm -rf .venv build dist *.egg-info .pytest_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
