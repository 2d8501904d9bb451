"""What a family module provides: dims from a config, and where each weight comes from."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor

from seq2edge.checkpoints.families.neutral import NEUTRAL
from seq2edge.errors import CheckpointError, UnsupportedError
from seq2edge.model.dims import Dims

ACTIVATION_NAMES = {
    "relu": "relu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "silu": "silu",
    "swish": "silu",
}

# What a key holds where it sets nothing; 0 is False.
UNSET: tuple[Any, ...] = (None, False, "", [], {})


# What the head of a class is made for, by the end of the class's name.
HEAD_TASKS = {
    "ForSequenceClassification": "classify",
    "ForTokenClassification": "tag",
    "ForQuestionAnswering": "answer",
    "ForMaskedLM": "fill",
}


class Config:
    """A config.json that remembers which keys were read, so that none is passed over.

    `task` is what the checkpoint is asked to do; where that is None and its class leaves a choice,
    `default_task` is taken. With `long_context` positions are those of the longest texts, where a
    model has others for them.
    """

    def __init__(
        self,
        values: Mapping[str, Any],
        *,
        task: str | None = None,
        default_task: str | None = None,
        long_context: bool = False,
    ) -> None:
        self.task = task
        self.default_task = default_task
        self.long_context = long_context
        self._purpose: dict[str, Any] = {
            "task": task,
            "default_task": default_task,
            "long_context": long_context,
        }
        self.place = "config.json"  # what messages begin with
        self._parts: dict[str, Config] = {}
        self._values = dict(values)
        self._read: set[str] = set()
        self._names: Mapping[str, str] = {}

    def renamed(self, names: Mapping[str, str]) -> Config:
        """The same config, with a family's own names (values) of some keys."""
        view = Config(self._values, **self._purpose)
        view._read, view._names, view._parts = self._read, names, self._parts
        view.place = self.place
        return view

    def part(self, key: str) -> Config:
        """The config within the config that a key holds; what is read of it counts there too."""
        values = self.get(key)
        if not isinstance(values, Mapping):
            raise CheckpointError(f"{self.place}: {key} is {values!r}, needs settings")
        if key not in self._parts:
            self._parts[key] = Config(values, **self._purpose)
            self._parts[key].place = f"{self.place}: {key}"
        return self._parts[key]

    def get(self, key: str, default: Any = None) -> Any:
        """The value, or the default where the key is missing or null."""
        key = self._names.get(key, key)
        self._read.add(key)
        value = self._values.get(key)
        return default if value is None else value

    def nullable(self, key: str, default: Any) -> Any:
        """The value, also where it is null; the default where the key is missing."""
        value = self.get(key)
        return value if self._names.get(key, key) in self._values else default

    def size(self, key: str, default: int | None = None) -> int:
        """A positive integer that must be there unless a default is given."""
        value = self.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
            raise CheckpointError(f"{self.place}: {key} is {value!r}, needs a positive integer")
        return value

    def activation(self, key: str, default: str | None = None) -> str:
        """Our name of an activation function."""
        value = self.get(key, default)
        if value not in ACTIVATION_NAMES:
            known = ", ".join(sorted(ACTIVATION_NAMES))
            raise UnsupportedError(
                f"{self.place}: {key} {value!r} is not supported, known: {known}"
            )
        return ACTIVATION_NAMES[value]

    def require(self, key: str, *allowed: Any) -> None:
        """Refuse a feature by name: the key must be absent, null or one of these values."""
        value = self.get(key)
        if value is not None and value not in allowed:
            raise UnsupportedError(
                f"{self.place}: {key} {value!r} is not supported, "
                f"only {' or '.join(map(repr, allowed)) or 'null'}"
            )

    def ignore(self, *keys: str) -> None:
        """Keys of this family which do not change what is computed."""
        self._read.update(keys)

    def check_all_read(self) -> None:
        """Raise UnsupportedError naming every setting nobody has looked at."""
        unknown = {
            key: value
            for key, value in self._values.items()
            if key not in self._read and key not in NEUTRAL and value not in UNSET
        }
        if unknown:
            listed = ", ".join(f"{key}={value!r}" for key, value in sorted(unknown.items()))
            raise UnsupportedError(
                f"{self.place}: settings that are not supported: {listed}; remove them only if "
                "they do not change what the model computes"
            )
        for part in self._parts.values():
            part.check_all_read()


def decoder_task(config: Config) -> str:
    """What a decoder-only checkpoint is to do: generate, or what its class or folder says.

    Raises UnsupportedError for a task that its class has no head for.
    """
    architecture = str((config.get("architectures") or [""])[0])
    made_for = _made_for(architecture, "generate")
    bare = architecture.endswith("Model") and not architecture.endswith("LMHeadModel")
    embeds = config.get("pooling") is not None or bare or config.task == "embed"
    if made_for == "generate" and embeds:
        made_for = "embed"
    return _asked(config, architecture, made_for)


def encoder_task(config: Config) -> str:
    """What an encoder-only checkpoint is to do: what its class is made for, or embed.

    A masked-language model leaves a choice: its head fills words, most want its embeddings. A
    folder of sentence-transformers has said it, whatever the class of its first module. Raises
    UnsupportedError where the choice is missing, and for a task that there is no head for.
    """
    architecture = str((config.get("architectures") or [""])[0])
    made_for = _made_for(architecture, "embed")
    pooling = config.get("pooling")
    if pooling is not None:
        made_for = "weigh" if pooling == "sparse" and made_for == "fill" else "embed"
    if made_for == "fill":
        chosen = config.task or config.default_task
        if chosen is None:
            raise UnsupportedError(
                f"config.json: {architecture} may do several things, its head fills masked words: "
                "choose --task fill or --task embed, or --task weigh for SPLADE"
            )
        made_for = chosen if chosen in ("embed", "weigh") else made_for
    return _asked(config, architecture, made_for)


def _made_for(architecture: str, otherwise: str) -> str:
    """What the end of a class's name says."""
    tasks = (task for end, task in HEAD_TASKS.items() if architecture.endswith(end))
    return next(tasks, otherwise)


def _asked(config: Config, architecture: str, made_for: str) -> str:
    """What the class is made for; raises UnsupportedError where another task is asked."""
    if config.task not in (None, made_for):
        raise UnsupportedError(
            f"task {config.task!r}: {architecture or 'the checkpoint'} is made to {made_for}"
        )
    return made_for


def embedding_head(config: Config, pooling: str = "mean") -> dict[str, Any]:
    """The fields of `Dims` about embeddings, as the folder says or by the family's own pooling."""
    return {
        "head": "embedding",
        "pooling": config.get("pooling", pooling),
        "normalize": bool(config.get("normalize", False)),
    }


def count_labels(config: Config) -> int:
    """How many classes a classifier has, by transformers' own rule (5.24).

    `num_labels` where the config has it, though `id2label` names another number of them; else as
    many as are named; else 2.
    """
    return config.size("num_labels", len(config.get("id2label") or {}) or 2)


Names = frozenset[str]  # of all tensors in the checkpoint


@dataclasses.dataclass(frozen=True, kw_only=True)
class WeightMapping:
    """One of our parameters and the foreign tensors it is made of, joined along the first axis.

    A source of None stands for zeros, as long as its first neighbour, in place of a bias that the
    family does not have. `skip_rows` rows are padding that no position ever reaches. `default`
    gives the values where the sources may be missing from a checkpoint because they follow from
    sizes. `combine` makes the parameter of the sources where it is not their rows; `transform` of
    their rows joined, in its own shape.
    """

    target: str
    sources: tuple[str | None, ...]
    transpose: bool = False
    skip_rows: int = 0
    default: Callable[[], Tensor] | None = None
    combine: Callable[..., Tensor] | None = None
    transform: Callable[[Tensor], Tensor] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
    """One row of the registry.

    `aliases` are other names of a tensor, which must hold the same values when present. `ignored`
    match tensors that hold no weights (position ids), `unused` weights the task does not need:
    regular expressions, both.
    """

    name: str
    architectures: tuple[str, ...]
    dims: Callable[[Config, Names], Dims]
    weights: Callable[[Dims, Names], Iterator[WeightMapping]]
    aliases: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()


def linear(target: str, *sources: str, bias: bool = True) -> Iterator[WeightMapping]:
    """A linear layer's weight and bias, merged from one or several foreign layers."""
    yield WeightMapping(
        target=f"{target}.weight", sources=tuple(f"{name}.weight" for name in sources)
    )
    if bias:
        yield WeightMapping(
            target=f"{target}.bias", sources=tuple(f"{name}.bias" for name in sources)
        )


def norm(
    target: str, source: str, names: Names = frozenset(), *, bias: bool = True
) -> Iterator[WeightMapping]:
    """A normalization's weight and bias; TensorFlow's `names` of them are gamma and beta."""
    if f"{source}.gamma" not in names:
        return linear(target, source, bias=bias)
    parts = (("weight", "gamma"), ("bias", "beta"))
    return iter(WeightMapping(target=f"{target}.{o}", sources=(f"{source}.{t}",)) for o, t in parts)
