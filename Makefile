# Each line is a command that a user could type. Two suffice on a fresh machine: make run, make test.
SHELL  := /bin/bash
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
CORES  ?= all
ARGS   ?=
PROFILE ?= workflow/profiles/slurm
SMK    := $(BIN)/snakemake --cores $(CORES)
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --constraint constraints.txt
export PATH := $(abspath $(BIN)):$(PATH)

.DEFAULT_GOAL := help
.PHONY: help run test check fast benchmark benchmark-data data train evaluate report sweep smoke pretrain dry-run html schema lock clean slurm

help:            ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 14

run: $(VENV)/.run        ## the main job: fetch, train, evaluate, report (ARGS="--configfile x.yaml", CORES=2)
	$(SMK) $(ARGS)

test: $(VENV)/.test      ## all checks that CI runs: format, lint, types, floors, workflow, tests
	$(MAKE) --no-print-directory check
	$(BIN)/python -m pytest -q --dist loadfile -n $(shell echo $$(( $$(nproc) > 4 ? 4 : $$(nproc) ))) $(ARGS)

check: $(VENV)/.test     ## format, lint, types, floors, workflow
	$(BIN)/ruff format --check src tests
	$(BIN)/ruff check src tests
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/snakemake --lint

fast: $(VENV)/.test      ## tests without the slow ones
	$(BIN)/python -m pytest -q -n 2 -m "not slow" $(ARGS)

data: $(VENV)/.run       ## up to windows and pairs
	$(SMK) $(ARGS) data
train: $(VENV)/.run      ## up to the trained models
	$(SMK) $(ARGS) train
evaluate: $(VENV)/.run   ## up to the figures
	$(SMK) $(ARGS) evaluate
report: $(VENV)/.run     ## up to reports/final_training_report.md
	$(SMK) $(ARGS) report
sweep: $(VENV)/.run      ## ablations of the default run into results/sweep/reports/sweep.html (hours; ARGS="--configfile ...")
	$(SMK) --directory results/sweep --configfile config.yaml resources/presets/sweep.yaml $(ARGS) -- sweep
smoke: $(VENV)/.run      ## the whole workflow in a minute, in a folder of its own
	$(SMK) --directory results/smoke --configfile config.yaml resources/presets/smoke.yaml $(ARGS)
pretrain: $(VENV)/.run   ## a vocabulary and a small BERT from nothing, then the joint run from there (results/pretrain)
	$(SMK) --directory results/pretrain --configfile config.yaml resources/presets/pretrain-smoke.yaml $(ARGS) -- all reports/pretrain_training_report.md
slurm: $(VENV)/.run      ## the main job through Slurm: first set partitions in PROFILE (workflow/profiles/slurm)
	@test -f $(PROFILE)/config.yaml || { echo "error: PROFILE=$(PROFILE): expected a folder with config.yaml; Snakemake would pass it over and run everything here."; exit 1; }
	@! grep -q '^executor: slurm' $(PROFILE)/config.yaml || command -v sbatch >/dev/null || { echo "error: no sbatch on this machine: expected a login node of a cluster with Slurm. Go there, or run it here: make run."; exit 1; }
	$(INSTALL) --editable '.[slurm,cluster]'
	$(BIN)/snakemake --workflow-profile $(PROFILE) $(ARGS)
dry-run: $(VENV)/.run    ## what would run, and why
	$(SMK) --dry-run $(ARGS)
html: $(VENV)/.run       ## Snakemake's own report of a finished run
	$(SMK) --report reports/workflow.html
benchmark: $(VENV)/.test ## a training step against its alternatives, into reports/ (an hour; ARGS="--size base")
	$(SMK) data results/runs/final/start
	$(BIN)/python tests/benchmarks/training.py $(ARGS)
benchmark-data: $(VENV)/.test ## the data stages against their alternatives, 20k to 5M lines, into reports/ (half an hour)
	$(SMK) results/base
	$(BIN)/python tests/benchmarks/data.py $(ARGS)
schema: $(VENV)/.run     ## workflow/schemas/ from the settings and from the report
	$(BIN)/commbert schema --out workflow/schemas/config.schema.json
	$(BIN)/commbert schema --of report --out workflow/schemas/report.schema.json
lock:            ## constraints.txt anew (needs uv); torch stands without a local version: CPU here, CUDA there
	{ grep '^#' constraints.txt; \
	  uv pip compile -q --universal --python-version 3.11 --no-emit-package torch --no-annotate --no-header --extra dev \
	  pyproject.toml | grep -vE '^(cuda-|triton|nvidia-[cn])'; \
	  grep '^torch==' constraints.txt; } > constraints.new && mv constraints.new constraints.txt
clean:           ## forget results and reports; keep the environment
	rm -rf results/* reports/* .snakemake

# The environment: made once, and again when what it is made from changes.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, found %s. Set PYTHON=/path/to/python3.11" % sys.version.split()[0])'
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "python's venv is missing: on Debian, apt-get install python3-venv"; exit 1; }
$(VENV)/.run: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) --editable .
	@touch $@
$(VENV)/.test: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) --editable '.[dev]'
	@touch $(VENV)/.run $@
