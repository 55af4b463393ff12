# Two commands set everything up: `make demo` and `make test`.
PYTHON ?= python3.11
BIN := .venv/bin
export FLWR_TELEMETRY_ENABLED = 0
export FLWR_DISABLE_UPDATE_CHECK = 1

.PHONY: demo demo-network test lint lab bench clean

demo: .venv/demo.ready
	$(BIN)/python -m demo

demo-network: .venv/demo.ready
	$(BIN)/python -m demo.network

test: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: .venv/dev.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy sandbox federated mpc
	$(BIN)/lint-imports

lab: .venv/dev.ready
	$(BIN)/jupyter lab notebooks

bench: .venv/dev.ready
	$(BIN)/python -m benchmarks run --quick --peers; status=$$?; $(BIN)/python -m benchmarks report && exit $$status

.venv/pip.ready:
	$(PYTHON) -m venv .venv
	touch $@

.venv/demo.ready: .venv/pip.ready pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[demo,postgres,he,learn,neural]'
	touch $@

.venv/dev.ready: .venv/demo.ready
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[demo,postgres,he,learn,neural,notebook,dev]'
	touch $@

clean:
	rm -rf .venv .benchmarks build *.egg-info demo-report benchmark-report .mypy_cache .ruff_cache .pytest_cache .hypothesis
