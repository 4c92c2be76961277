# `make demo` and `make test` on a fresh clone; both only need python >= 3.10 and make.

PYTHON ?= python3
VENV := .venv
PROMPT ?= a red circle left of a blue square
# pip compiles on one core; files that are templates do not compile
COMPILE = $(VENV)/bin/python -m compileall -q -j 0 -x 'site-packages/.*/tests?/' $(VENV)/lib >/dev/null 2>&1 || true

.PHONY: demo test test-slow chaos clean

demo: $(VENV)/installed
	$(VENV)/bin/mcts-ray search "$(PROMPT)" --budget 512

test: $(VENV)/installed-test
	$(VENV)/bin/python -m pytest -q -n 2 --dist loadgroup

test-slow: $(VENV)/installed-test
	$(VENV)/bin/python -m pytest -q -m slow

chaos: $(VENV)/installed-test
	$(VENV)/bin/python -m benchmarks.chaos

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: pyproject.toml | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install --quiet --no-compile -e .
	$(COMPILE)
	touch $@

$(VENV)/installed-test: pyproject.toml | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install --quiet --no-compile -e '.[test]'
	$(COMPILE)
	touch $@ $(VENV)/installed

clean:
	rm -rf $(VENV) build *.egg-info
