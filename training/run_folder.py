"""A run's folder: what a recipe is trained from and on, made once, then opened.

The folder holds `recipe.json`, `facts.json` (what follows from recipe and files: sizes, ids,
labels), `tokenizer/`, `train/` and `validation/` (corpora), with the recipe's sections also
`vectors.json`, `vectors.npz` and `privacy.json`; then `last.ckpt` and `best.ckpt` (everything
needed to go on), `log/version_N/metrics.csv`, and at the end `model/`, a checkpoint.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from seq2edge.bundle.manifest import TokenizerRecord
from seq2edge.errors import BundleError, Seq2EdgeError, TrainingError
from seq2edge.files.progress import Say
from seq2edge.files.records import decode
from seq2edge.files.storage import file_errors, fingerprint, replacing
from seq2edge.model.dims import Dims
from seq2edge.runtime.tokenizer import Tokenizer
from seq2edge.training.batches import Collator
from seq2edge.training.corpus import Corpus, open_corpus, prepare_corpus, row_tokenizer
from seq2edge.training.presets import make_dims
from seq2edge.training.recipe import TWO_SIDED, Recipe
from seq2edge.training.start import read_start_checkpoint
from seq2edge.training.train_tokenizer import (
    END_ID,
    PAD_ID,
    START_ID,
    TokenIds,
    find_labels,
    train_tokenizers,
)

RECIPE, SETUP, TOKENIZER = "recipe.json", "facts.json", "tokenizer"
DERIVED = (SETUP, "privacy.json", "vectors.json", "vectors.npz")  # follow from recipe and files
TRAIN, VALIDATION, LAST = "train", "validation", "last.ckpt"
READY = ".prepared"
NEW_GENERATION = {
    "eos_token_id": END_ID,
    "pad_token_id": PAD_ID,
    "decoder_start_token_id": START_ID,
}
# Keys of facts.json, which users hold, and the fields of TokenIds.
ID_KEYS = {
    "start": "decoder_start_id",
    "end": "eos_id",
    "special": "sentinel_ids",
    "first": "forced_ids",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunSetup:
    """What follows from a recipe and its files. `generation` is the checkpoint's defaults."""

    dims: Dims
    tokenizer: TokenizerRecord
    generation: Mapping[str, Any]
    ids: TokenIds
    labels: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values: what `facts.json` holds."""
        values = dataclasses.asdict(self)
        ids, labels = values.pop("ids"), values.pop("labels")
        return {**values, **{key: ids[name] for key, name in ID_KEYS.items()}, "labels": labels}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RunSetup:
        """The inverse of `to_dict`. Raises KeyError, TypeError or a Seq2EdgeError."""
        ids: dict[str, Any] = {
            name: tuple(values[key]) if isinstance(values[key], list) else values[key]
            for key, name in ID_KEYS.items()
        }
        return cls(
            dims=Dims.from_dict(values["dims"]),
            tokenizer=decode(TokenizerRecord, values["tokenizer"], "tokenizer"),
            generation=values["generation"],
            ids=TokenIds(**ids),
            labels=tuple(values["labels"]),
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """An opened run folder. `validation` is None where the recipe names no such files."""

    folder: Path
    recipe: Recipe
    setup: RunSetup
    train: Corpus
    validation: Corpus | None

    def collator(self, corpus: Corpus) -> Collator:
        """What makes batches of a corpus's rows."""
        return Collator(
            objective=self.recipe.objective,
            corpus=corpus,
            ids=self.setup.ids,
            denoise=self.recipe.denoise,
            seed=self.recipe.seed,
        )


def prepare_run(recipe: Recipe, folder: Path, say: Say) -> Run:
    """Make what is missing in the run's folder. Raises TrainingError for files that cannot be used.

    Where nothing has been learnt yet, another recipe or changed files start the folder over; a run
    of another recipe, or of other files, is refused.
    """
    current = run_fingerprint(recipe)
    if (folder / RECIPE).is_file():
        kept = read_json(folder / RECIPE)
        changed = [key for key in current if kept.get(key) != current[key]]
        if changed and (folder / LAST).exists():
            what = "another recipe" if "recipe" in changed else "files that have changed since"
            raise TrainingError(f"{folder}: holds a run of {what}, choose a new folder")
        if changed:
            _start_over(folder)
    with file_errors(folder, TrainingError):
        (folder / TOKENIZER).mkdir(parents=True, exist_ok=True)
    write_json(folder / RECIPE, current)
    if (folder / SETUP).is_file():
        setup = _read_setup(folder)
    else:
        setup = _new_setup(recipe, folder / TOKENIZER, say)
        write_json(folder / SETUP, setup.to_dict())
    made = _prepare_corpora(recipe, setup, folder, say)
    return _open(recipe, setup, folder, made)


@contextmanager
def being_prepared(folder: Path) -> Iterator[None]:
    """The first process prepares the folder inside; `wait_until_prepared` waits for its end."""
    with file_errors(folder, TrainingError):
        (folder / READY).unlink(missing_ok=True)
    yield
    with file_errors(folder, TrainingError):
        (folder / READY).touch()


def wait_until_prepared(recipe: Recipe, folder: Path) -> None:
    """Wait for the first process, which prepares, perhaps on another machine.

    The folder is the one thing that processes share before a training begins; a large corpus takes
    longer than the time after which a process group gives up. The first process takes READY away
    before it writes another recipe, so the recipe is looked at first.
    """
    current = run_fingerprint(recipe)
    while not (
        (folder / RECIPE).is_file()
        and read_json(folder / RECIPE) == current
        and (folder / READY).is_file()
    ):
        time.sleep(0.2)


def open_run(recipe: Recipe, folder: Path) -> Run:
    """Open the folder that `prepare_run` made of the recipe."""
    return _open(recipe, _read_setup(folder), folder, {})


def run_fingerprint(recipe: Recipe) -> dict[str, Any]:
    """What a run's folder is made from: the recipe, and SHA-256 of its files as they are now."""
    names = [*recipe.data.train, *recipe.data.validation]
    names += [recipe.vectors.file] if recipe.vectors.file else []
    names += [str(Path(recipe.start) / "model.safetensors")] if recipe.start else []
    paths = {name: Path(name) for name in names if Path(name).is_file()}
    try:
        files = {name: fingerprint(path).sha256 for name, path in paths.items()}
    except BundleError as error:  # of the file system
        raise TrainingError(str(error)) from error
    return {"recipe": recipe.to_dict(), "files": files}


def read_json(path: Path) -> Any:
    """JSON values from a file of a run."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise TrainingError(f"{path}: cannot be read: {error}") from error


def write_json(path: Path, values: Any) -> None:
    """Write a whole file or none."""
    with file_errors(path, TrainingError), replacing(path) as partial:
        partial.write_text(json.dumps(values, indent=1, ensure_ascii=False), encoding="utf-8")


def _start_over(folder: Path) -> None:
    """Take away what another recipe prepared."""
    for name in (TOKENIZER, TRAIN, VALIDATION):
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in DERIVED:
        (folder / name).unlink(missing_ok=True)


def _read_setup(folder: Path) -> RunSetup:
    try:
        return RunSetup.from_dict(read_json(folder / SETUP))
    except (KeyError, TypeError, Seq2EdgeError) as error:
        raise TrainingError(f"{folder / SETUP}: damaged: {error}") from error


def _new_setup(recipe: Recipe, folder: Path, say: Say) -> RunSetup:
    """Find out what follows from the recipe, and write its tokenizers into `folder`."""
    start = read_start_checkpoint(recipe, folder) if recipe.start else None
    labels: tuple[str, ...] = ()
    if recipe.objective == "classify":
        labels = (start.labels if start else ()) or find_labels(recipe)
    if start is not None:
        return RunSetup(
            dims=start.dims_for(recipe, labels),
            tokenizer=start.tokenizer,
            generation=_generation(recipe, start.generation),
            ids=start.ids,
            labels=labels,
        )
    say("training the tokenizer")
    trained = train_tokenizers(recipe, folder)
    return RunSetup(
        dims=make_dims(
            recipe, vocab=trained.vocab, source_vocab=trained.source_vocab, labels=len(labels)
        ),
        tokenizer=trained.record,
        generation=_generation(recipe, NEW_GENERATION),
        ids=trained.ids,
        labels=labels,
    )


def _generation(recipe: Recipe, known: Mapping[str, Any]) -> dict[str, Any]:
    """The generation_config.json of the checkpoint."""
    if recipe.objective == "classify":
        return {}
    decoding = recipe.decoding
    options = {**known, "pad_token_id": known.get("pad_token_id", 0)}
    if recipe.objective == "causal":
        options.pop("decoder_start_token_id", None)
    options["num_beams"] = decoding.num_beams
    options["length_penalty"] = decoding.length_penalty
    if decoding.max_new_tokens:
        options["max_new_tokens"] = decoding.max_new_tokens
        options.pop("max_length", None)
    return options


def _prepare_corpora(recipe: Recipe, setup: RunSetup, folder: Path, say: Say) -> dict[str, Corpus]:
    """Tokenize the files whose corpus is not there yet; the new corpora by name."""
    files = {TRAIN: recipe.data.train, VALIDATION: recipe.data.validation}
    missing = [name for name in files if files[name] and not _has_corpus(folder / name)]
    if not missing:
        return {}
    tokenizer = Tokenizer(folder / TOKENIZER, setup.tokenizer)
    columns = 2 if recipe.objective in TWO_SIDED else 1
    corpora = {}
    for name in missing:
        say(f"reading {', '.join(Path(file).name for file in files[name])}")
        tags = recipe.data.tags if name == TRAIN else ()
        corpora[name] = corpus = prepare_corpus(
            folder / name,
            [Path(file) for file in files[name]],
            row_tokenizer(recipe, tokenizer, setup.ids, labels=setup.labels, tags=tags),
            columns=columns,
            texts=columns,
            fields=recipe.data.fields,
            rows=recipe.data.rows if name == TRAIN else 0,
        )
        say(f"{name}: {len(corpus):,} rows, {sum(map(len, corpus.ids)):,} tokens")
        for fact, count in corpus.skipped.counts.items():
            say(f"left out: {count:,} lines, {fact}")
        for line in corpus.skipped.first:
            say(f"  {line}")
    return corpora


def _has_corpus(folder: Path) -> bool:
    return (folder / "meta.json").is_file()


def _open(recipe: Recipe, setup: RunSetup, folder: Path, made: Mapping[str, Corpus]) -> Run:
    """The run of a whole folder, whose corpora in `made` are open already."""
    names = (TRAIN, VALIDATION) if recipe.data.validation else (TRAIN,)
    corpora = {n: made[n] if n in made else open_corpus(folder / n) for n in names}
    return Run(
        folder=folder,
        recipe=recipe,
        setup=setup,
        train=corpora[TRAIN],
        validation=corpora.get(VALIDATION),
    )
