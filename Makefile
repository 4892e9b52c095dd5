# Everything runs in .venv, which the first target that needs it makes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
ARGS ?= # further settings, as ARGS="seed=1 decode.eta=0.1"
DATA ?= cifar10
DOMAINS ?= # of the paper: folders beside its own, as DOMAINS="/my/cats birds=/my/birds.zip"; with a shipped name among them, just these
MODELS ?= # of the paper: base models, as MODELS=ship32; all
TORCH_INDEX ?= # of the setup: a package index to take torch from as well, as that of its CPU build, without CUDA libraries
SCALE ?= embedded# of the paper: embedded, or its own models and sizes with SCALE=paper
STUDIES := table-reconstruction table-inversion table-synthesis table-preservation table-astro \
	table-judges figure-gaussianity figure-separability figure-interference figure-bandwidth \
	figure-frontier figure-geodesic figure-attribute

# a process for each core, at most four: each takes 2 GB; a file's tests share what they make
SIDE_BY_SIDE := -n auto --maxprocesses 4 --dist loadfile
# and so one thread for each of the programs that they start
test check: export OMP_NUM_THREADS = 1

.DEFAULT_GOAL := help
.PHONY: help run sweep test soak lint format types check docs bench gallery assets clean paper $(STUDIES)

help: ## list the targets
	@grep -E '^[a-z$$()S-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 10
	@echo "$(STUDIES)" | fmt -w 90 | sed 's/^/          /'
	@echo; grep -E '^[A-Z]+ \?=.*#' $(MAKEFILE_LIST) | sed -E 's/ \?=[^#]*# /\t/' | expand -t 10

run: $(READY) ## new galaxies from a model of dogs; takes ARGS
	$(BIN)/python -m ood_sampler.run $(ARGS)

sweep: $(READY) ## inversion step by eta, one table and one figure at the end; takes ARGS
	$(BIN)/python -m ood_sampler.run experiment=step_eta $(ARGS)

test: $(READY) ## the test suite
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) $(ARGS)

soak: $(READY) ## the long tests of faults, twenty minutes
	$(BIN)/python -m pytest -m soak $(ARGS)

lint: $(READY) ## ruff, checking only
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

format: $(READY) ## ruff, changing files
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

types: $(READY) ## mypy, strict
	$(BIN)/mypy

check: lint types ## lint, types, tests with coverage
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) --cov --cov-report=term --cov-fail-under=85

docs: $(READY) ## the documentation as a site: build/site/index.html
	$(BIN)/sphinx-build -b html -W --keep-going -n -q -c docs . build/site
	@echo "build/site/index.html"

bench: $(READY) ## one table of ratios, each with its goal; a quarter of an hour; ARGS="--only metrics"
	$(BIN)/python -m experiments.bench $(ARGS)

paper: $(STUDIES) ## all tables and figures; each alone is one of the targets below

# DOMAINS="/my/cats birds=/my/birds.zip" adds folders, DOMAINS="galaxy32 /my/cats" or DOMAINS="only /my/cats" takes
# exactly what it lists, MODELS=ship32 takes one base, SCALE=paper the paper's models and sizes
$(STUDIES): $(READY)
	$(BIN)/python -m experiments.paper $(word 2,$(subst -, ,$@)) --scale $(SCALE) \
		$(if $(MODELS),--models $(MODELS)) $(if $(DOMAINS),--domains $(DOMAINS)) $(if $(ARGS),--set $(ARGS))

gallery: $(READY) ## sheets of samples of each model and domain, in docs/gallery; takes DOMAINS, MODELS and ARGS
	$(BIN)/python -m experiments.gallery \
		$(if $(MODELS),--models $(MODELS)) $(if $(DOMAINS),--domains $(DOMAINS)) $(if $(ARGS),--set $(ARGS))

assets: $(READY) ## make what ships with the package again; DATA= names the folder of CIFAR-10 zips
	$(BIN)/python experiments/assets/galaxy32.py
	$(BIN)/python experiments/assets/radiation32.py
	$(BIN)/python experiments/assets/features32.py --data $(DATA)
	$(BIN)/python experiments/assets/in_domain.py --data $(DATA)
	$(BIN)/python -m ood_sampler.train name=dog32 data.root=$(DATA)/train/dog.zip images=448000
	$(BIN)/python -m ood_sampler.train name=dog32 data.root=$(DATA)/train/dog.zip images=1000000
	$(BIN)/python experiments/assets/base_model.py dog32 --after 448000
	$(BIN)/python -m ood_sampler.train recipe=gan name=dog32_gan data.root=$(DATA)/train/dog.zip images=716800
	$(BIN)/python experiments/assets/gan.py
	$(BIN)/python -m ood_sampler.train name=ship32 data.root=$(DATA)/train/ship.zip images=288000
	$(BIN)/python -m ood_sampler.train name=ship32 data.root=$(DATA)/train/ship.zip images=736000
	$(BIN)/python experiments/assets/base_model.py ship32 --after 288000

clean: ## remove the environment and caches; outputs stay
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
	find . -name __pycache__ -not -path './outputs/*' -prune -exec rm -rf {} +

$(READY): pyproject.toml setup.py constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=/path/to/python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV): a few minutes, 7 GB"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
		$(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -e '.[assets,astro,data,dev,docs,launchers]'
	touch $(READY)
