PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
LIMITS := requirements/constraints.txt
# Half of an installation is compiling files that nothing imports; Python compiles what it imports.
PIP    := $(BIN)/python -m pip install -q --no-compile -c $(LIMITS)
unexport PYTHONDONTWRITEBYTECODE

.PHONY: certify report docs test test-all aot lint pins clean

$(STAMP): pyproject.toml setup.py $(LIMITS) $(wildcard kernels/cpu/*.[ch])
	$(PYTHON) -c 'import sys; sys.exit("DualSmooth needs python 3.11 or newer; this is " + sys.version.split()[0] + " (set PYTHON=...)" if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) -e .
	touch $@

$(VENV)/.installed-test: $(STAMP)
	$(PIP) -e '.[test,dev,report,export,browser]'
	$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true  # tests start many processes
	touch $@

FIXED  := $(foreach s,0.12 0.25 0.5,runs/digits/fixed-$(s))
DIGITS := certify digits-dual --data digits --resume

# One process for all runs, as every process would import PyTorch; `cli.main` would end it.
define RUNS
import sys
from dualsmooth.engine.cli.app import main
for line in sys.stdin:
    sys.argv[1:] = line.split()
    try:
        main()
    except SystemExit as end:
        if end.code:
            raise
endef
export RUNS

certify: $(STAMP)
	@echo "Certifying scikit-learn's digits (540 test images, n0=100, n=10000, alpha=0.001)"
	@{ for run in $(FIXED); do echo $(DIGITS) --out $$run --method fixed --sigma $${run##*-}; done; \
	  echo $(DIGITS) --out runs/digits/interval $(FIXED:%=--reuse %); \
	  echo $(DIGITS) --out runs/digits/plurality --selector-rule plurality \
	    $(FIXED:%=--reuse %) --reuse runs/digits/interval; } | $(BIN)/python -c "$$RUNS" > /dev/null
	@echo
	@$(BIN)/dualsmooth report runs/digits/interval runs/digits/plurality $(FIXED)
	@echo "Run folders: runs/digits/*; run again: make certify; start over: rm -r runs/digits"

$(VENV)/.installed-report: $(STAMP)
	$(PIP) -e '.[report]'
	touch $@

report: $(VENV)/.installed-report
	@test -d runs/digits/plurality || $(MAKE) certify
	@$(BIN)/dualsmooth report runs/digits/interval runs/digits/plurality $(FIXED) \
	  --out runs/digits/report --html > /dev/null
	@echo "runs/digits/report: curves.png, report.html, summary.md and more"

$(VENV)/.installed-docs: $(STAMP)
	$(PIP) -e '.[docs]'
	touch $@

docs: $(VENV)/.installed-docs
	$(BIN)/python setup.py -q stubs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "build/site/index.html; to read and edit: $(BIN)/mkdocs serve"

PYTEST := $(BIN)/python -m pytest -q -n auto --dist worksteal

test: $(VENV)/.installed-test
	$(PYTEST) -m "not slow"

test-all: $(VENV)/.installed-test
	$(PYTEST)

aot: $(VENV)/.installed-test
	$(BIN)/python -m dualsmooth.kernels.aot --check --sm 90

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python setup.py -q stubs
	$(BIN)/mypy
	$(BIN)/mypy tests

UV  := build/uv/bin/uv
PIN := $(UV) pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --no-annotate -c $(LIMITS)
EXTRAS := $(foreach extra,runtime export report parquet cluster cpu,--extra $(extra))

$(UV):
	$(PYTHON) -m venv build/uv
	build/uv/bin/python -m pip install -q uv

pins: $(UV)
	$(PIN) -q -o requirements/release.txt
	$(PIN) -q $(EXTRAS) -o requirements/release-extras.txt

clean:
	rm -rf $(VENV) build runs
