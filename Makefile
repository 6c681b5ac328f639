# make search        install, search on built-in synthetic data, write the leaderboard
# make leaderboard   draw the leaderboard again from the results
# make test-quick    tests that start neither Ray nor a browser nor hosts, and do not take long
# make test          the whole test suite
# make survival      faults of all kinds in real searches, then 20 minutes of them at random; prints a table
# make test-gpu      the tests that need a GPU, where there is one
# make lint          style and types
PYTHON ?= python3
bin := .venv/bin
storage ?= results

.PHONY: search leaderboard test test-quick test-gpu survival lint
search: .venv/installed
	$(bin)/python tune/search.py --storage $(storage)

leaderboard: .venv/installed
	$(bin)/python dashboards/leaderboard.py --storage $(storage)

# compiled files are kept, as these tests start many processes; more processes of pytest than cores, as many of them wait
test: .venv/installed-dev
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(bin)/python -m pytest --numprocesses 4 --dist loadfile --no-loadscope-reorder

test-quick: .venv/installed-dev
	OMP_NUM_THREADS=1 $(bin)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder -m "not ray and not browser and not hosts and not long and not gpu and not survival"

survival: .venv/installed-dev
	OMP_NUM_THREADS=1 $(bin)/python -m pytest -p no:cacheprovider -m "" tests/survival
	OMP_NUM_THREADS=1 $(bin)/python tests/survival/soak.py

test-gpu: .venv/installed-dev
	$(bin)/python -m pytest -m gpu

lint: .venv/installed-dev
	$(bin)/ruff check .
	$(bin)/ruff format --check .
	$(bin)/mypy

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; try make PYTHON=python3.11"; exit 2; }
	$(PYTHON) -m venv .venv

# torch comes first, so that no other package chooses its build
.venv/installed: .venv/bin/python pyproject.toml constraints.txt
	$(bin)/pip install --quiet --constraint constraints.txt torch
	$(bin)/pip install --quiet --constraint constraints.txt --editable .
	@touch $@

.venv/installed-dev: .venv/installed
	$(bin)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@
