PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: certify test lint clean

$(STAMP): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("DualSmooth needs python 3.11 or newer; this is " + sys.version.split()[0] + " (set PYTHON=...)" if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -e .
	touch $@

$(VENV)/.installed-test: $(STAMP)
	$(BIN)/python -m pip install -q -e '.[test,dev,report]'
	touch $@

certify: $(STAMP)
	$(BIN)/python -m benchmarks.digits runs/digits

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -q

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	mkdir -p build/links/dualsmooth
	ln -sfn ../../../engine ../../../kernels ../../../export build/links/dualsmooth/
	$(BIN)/mypy
	$(BIN)/mypy tests

clean:
	rm -rf $(VENV) build runs
