# make demo   set up and play a whole federation           make test   set up and run the tests
# make check  what CI runs beside the tests                make clean  remove what make made
PYTHON ?= python3
MODEL  ?= smollm2
ARGS   ?=
BIN    := .venv/bin

.PHONY: demo test check lint types contracts docs nightly clean setup-demo setup-dev

demo: setup-demo
	$(BIN)/partsong demo --model $(MODEL) $(ARGS)

test: setup-dev
	$(BIN)/python -P -m pytest -n 2 $(ARGS)

check: lint types contracts
	$(BIN)/python scripts/settings_page.py --check
	$(BIN)/python scripts/generate_control.py --check

lint: setup-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup-dev
	$(BIN)/mypy
	$(BIN)/mypy scripts/*.py

contracts: setup-dev
	$(BIN)/lint-imports

docs: setup-dev
	$(BIN)/python scripts/doc_commands.py README.md docs/*.md

nightly: setup-dev
	$(BIN)/python -P -m pytest -n 2 -m "nightly or not nightly" $(ARGS)
	$(BIN)/partsong demo --bank
	$(BIN)/partsong demo --full

setup-demo:
	@$(PYTHON) scripts/setup.py demo $(MODEL)

setup-dev:
	@$(PYTHON) scripts/setup.py dev smollm2 minilm

clean:
	rm -rf .venv dist build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
