PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready

.PHONY: search test lint slow clean

search: $(READY)  ## the main job: a pruning search on a synthetic nuScenes (OPTIONS="--trials 16" and so on)
	$(VENV)/bin/python -m altermoma_ray.search nusc $(OPTIONS)

test: $(READY)  ## style, types and all tests but the slow ones
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(OPTIONS)

slow: $(READY)  ## the tests that take minutes
	$(VENV)/bin/python -m pytest -m slow $(OPTIONS)

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	touch $(READY)

clean:
	rm -rf $(VENV) storage
