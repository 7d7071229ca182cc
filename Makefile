# Everything that a fresh machine needs: `make demo`, `make test`.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo test test-slow mutants lint docs bench bench-gpu results results-queue clean

demo: $(READY)
	$(BIN)/quickstudy demo

test: $(READY)
	$(BIN)/pytest -q --numprocesses auto

test-slow: $(READY)
	$(BIN)/pytest -q -m slow

# one operator of the code changed at a time: which changes no test notices; an hour for all,
# `make mutants FILES=quickstudy/core/losses.py EACH=20` for one file
mutants: $(READY)
	$(BIN)/python -m tests.mutation.mutate --each $(or $(EACH),4) $(FILES)

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports --no-cache

docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

bench: $(READY)
	$(BIN)/python -m benchmarks.startup --out benchmarks/results/startup.json
	$(BIN)/python -m benchmarks.meta_step --out benchmarks/results/meta_step.json
	$(BIN)/python -m benchmarks.contention --out benchmarks/results/contention.json
	$(BIN)/python -m benchmarks.sampling --out benchmarks/results/sampling.json
	$(BIN)/python -m benchmarks.evaluate --out benchmarks/results/evaluate.json
	$(BIN)/python -m benchmarks.metric --out benchmarks/results/metric.json
	$(BIN)/python -m benchmarks.heads --out benchmarks/results/heads.json
	$(BIN)/python -m benchmarks.recurrent --out benchmarks/results/recurrent.json
	$(BIN)/python -m benchmarks.stream --out benchmarks/results/stream.json
	$(BIN)/python -m benchmarks.scale --out benchmarks/results/scale.json
	$(BIN)/python -m benchmarks.memory --out benchmarks/results/memory.json --plot docs/how-to/memory.svg
	$(BIN)/python -m benchmarks.mapping_library --out benchmarks/results/mapping_library.json --plot docs/mapping_library.svg
	$(BIN)/python -m benchmarks.environments --out benchmarks/results/environments.json
	$(BIN)/python -m benchmarks.bandits --out benchmarks/results/bandits.json
	$(BIN)/python -m benchmarks.mdps --out benchmarks/results/mdps.json
	$(BIN)/python -m benchmarks.rl --out benchmarks/results/rl.json
	$(BIN)/python -m benchmarks.breakdown --out benchmarks/results/breakdown.json

# what a GPU does, in nine minutes
bench-gpu: $(READY)
	benchmarks/gpu.sh

# every stored result, again: hours on one machine; stopped, it goes on where it was
results: $(READY)
	$(BIN)/quickstudy reproduce
	$(BIN)/python docs/tables.py

# what is missing or was trained too little, one result at a time on one core, until BUDGET ends;
# the same command goes on
BUDGET := 2h
FIRST := omniglot_imaml omniglot_reptile omniglot_fomaml omniglot_maml_pp omniglot_meta_sgd \
  omniglot_meta_net omniglot_snail_all omniglot_relation_running_1shot omniglot_siamese_pairs \
  omniglot_life_long_memory omniglot_r2d2 omniglot_meta_opt_net
results-queue: $(READY)
	$(BIN)/quickstudy reproduce --queue --budget $(BUDGET) --jobs 1 --first $(FIRST)
	$(BIN)/python docs/tables.py

# torch first and by itself: other requests for it can bring in gigabytes of CUDA
$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev,docs]"
	touch $@

clean:
	rm -rf .venv site build dist
