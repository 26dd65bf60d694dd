# Every target works from a clean clone; `setup` makes the environment that the others use.
PYTHON := .venv/bin/python
FUZZ_SECONDS ?= 3600
SAMPLE ?= 0
PLATFORM ?= manylinux_2_28_x86_64
EXTRAS ?=

.PHONY: setup test lint bench proofs fuzz mutants docs kit wheel sbom

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
	NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs build

kit: setup
	rm -rf build/kit-$(PLATFORM)
	.venv/bin/fedhelp-coordinator kit --platform $(PLATFORM) --out build/kit-$(PLATFORM) --unsigned

# What a release gives out, installed from the wheel alone: no checkout, nothing editable. EXTRAS=[train,server] adds those.
wheel: setup
	rm -rf dist build/wheel
	$(PYTHON) -m build
	python3 -m venv --without-pip build/wheel
	.venv/bin/pip --python build/wheel/bin/python install -c constraints.txt "$$(echo dist/*.whl)$(EXTRAS)"
	cd build && wheel/bin/fedhelp-edge --version && wheel/bin/fedhelp-coordinator --version

# Every package of that environment, its version and its licence, as CycloneDX.
sbom: wheel
	.venv/bin/cyclonedx-py environment --pyproject pyproject.toml --mc-type application --output-reproducible \
		--output-file build/sbom.cdx.json build/wheel/bin/python
