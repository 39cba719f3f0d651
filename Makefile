# make serve   run the server on config/endpoints.txt
# make test    install what the tests need, and run them
# make quick   formatting, lint, types, and the quick tests that start no server: about a minute
# make check   formatting, lint and types
# make bench   run the benchmarks and write benchmarks/RESULTS.md
# make docs    build the documentation's site in build/site and check its links

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEBIAN := chromium docker-compose ed etcd-client etcd-server git nano nginx-light nodejs procps \
  prometheus prometheus-alertmanager rsync strace systemd vim zbar-tools
BENCH_DEBIAN := etcd-server nginx-light redis-server redis-tools wrk

# Tests at a time. Most tests wait rather than compute, so that six fill two processors.
JOBS ?= 6

EXTRAS := socketio,qr,signing
# The site's source: the documents, and the files that they link to.
PAGES := README.md SECURITY.md CHANGELOG.md docs deploy benchmarks/RESULTS.md conformance/README.md conformance/example

.PHONY: serve test quick check bench docs debian bench-debian

serve: $(VENV)/serve.stamp
	$(BIN)/mop-config serve

# Many tests check a deadline, which a busy host may miss. So what fails is run once more, one test at
# a time, and must pass then. The tests that need the machine for themselves run last, from their own
# files, since the collection of all tests takes six seconds.
test: $(VENV)/test.stamp debian
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m 'not alone' \
	  || $(BIN)/python -m pytest --last-failed --last-failed-no-failures none -m 'not alone'
	$(BIN)/python -m pytest -m alone $$(grep -rlw --include='test_*.py' mark.alone tests) \
	  || $(BIN)/python -m pytest --last-failed --last-failed-no-failures none -m alone

quick: check
	$(BIN)/python -m pytest -q -n 2 -m 'not alone and not server and not slow'

check: $(VENV)/test.stamp
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python scripts/unasync.py --check

bench: $(VENV)/bench.stamp bench-debian
	$(BIN)/python -m benchmarks

docs: $(VENV)/docs.stamp
	rm -rf build/pages build/site
	mkdir -p build/pages
	tar -cf - $(PAGES) | tar -xf - -C build/pages
	$(BIN)/python -m mkdocs build --strict --config-file docs/mkdocs.yml

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit("mop-config needs Python 3.11 or later" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)

$(VENV)/serve.stamp: setup.cfg $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

# The stamps of the dependency groups test, bench and docs. pip knows --group since 25.1.
$(VENV)/%.stamp: setup.cfg pyproject.toml $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --editable '.[$(EXTRAS)]' --group $*
	@touch $@ $(VENV)/serve.stamp

# The tests drive real editors, servers and a browser. Where these cannot be installed, their tests are skipped
# with the reason, which CI=true turns into failures.
debian: PACKAGES = $(DEBIAN)
# The servers that are measured beside ours. The rows of those that are missing are left out.
bench-debian: PACKAGES = $(BENCH_DEBIAN)
debian bench-debian:
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
	  && ! dpkg -s $(PACKAGES) >/dev/null 2>&1; then \
	  apt-get update -q && DEBIAN_FRONTEND=noninteractive \
	    apt-get install -q -y --no-install-recommends $(PACKAGES); \
	fi
