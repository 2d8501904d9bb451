"""What a run learns from: tokenizers and corpora in the run's folder, made once, then opened.

The folder holds `recipe.json`, `tokenizer/`, `train/` and `validation/` (corpora), `last.ckpt` and
`best.ckpt` (everything needed to go on), `metrics.csv`, and at the end `model/`, a checkpoint.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lightning as L
from torch.utils.data import DataLoader

from seq2edge.bundle.manifest import TokenizerRecord
from seq2edge.errors import BundleError, Seq2EdgeError, TrainingError
from seq2edge.files.records import decode
from seq2edge.files.storage import file_errors, fingerprint, hidden_sibling
from seq2edge.model.dims import Dims
from seq2edge.runtime.tokenizer import Tokenizer
from seq2edge.training.batches import Plan
from seq2edge.training.collate import Batch, Collator, StepBatches
from seq2edge.training.corpus import Corpus, open_corpus, prepare_corpus
from seq2edge.training.encoding import (
    TokenIds,
    encoder,
    extra_tokens,
    find_labels,
    train_tokenizers,
    vocabulary_sizes,
)
from seq2edge.training.presets import make_dims
from seq2edge.training.recipe import TWO_SIDED, Recipe, recipe_of
from seq2edge.training.start import StartCheckpoint, read_start_checkpoint
from seq2edge.training.train_tokenizer import END_ID, PAD_ID, START_ID

RECIPE, FACTS, TOKENIZER = "recipe.json", "facts.json", "tokenizer"
DERIVED = (FACTS, "privacy.json", "vectors.json", "vectors.npz")  # follow from recipe and files
TRAIN, VALIDATION, LAST = "train", "validation", "last.ckpt"
READY = ".prepared"
OUR_IDS = {"eos_token_id": END_ID, "pad_token_id": PAD_ID, "decoder_start_token_id": START_ID}
Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunSetup:
    """What follows from the recipe and its files: the model's dims, ids, labels, tokenizers."""

    dims: Dims
    tokenizer: TokenizerRecord
    generation: Mapping[str, Any]
    start: int
    end: int
    special: tuple[int, ...]
    first: tuple[int, ...]
    labels: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """An opened run folder. `validation` is None where the recipe names no such files."""

    recipe: Recipe
    facts: RunSetup
    train: Corpus
    validation: Corpus | None


def prepare(recipe: Recipe, folder: Path, say: Say) -> None:
    """Make what is missing in the run's folder. Raises TrainingError for files that cannot be used.

    Where nothing has been learnt yet, another recipe or changed files start the folder over; a run
    of another recipe, or of other files, is refused.
    """
    asked = run_fingerprint(recipe)
    if (folder / RECIPE).is_file():
        before = read_json(folder / RECIPE)
        changed = [key for key in asked if before.get(key) != asked[key]]
        if changed and (folder / LAST).exists():
            what = "another recipe" if "recipe" in changed else "files that have changed since"
            raise TrainingError(f"{folder}: holds a run of {what}, choose a new folder")
        if changed:
            _start_over(folder)
    with file_errors(folder, TrainingError):
        (folder / TOKENIZER).mkdir(parents=True, exist_ok=True)
    write_json(folder / RECIPE, asked)
    if not (folder / FACTS).is_file():
        facts = _find_setup(recipe, folder / TOKENIZER, say)
        write_json(folder / FACTS, json.loads(json.dumps(dataclasses.asdict(facts))))
    facts = _read_setup(folder)
    for name, files in ((TRAIN, recipe.data.train), (VALIDATION, recipe.data.validation)):
        if files and not (folder / name / "meta.json").is_file():
            say(f"reading {', '.join(Path(file).name for file in files)}")
            corpus = _prepare(recipe, facts, folder, name, files)
            say(f"{name}: {len(corpus):,} rows, {sum(map(len, corpus.ids)):,} tokens")
            _report_bad(corpus, say)


def wait_until_prepared(recipe: Recipe, folder: Path) -> None:
    """Wait for the first process, which prepares, perhaps on another machine.

    The folder is the one thing that processes share before a training begins; a large corpus takes
    longer than the time after which a process group gives up. The first process takes READY away
    before it writes another recipe, so the recipe is looked at first.
    """
    asked = run_fingerprint(recipe)
    while not (
        (folder / RECIPE).is_file()
        and read_json(folder / RECIPE) == asked
        and (folder / READY).is_file()
    ):
        time.sleep(0.2)


def run_fingerprint(recipe: Recipe) -> dict[str, Any]:
    """What a run's folder is made from: the recipe, and its files as they are now."""
    return {"recipe": recipe.to_dict(), "files": _files(recipe)}


def _files(recipe: Recipe) -> dict[str, str]:
    """SHA-256 of all files that a run is made from."""
    names = [*recipe.data.train, *recipe.data.validation]
    names += [recipe.vectors.file] if recipe.vectors.file else []
    names += [str(Path(recipe.start) / "model.safetensors")] if recipe.start else []
    found = {name: Path(name) for name in names if Path(name).is_file()}
    try:
        return {name: fingerprint(path).sha256 for name, path in found.items()}
    except BundleError as error:  # of the file system
        raise TrainingError(str(error)) from error


def _start_over(folder: Path) -> None:
    """Take away what another recipe prepared."""
    for name in (TOKENIZER, TRAIN, VALIDATION):
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in DERIVED:
        (folder / name).unlink(missing_ok=True)


def open_run(folder: Path) -> Run:
    """Open what `prepare` made."""
    recipe = recipe_of(read_json(folder / RECIPE)["recipe"])
    return Run(
        recipe=recipe,
        facts=_read_setup(folder),
        train=open_corpus(folder / TRAIN),
        validation=open_corpus(folder / VALIDATION) if recipe.data.validation else None,
    )


def read_json(path: Path) -> Any:
    """JSON values from a file of a run."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TrainingError(f"{path}: cannot be read: {error}") from error


def write_json(path: Path, values: Any) -> None:
    """Write a whole file or none."""
    partial = hidden_sibling(path)
    try:
        with file_errors(path, TrainingError):
            partial.write_text(json.dumps(values, indent=1, ensure_ascii=False), encoding="utf-8")
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _find_setup(recipe: Recipe, folder: Path, say: Say) -> RunSetup:
    start = read_start_checkpoint(recipe, folder) if recipe.start else None
    labels: tuple[str, ...] = ()
    if recipe.objective == "classify":
        labels = (start.labels if start else ()) or find_labels(recipe)
    if start is not None:
        return _setup_of_start(recipe, start, labels)
    say("training the tokenizer")
    record = train_tokenizers(recipe, folder)
    vocab, source_vocab = vocabulary_sizes(folder, record)
    text = Tokenizer(folder, record)
    special = tuple(text.token_id(token) for token in extra_tokens(recipe.objective))
    return RunSetup(
        dims=make_dims(recipe, vocab=vocab, source_vocab=source_vocab, labels=len(labels)),
        tokenizer=record,
        generation=_generation(recipe, OUR_IDS),
        start=START_ID,
        end=END_ID,
        special=special,
        first=(),
        labels=labels,
    )


def _setup_of_start(recipe: Recipe, start: StartCheckpoint, labels: tuple[str, ...]) -> RunSetup:
    return RunSetup(
        dims=start.dims_for(recipe, labels),
        tokenizer=start.tokenizer,
        generation=_generation(recipe, start.generation),
        start=start.start,
        end=start.end,
        special=start.special,
        first=start.first,
        labels=labels,
    )


def _generation(recipe: Recipe, known: Mapping[str, Any]) -> dict[str, Any]:
    """The generation_config.json of the checkpoint."""
    if recipe.objective == "classify":
        return {}
    wanted = recipe.decoding
    options = {**known, "pad_token_id": known.get("pad_token_id", 0)}
    if recipe.objective == "causal":
        options.pop("decoder_start_token_id", None)
    options["num_beams"] = wanted.num_beams
    options["length_penalty"] = wanted.length_penalty
    if wanted.max_new_tokens:
        options["max_new_tokens"] = wanted.max_new_tokens
        options.pop("max_length", None)
    return options


def _read_setup(folder: Path) -> RunSetup:
    values = read_json(folder / FACTS)
    try:
        parts: dict[str, Any] = {
            **{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()},
            "dims": Dims.from_dict(values["dims"]),
            "tokenizer": decode(TokenizerRecord, values["tokenizer"], "tokenizer"),
        }
        return RunSetup(**parts)
    except (KeyError, TypeError, Seq2EdgeError) as error:
        raise TrainingError(f"{folder / FACTS}: damaged: {error}") from error


def _prepare(
    recipe: Recipe, facts: RunSetup, folder: Path, name: str, files: tuple[str, ...]
) -> Corpus:
    vocabulary = TokenIds(
        text=Tokenizer(folder / TOKENIZER, facts.tokenizer),
        start=facts.start,
        end=facts.end,
        special=facts.special,
        first=facts.first,
        labels=facts.labels,
    )
    tags = recipe.data.tags if name == TRAIN else ()
    return prepare_corpus(
        folder / name,
        [Path(file) for file in files],
        encoder(recipe, vocabulary, tags=tags),
        columns=2 if recipe.objective in TWO_SIDED else 1,
        texts=2 if recipe.objective in TWO_SIDED else 1,
        fields=recipe.data.fields,
        rows=recipe.data.rows if name == TRAIN else 0,
    )


def _report_bad(corpus: Corpus, say: Say) -> None:
    for fact, count in corpus.bad.counts.items():
        say(f"left out: {count:,} lines, {fact}")
    for line in corpus.bad.first:
        say(f"  {line}")


class RunDataModule(L.LightningDataModule):
    """The run's batches, for Lightning."""

    def __init__(self, material: Run, *, workers: int) -> None:
        super().__init__()
        self.material = material
        self.workers = workers

    def train_dataloader(self) -> DataLoader[Batch]:
        """From the step that the training has reached."""
        assert self.trainer is not None
        optimizer = self.material.recipe.optimizer
        return self._loader(
            self.material.train,
            first=self.trainer.global_step,
            steps=optimizer.steps,
            accumulate=optimizer.accumulate,
            weights=self.material.recipe.data.weights,
        )

    def val_dataloader(self) -> DataLoader[Batch] | list[Any]:
        """Every validation row once."""
        corpus = self.material.validation
        if corpus is None:
            return []
        plan = self._plan(corpus, ())
        count = sum(1 for _ in plan.epoch(0))
        return self._loader(corpus, first=0, steps=count, accumulate=1, weights=())

    def _plan(self, corpus: Corpus, weights: tuple[float, ...]) -> Plan:
        recipe = self.material.recipe
        tokens = recipe.optimizer.batch_tokens
        return Plan(corpus=corpus, tokens=tokens, seed=recipe.seed, weights=weights)

    def _loader(
        self,
        corpus: Corpus,
        *,
        first: int,
        steps: int,
        accumulate: int,
        weights: tuple[float, ...],
    ) -> DataLoader[Batch]:
        assert self.trainer is not None
        recipe, facts = self.material.recipe, self.material.facts
        collator = Collator(
            objective=recipe.objective,
            corpus=corpus,
            start=facts.start,
            end=facts.end,
            special=facts.special,
            denoise=recipe.denoise,
            seed=recipe.seed,
        )
        batches = StepBatches(
            self._plan(corpus, weights), collator, first=first, steps=steps, accumulate=accumulate
        )
        batches.rank, batches.processes = self.trainer.global_rank, self.trainer.world_size
        return DataLoader(batches, batch_size=None, num_workers=self.workers)
