# make demo   everything on drawn scenes: prepare, train, evaluate, caption, picture (CPU, minutes)
# make test   lint, format check, types and all tests but those of make stress: what .ci/run runs
# make test-web     the page of sat-web in a real browser (installs Debian's Chromium)
# make test-wheel   build the wheel, install it into an empty environment, run its commands
# make test-portable, test-oldest   the fast suite under other processors, Pythons, users; on the
#             oldest versions that setup.py names
# make docs       the documentation site, into build/site
# make stress     3,000 mutated files, each read under limits of time and memory; 60 kills of one process,
#             20 of a run of two (POSIX); the tests that take minutes (torchrun, the benchmarks' pages)
# make bench  all benchmarks against the reference, into benchmarks/RESULTS.md (a quiet machine, minutes);
#             make bench ROWS="decode vit_gpt2" prints these alone
# All make .venv and install what they need the first time, and reuse it afterwards.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
PY := .venv/bin/python
READY := .venv/.ready
DEMO ?= demo

EXTRAS := .[demo,dev,docs,metrics,log,hf,fast,onnx,timm,web]
FAST := -n 2 --dist loadfile -m "not slow"
TESTS ?= tests

.PHONY: demo lint test fast test-wheel test-web test-portable test-oldest docs stress bench curve clean

$(READY): setup.py
	@echo "== setting up .venv (torch is large: a few minutes and 6 GB the first time)"
	@test -x $(PY) || $(PYTHON) -m venv .venv
	@$(PY) -m pip install --quiet --disable-pip-version-check --editable '$(EXTRAS)'
	@touch $(READY)

demo: $(READY)
	@echo "== 1/5 drawing scenes and preparing them"
	$(PY) create_input_files.py --dataset shapes --number 4000 --output_folder $(DEMO)/data --image_size 96 \
		--min_word_freq 1 --overwrite
	@echo "== 2/5 training on the CPU"
	$(PY) train.py --config configs/shapes.yaml --data_folder $(DEMO)/data \
		--output_dir $(DEMO)/run --overwrite
	@echo "== 3/5 captioning and scoring scenes with combinations never seen in training"
	$(PY) eval.py --model $(DEMO)/run/best --data_folder $(DEMO)/data --beam_size 1 3
	@echo "== 4/5 captioning one of them, with a picture of where the model looked"
	$(PY) caption.py --model $(DEMO)/run/best --output $(DEMO)/attention.png --img $(DEMO)/data/shapes/images/$$($(PY) -c \
		"import glob, json; print(json.load(open(*glob.glob('$(DEMO)/data/TEST_REFERENCES_*')))['images'][0]['file_name'])")
	@echo "== 5/5 captioning real photos with the captioner that comes with the library"
	$(PY) caption.py --output $(DEMO)/photos --img \
		$$($(PY) -c "from skimage import data; print(*(f'{data.data_dir}/{n}.png' for n in ('chelsea', 'coffee', 'astronaut')))")

lint: $(READY)
	@echo "== lint"
	$(PY) -m ruff check .
	@echo "== format"
	$(PY) -m ruff format --check .
	@echo "== types"
	$(PY) -m mypy sat

test: lint
	@echo "== tests"
	$(PY) -m pytest -p no:randomly -n 2 --dist loadfile -m "not stress"

fast: $(READY)
	$(PY) -m pytest -p no:randomly $(FAST) $(TESTS)

test-wheel: $(READY)
	tests/wheel.sh

# The browser: Debian's Chromium. Without it, and without the right to install it, nothing is run.
test-web: $(READY)
	@command -v chromium >/dev/null || (apt-get update && apt-get install -y chromium) >/dev/null 2>&1 \
		|| echo "Chromium is missing and cannot be installed: the page is not tested"
	$(PY) -m pytest -p no:randomly tests/web

test-portable: $(READY)
	tests/portable.sh

test-oldest:
	@test -x .venv-oldest/bin/python || $(PYTHON) -m venv .venv-oldest
	@.venv-oldest/bin/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints-oldest.txt --editable '$(EXTRAS)'
	.venv-oldest/bin/python -m pytest $(FAST)

docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict

stress: $(READY)
	for seed in 1 2 3; do OMP_NUM_THREADS=1 $(PY) tests/stress/hostile.py --seed $$seed --count 1000 || exit 1; done
	OMP_NUM_THREADS=1 $(PY) tests/stress/kills.py --kills 60
	OMP_NUM_THREADS=1 $(PY) tests/stress/kills_of_ranks.py
	$(PY) -m pytest -p no:randomly -m stress

bench: $(READY)
	$(PY) -m benchmarks $(if $(ROWS),--rows $(ROWS))

curve: $(READY)
	$(PY) -m benchmarks.curve configs/flickr8k.log.jsonl docs/flickr8k_curve.png

clean:
	rm -rf .venv .venv-* $(DEMO) build *.egg-info
