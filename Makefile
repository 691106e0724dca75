# The README's two commands are `make demo` and `make test`; each sets up .venv by itself.
PYTHON ?= python3

.PHONY: help demo test lint bench compose tls links chaos load mqtt agreement fuzz proto clean

help:
	@echo "make demo    one encoder and four decoders compress 50,000 samples over gRPC, then images, a small sweep, its report, and some text"
	@echo "make test    ruff, mypy and the tests"
	@echo "make bench   the speed claims, as ratios within one run"
	@echo "make compose every profile of docker-compose.yml, from a clean copy, and what comes of it (a quarter of an hour)"
	@echo "make tls     what TLS costs in bytes and speed, as ratios within one run"
	@echo "make links   what links that misbehave were asked for, and what comes of it"
	@echo "make chaos   1,000 random runs in virtual time and 50 between processes: is anything lost? (a quarter of an hour)"
	@echo "make load    64 decoder streams, then 32 generations with 8 draft servers, two minutes each"
	@echo "make mqtt    one publish with K deliveries beside K gRPC streams: bits and delay, by Mosquitto if it is installed"
	@echo "make agreement   the simulator's time per block beside that of real links"
	@echo "make fuzz    a million wrong inputs into every entry point, and 5,000 into each running service (a quarter of an hour)"
	@echo "make proto   regenerate shared/glsnet/v1 from proto/"
	@echo "make clean   remove .venv and caches"

.venv/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "glsnet needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version). Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv .venv
	@touch $@

.venv/.installed: .venv/.python pyproject.toml constraints.txt
	.venv/bin/pip install -q -c constraints.txt -e .
	@touch $@

.venv/.installed-dev: .venv/.python pyproject.toml constraints.txt
	.venv/bin/pip install -q -c constraints.txt -e '.[dev]'
	@touch $@ .venv/.installed

demo: .venv/.installed
	.venv/bin/glsnet run gaussian
	.venv/bin/glsnet run images
	.venv/bin/glsnet sweep demo --output results/demo
	.venv/bin/glsnet report results/demo
	.venv/bin/glsnet generate --seed 7 --temperature 0.6 --max-tokens 60 --prompt \
	  'Question: Ann sells 12 cakes a day for $$3 each. How much money does she make in 5 days?\nAnswer:'

lint: .venv/.installed-dev
	.venv/bin/ruff check .
	.venv/bin/mypy

test: lint
	.venv/bin/python -m pytest --numprocesses auto --dist loadfile

bench: .venv/.installed-dev
	.venv/bin/python -m pytest benchmarks -s

compose:
	deploy/check

tls: .venv/.installed
	.venv/bin/python benchmarks/tls.py

links: .venv/.installed
	.venv/bin/python benchmarks/links.py

chaos: .venv/.installed
	.venv/bin/glsnet chaos --runs 1000
	.venv/bin/glsnet chaos --runs 50 --transport grpc

load: .venv/.installed
	.venv/bin/python benchmarks/load.py

mqtt: .venv/.installed
	.venv/bin/python benchmarks/mqtt.py

agreement: .venv/.installed
	.venv/bin/python benchmarks/agreement.py

fuzz: .venv/.installed-dev
	.venv/bin/python benchmarks/fuzz.py --inputs 1000000
	.venv/bin/python benchmarks/fuzz_services.py --inputs 5000

proto: .venv/.installed-dev
	.venv/bin/python -m grpc_tools.protoc -Iproto --python_out=shared --pyi_out=shared proto/glsnet/v1/*.proto

clean:
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache .benchmarks
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
