# `make demo` and `make test` on a fresh clone; both only need python >= 3.10 and make.
# On a machine without an NVIDIA driver `.ci/install` takes the CPU build of torch where its index can be reached.

PYTHON ?= python3
VENV := .venv
PROMPT ?= a red circle left of a blue square

.PHONY: demo test clean

demo: $(VENV)/installed
	$(VENV)/bin/mcts-ray search "$(PROMPT)" --budget 512

test: $(VENV)/installed-test
	$(VENV)/bin/python -m pytest -q

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: pyproject.toml | $(VENV)/bin/python
	.ci/install -e .
	touch $@

$(VENV)/installed-test: pyproject.toml | $(VENV)/bin/python
	.ci/install -e .[test]
	touch $@ $(VENV)/installed

clean:
	rm -rf $(VENV) build *.egg-info
