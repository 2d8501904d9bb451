"""Where each option is honoured: found by decoding with and without it, printed in a table.

`PYTHONPATH=tests/support python tests/docs/test_option_table.py` writes it anew in
docs/decoding.md.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import byte_tokens
import numpy as np

from seq2edge.bundle import Bundle
from seq2edge.bundle.manifest import (
    FileRecord,
    Manifest,
    ProvenanceRecord,
    SpecialTokens,
    TokenizerRecord,
)
from seq2edge.errors import OptionError
from seq2edge.model.dims import Dims, StackDims
from seq2edge.runtime import search
from seq2edge.runtime.fake import FakeBackend, random_answer
from seq2edge.runtime.model import Model
from seq2edge.runtime.options import DecodeOptions
from seq2edge.runtime.scheduler import decode
from seq2edge.runtime.streaming import TextStream

PAGE = Path(__file__).resolve().parents[2] / "docs" / "decoding.md"
PRINTED = re.compile(r"^\| option \|.*\n(?:\|.*\n)+", re.MULTILINE)
FIELDS = [field.name for field in dataclasses.fields(DecodeOptions)]


@dataclasses.dataclass(frozen=True)
class Shown:
    """A value of an option that shows, and other options without which it would not.

    `draft`: it shows where a draft guesses alone, and is refused by that name.
    """

    value: Any
    beside: dict[str, Any] = dataclasses.field(default_factory=dict)
    draft: bool = False


START = {"decoder_start_token_id": None, "bos_token_id": 70}
LONG = {"min_new_tokens": 10}
VALUES = {
    "num_beams": Shown(2, LONG),
    "num_return_sequences": Shown(2),
    "do_sample": Shown(True, {"seed": 1}),
    "seed": Shown(5),
    "temperature": Shown(4.0),
    "top_k": Shown(1),
    "top_p": Shown(0.1),
    "min_p": Shown(0.9),
    "typical_p": Shown(0.1),
    "epsilon_cutoff": Shown(0.3),
    "eta_cutoff": Shown(0.9),
    "max_new_tokens": Shown(2),
    "max_length": Shown(3, {"max_new_tokens": None}),
    "min_new_tokens": Shown(9),
    "min_length": Shown(9),
    "length_penalty": Shown(-3.0),
    "early_stopping": Shown(True, {"length_penalty": 2.0}),
    "eos_token_id": Shown((65, 66, 67)),
    "stop_strings": Shown(("b", "c", "d")),
    "max_time": Shown(1e-9),
    "pad_token_id": Shown(70),
    "bos_token_id": Shown(71, START),
    "decoder_start_token_id": Shown(71),
    "decoder_prompt": Shown((71, 72)),
    "sequence_bias": Shown((((66,), 5.0),)),
    "frequency_penalty": Shown(4.0, LONG),
    "presence_penalty": Shown(4.0, LONG),
    "forced_bos_token_id": Shown(66),
    "forced_eos_token_id": Shown((66,), LONG),
    "suppress_tokens": Shown((65, 66, 67)),
    "begin_suppress_tokens": Shown((64, 65, 66, 67, 68, 69)),
    "bad_words_ids": Shown(((65,), (66,))),
    "no_repeat_ngram_size": Shown(1),
    "encoder_no_repeat_ngram_size": Shown(1),
    "repetition_penalty": Shown(4.0, LONG),
    "encoder_repetition_penalty": Shown(4.0),
    "exponential_decay_length_penalty": Shown((0, 0.1), {"min_new_tokens": 1}),
    "renormalize_logits": Shown(True, {"suppress_tokens": (65, 66)}),
    "logprobs": Shown(2),
    "alignments": Shown(True),
    "json_schema": Shown('{"enum": ["a", "b"]}'),
    "regex": Shown("[ab]+"),
    "grammar": Shown('start: "ab" start | "c"'),
    "prompt_lookup_num_tokens": Shown(4),
    "num_assistant_tokens": Shown(2, draft=True),
    "capacity": Shown(5, LONG | {"max_new_tokens": None}),
}
BASE = {"decoder_start_token_id": 69, "eos_token_id": byte_tokens.END, "max_new_tokens": 10}
BEAMS, DRAWN = {"num_beams": 3}, {"do_sample": True, "seed": 1}
WAYS = {"greedy": {}, "beams": BEAMS, "drawn": DRAWN, "drawn beams": BEAMS | DRAWN}
GUESSED = {"prompt_lookup_num_tokens": 4}


def attended(history: tuple[int, ...], source: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """Weights of a source's positions, others for every length of the history."""
    weights = 1.0 + (np.arange(len(source)) + len(history)) % 3
    return np.asarray(weights / weights.sum())


# What of a backend the scheduler sees: candidates, whether inputs come and go, guesses, alignments.
BACKENDS = {
    "CPU": {"top_k": 6, "running": True, "verifies": True, "alignment": attended},
    "CUDA": {"top_k": 0, "running": False, "verifies": False, "alignment": attended},
    "TensorRT": {"top_k": 6, "running": False, "verifies": False},
    "eager": {"top_k": 0, "running": False, "verifies": False},
}
COLUMNS = [*WAYS, "guessed", "streamed", "in a batch", "with rules", *BACKENDS]


class Decoder:
    """Three sources, whose answers are letters from a to p and an end, and how they are decoded.

    Sequences stand beside what is no part of them: how many of their tokens were guessed, and what
    they attended to.
    """

    def __init__(self, folder: Path, kind: str = "encoder-decoder", *, draft: bool = False) -> None:
        self._draft = draft
        byte_tokens.write(folder / "tokenizer.json")
        stack = StackDims(
            layers=1, heads=1, kv_heads=1, head_dim=4, hidden=4, activation="relu", max_positions=64
        )
        encoder = stack if kind == "encoder-decoder" else None
        manifest = Manifest(
            kind=kind,
            task="generate",
            family="fake",
            dims=Dims(width=4, vocab=byte_tokens.VOCAB, encoder=encoder, decoder=stack),
            tokenizer=TokenizerRecord(source="tokenizer.json", special=SpecialTokens()),
            provenance=ProvenanceRecord(
                tool_version="0", created="2026-01-31T23:59:59Z", source="", source_format=""
            ),
            files={"tokenizer.json": FileRecord(size=0, sha256="0" * 64)},
        )
        self._bundle = Bundle(path=folder, manifest=manifest)
        drawn = random_answer(byte_tokens.VOCAB, seed=3, spread=1.0)
        unlikely = np.full(byte_tokens.VOCAB, -50.0)
        unlikely[64:80], unlikely[byte_tokens.END] = 0.0, 1.5

        self._answer = functools.cache(lambda *row: drawn(*row) + unlikely)
        self.plain = functools.cache(self._plain)
        self.streamed = functools.cache(self._streamed)

    def requests(self, options: DecodeOptions, backend: str = "CPU") -> tuple[Model, list[Any]]:
        """The model, and a request for each source."""
        model = Model(self._bundle, FakeBackend(self._answer, **BACKENDS[backend]))
        if self._draft:
            model.use_draft(Model(self._bundle, FakeBackend(self._answer)))
        return model, [model.request(source, options) for source in ([65, 66], [67], [68, 65, 69])]

    def _plain(self, options: DecodeOptions, backend: str = "CPU") -> Any:
        """Each source alone."""
        model, requests = self.requests(options, backend)
        return [_counted(decode(model.backend, [request])[0]) for request in requests]

    def _streamed(self, options: DecodeOptions) -> Any:
        """The text in pieces, and the best sequence."""
        model, requests = self.requests(options)
        streams = [TextStream(model.backend, r, model.tokenizer, model.text_of) for r in requests]
        return [("".join(stream), _counted([stream.result])) for stream in streams]

    def batched(self, options: DecodeOptions) -> Any:
        """All of them together, beside others."""
        model, requests = self.requests(options)
        others = self.requests(DecodeOptions(**BASE))[1]
        return [*map(_counted, decode(model.backend, [*others, *requests])[len(others) :])]


def _counted(sequences: list[Any]) -> list[tuple[Any, Any]]:
    return [
        (each, (each.usage.guessed_tokens, each.alignment is not None and each.alignment.tolist()))
        for each in sequences
    ]


def cells(decoder: Decoder, name: str) -> list[str]:
    """What the option does in every column: yes, refused, or a dash where it changes nothing."""
    ways = {way: _cell(decoder.plain, name, changes) for way, changes in WAYS.items()}
    way = next((WAYS[way] for way, cell in ways.items() if cell == "yes"), None)
    if way is None:
        return [*ways.values(), *["-"] * (len(COLUMNS) - len(ways))]
    guessed = _guessed(decoder, name)
    rule = {"grammar": 'start: "d" start | "e"'} if name == "regex" else {"regex": "[a-g]+"}
    wanted = decoder.plain(_options(name, way)[1])
    for (text, [(result, _)]), ((best, _), *_) in zip(
        decoder.streamed(_options(name, way)[1]), wanted, strict=True
    ):
        assert (result.ids, result.text) == (best.ids, text), name
    batch, *backends = [
        _same(functools.partial(path, _options(name, way)[1]), name, wanted)
        for path in (
            decoder.batched,
            *(functools.partial(decoder.plain, backend=backend) for backend in BACKENDS),
        )
    ]
    streamed, ruled = _cell(decoder.streamed, name, way), _cell(decoder.plain, name, way | rule)
    return [*ways.values(), guessed, streamed, batch, ruled, *backends]


def _guessed(decoder: Decoder, name: str) -> str:
    """What the option does, greedily or drawn, where the prompt is looked up: the same answers."""
    for way in ({}, DRAWN):
        cell = _cell(decoder.plain, name, way | GUESSED)
        if cell == "yes":
            options = _options(name, way | GUESSED)[1]
            plain, found = (
                [each for answers in decoder.plain(each) for each, _ in answers]
                for each in (options.replace(prompt_lookup_num_tokens=0), options)
            )
            assert found == plain, name
        if cell != "-":
            return cell
    return "-"


def _same(path: Callable[[], Any], name: str, wanted: Any) -> str:
    """Whether answers on another path are the wanted ones."""
    try:
        return "yes" if path() == wanted else "no"
    except OptionError as error:
        return _refusal(error, name)


def _refusal(error: OptionError, name: str) -> str:
    """Raises the error again where it does not name the option."""
    if ("draft" if VALUES[name].draft else name) not in str(error):
        raise error
    return "refused"


def _options(name: str, way: dict[str, Any]) -> tuple[DecodeOptions, DecodeOptions]:
    """Those of a way without the option's value, and with it. Raises OptionError."""
    shown = VALUES[name]
    without = BASE | shown.beside | way
    if without.get(name) == shown.value:
        del without[name]
    return DecodeOptions(**without), DecodeOptions(**without | {name: shown.value})


def _cell(outcome: Callable[[DecodeOptions], Any], name: str, way: dict[str, Any]) -> str:
    """Whether the option changes what comes out."""
    try:
        without, with_ = map(outcome, _options(name, way))
    except OptionError as error:
        return _refusal(error, name)
    return "-" if with_ == without else "yes"


def table(folder: Path) -> str:
    """The options by what they do, as docs/decoding.md prints it."""
    decoders = [Decoder(folder, draft=draft) for draft in (False, True)]
    rows: dict[tuple[str, ...], list[str]] = {}
    for name in FIELDS:
        found = cells(decoders[VALUES[name].draft], name)
        rows.setdefault(tuple(found), []).append(f"`{name}`")
    lines = [f"| option | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 1) + "|"]
    lines += [f"| {', '.join(names)} | {' | '.join(found)} |" for found, names in rows.items()]
    return "\n".join(lines) + "\n"


def test_every_option_has_a_value_that_shows():
    """A new one cannot be forgotten."""
    assert list(VALUES) == FIELDS


def test_the_table_of_options_is_what_decoding_does(tmp_path):
    """On every path, and with backends of every kind; it takes some seconds, for 45 options."""
    assert PRINTED.findall(PAGE.read_text(encoding="utf-8")) == [table(tmp_path)]


def test_an_option_that_is_not_applied_gets_a_dash(tmp_path, monkeypatch):
    """So the table cannot say yes where nothing happens."""
    monkeypatch.setattr(search, "make_filters", lambda _: [])
    assert cells(Decoder(tmp_path), "suppress_tokens") == ["-"] * len(COLUMNS)


def test_starts_are_of_encoder_decoders_alone(tmp_path):
    """A decoder-only model goes on from its prompt, whatever they say."""
    plain = Decoder(tmp_path, kind="decoder").plain
    dashes = {name for name in FIELDS if _cell(plain, name, BEAMS) == "-"}
    starts = {"bos_token_id", "decoder_start_token_id", "decoder_prompt"}
    draws = {"seed", "temperature", "top_k", "top_p", "min_p", "typical_p"}
    draws |= {"epsilon_cutoff", "eta_cutoff"}
    assert dashes == starts | draws | {"pad_token_id", "num_assistant_tokens"}


if __name__ == "__main__":
    page = PAGE.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as name:
        printed = table(Path(name))
    PAGE.write_text(PRINTED.sub(lambda _: printed, page), encoding="utf-8")
