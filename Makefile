# Everything sets itself up: the first run makes .venv, later ones reuse it.
PYTHON ?= python3
RUN = .venv/bin/python
# One thread a test process: two of them share small machines.
TEST_THREADS = OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false

.PHONY: help venv test check attacks fuzz test-gpu lint demo demo-speech demo-chat demo-translate bench docs release clean

help:
	@echo "make demo            the shipped model, end to end: English words to phonemes"
	@echo "make demo-speech     transcribe speech with real Whisper weights, end to end"
	@echo "make demo-chat       ask SmolLM2 a question"
	@echo "make demo-translate  Firefox's English-Portuguese model, 8-bit, end to end"
	@echo "make test            lint, types, all tests"
	@echo "make check           lint, types, the tests of what changed since main"
	@echo "make attacks         every attack of tests/attacks, of which make test takes a third"
	@echo "make fuzz            every reader of strangers' files, SECONDS=60 each"
	@echo "make test-gpu        engines on an NVIDIA GPU, with a report to paste into an issue"
	@echo "make bench           decoding speed against CTranslate2 and PyTorch"
	@echo "make docs            the documentation, into site/"
	@echo "make release         VERSION=0.5.0: changelog, wheel, checks, commit and tag; no push"
	@echo "make clean           remove .venv, caches and build folders"

venv:
	@$(PYTHON) scripts/environment.py

lint: venv
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

test: lint
	$(TEST_THREADS) $(RUN) -m pytest -n 2 --dist worksteal -q --durations=10

check: lint
	@$(TEST_THREADS) $(RUN) scripts/check_changes.py

attacks: venv
	SEQ2EDGE_ATTACKS=all $(TEST_THREADS) $(RUN) -m pytest -n 2 --dist worksteal -q tests/attacks

SECONDS ?= 60
fuzz: venv
	@$(RUN) tests/attacks/artefacts.py .cache/attacks
	@$(TEST_THREADS) $(RUN) tests/attacks/fuzz.py .cache/attacks --seconds $(SECONDS)

test-gpu: venv
	@$(RUN) -m pytest -m gpu -q -rs tests/gpu

demo: venv
	@$(RUN) examples/demo.py

demo-speech: venv
	@$(RUN) examples/demo_speech.py

demo-chat: venv
	@$(RUN) examples/demo_chat.py

demo-translate: venv
	@$(RUN) examples/demo_translate.py

bench: venv
	$(RUN) benchmarks/decode_speed.py

docs: venv
	$(RUN) -m mkdocs build

release: venv
	@$(RUN) scripts/release.py $(VERSION)

clean:
	rm -rf .venv .cache build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
