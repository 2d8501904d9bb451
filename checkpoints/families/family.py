"""What a family module provides: dims from a config, and where each weight comes from."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor

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

# Keys of a config.json that say nothing about what the graphs compute: training, bookkeeping,
# task hints, and generation defaults (those are read by `generation.py`).
NEUTRAL_KEYS = frozenset(
    """
    _name_or_path _num_labels activation_dropout add_cross_attention architectures attention_dropout
    attention_probs_dropout_prob attn_pdrop auto_map bad_words_ids begin_suppress_tokens
    bos_token_id chunk_size_feed_forward classif_dropout classifier_dropout classifier_proj_size
    cls_token_id cross_attention_hidden_size decoder_layerdrop decoder_start_token_id
    diversity_penalty do_sample dropout dropout_rate dtype early_stopping embd_pdrop
    encoder_layerdrop encoder_no_repeat_ngram_size eos_token_id exponential_decay_length_penalty
    finetuning_task force_bos_token_to_be_generated forced_bos_token_id forced_decoder_ids
    forced_eos_token_id gradient_checkpointing hidden_dropout_prob id2label init_std
    initializer_factor initializer_range is_decoder is_encoder_decoder label2id layerdrop
    length_penalty mask_feature_length mask_feature_min_masks mask_feature_prob mask_time_length
    mask_time_min_masks mask_time_prob apply_spec_augment max_length median_filter_width min_length
    model_type no_repeat_ngram_size num_beam_groups num_beams num_return_sequences output_attentions
    output_hidden_states output_past output_scores pad_token_id prefix pretraining_tp
    problem_type qa_dropout remove_invalid_values repetition_penalty resid_pdrop return_dict
    return_dict_in_generate save_step sep_token_id seq_classif_dropout summary_activation
    summary_first_dropout summary_proj_to_labels summary_type summary_use_proj suppress_tokens
    task_specific_params temperature tf_legacy_loss tie_encoder_decoder tokenizer_class top_k top_p
    torch_dtype torchscript transformers_version typical_p unk_token_id use_bfloat16 use_cache
    model_max_length transformers.js_config
    """.split()
)


class Config:
    """A config.json that remembers which keys were read, so that none is passed over."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = dict(values)
        self._read: set[str] = set()
        self._names: Mapping[str, str] = {}

    def renamed(self, names: Mapping[str, str]) -> Config:
        """The same config, with a family's own names (values) of some keys."""
        view = Config(self._values)
        view._read, view._names = self._read, names
        return view

    def get(self, key: str, default: Any = None) -> Any:
        """The value, or the default where the key is missing or null."""
        key = self._names.get(key, key)
        self._read.add(key)
        value = self._values.get(key)
        return default if value is None else value

    def size(self, key: str, default: int | None = None) -> int:
        """A positive integer that must be there unless a default is given."""
        value = self.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
            raise CheckpointError(f"config.json: {key} is {value!r}, needs a positive integer")
        return value

    def activation(self, key: str, default: str | None = None) -> str:
        """Our name of an activation function."""
        value = self.get(key, default)
        if value not in ACTIVATION_NAMES:
            known = ", ".join(sorted(ACTIVATION_NAMES))
            raise UnsupportedError(f"config.json: {key} {value!r} is not supported, known: {known}")
        return ACTIVATION_NAMES[value]

    def require(self, key: str, *allowed: Any) -> None:
        """Refuse a feature by name: the key must be absent, null or one of these values."""
        value = self.get(key)
        if value is not None and value not in allowed:
            raise UnsupportedError(
                f"config.json: {key} {value!r} is not supported, "
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
            if key not in self._read and key not in NEUTRAL_KEYS and value not in (None, False)
        }
        if unknown:
            listed = ", ".join(f"{key}={value!r}" for key, value in sorted(unknown.items()))
            raise UnsupportedError(
                f"config.json: settings that are not supported: {listed}; remove them only if "
                "they do not change what the model computes"
            )


Names = frozenset[str]  # of all tensors in the checkpoint


@dataclasses.dataclass(frozen=True, kw_only=True)
class WeightMapping:
    """One of our parameters and the foreign tensors it is made of, joined along the first axis.

    A source of None stands for zeros, as long as its first neighbour, in place of a bias that the
    family does not have. `skip_rows` rows are padding that no position ever reaches. `default`
    gives the values where the sources may be missing from a checkpoint because they follow from
    sizes. `transform` makes the parameter of the joined tensors, in its own shape.
    """

    target: str
    sources: tuple[str | None, ...]
    transpose: bool = False
    skip_rows: int = 0
    default: Callable[[], Tensor] | None = None
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


def norm(target: str, source: str, *, bias: bool = True) -> Iterator[WeightMapping]:
    """A normalization's weight and bias."""
    return linear(target, source, bias=bias)
