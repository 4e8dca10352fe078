# make demo    install into .venv, then train the tiny recipe through every stage (CPU, two cores)
# make test    install into .venv with the development tools, then run the tests
# make lint    style and types
# make docs    build the documentation site into build/site; a broken link fails
# make clean   remove .venv; runs/ stays
#
# Another Python: `PYTHON=python3.12 make test` (used when .venv is made). Some of the tests: `make test ARGS="-k sandbox"`.

PYTHON ?= python3
RECIPE ?= recipes/tiny.toml
VENV   := .venv
BIN    := $(VENV)/bin
# pip takes torch by itself first: resolved together with the other packages, a CPU build may lose to a far larger one.
TORCH  := $(shell sed -n 's/^ *"\(torch[><=][^"]*\)",.*/\1/p' pyproject.toml)

# A GPU build of torch brings its own. Elsewhere its interpreter tests the kernels; later versions are a third larger.
TRITON := triton>=3.7,<3.8

.PHONY: demo test lint docs clean jail
.DELETE_ON_ERROR:

demo: $(VENV)/.installed jail
	$(BIN)/openqwq train $(RECIPE) $(if $(wildcard runs/$(basename $(notdir $(RECIPE)))/recipe.json),--resume) $(ARGS)

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest $(ARGS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy openqwq

docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV)

$(VENV)/.torch: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' || \
	  { echo 'error: $(PYTHON) is not Python 3.11 to 3.13' >&2; \
	    echo 'hint: name another one, as in `PYTHON=python3.12 make test`' >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet '$(TORCH)'
	@touch $@

$(VENV)/.installed: $(VENV)/.torch
	$(BIN)/python -m pip install --quiet -e '.[serve]'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.torch
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	@$(BIN)/python -c 'import triton' 2>/dev/null || $(BIN)/python -m pip install --quiet '$(TRITON)' || \
	  echo 'Triton is not available: the tests of the GPU kernels are skipped' >&2
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-docs: $(VENV)/.torch
	$(BIN)/python -m pip install --quiet -e '.[docs]'
	@touch $@

# Programs that a model wrote run in bubblewrap, or not at all.
jail:
	@command -v bwrap >/dev/null && exit 0; \
	  if ! command -v apt-get >/dev/null; then sudo=none; \
	  elif [ "$$(id -u)" = 0 ]; then sudo=; \
	  elif sudo -n true 2>/dev/null; then sudo=sudo; \
	  else sudo=none; fi; \
	  if [ "$$sudo" = none ]; then \
	    echo 'error: bubblewrap, which jails the programs that the model writes, is missing' >&2; \
	    echo 'hint: install it, as in `sudo apt-get install bubblewrap`, and run make again' >&2; exit 2; \
	  fi; \
	  echo 'installing bubblewrap'; \
	  $$sudo apt-get update -qq && $$sudo apt-get install -y -qq bubblewrap
