# `make run` generates a service, starts it, and shows where the ID of a request appears. `make test` checks a change in 5
# minutes; it needs make, git, and Python 3.11 or newer. `make test-all` runs all tests in 25 minutes, and lists the
# programs that are missing. uv is taken from PATH, or else installed into .uv.

UV_VERSION := 0.13.8
OWN_UV := .uv/$(UV_VERSION)/bin/uv
UV := $(or $(shell command -v uv 2>/dev/null),$(OWN_UV))
# Arguments for test, test-all, drift, guard and soak: make test ARGS="-k hooks", make drift ARGS="--only 1"
ARGS :=
# If set, test and test-all write pytest's exit code to this file, and make exits with 0 also if tests fail.
STATUS :=

.PHONY: run test test-all lint format lock drift bench guard soak
.SILENT:
# Use the .venv of this project, not an activated environment of another one.
unexport VIRTUAL_ENV

# exec: a shell between make and the demo would not pass a SIGTERM on.
run: $(filter $(OWN_UV),$(UV))
	exec "$(UV)" run --quiet --locked --inexact --only-group generate python -m scripts.demo "$(UV)"

# The tests run in two processes. All tests of a file run in the same process, as they share servers.
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

# Upgrades every locked package as far as the version ranges in both pyproject.toml files allow.
lock: $(filter $(OWN_UV),$(UV))
	"$(UV)" lock --upgrade
	"$(UV)" lock --upgrade --project "{{cookiecutter.project_slug}}"

# Generates services with several combinations of options, installs the newest packages, and checks that they work.
drift: $(filter $(OWN_UV),$(UV))
	exec "$(UV)" run --quiet --locked --inexact --only-group generate python -m scripts.drift "$(UV)" $(ARGS)

# Measures the cost of the IDs and observers, compared with similar libraries and with no IDs; writes benchmarks/results.
# Needs wrk, Redis, NATS, two processors, and 40 minutes on an idle machine.
bench: $(filter $(OWN_UV),$(UV))
	"$(UV)" run --quiet --locked python -m benchmarks.side_by_side "$(UV)"
	"$(UV)" run --quiet --locked python -m benchmarks.growth "$(UV)"
	"$(UV)" run --quiet --locked python -m benchmarks.ingredients "$(UV)"
	"$(UV)" run --quiet --locked python -m benchmarks.publishing "$(UV)"
	"$(UV)" run --quiet --locked python -m benchmarks.observing "$(UV)"
	"$(UV)" run --quiet --locked python -m benchmarks.template_times "$(UV)"

# Counts the CPU instructions of a request, here and in another commit (default: HEAD): make guard ARGS=COMMIT. Fails if
# the service needs over 3 % more here. Needs valgrind.
guard: $(filter $(OWN_UV),$(UV))
	"$(UV)" run --quiet --locked python -m benchmarks.instructions "$(UV)" $(ARGS)

# Sends a million requests of all kinds to two workers; memory and open file descriptors must not grow. Needs wrk.
soak: $(filter $(OWN_UV),$(UV))
	"$(UV)" run --quiet --locked python -m benchmarks.soak "$(UV)" $(ARGS)

$(OWN_UV):
	echo "uv is not on PATH: installing uv $(UV_VERSION) into .uv" >&2
	python3 -m venv ".uv/$(UV_VERSION)"
	".uv/$(UV_VERSION)/bin/python" -m pip install --quiet --disable-pip-version-check "uv==$(UV_VERSION)"
