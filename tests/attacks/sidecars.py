"""Files beside the graphs: lexicons, shortlists, engines and what describes them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from case import Case, Change, edited, sealed, written

ESCAPE = "\x1b[2J\nError: all is well"
VOCAB = 96
HASH = "0" * 64
DEEP = 100_000
RANGE = [1, 16, 40]
ENGINE = (
    ("verify", "."),
    ("inspect", "."),
    ("run", ".", "w5 w6 w7"),
    ("run", ".", "w5 w6 w7", "--device", "tensorrt"),
)
SIDECAR: dict[str, Any] = {
    "format": 2,
    "library": "tensorrt",
    "release": "10.16.2",
    "target": "orin",
    "role": "decoder",
    "form": "masked",
    "precision": "float32",
    "sizes": {
        "batch": [1, 2, 3],
        "beams": 4,
        "source": RANGE,
        "prompt": [1, 4, 8],
        "capacity": 40,
        "top_k": 0,
    },
    "profiles": ["prefill", "step"],
    "inputs": [],
    "outputs": [],
    "graph_sha256": HASH,
    "plan_sha256": HASH,
    "layers": 4,
    "fused_attentions": [2, 2],
    "cache_updates": [4, 4],
    "cache_copies": [0, 0],
    "products": {},
    "build_seconds": 1.0,
    "build_peak_bytes": None,
    "created": "2026-01-31T23:59:59Z",
}


def cases() -> Iterator[Case]:
    """All of this file."""
    yield from _lexicons()
    yield from _shortlists()
    yield from _engines()


def _lexicon(**arrays: Any) -> Change:
    """A lexicon beside the graphs, honest but for `arrays`; None leaves one out."""
    values = {
        "sizes": np.array([5, 1, VOCAB], dtype=np.int64),
        "lengths": np.full(VOCAB, 2, dtype=np.uint16),
        "ids": np.arange(2 * VOCAB, dtype=np.uint32) % VOCAB,
        **arrays,
    }

    def add(bundle: Path) -> None:
        kept = {name: value for name, value in values.items() if value is not None}
        np.savez(bundle / "lexicon.npz", **kept)

    return sealed(add, edited(lambda v: v.update(lexicon="lexicon.npz")))


def _lexicons() -> Iterator[Case]:
    yield Case(name="an honest lexicon", start="bart", change=_lexicon(), outcome="harmless")
    for what, arrays in {
        "without sizes": {"sizes": None},
        "without lengths": {"lengths": None},
        "without ids": {"ids": None},
        "of two sizes": {"sizes": np.array([5, 1])},
        "of more frequent tokens than there are": {"sizes": np.array([10**9, 1, VOCAB])},
        "of frequent tokens below zero": {"sizes": np.array([-5, 1, VOCAB])},
        "of another vocabulary": {"sizes": np.array([5, 1, VOCAB + 1])},
        "of half a copy": {"sizes": np.array([5.0, 0.5, VOCAB])},
        "of ids beyond": {"ids": np.full(2 * VOCAB, 10**6, dtype=np.uint32)},
        "of ids below zero": {"ids": np.full(2 * VOCAB, -1, dtype=np.int64)},
        "of fewer ids": {"ids": np.zeros(5, dtype=np.uint32)},
        "of a table of ids": {"ids": np.zeros((VOCAB, 2), dtype=np.uint32)},
        "of a table of lengths": {"lengths": np.full((VOCAB, 1), 2, dtype=np.uint16)},
        "of lengths below zero": {"lengths": np.tile(np.array([-2, 6]), VOCAB // 2)},
        "of lengths of 2^62": {"lengths": np.full(VOCAB, 2**62)},
        "of more sources than there are": {
            "lengths": np.full(10 * VOCAB, 2, dtype=np.uint16),
            "ids": np.zeros(20 * VOCAB, dtype=np.uint32),
        },
        "of floats": {"lengths": np.full(VOCAB, np.nan), "ids": np.full(2 * VOCAB, np.nan)},
        "of numbers alone": {"lengths": np.array(2), "ids": np.array(4)},
        "of nothing": {
            "lengths": np.zeros(0, dtype=np.uint16),
            "ids": np.zeros(0, dtype=np.uint32),
        },
    }.items():
        yield Case(
            name=f"a lexicon {what}",
            start="bart",
            change=_lexicon(**arrays),
            outcome="either" if what == "of nothing" else "refused",
        )
    for what, raw in {"empty": b"", "noise": bytes(range(256)) * 9, "a graph": b"\x08\x0a"}.items():
        yield Case(
            name=f"a lexicon that is {what}",
            start="bart",
            change=sealed(
                written("lexicon.npz", raw), edited(lambda v: v.update(lexicon="lexicon.npz"))
            ),
        )


def _shortlists() -> Iterator[Case]:
    for what, text in {
        "of nothing": "",
        "of text": "exec\n",
        "of ids beyond": "5\n1000000\n",
        "of ids below zero": "-5\n6\n",
        "of long numbers": "9" * 5000 + "\n5\n",
        "of one id twice": "5\n5\n",
        "backwards": "6\n5\n",
        "of fractions": "1.5\n2\n",
        "of digits of another script": "\u0665\n\u0666\n",
        "of control characters": ESCAPE,
        "of 20 MB": "5\n" * (10 * 2**20),
        "of zeros": "\0" * 100,
        "of more ids": "5\n6\n7\n",
        "of a graph that is not short": "5\n6\n",
    }.items():
        record = {
            "file": "shortlist.txt",
            "size": 2,
            "origin": "ids",
            "texts": 0,
            "most": None,
            "source_sha256": HASH,
            "tool_version": "0",
            "created": "2026-01-31T23:59:59Z",
        }
        yield Case(
            name=f"a shortlist {what}",
            start="bart",
            change=sealed(
                written("shortlist.txt", text),
                edited(lambda v, record=record: v.update(shortlist=record)),
            ),
            outcome="either" if what == "of a graph that is not short" else "refused",
        )


def _engine(described: str | bytes, plan: bytes = b"\x7fELF not a plan", **record: Any) -> Change:
    entry = {
        "file": "engines/d.plan",
        "target": "orin",
        "role": "decoder",
        "sidecar": "engines/d.json",
        **record,
    }
    return sealed(
        written("engines/d.plan", plan),
        written("engines/d.json", described),
        edited(lambda v: v.update(engines=[entry])),
    )


def _engines() -> Iterator[Case]:
    """Plans are code: none of these is opened, and the rest of the bundle runs or is refused."""
    yield _engine_case("an engine of a stranger", json.dumps(SIDECAR))
    for what, raw in {
        "empty": "",
        "null": "null",
        "a list": "[]",
        "deep": "[" * DEEP,
        "a long integer": '{"format": ' + "9" * 5000 + "}",
        "no text": b"\xff\xfe",
        "of 2 MB": " " * 2**21,
        "a duplicate": '{"format": 2, "format": 2}',
    }.items():
        yield _engine_case(f"a sidecar of an engine that is {what}", raw)
    for what, values in {
        "of format 1": {"format": 1},
        "of format 99": {"format": 99},
        "of another library": {"library": "exec"},
        "of RTX": {"library": "tensorrt_rtx", "release": "1.7.1"},
        "of a release of control characters": {"release": ESCAPE},
        "of a target of control characters": {"target": ESCAPE},
        "of profiles of control characters": {"profiles": [ESCAPE, ESCAPE]},
        "of another role": {"role": "encoder"},
        "of an unknown form": {"form": "exec"},
        "of no sizes": {"sizes": {}},
        "of beams of 10^18": {"sizes": {**SIDECAR["sizes"], "beams": 10**18}},
        "of a capacity of 2^62": {"sizes": {**SIDECAR["sizes"], "capacity": 2**62}},
        "of sizes backwards": {"sizes": {**SIDECAR["sizes"], "batch": [3, 2, 1]}},
        "of sizes of zero": {"sizes": {**SIDECAR["sizes"], "batch": [0, 0, 0]}},
        "of two sizes": {"sizes": {**SIDECAR["sizes"], "batch": [1, 2]}},
        "of top_k of 10^9": {"sizes": {**SIDECAR["sizes"], "top_k": 10**9}},
        "of inputs that are none": {"inputs": [{"name": ESCAPE, "dtype": "int64", "shape": [-1]}]},
        "of an unknown key": {"command": "id"},
        "of a time below zero": {"build_seconds": -1.0},
        "of layers below zero": {"layers": -4},
        "of a short hash": {"plan_sha256": "0"},
    }.items():
        yield _engine_case(f"a sidecar of an engine {what}", json.dumps({**SIDECAR, **values}))
    for what, record in {
        "of a plan that is the weights": {"file": "weights.data"},
        "of a sidecar that is the plan": {"sidecar": "engines/d.plan"},
        "of a sidecar that is the manifest": {"sidecar": "manifest.json"},
        "of a plan outside": {"file": "../outside/weights.data"},
        "of a sidecar outside": {"sidecar": "../outside/secret.txt"},
        "of a plan that is missing": {"file": "engines/other.plan"},
        "of a target of control characters": {"target": ESCAPE},
        "of an unknown role": {"role": "exec"},
    }.items():
        listed = (
            what.startswith("of a target of control") or "weights" in what or "is the plan" in what
        )
        yield _engine_case(
            f"an engine's record {what}",
            json.dumps(SIDECAR),
            outcome="either" if listed else "refused",
            **record,
        )
    yield _engine_case("an engine of an empty plan", json.dumps(SIDECAR), plan=b"")
    yield _engine_case("an engine of 5000 targets", json.dumps(SIDECAR), many=5000)


def _engine_case(
    name: str,
    described: str | bytes,
    *,
    outcome: Any = "either",
    many: int = 0,
    plan: bytes = b"\x7fELF not a plan",
    **record: Any,
) -> Case:
    change = _engine(described, plan, **record)
    if many:
        first = change

        def change(bundle: Path) -> None:
            first(bundle)
            edited(
                lambda v: v.update(
                    engines=[{**v["engines"][0], "target": f"t{i}"} for i in range(many)]
                )
            )(bundle)

    return Case(name=name, start="bart", change=change, commands=ENGINE, outcome=outcome)
