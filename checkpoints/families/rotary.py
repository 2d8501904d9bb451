"""Rotary positions as configs say them: the base, the rotated part, and how far they are stretched.

Every way of stretching a model to longer texts divides each frequency by a number of its own, which
is what `StackDims` keeps. Both forms are read, `rope_theta` with `rope_scaling` and, since
transformers 5, `rope_parameters`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

from seq2edge.checkpoints.families.family import Config
from seq2edge.errors import CheckpointError, UnsupportedError

Divisors = tuple[float, ...]
COMMON = frozenset({"rope_theta", "rope_type", "type", "partial_rotary_factor"})
FULL, WINDOWED = "full_attention", "sliding_attention"  # the kinds of layers that may differ


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scaling:
    """The settings of one kind of layer, and what they are about."""

    settings: Mapping[str, Any]
    theta: float
    rotated: int  # values of a head
    longest: int  # positions that the config promises
    original: int  # those of pretraining
    long: bool  # whether texts may be longer than those of pretraining, where that is a choice

    def number(self, key: str, default: float | None = None) -> float:
        """A positive number that must be there unless a default is given."""
        value = self.settings.get(key)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise CheckpointError(f"config.json: rope {key} is {value!r}, needs a positive number")
        return float(value)

    def frequencies(self) -> list[float]:
        """Of every pair of values, before any stretching."""
        return [self.theta ** (-i / self.rotated) for i in range(0, self.rotated, 2)]

    @property
    def factor(self) -> float:
        """How many times longer texts may be than those of pretraining."""
        return self.number("factor", self.longest / self.original)


def _linear(scaling: Scaling) -> Divisors:
    """Positions so many times closer (Chen et al. 2023)."""
    return (scaling.number("factor"),) * (scaling.rotated // 2)


def _llama3(scaling: Scaling) -> Divisors:
    """Slow frequencies are divided, fast ones are not, those between partly (Dubey et al. 2024)."""
    factor, original = scaling.number("factor"), scaling.original
    low, high = scaling.number("low_freq_factor"), scaling.number("high_freq_factor")

    def divisor(frequency: float) -> float:
        turns = original * frequency / (2 * math.pi)  # within a text of pretraining
        kept = min(1.0, max(0.0, (turns - low) / (high - low)))
        return 1 / ((1 - kept) / factor + kept)

    return tuple(map(divisor, scaling.frequencies()))


def _yarn(scaling: Scaling) -> Divisors:
    """As Llama 3's, with a ramp over the frequencies' places (Peng et al. 2023)."""
    half, factor = scaling.rotated // 2, scaling.factor

    def place(turns: float) -> float:
        ratio = math.log(scaling.original / (turns * 2 * math.pi))
        return scaling.rotated * ratio / (2 * math.log(scaling.theta))

    first, last = (place(scaling.number(*end)) for end in (("beta_fast", 32), ("beta_slow", 1)))
    if scaling.settings.get("truncate", True):
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, scaling.rotated - 1)
    width = (last - first) or 0.001
    ramp = (min(1.0, max(0.0, (i - first) / width)) for i in range(half))
    return tuple(1 / (part / factor + 1 - part) for part in ramp)


def _yarn_magnitude(scaling: Scaling) -> float:
    def magnitude(multiplier: float) -> float:
        return 0.1 * multiplier * math.log(scaling.factor) + 1 if scaling.factor > 1 else 1.0

    ours, all_dims = (scaling.settings.get(key) for key in ("mscale", "mscale_all_dim"))
    if ours and all_dims:
        return magnitude(float(ours)) / magnitude(float(all_dims))
    return magnitude(1.0)


def _longrope(scaling: Scaling) -> Divisors:
    """Searched for, one by one (Ding et al. 2024): those of texts up to the original length.

    Longer texts need others from their first token on, keys that are cached included.
    """
    name, half = "long_factor" if scaling.long else "short_factor", scaling.rotated // 2
    divisors = scaling.settings.get(name)
    if not isinstance(divisors, list) or len(divisors) != half:
        raise CheckpointError(f"config.json: rope {name} {divisors!r} are not {half} numbers")
    return tuple(map(float, divisors))


def _longrope_magnitude(scaling: Scaling) -> float:
    if scaling.factor <= 1:
        return 1.0
    return math.sqrt(1 + math.log(scaling.factor) / math.log(scaling.original))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kind:
    """One `rope_type`: the settings it has, and what follows from them."""

    keys: frozenset[str] = frozenset()
    divisors: Callable[[Scaling], Divisors] = lambda _: ()
    magnitude: Callable[[Scaling], float] = lambda _: 1.0


_ORIGINAL = "original_max_position_embeddings"
KINDS = {
    "default": Kind(),
    "linear": Kind(keys=frozenset({"factor"}), divisors=_linear),
    # Frequencies change beyond `max_position_embeddings` alone, where no text of ours goes.
    "dynamic": Kind(keys=frozenset({"factor", _ORIGINAL})),
    "llama3": Kind(
        keys=frozenset({"factor", "low_freq_factor", "high_freq_factor", _ORIGINAL}),
        divisors=_llama3,
    ),
    "yarn": Kind(
        keys=frozenset(
            "factor attention_factor beta_fast beta_slow mscale mscale_all_dim truncate".split()
        )
        | {_ORIGINAL},
        divisors=_yarn,
        magnitude=_yarn_magnitude,
    ),
    "longrope": Kind(
        keys=frozenset({"factor", "attention_factor", "short_factor", "long_factor", _ORIGINAL}),
        divisors=_longrope,
        magnitude=_longrope_magnitude,
    ),
}
NO_CHOICE = (
    "long_context: the checkpoint has no positions of their own for long texts (LongRoPE); "
    "leave it out, its bundle takes as long texts as there are"
)
# Phi-3's configs from before the paper had its name, by `type`.
OLD_NAMES = {"su": "longrope"}


def _scaling(
    settings: dict[str, Any],
    theta: float,
    rotated: int,
    *,
    longest: int,
    original: int | None,
    long: bool,
) -> tuple[str, Scaling]:
    """The kind that settings name, and what they say of it."""
    kind = str(settings.get("rope_type", settings.get("type", "default")))
    kind = OLD_NAMES.get(kind, kind)
    if kind not in KINDS:
        known = ", ".join(sorted(KINDS))
        raise UnsupportedError(f"config.json: rope scaling {kind} is not supported, known: {known}")
    unknown = {k: v for k, v in settings.items() if k not in COMMON | KINDS[kind].keys}
    if any(value is not None for value in unknown.values()):
        raise UnsupportedError(f"config.json: rope settings {unknown} are not supported")
    return kind, Scaling(
        settings=settings,
        theta=float(settings.get("rope_theta") or theta),
        rotated=rotated,
        longest=longest,
        original=int(original or settings.get(_ORIGINAL) or longest),
        long=long,
    )


def _magnitude(kind: str, scaling: Scaling) -> float:
    named = scaling.settings.get("attention_factor")
    return KINDS[kind].magnitude(scaling) if named is None else float(named)


def _settings(config: Config) -> tuple[dict[str, Any], dict[str, Any], bool]:
    """Those of layers that see everything, those of windows, and whether the two are told apart."""
    settings: dict[str, Any] = config.get("rope_parameters") or {}
    nested = any(isinstance(value, dict) for value in settings.values())
    if nested and set(settings) - {FULL, WINDOWED}:
        kinds = ", ".join(sorted(settings))
        raise UnsupportedError(f"config.json: rope settings of {kinds} are not supported")
    full: dict[str, Any] = settings.get(FULL) or {} if nested else settings
    windowed: dict[str, Any] = settings.get(WINDOWED) or {} if nested else {}
    older = config.get("rope_scaling") or {}
    if any(full.get(key, value) != value for key, value in older.items()):
        raise UnsupportedError(
            f"config.json: rope_scaling {older} differs from rope_parameters {full}: remove one"
        )
    full = {**full, **older}
    if nested and not full.get("truncate", True):  # transformers reads it elsewhere
        raise UnsupportedError("config.json: rope truncate False of some layers is not supported")
    return full, windowed, nested


def _part(config: Config, settings: Mapping[str, Any], own: float | None) -> float:
    """The rotated share of a head; `own` is the family's, None where it rotates them whole."""
    part = settings.get("partial_rotary_factor") or config.get("partial_rotary_factor")
    if own is None and part not in (None, 1.0):
        raise UnsupportedError(
            f"config.json: partial_rotary_factor {part} is not supported, heads of this family "
            "are rotated whole"
        )
    return float(part or own or 1.0)


def read_rotary(
    config: Config,
    *,
    head_dim: int,
    theta: float = 10000.0,
    part: float | None = None,
    original: int | None = None,
    window_theta: float = 0.0,
) -> dict[str, Any]:
    """The fields of `StackDims` about rotary positions, and `max_positions`.

    `theta`, `part`, the rotated share of a head, and `original`, the positions of pretraining, are
    the family's own where the config says none; without `part` a head is always rotated whole.
    `window_theta` is the base of layers with a window where it is another. Raises UnsupportedError
    for another `rope_type` or setting, by name.
    """
    longest = config.size("max_position_embeddings", 2048)
    full, windowed, nested = _settings(config)
    theta = float(config.get("rope_theta", theta))
    config.ignore("partial_rotary_factor")
    part = _part(config, full, part)
    original = config.get(_ORIGINAL, original)
    common: dict[str, Any] = {"longest": longest, "original": original, "long": config.long_context}
    kind, scaling = _scaling(full, theta, int(head_dim * part), **common)
    short = kind == "longrope" and not config.long_context
    if config.long_context and kind != "longrope":
        raise UnsupportedError(NO_CHOICE)
    fields = {
        "positions": "rotary",
        "max_positions": min(longest, scaling.original) if short else longest,
        "rotary_theta": scaling.theta,
        "rotary_dim": 0 if scaling.rotated == head_dim else scaling.rotated,
        "rotary_divisors": KINDS[kind].divisors(scaling),
        "rotary_magnitude": _magnitude(kind, scaling),
    }
    if window_theta or nested:
        other, own = _scaling(windowed, window_theta or theta, scaling.rotated, **common)
        if other != "default" or float(own.settings.get("partial_rotary_factor") or part) != part:
            raise UnsupportedError(
                f"config.json: rope settings {windowed} of layers with a window are not supported"
            )
        if kind != "default" or own.theta != scaling.theta:
            fields["window_theta"] = own.theta
    return fields
