"""How much a training memorises: exposure of canaries (Carlini et al. 2019, "The Secret Sharer").

Texts with random numbers are put among the training rows. A model that memorised one finds its
number likelier than other numbers; exposure says, in bits, how much likelier.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seq2edge.checkpoints.load import load_checkpoint
from seq2edge.errors import TrainingError
from seq2edge.files.progress import Say
from seq2edge.files.storage import file_errors, replacing
from seq2edge.model.transformer import Transformer
from seq2edge.runtime.tokenizer import Tokenizer
from seq2edge.training.batches import IGNORED, Example
from seq2edge.training.recipe import Recipe
from seq2edge.training.run_folder import TOKENIZER, Run, prepare_run, write_json
from seq2edge.training.train import train
from seq2edge.training.training_module import target_losses

ROWS, RESULT = "canaries.jsonl", "canaries.json"
DIGITS = "0 1 2 3 4 5 6 7 8 9"  # one more row, from which a tokenizer learns all of them
BATCH = 64  # candidates that the model reads at a time
CHANCE = 1 / math.log(2)  # bits of exposure that a number never seen has on average


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """How many canaries, how often each stands among the rows, their digits, their rivals."""

    count: int = 10
    repeats: int = 1
    digits: int = 6
    candidates: int = 1000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Exposure:
    """One canary: its number, its rank among all candidates (1 is the likeliest), and bits."""

    number: str
    rank: int
    bits: float


def insert_canaries(recipe: Recipe, folder: Path, settings: Settings) -> Recipe:
    """Write the canaries' rows into the run's folder and add them to the training files.

    The same seed makes the same canaries. Raises TrainingError for objectives whose answers hold
    no number.
    """
    if recipe.objective not in ("seq2seq", "causal"):
        raise TrainingError(f"objective: {recipe.objective} answers with no text to find one in")
    if settings.candidates > 10**settings.digits - 1:
        raise TrainingError(
            f"canaries: {settings.digits} digits give fewer than {settings.candidates:,} candidates"
        )
    rows = settings.count * settings.repeats + 1
    if 0 < recipe.data.rows < rows:
        raise TrainingError(f"data.rows: {recipe.data.rows} leaves canaries out, of {rows} rows")
    keys = recipe.data.fields or (("input", "reference") if _two_sided(recipe) else ("text",))
    texts = [_texts(i, number, recipe) for i, number in enumerate(numbers(recipe, settings))]
    texts = [*texts * settings.repeats, _texts(settings.count, DIGITS, recipe)]
    lines = [json.dumps(dict(zip(keys, text, strict=True))) + "\n" for text in texts]
    _write(folder / ROWS, "".join(lines))
    data = recipe.data
    return dataclasses.replace(
        recipe,
        data=dataclasses.replace(
            data,
            train=(*data.train, str((folder / ROWS).resolve())),
            weights=(*data.weights, 1.0) if data.weights else (),
            tags=(*data.tags, "") if data.tags else (),
        ),
    )


def _write(path: Path, text: str) -> None:
    """Write the canaries. Raises TrainingError where the file holds others."""
    with file_errors(path, TrainingError):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and path.read_text(encoding="utf-8") != text:
            raise TrainingError(f"{path}: holds other canaries, choose a new folder")
        with replacing(path) as partial:
            partial.write_text(text, encoding="utf-8")


def numbers(recipe: Recipe, settings: Settings) -> list[str]:
    """The canaries' numbers, their digits apart: every tokenizer then knows them."""
    rng = np.random.default_rng((recipe.seed, 0))
    drawn = rng.choice(10**settings.digits, settings.count, replace=False)
    return [_spaced(int(number), settings.digits) for number in drawn]


def measure_exposure(
    recipe: Recipe,
    folder: str | Path,
    settings: Settings = Settings(),
    *,
    say: Say = lambda _: None,
    **training: Any,
) -> list[Exposure]:
    """Train what the recipe says with canaries among its rows, and measure their exposure.

    `training` is handed to `train`. The result is kept in the run's folder as `canaries.json`.
    """
    folder = Path(folder)
    recipe = insert_canaries(recipe, folder, settings)
    run = prepare_run(recipe, folder, say)
    _check_digits(run)
    trained = train(recipe, folder, say=say, **training)
    say("measuring the canaries")
    exposures = measure(trained.checkpoint, run, settings)
    values = {
        "settings": dataclasses.asdict(settings),
        "canaries": [dataclasses.asdict(exposure) for exposure in exposures],
    }
    write_json(folder / RESULT, values)
    return exposures


def measure(checkpoint: Path, run: Run, settings: Settings) -> list[Exposure]:
    """The exposure of every canary of a trained run.

    Each is ranked by log-likelihood among itself and `candidates` - 1 other numbers, drawn anew.
    """
    model = load_checkpoint(checkpoint).model.eval()
    tokenizer = _tokenizer(run)
    rng = np.random.default_rng((run.recipe.seed, 1))
    exposures = []
    for i, number in enumerate(numbers(run.recipe, settings)):
        candidates = [number, *_rivals(number, rng, settings)]
        rows = [_texts(i, candidate, run.recipe) for candidate in candidates]
        examples = [_example(row, tokenizer, run) for row in rows]
        scores = log_likelihoods(model, run, examples)
        rank = int((scores >= scores[0]).sum())  # ties count against it
        bits = exposure_bits(rank, settings.candidates)
        exposures.append(Exposure(number=number, rank=rank, bits=bits))
    return exposures


def log_likelihoods(model: Transformer, run: Run, examples: Sequence[Example]) -> Tensor:
    """Log-likelihood of each example's target, (examples,)."""
    collator, scores = run.collator(run.train), []
    with torch.no_grad():
        for start in range(0, len(examples), BATCH):
            batch = collator.collate(examples[start : start + BATCH], 1.0)
            losses = torch.zeros(batch["labels"].shape)
            losses[batch["labels"] != IGNORED] = target_losses(model, batch)
            scores.append(-losses.double().sum(dim=1))
    return torch.cat(scores)


def exposure_bits(rank: int, candidates: int) -> float:
    """log2 of the candidates minus log2 of the rank."""
    return math.log2(candidates) - math.log2(rank)


def _tokenizer(run: Run) -> Tokenizer:
    return Tokenizer(run.folder / TOKENIZER, run.setup.tokenizer)


def _check_digits(run: Run) -> None:
    """Whether the tokenizer tells all numbers apart; else they would be one and the same text."""
    tokenizer = _tokenizer(run)
    if len({tuple(tokenizer.encode_target(f"1 {digit} 1")) for digit in DIGITS.split()}) < 10:
        raise TrainingError(
            "canaries: the tokenizer does not tell their digits apart, choose a larger "
            "tokenizer.size or another kind"
        )


def _rivals(number: str, rng: np.random.Generator, settings: Settings) -> list[str]:
    drawn = rng.choice(10**settings.digits, settings.candidates, replace=False)
    spaced = [_spaced(int(value), settings.digits) for value in drawn]
    return [value for value in spaced if value != number][: settings.candidates - 1]


def _spaced(number: int, digits: int) -> str:
    return " ".join(f"{number:0{digits}d}")


def _texts(index: int, number: str, recipe: Recipe) -> tuple[str, ...]:
    question = f"canary {index} : the secret number is"
    return (question, number) if _two_sided(recipe) else (f"{question} {number}",)


def _two_sided(recipe: Recipe) -> bool:
    return recipe.objective == "seq2seq"


def _example(row: tuple[str, ...], tokenizer: Tokenizer, run: Run) -> Example:
    """Ids as the training read them."""
    ids, end = run.setup.ids, run.setup.ids.eos_id
    source = tokenizer.encode(row[0])
    if len(row) == 1:
        source = source if source[-1] == end else [*source, end]
        return np.array(source[:-1]), np.array(source[1:])
    target = [*ids.forced_ids, *tokenizer.encode_target(row[1]), end]
    return np.array(source), np.array(target)
