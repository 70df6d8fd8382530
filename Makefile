PYTHON ?= $(shell command -v python3.11 || echo python3)
VENV := .venv
BIN := $(VENV)/bin
RAN := build/notebooks
CODE := $(shell find lofit_lens/*.py lofit_lens/[!a]* analysis -name '*.py')

# Real task files and small real models, where they lie beside the checkout. Tests that need them
# are skipped, with a message, where they are absent.
ifneq ($(wildcard ../shared/data),)
export LOFIT_LENS_DATA ?= $(abspath ../shared/data)
endif
ifneq ($(wildcard ../shared/models),)
export LOFIT_LENS_MODELS ?= $(abspath ../shared/models)
endif

# Two real language models, fetched once into a cache outside the repository; tests marked `real` use them.
export LOFIT_LENS_REAL_MODELS ?= $(HOME)/.cache/lofit-lens/models
FETCH_MODELS := $(wildcard ../shared/tools/real_models.py)

# One thread: small matrices on few cores are slower, and less reproducible, with more.
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: install demo check format test docs notebooks bench families dist models clean

install: $(VENV)/.core

# torch comes first and by its exact version, so that nothing pulls in another build of it
$(VENV)/.core: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/.%: $(VENV)/.core
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[$*]"
	touch $@

.PRECIOUS: $(VENV)/.%

# The main job: the paper's questions on the model that comes with the package.
demo: $(VENV)/.core
	$(BIN)/lofit-lens demo --overwrite --out lofit-demo $(ARGS)

check: $(VENV)/.check $(VENV)/.test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

format: $(VENV)/.check
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

test: $(VENV)/.test
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder $(ARGS)

docs: $(VENV)/.docs notebooks
	$(BIN)/python notebooks/as_pages.py $(RAN) docs/tutorials
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

notebooks: $(patsubst notebooks/%,$(RAN)/%,$(wildcard notebooks/*.ipynb))

# Each notebook from its first cell in a kernel of its own; again when it or the code has changed.
$(RAN)/%.ipynb: notebooks/%.ipynb $(CODE) | $(VENV)/.notebooks
	PLOTLY_RENDERER=plotly_mimetype $(BIN)/jupyter nbconvert --log-level WARN --to notebook --execute \
	  --ExecutePreprocessor.timeout=300 --ExecutePreprocessor.store_widget_state=False --output-dir $(RAN) $<

bench: $(VENV)/.test
	$(BIN)/python benchmarks/run.py

# Every family on a tiny random model; writes docs/guide/families.md.
families: $(VENV)/.test
	HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/families.py $(ARGS)

# The wheel, by way of the sdist, must hold lofit_lens.analysis and import from anywhere.
dist: $(VENV)/.dist
	rm -rf dist build/wheel
	$(BIN)/python -m build --outdir dist
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --target build/wheel dist/*.whl
	cd / && PYTHONPATH=$(CURDIR)/build/wheel $(CURDIR)/$(BIN)/python -c "import \
	  lofit_lens.analysis.cli.main as cli; assert 'build/wheel' in cli.__file__, cli.__file__; \
	  print('the wheel imports', cli.__name__)"
	cd build && PYTHONPATH=wheel ../$(BIN)/python -c \
	  "from lofit_lens.analysis.cli.main import main; main()" demo --quick --quiet --overwrite --out demo

# `make models ARGS=smollm2` fetches one of the two: from the hub, or with a script beside the checkout.
models: $(VENV)/.gguf
ifneq ($(FETCH_MODELS),)
	$(BIN)/python $(FETCH_MODELS) $(LOFIT_LENS_REAL_MODELS) $(or $(ARGS),smollm2 gemma3)
else
	$(if $(filter-out gemma3,$(or $(ARGS),smollm2)),$(BIN)/hf download HuggingFaceTB/SmolLM2-135M-Instruct --local-dir $(LOFIT_LENS_REAL_MODELS)/SmolLM2-135M-Instruct)
	$(if $(filter-out smollm2,$(or $(ARGS),gemma3)),$(BIN)/hf download google/gemma-3-270m --local-dir $(LOFIT_LENS_REAL_MODELS)/gemma-3-270m)
endif

clean:
	rm -rf $(VENV) build dist site .pytest_cache .ruff_cache
