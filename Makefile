# `make run` generates a service, serves it and shows one request's ID in every place. `make test` checks every change, in
# 5 minutes, and needs make, git and Python 3.11 or newer; `make test-all` runs every test, in 25, and names the programs
# that it lacks. uv is taken from PATH, else installed into .uv.

UV_VERSION := 0.13.8
OWN_UV := .uv/$(UV_VERSION)/bin/uv
UV := $(or $(shell command -v uv 2>/dev/null),$(OWN_UV))
# Arguments for pytest, the check of drift, guard and soak, as in: make test ARGS="-k hooks", make drift ARGS="--only 1"
ARGS :=
# When set, pytest's exit code is written to this file, and make itself says nothing of it.
STATUS :=

.PHONY: run test test-all lint format lock drift bench guard soak
.SILENT:
# An activated environment of something else is not ours to fill.
unexport VIRTUAL_ENV

# exec: a shell between make and the demo would keep a SIGTERM to itself.
run: $(filter $(OWN_UV),$(UV))
	exec "$(UV)" run --quiet --locked --inexact --only-group generate python -m scripts.demo "$(UV)"

# Two processes share the tests; those of a file stay in one of them, and so do the servers that they share.
PYTEST = "$(UV)" run --no-sync python -m pytest --numprocesses 2 --dist loadscope --no-loadscope-reorder
test: TIER := -m "not full"

test test-all: $(filter $(OWN_UV),$(UV))
	"$(UV)" sync --quiet --locked
ifeq ($(STATUS),)
	$(PYTEST) $(TIER) $(ARGS)
else
	$(PYTEST) $(TIER) $(ARGS); echo $$? > "$(STATUS)"
endif

lint: $(filter $(OWN_UV),$(UV))
	"$(UV)" run --quiet --locked ruff check
	"$(UV)" run --quiet --locked ruff format --check
	"$(UV)" run --quiet --locked mypy

format: $(filter $(OWN_UV),$(UV))
	"$(UV)" run --quiet --locked ruff check --fix
	"$(UV)" run --quiet --locked ruff format

# Lets every pinned version move up to what the ranges in both pyproject.toml allow.
lock: $(filter $(OWN_UV),$(UV))
	"$(UV)" lock --upgrade
	"$(UV)" lock --upgrade --project "{{cookiecutter.project_slug}}"

# Generates services with several sets of options, with the newest packages, and checks that they work.
drift: $(filter $(OWN_UV),$(UV))
	exec "$(UV)" run --quiet --locked --inexact --only-group generate python -m scripts.drift "$(UV)" $(ARGS)

# Measures what the IDs and the observers cost, beside peers and beside what has none; writes benchmarks/results.
# Needs wrk, Redis and NATS, two processors, and 40 minutes of a machine that does nothing else.
bench: $(filter $(OWN_UV),$(UV))
	"$(UV)" run --quiet --locked python -m benchmarks.side_by_side "$(UV)"
	"$(UV)" run --quiet --locked python -m benchmarks.growth "$(UV)"
	"$(UV)" run --quiet --locked python -m benchmarks.ingredients "$(UV)"
	"$(UV)" run --quiet --locked python -m benchmarks.publishing "$(UV)"
	"$(UV)" run --quiet --locked python -m benchmarks.observing "$(UV)"
	"$(UV)" run --quiet --locked python -m benchmarks.template_times "$(UV)"

# Counts the instructions of a request, here and in another commit, by default HEAD: make guard ARGS=COMMIT. Fails where
# there are 3 % more. Needs valgrind.
guard: $(filter $(OWN_UV),$(UV))
	"$(UV)" run --quiet --locked python -m benchmarks.instructions "$(UV)" $(ARGS)

# A million requests of all kinds through two workers: memory and descriptors stay. Needs wrk.
soak: $(filter $(OWN_UV),$(UV))
	"$(UV)" run --quiet --locked python -m benchmarks.soak "$(UV)" $(ARGS)

$(OWN_UV):
	echo "uv is not on PATH: putting uv $(UV_VERSION) into .uv" >&2
	python3 -m venv ".uv/$(UV_VERSION)"
	".uv/$(UV_VERSION)/bin/python" -m pip install --quiet --disable-pip-version-check "uv==$(UV_VERSION)"
