# Two commands do all the set-up: `make demo` and `make test`.
VENV := .venv
PYTHON ?= python3
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: help demo test test-browser lint types format crash fuzz faults gallery studies reproduce benchmark clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit("FedMAC needs Python 3.11 or later; set PYTHON=/path/to/python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(BIN)/python pyproject.toml constraints.txt
	@echo "Installing FedMAC into $(VENV) (about two minutes the first time) ..."
	$(INSTALL) --editable .
	@touch $@

$(VENV)/.installed-test: $(BIN)/python pyproject.toml constraints.txt
	@echo "Installing FedMAC with its test tools into $(VENV) ..."
	$(INSTALL) --editable '.[test]'
	@touch $(VENV)/.installed $@

demo: $(VENV)/.installed ## train over the air and open the comparison: runs scenarios/quickstart.toml
	$(BIN)/fedmac run scenarios/quickstart.toml --out runs/quickstart --overwrite

test: $(VENV)/.installed-test lint types ## ruff, mypy --strict and pytest
	$(BIN)/python -m pytest -m "not browser"

lint: $(VENV)/.installed-test ## ruff check and format check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-test ## mypy --strict on channel, clients, strategies, fedmac
	$(BIN)/mypy

format: $(VENV)/.installed-test ## let ruff put the code in order
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test-browser: $(VENV)/.installed-test ## open the report in headless Chromium (Debian: apt-get install chromium)
	$(BIN)/python -m pytest -m browser

crash: $(VENV)/.installed-test ## kill runs 50 times at random moments and resume them
	FEDMAC_CRASHES=50 $(BIN)/python -m pytest tests/end_to_end/test_crash.py -s

fuzz: $(VENV)/.installed-test ## every decoder, what devices reply, orders and scenario files: 10,000 cases a property (hours)
	FEDMAC_FUZZ=10000 $(BIN)/python -m pytest tests/fuzz

faults: $(VENV)/.installed-test ## a deployment whose devices and server are killed, or stand still (ten minutes)
	FEDMAC_FAULTS=1 $(BIN)/python -m pytest tests/end_to_end/test_deployment.py tests/end_to_end/test_deployed_system.py -k "killed or still"

gallery: $(VENV)/.installed ## rebuild docs/gallery.md's studies and pictures (about ten minutes)
	$(BIN)/python scenarios/gallery.py

studies: $(VENV)/.installed-test ## the studies of docs/results.md and docs/planning.md (hours; each goes on where it was stopped)
	for study in second_order dingo_over_the_air bits_vs_accuracy analog_vs_digital power_vs_bit_rate planning device_shifts phones scaling faults; do \
	  $(BIN)/python scenarios/$$study.py || exit 1; done

reproduce: $(VENV)/.installed ## the published results of docs/reproductions.md (half an hour on one core; goes on where it was stopped)
	for script in amiri_gunduz power_control_table power_control_training ergodic_power_control latency_ratio \
	    power_efficient_beamforming; do $(BIN)/python scenarios/reproduce/$$script.py || exit 1; done

benchmark: $(VENV)/.installed-test ## time the engines against each other and against pfl-research, a deployment, and the simulated clock
	$(BIN)/python benchmarks/engines.py
	$(BIN)/python benchmarks/deployment.py
	$(BIN)/python benchmarks/clock.py null
	$(BIN)/python benchmarks/clock.py system
	$(BIN)/python benchmarks/clock.py training

clean: ## remove the environment and every run
	rm -rf $(VENV) runs .pytest_cache .mypy_cache .ruff_cache *.egg-info
