# make demo   set up and play a whole federation           make test   set up and run the tests
# make check  what CI runs beside the tests                make clean  remove what make made
# make site   the documentation, into build/site           make lock   hash-locked requirement sets
# make wheel  the same bytes from the same source          make sbom   bill of materials, into build
PYTHON ?= python3
MODEL  ?= smollm2
ARGS   ?=
BIN    := .venv/bin
# As many test processes as cores: threads of linear algebra beside them would wait for each other.
ALONE  := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1

.PHONY: demo test check lint types contracts docs site lock sbom wheel nightly clean setup-demo setup-dev

demo: setup-demo
	$(BIN)/partsong demo --model $(MODEL) $(ARGS)

test: setup-dev
	$(ALONE) $(BIN)/python -P -m pytest -n 2 $(ARGS)

check: lint types contracts
	$(BIN)/python scripts/settings_page.py --check
	$(BIN)/python scripts/benchmark_pages.py --check
	$(BIN)/python scripts/generate_control.py --check
	$(BIN)/python scripts/lock.py --check

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

site: setup-dev
	rm -rf build/site
	$(BIN)/python -P -m sphinx -c docs -d build/site-cache --fail-on-warning --keep-going -q . build/site

lock: setup-dev
	$(BIN)/python scripts/lock.py $(ARGS)

wheel: setup-dev
	SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) $(BIN)/python -m build --outdir dist

sbom: setup-dev
	$(BIN)/python scripts/sbom.py build/sbom.cdx.json

nightly: setup-dev
	$(ALONE) $(BIN)/python -P -m pytest -n 2 -m "nightly or not nightly" $(ARGS)
	$(BIN)/partsong demo --bank
	$(BIN)/partsong demo --full

setup-demo:
	@$(PYTHON) scripts/setup.py demo $(MODEL)

setup-dev:
	@$(PYTHON) scripts/setup.py dev smollm2 minilm

clean:
	rm -rf .venv dist build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
