"""Decoding defaults of a checkpoint: generation_config.json, or what old config.json files hold.

Every setting ends in one of three places: an option of the runtime, a remark that it is not
applied, or an extra that speech models use. None is passed over.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from seq2edge.errors import CheckpointError, foreign_errors
from seq2edge.model.dims import Dims, StackDims
from seq2edge.runtime.options import DecodeOptions

# Settings about bookkeeping, training or the return type: nothing that changes tokens.
BOOKKEEPING = frozenset(
    """
    transformers_version _from_model_config use_cache output_attentions output_hidden_states
    output_scores output_logits return_dict_in_generate cache_implementation cache_config
    disable_compile compile_config low_memory generation_kwargs num_assistant_tokens
    num_assistant_tokens_schedule assistant_confidence_threshold prompt_lookup_num_tokens
    max_matching_ngram_size is_assistant assistant_early_exit assistant_lookbehind target_lookbehind
    remove_invalid_values trust_remote_code
    """.split()
)
# Values that leave the tokens as they are.
NEUTRAL: dict[str, Any] = {
    "guidance_scale": 1.0,
    "num_beam_groups": 1,
    "diversity_penalty": 0.0,
    "token_healing": False,
}
# Read by nobody where nothing is drawn.
SAMPLING = frozenset(
    "temperature top_k top_p min_p typical_p top_h epsilon_cutoff eta_cutoff".split()
)
SPEECH = frozenset(
    """
    alignment_heads lang_to_id task_to_id no_timestamps_token_id is_multilingual prev_sot_token_id
    max_initial_timestamp_index return_timestamps language task
    """.split()
)
# Generation settings that config.json held before there was a generation_config.json.
LEGACY = frozenset(
    """
    num_beams num_return_sequences max_length min_length length_penalty early_stopping eos_token_id
    pad_token_id bos_token_id decoder_start_token_id forced_bos_token_id forced_eos_token_id
    suppress_tokens begin_suppress_tokens bad_words_ids no_repeat_ngram_size repetition_penalty
    do_sample temperature top_k top_p typical_p diversity_penalty num_beam_groups
    encoder_no_repeat_ngram_size exponential_decay_length_penalty forced_decoder_ids
    """.split()
)
# What old config.json files always hold, although it was never the checkpoint's choice.
LEGACY_DEFAULTS = {"max_length": 20, "min_length": 0}
# Whose tokens change nothing where the vocabulary does not have them, and the most new tokens.
NEVER_MADE = frozenset(
    "pad_token_id bos_token_id eos_token_id suppress_tokens begin_suppress_tokens".split()
)
LIMIT, HEADS = "max_new_tokens", "alignment_heads"

OPTIONS = frozenset(field.name for field in dataclasses.fields(DecodeOptions))


@dataclasses.dataclass(frozen=True, kw_only=True)
class GenerationDefaults:
    """`options` for DecodeOptions.from_dict, settings not applied, and speech settings."""

    options: dict[str, Any]
    ignored: dict[str, Any]
    extras: dict[str, Any]


def read_generation(
    generation: Mapping[str, Any] | None, config: Mapping[str, Any]
) -> GenerationDefaults:
    """Sort the settings of a checkpoint's generation_config.json (None: it has none) and config."""
    settings = dict(generation) if generation is not None else _legacy(config)
    sampling = settings.get("do_sample") is True
    options: dict[str, Any] = {}
    ignored: dict[str, Any] = {}
    extras: dict[str, Any] = {}
    for name, value in settings.items():
        if value is None or name in BOOKKEEPING:
            continue
        if name in SPEECH:
            extras[name] = value
        elif name in SAMPLING and not sampling:
            continue
        elif name in OPTIONS:
            options[name] = value
        elif NEUTRAL.get(name) != value:
            ignored[name] = value
    for name in ("eos_token_id", "pad_token_id", "bos_token_id", "decoder_start_token_id"):
        if config.get(name) is not None:
            options.setdefault(name, config[name])
    if "suppress_tokens" in options:
        with foreign_errors(CheckpointError, "generation_config.json: suppress_tokens"):
            options["suppress_tokens"] = [t for t in options["suppress_tokens"] if t >= 0]
    return GenerationDefaults(options=options, ignored=ignored, extras=extras)


def fit_defaults(defaults: GenerationDefaults, dims: Dims) -> GenerationDefaults:
    """The defaults without tokens that the model does not have, and without too many new ones.

    What is left out, with a remark, changes nothing: tokens that cannot be generated, what ended
    rows are fed, and a limit beyond the positions, which are the limit without it. So are alignment
    heads of other layers, which students have of their teacher (Distil-Whisper).
    """
    options, ignored = dict(defaults.options), dict(defaults.ignored)
    for name in sorted(NEVER_MADE & options.keys()):
        value = options[name]
        ids = value if isinstance(value, (list, tuple)) else [value]
        beyond = [token for token in ids if isinstance(token, int) and token >= dims.vocab]
        if beyond:
            ignored[name] = beyond if value is ids else value
            kept = [token for token in ids if token not in beyond]
            options = {**options, name: kept} if kept else _without(options, name)
    positions, limit = dims.decoder.max_positions if dims.decoder else 0, options.get(LIMIT)
    if positions and isinstance(limit, int) and limit >= positions:
        ignored[LIMIT], options = limit, _without(options, LIMIT)
    heads, extras = defaults.extras.get(HEADS), defaults.extras
    if dims.decoder is not None and not _are_heads(heads or [], dims.decoder):
        ignored[HEADS], extras = heads, _without(extras, HEADS)
    return dataclasses.replace(defaults, options=options, ignored=ignored, extras=extras)


def _are_heads(pairs: Any, stack: StackDims) -> bool:
    """Whether they are pairs (layer, head) of a stack."""
    return all(0 <= layer < stack.layers and 0 <= head < stack.heads for layer, head in pairs)


def _without(options: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in options.items() if key != name}


def with_decoder_defaults(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config with the decoding defaults and special ids that its decoder's own config has.

    Where a model is made of two, its config may leave them to the decoder's, as transformers reads
    them.
    """
    decoder = config.get("decoder")
    inner = decoder if isinstance(decoder, Mapping) else {}
    missing = {
        name: inner[name]
        for name in sorted(LEGACY)
        if config.get(name) is None and inner.get(name) is not None
    }
    return {**config, **missing}


def _legacy(config: Mapping[str, Any]) -> dict[str, Any]:
    settings = {
        name: value
        for name, value in config.items()
        if name in LEGACY and LEGACY_DEFAULTS.get(name) != value
    }
    if config.get("force_bos_token_to_be_generated"):  # as the first BART's say it
        settings["forced_bos_token_id"] = config.get("bos_token_id")
    return settings
