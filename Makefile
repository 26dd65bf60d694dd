# Every target works from a clean clone; `setup` makes the environment that the others use.
PYTHON := .venv/bin/python
FUZZ_SECONDS ?= 3600
SAMPLE ?= 0
PLATFORM ?= manylinux_2_28_x86_64

.PHONY: setup test lint bench proofs fuzz mutants docs kit

setup: .venv/ready

.venv/ready: pyproject.toml constraints.txt
	python3 -m venv .venv
	.venv/bin/pip install -c constraints.txt -e '.[all,dev]'
	touch $@

test: setup
	$(PYTHON) -m pytest -n auto --dist worksteal

lint: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	$(PYTHON) -m mypy
	.venv/bin/lint-imports

bench: setup
	$(PYTHON) -m benchmarks

proofs: setup
	$(PYTHON) -m pytest -m proof --proofs

fuzz: setup
	$(PYTHON) -m tests.fuzz --all $(FUZZ_SECONDS)

mutants: setup
	$(PYTHON) -m tests.mutants --sample $(SAMPLE)

docs: setup
	$(PYTHON) docs/generate.py

kit: setup
	rm -rf build/kit-$(PLATFORM)
	.venv/bin/fedhelp-coordinator kit --platform $(PLATFORM) --out build/kit-$(PLATFORM) --unsigned
