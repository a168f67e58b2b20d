# What one does here, as commands. `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready
SLOW_READY := $(VENV)/.slow-ready
SLOW_EXTRAS := blender,colmap
WORKERS ?= 2
PYTEST := OMP_NUM_THREADS=1 $(RUN) -m pytest -n $(WORKERS)

.PHONY: help setup demo test test-slow test-gpu ci lint format typecheck doctor toybox weights eval eval-viewfusion eval-mvdream clean distclean

help: ## list these commands
	@sed -nE 's/^([a-z-]+):.*## (.*)/\1\t\2/p' $(firstword $(MAKEFILE_LIST)) | awk -F'\t' '{printf "  make %-15s %s\n", $$1, $$2}'

setup: $(READY) ## make .venv and install the pinned dependencies (about 3 CPU-minutes)

# torch first and alone: asked for beside others, pip may choose another build of it.
$(READY): constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "error: $(PYTHON) is $$($(PYTHON) -V 2>&1); Python 3.11 or newer is needed: make PYTHON=python3.11 setup" >&2; exit 2; }
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --disable-pip-version-check --quiet "$$(grep '^torch==' constraints.txt)"
	$(RUN) -m pip install --disable-pip-version-check --quiet -c constraints.txt -e '.[dev]'
	@touch $(READY)

demo: $(READY) ## the main job on bundled weights: one image -> 16 views -> mesh, in outputs/demo/report.html
	$(RUN) -m launch.demo

test: $(READY) ## the fast tests (no GPU, no network)
	$(PYTEST) -m "not slow and not gpu"

# What only the slow tests use: real Blender (1.4 GB, about 20 CPU-seconds) where this Python has a wheel of it, COLMAP,
# and a file of open_clip's, which itself would bring torchvision.
$(SLOW_READY): $(READY)
	$(RUN) -m pip install --disable-pip-version-check --quiet -c constraints.txt -e '.[$(SLOW_EXTRAS)]'
	$(RUN) -m pip install --disable-pip-version-check --quiet -c constraints.txt --no-deps open_clip_torch
	@touch $(SLOW_READY)

test-slow: $(SLOW_READY) ## the tests that learn, time or train, and those that run Blender or COLMAP
	$(PYTEST) -m "slow and not gpu"

test-gpu: $(READY) ## the fast paths against their references, on a CUDA machine
	$(RUN) -m pytest -m gpu

ci: ## everything a change must pass
	.ci/run

lint: $(READY) ## ruff: mistakes and layout
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

format: $(READY) ## ruff: repair the layout and what can be repaired safely
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

typecheck: $(READY) ## mypy over core/
	$(RUN) -m mypy

doctor: $(READY) ## what is installed, what is used instead, and why
	$(RUN) -m launch.doctor

toybox: $(READY) ## make the toybox data set in data/toybox (at most 10 CPU-minutes)
	$(RUN) -m data_tools.toybox

weights: toybox ## train the bundled weights again, in order, and measure them for their cards (about 11 CPU-hours; weights/README.md)
	$(RUN) -m projects.toybox.train +experiment=toybox/vae out=outputs/weights/toybox_vae publish=weights/toybox_vae
	$(RUN) -m projects.toybox.train +experiment=toybox/clip out=outputs/weights/toybox_clip publish=weights/toybox_clip
	$(RUN) -m projects.toybox.train +experiment=toybox/attributes out=outputs/weights/toybox_attributes publish=weights/toybox_attributes
	$(RUN) -m projects.syncdreamer.train +experiment=syncdreamer/toybox out=outputs/weights/syncdreamer_toybox
	$(RUN) -m projects.syncdreamer.publish run=outputs/weights/syncdreamer_toybox
	$(RUN) -m data_tools.toybox free=data/toybox_free
	$(RUN) -m projects.viewfusion.train +experiment=viewfusion/toybox out=outputs/weights/viewfusion_toybox
	$(RUN) -m projects.viewfusion.publish run=outputs/weights/viewfusion_toybox
	$(RUN) -m projects.mvdream_sds.train_views +experiment=mvdream_sds/views_toybox out=outputs/weights/mvdream_toybox
	$(RUN) -m projects.mvdream_sds.publish run=outputs/weights/mvdream_toybox
	$(MAKE) eval-viewfusion eval-mvdream
	$(RUN) -m projects.syncdreamer.publish run=outputs/weights/syncdreamer_toybox scores=outputs/eval/views/scores.json
	$(RUN) -m projects.viewfusion.publish run=outputs/weights/viewfusion_toybox scores=outputs/eval/viewfusion_ring/scores.json
	$(RUN) -m projects.mvdream_sds.publish run=outputs/weights/mvdream_toybox scores=outputs/eval/mvdream_text/scores.json

# make eval GSO=DIR PRED=DIR: predictions of Google Scanned Objects too, laid out as PROTOCOL says (conf/protocol/).
GSO ?=
PRED ?= $(GSO)
PROTOCOL ?= syncdreamer_gso30

eval: toybox ## measure the bundled weights on the 30 test objects again; with GSO=DIR PRED=DIR also predictions of scanned objects
	$(RUN) -m projects.syncdreamer.predict +experiment=syncdreamer/toybox out=outputs/eval/syncdreamer overwrite=true
	$(RUN) -m projects.benchmark.baselines out=outputs/eval/trivial overwrite=true
	$(RUN) -m projects.benchmark.evaluate protocol=toybox gt=data/toybox/test out=outputs/eval/views overwrite=true \
		'pred={SyncDreamer: outputs/eval/syncdreamer, the input repeated: outputs/eval/trivial/input-repeated, the mean training view: outputs/eval/trivial/mean-view, the nearest training object: outputs/eval/trivial/nearest-object}'
	$(RUN) -m projects.benchmark.evaluate protocol=toybox_consistency gt=data/toybox/test out=outputs/eval/consistency overwrite=true \
		'pred={SyncDreamer: outputs/eval/syncdreamer, the input repeated: outputs/eval/trivial/input-repeated}'
	$(RUN) -m projects.benchmark.reconstruct views='outputs/eval/syncdreamer/test-0000[0-7]' method=neus preset=toybox out=outputs/eval/meshes overwrite=true
	$(RUN) -m projects.benchmark.evaluate protocol=toybox_shapes gt=data/toybox/test out=outputs/eval/shapes overwrite=true \
		'pred={SyncDreamer then NeuS: outputs/eval/meshes, a sphere: outputs/eval/trivial/sphere}'
	$(if $(GSO),$(RUN) -m projects.benchmark.evaluate protocol=$(PROTOCOL) gt='$(GSO)' pred='$(PRED)' out=outputs/eval/gso overwrite=true)

# About an hour and a half of CPU time; stopped, it goes on where it was. Other weights than before want VIEWFUSION_OUT emptied.
VIEWFUSION_OUT := outputs/eval/viewfusion
PREDICT_VIEWS := $(RUN) -m projects.viewfusion.predict +experiment=viewfusion/toybox
ABLATIONS := autoregression interpolated_conditions interpolated_outputs stochastic_conditioning

eval-viewfusion: eval ## measure ViewFusion, its ablations and Zero-1-to-3 on the test objects again: the table of projects/viewfusion
	$(RUN) -m data_tools.toybox free=data/toybox_free
	for seed in 1 2 3; do for targets in free ring; do for inputs in 1 2 3; do \
		fusions="zero123 interpolated_denoising"; if [ $$inputs = 1 ]; then fusions="$$fusions $(ABLATIONS)"; fi; \
		for fusion in $$fusions; do \
			$(PREDICT_VIEWS) targets=$$targets num_inputs=$$inputs fusion=$$fusion seed=$$seed \
				out=$(VIEWFUSION_OUT)/$$targets-$$inputs-$$fusion-$$seed || exit; \
		done; done; done; done
	for seed in 1 2 3; do for fusion in zero123 interpolated_denoising $(ABLATIONS); do \
		$(PREDICT_VIEWS) targets=ring sample_steps=4 cfg_scale=1.5 fusion=$$fusion seed=$$seed \
			out=$(VIEWFUSION_OUT)/ring-4-steps-$$fusion-$$seed || exit; \
	done; done
	for fusion in zero123 interpolated_denoising; do \
		$(RUN) -m projects.benchmark.reconstruct views="$(VIEWFUSION_OUT)/ring-1-$$fusion-1/test-0000[0-7]" \
			method=neus preset=toybox out=$(VIEWFUSION_OUT)/meshes-$$fusion || exit; \
	done
	for table in free ring consistency steps steps_consistency shapes; do \
		$(RUN) -m projects.benchmark.evaluate +experiment=benchmark/viewfusion_$$table out=outputs/eval/viewfusion_$$table overwrite=true || exit; \
	done

# About three hours of CPU time, half of them for the model that is compared with; stopped, it goes on where it was. Other weights than before want MVDREAM_OUT emptied.
MVDREAM_OUT := outputs/eval/mvdream
APART := outputs/weights/mvdream_toybox_2d

eval-mvdream: toybox ## measure MVDream's views and score distillation on the test captions again: the tables of projects/mvdream_sds
	$(RUN) -m projects.mvdream_sds.train_views +experiment=mvdream_sds/views_toybox_2d out=$(APART)
	for seed in 1 2 3; do \
		$(RUN) -m projects.mvdream_sds.predict +experiment=mvdream_sds/views_toybox seed=$$seed out=$(MVDREAM_OUT)/joint-$$seed || exit; \
		$(RUN) -m projects.mvdream_sds.predict +experiment=mvdream_sds/views_toybox_2d seed=$$seed out=$(MVDREAM_OUT)/apart-$$seed || exit; \
	done
	for arm in "joint" "apart weights=$(APART)/weights model.denoiser.joint=false"; do \
		set -- $$arm; name=$$1; shift; \
		$(RUN) -m projects.mvdream_sds.assets +experiment=mvdream_sds/toybox prompts=data/toybox/test num_prompts=10 \
			out=$(MVDREAM_OUT)/assets-$$name "$$@" || exit; \
	done
	$(RUN) -m projects.benchmark.baselines task=captions out=outputs/eval/captions overwrite=true
	$(RUN) -m projects.benchmark.baselines task=captions "place='{object}/orbit/views'" out=outputs/eval/captions_3d overwrite=true
	for table in text text_3d; do \
		$(RUN) -m projects.benchmark.evaluate +experiment=benchmark/mvdream_$$table out=outputs/eval/mvdream_$$table overwrite=true || exit; \
	done

clean: ## remove outputs, multiruns and caches
	rm -rf outputs multirun .pytest_cache .ruff_cache .mypy_cache .hypothesis *.egg-info
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -print0 | xargs -0 rm -rf

distclean: clean ## also remove .venv
	rm -rf $(VENV)
