# The one entry point: `make help`. The work is done by the scripts in tools/; nothing here needs root unless it says so.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo demo-slurm check test test-rdma test-pyslurm test-rdma-two-hosts rdma-shell soak fmt bench bench-peers bench-goals bench-rdma bench-scale bench-replay bench-elastic bench-reclaim bench-colocation docs cluster-up cluster-down clean

PYTHON := .venv/bin/python
RIG := tests/cluster/rig/slurm-cluster
# Rings that start no server, as far as they have tests.
QUICK_TESTS = $(foreach ring,unit wire conformance,$(if $(wildcard tests/$(ring)/test_*.py tests/$(ring)/*/test_*.py),tests/$(ring)))

help:  ## print this
	@awk -F':.*## ' '/^##@/ { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z-]+:.*## / { printf "  make %-20s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

##@ See it work
demo:  ## price a million options in many calls on this machine: no Slurm, no root, under a minute
	@tools/setup.sh demo
	$(PYTHON) examples/02_blackscholes.py

demo-slurm:  ## the main job on a real Slurm of four nodes on this machine, with a rigid MPI job (root)
	@tools/setup.sh dev
	@tools/apt-install.sh
	@tools/demo-slurm.sh

##@ Work on it
check:  ## format, lint, spelling, types, layers, and the tests that start no server: under two minutes
	@tools/setup.sh dev
	.venv/bin/ruff format --check --quiet
	.venv/bin/ruff check --quiet
	.venv/bin/codespell
	.venv/bin/mypy
	.venv/bin/mypy tools
	.venv/bin/mypy examples/*.py
	MYPYPATH=benchmarks:benchmarks/raw:benchmarks/peers .venv/bin/mypy --explicit-package-bases $(wildcard benchmarks/*.py benchmarks/*/*.py benchmarks/*/*/*.py)
	MYPYPATH=tests .venv/bin/mypy --explicit-package-bases tests/cluster/rig tests/cluster/delay.py
	.venv/bin/lint-imports --no-logo
	$(PYTHON) tools/check_docs.py
	.venv/bin/pytest -q -n auto --maxprocesses 8 --dist worksteal -m 'not rdma' $(QUICK_TESTS)

test: check  ## real processes, every Python, RDMA in a guest, Slurm of two versions (root installs what that needs); 40 minutes; RING=slurm: that one
	@tools/apt-install.sh
	@tools/setup.sh dev
	$(PYTHON) tools/rings.py $(RING)

test-rdma:  ## what needs an RDMA device: on this machine's, else on soft-RoCE in an emulated guest (root, minutes)
	@tools/apt-install.sh
	@tools/setup.sh dev
	@tests/rdma/rig/ring

test-pyslurm:  ## the view of the cluster on Slurm 26.05, by pyslurm too (root, the network; minutes the first time)
	@tools/apt-install.sh
	@tools/setup.sh dev
	@tests/cluster/rig/forky/ring

test-rdma-two-hosts:  ## the same between two hosts, which are namespaces of a guest with a newer kernel (root, minutes)
	@tools/apt-install.sh
	@tools/setup.sh dev
	@tests/rdma/rig/ring two-hosts

rdma-shell:  ## a shell with a soft-RoCE device, on this machine's files, in that guest
	@tools/apt-install.sh
	@tests/rdma/rig/guest -t 86400 shell

soak:  ## the fault tests with full counts; goes on after what is done at this commit; PART=T01: that one
	@tools/setup.sh dev
	$(PYTHON) tools/soak.py $(PART)

fmt:  ## format the sources and mend what the linter can mend
	@tools/setup.sh dev
	.venv/bin/ruff check --fix
	.venv/bin/ruff format

docs:  ## check links between the documents and run the programs in them
	@tools/setup.sh dev
	$(PYTHON) tools/check_docs.py --run

##@ Measure: quiet machines only; QUICK=1: does it work? Results go to benchmarks/results/DATE; what is cut off goes on
bench:  ## rfaas beside its limits: about 10 minutes
	@tools/setup.sh dev
	$(PYTHON) benchmarks/own.py $(if $(QUICK),--quick)

bench-peers:  ## rfaas and its peers by turns, in rounds: about 20 minutes, and the network the first time
	@tools/setup.sh dev
	$(PYTHON) benchmarks/peers/run.py $(if $(QUICK),--quick)

bench-goals:  ## what rfaas has promised, measured: goal, figure, spread, met: about 15 minutes, and mpi4py and Ray of the peers
	@tools/setup.sh dev
	$(PYTHON) benchmarks/goals.py $(if $(QUICK),--quick)

bench-rdma:  ## calls over RDMA beside bare RDMA: on this machine's device, else on soft-RoCE in an emulated guest (root, minutes)
	@tools/apt-install.sh
	@tools/setup.sh dev
	$(PYTHON) benchmarks/verbs.py $(if $(QUICK),--quick)

bench-scale:  ## a harvester's cycle and an allocator's decisions at 10, 1000 and 10,000 nodes: a minute
	@tools/setup.sh dev
	$(PYTHON) benchmarks/scale.py $(if $(QUICK),--quick)

bench-replay:  ## a day of a cluster, compressed, on a real slurmctld: what is recovered, how long batch jobs wait (root, three hours, resumable; SECONDS=900: a part; CLUSTERS=2: two at a time)
	@tools/apt-install.sh
	@tools/setup.sh dev
	$(PYTHON) benchmarks/replay.py $(if $(QUICK),--quick) $(if $(SECONDS),--seconds $(SECONDS)) $(if $(CLUSTERS),--clusters $(CLUSTERS))

bench-elastic:  ## an MPI program that loses its nodes 20 times, on a real slurmctld: time by phase, same hash (root, eight minutes)
	@tools/setup.sh dev
	@tools/apt-install.sh
	$(PYTHON) benchmarks/elastic.py $(if $(QUICK),--quick)

bench-reclaim:  ## what rigid jobs wait for harvested nodes, beside the least that any harvest costs (root, half an hour); SECONDS=200: so much of it
	@tools/setup.sh dev
	@tools/apt-install.sh
	$(PYTHON) benchmarks/reclaim.py $(if $(QUICK),--quick) $(if $(SECONDS),--seconds $(SECONDS))

bench-colocation:  ## rigid codes beside functions, one core each, on a real Slurm, with the neighbour guard and without (root, 20 minutes); SECONDS=230: a part; ONLY="lammps on": such cells
	@tools/setup.sh dev
	@tools/apt-install.sh
	@tools/apt-install.sh tools/apt-packages-colocation.txt
	$(PYTHON) benchmarks/colocation.py $(if $(QUICK),--quick) $(if $(SECONDS),--seconds $(SECONDS)) $(if $(ONLY),--only "$(ONLY)")

##@ A real Slurm by hand (root)
cluster-up:  ## start one on this machine and say how to use it
	@tools/apt-install.sh
	@$$(tools/find-pythons.sh --first | cut -f1) $(RIG) start --wheel

cluster-down:  ## stop it, leaving nothing behind
	@$$(tools/find-pythons.sh --first | cut -f1) $(RIG) stop

##@ Tidy
clean:  ## remove everything that was made here, .venv too
	rm -rf .venv .cache build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis out
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	find rfaas transport executors allocator slurm_plugin -name '*.so' -delete
