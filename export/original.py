"""The checkpoint's own implementation as judge: transformers runs what our model was recorded on.

The gate of graphs compares them with our model, so that a family we misread would stay unseen. Here
transformers' model answers the same program, one row after the other and without padding. It runs
in a process of its own (`python -m seq2edge.export.original`), which has the weights once.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from seq2edge.bundle.manifest import Manifest, OriginalRecord
from seq2edge.bundle.reference import read_reference
from seq2edge.checkpoints.load import load_checkpoint
from seq2edge.errors import ExportError
from seq2edge.model.dims import Dims
from seq2edge.model.transformer import Transformer
from seq2edge.runtime import parity
from seq2edge.runtime.likelihood import log_sum_exp

LEFT_OUT = "it was left out"
POOLED: dict[str, Callable[[Tensor], Tensor]] = {  # of (source, width)
    "mean": lambda hidden: hidden.mean(dim=0),
    "max": lambda hidden: hidden.amax(dim=0),
    "first": lambda hidden: hidden[0],
    "last": lambda hidden: hidden[-1],
}
SOURCES = {
    "input_ids": "input_ids",
    "features": "input_features",
    "samples": "input_values",
    "pixels": "pixel_values",
}
FORMATS = {
    "ctranslate2": "no class of transformers reads CTranslate2 files",
    "bergamot": "no class of transformers has such a decoder",
}


class NoOriginalError(Exception):
    """Why there is nothing to compare with."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """What the original answered, and where ours first differs, where it does."""

    implementation: str
    parity: parity.Parity
    place: str = ""

    @property
    def equal(self) -> bool:
        """Whether both are the same model."""
        return self.parity.within()


def compare_with_original(
    checkpoint: str | Path, manifest: Manifest, reference: Path, *, enabled: bool
) -> OriginalRecord:
    """What the manifest keeps of the comparison. Raises ExportError where the two differ."""
    if not enabled:
        return OriginalRecord(reason=LEFT_OUT)
    if manifest.family == "seq2edge":
        return OriginalRecord(reason="seq2edge trained it")
    if reason := FORMATS.get(manifest.provenance.source_format):
        return OriginalRecord(reason=reason)
    tokens = manifest.reranking.tokens if manifest.reranking is not None else ()
    answer = _run(Path(checkpoint), manifest.dims, reference, tokens)
    if reason := answer.get("reason"):
        return OriginalRecord(reason=reason)
    comparison = Comparison(**{**answer, "parity": parity.Parity(**answer["parity"])})
    place = comparison.place
    if not comparison.equal:
        raise ExportError(
            f"original: {comparison.implementation} answers otherwise than our model: "
            f"{comparison.parity.figures} where {comparison.parity.allowed:.1e} are allowed"
            f"{place and f'; they first differ in {place}'}; the bundle was not "
            "written. Please report the family; --original no exports it as it is"
        )
    return OriginalRecord(implementation=comparison.implementation, parity=comparison.parity.record)


def _run(checkpoint: Path, dims: Dims, reference: Path, tokens: tuple[int, ...]) -> dict[str, Any]:
    """What the other process found, as JSON."""
    words = [sys.executable, "-m", __name__, os.fspath(checkpoint), os.fspath(reference)]
    done = subprocess.run(  # noqa: S603 - our own interpreter and program
        words,
        input=json.dumps([dims.to_dict(), tokens]),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["it said nothing"]
        cause = "ran out of memory?" if done.returncode < 0 else lines[-1]
        raise ExportError(
            f"original: the comparison with transformers ended with {done.returncode} ({cause}); "
            "the bundle was not written; --original no leaves it out"
        )
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def compare(
    checkpoint: Path, dims: Dims, reference: parity.Arrays, tokens: tuple[int, ...] = ()
) -> Comparison:
    """Let transformers' model answer the program. Raises NoOriginalError where there is none.

    `tokens` are those that a language model's score is made of, as a reranker's.
    """
    original = _load(checkpoint, dims)
    with torch.no_grad():
        measured = _replay(original, checkpoint, dims, reference, tokens)
        implementation = _name_of(original)
        if measured.within():
            return Comparison(implementation=implementation, parity=measured)
        task = "embed" if tokens else dims.task  # of the same layers
        loaded = load_checkpoint(
            checkpoint, task=task, long_context=_is_long(original.config, dims)
        )
        place = _first_difference(original, loaded.model, dims, reference, measured.allowed)
    return Comparison(implementation=implementation, parity=measured, place=place)


def _name_of(original: nn.Module) -> str:
    import transformers

    return f"transformers {transformers.__version__} {type(original).__name__}"


def _load(checkpoint: Path, dims: Dims) -> nn.Module:
    """The checkpoint in the class that its config names, in float32."""
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    where: dict[str, Any] = {"pretrained_model_name_or_path": os.fspath(checkpoint)}
    if checkpoint.is_file():
        where = {
            "pretrained_model_name_or_path": os.fspath(checkpoint.parent),
            "gguf_file": checkpoint.name,
        }
    rules = {"local_files_only": True, "trust_remote_code": False}
    try:
        config = transformers.AutoConfig.from_pretrained(**where, **rules)
        if _is_long(config, dims):  # it would take the others for the program's short texts
            config.rope_parameters["short_factor"] = config.rope_parameters["long_factor"]
            where["config"] = config
        name = (config.architectures or [""])[0]
        kind = getattr(transformers, name, None)
        if dims.head == "embedding" or kind is None:
            kind = transformers.AutoModelForCausalLM if dims.head == "lm" else None
            kind = kind or transformers.AutoModel
        original, info = kind.from_pretrained(
            **where, **rules, dtype=torch.float32, output_loading_info=True
        )
    except Exception as error:  # whatever a foreign class raises about a foreign folder
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise NoOriginalError(
            f"transformers {transformers.__version__} does not load it: {first}"
        ) from error
    missing = [key for key in info["missing_keys"] if dims.head != "embedding" or "pool" not in key]
    if missing:
        raise NoOriginalError(f"transformers would make up {', '.join(sorted(missing)[:3])}")
    model: nn.Module = original.eval()
    _make_lost_tables(model)
    return model


def _make_lost_tables(original: nn.Module) -> None:
    """What a class neither reads nor restores stays on the meta device (TrOCR's sinusoids)."""
    for module in original.modules():
        table = getattr(module, "weights", None)
        if isinstance(table, Tensor) and table.is_meta:
            make = cast("Any", module)
            make.weights = make.get_embedding(len(table), make.embedding_dim, make.padding_idx)


def _is_long(config: Any, dims: Dims) -> bool:
    """Whether ours has the positions of LongRoPE's long texts."""
    rope = getattr(config, "rope_parameters", None) or {}
    stack = dims.decoder or dims.encoder
    if rope.get("rope_type") != "longrope" or stack is None:
        return False
    return stack.rotary_divisors == tuple(map(float, rope.get("long_factor", ())))


def _replay(
    original: nn.Module,
    checkpoint: Path,
    dims: Dims,
    reference: parity.Arrays,
    tokens: tuple[int, ...],
) -> parity.Parity:
    """The same figures as of a graph."""
    allowed = parity.allowed_error(reference)
    if tokens:
        return parity.compare(list(_scores(original, dims, reference, tokens)), [], allowed)
    if "prompt" not in reference:
        return parity.compare(list(_pooled(original, checkpoint, dims, reference)), [], allowed)
    pairs: list[parity.Pair] = []
    choices: list[parity.ChoicePair] = []
    histories = parity.histories(reference)
    runs = [(row, ids, _logits(original, dims, reference, row, ids)) for row, ids in histories[-1]]
    for i, rows in enumerate(histories):
        scores = np.stack(
            [
                next(
                    logits[len(ids) - 1]
                    for of, whole, logits in runs
                    if of == row and whole[: len(ids)] == ids
                )
                for row, ids in rows
            ]
        )
        top_ids, top_logits = reference[f"top_ids_{i}"], reference[f"top_logits_{i}"]
        pairs.append((top_logits, np.take_along_axis(scores, top_ids, axis=-1)))
        pairs.append((reference[f"log_sum_exp_{i}"], log_sum_exp(scores, np.float32)))
        choices.append((top_ids, top_logits, scores.argmax(axis=-1)))
    return parity.compare(pairs, choices, allowed)


def _source(dims: Dims, reference: parity.Arrays, row: int) -> dict[str, Tensor]:
    """What the encoder reads of one input, without padding."""
    if "source" not in reference:
        return {}
    if dims.source_shape:
        return {SOURCES[dims.source_name]: torch.from_numpy(reference["source"][row : row + 1])}
    length = int(reference["source_length"][row])
    if dims.samples is not None:
        return {SOURCES["samples"]: torch.from_numpy(reference["source"][row : row + 1, :length])}
    names = {"source": "input_ids", "token_types": "token_type_ids"}
    # Some take what looks like padding out of a text, unless they are told that it is none.
    every = torch.ones((1, length), dtype=torch.int64)
    return {
        "attention_mask": every,
        **{
            theirs: torch.from_numpy(reference[ours][row : row + 1, :length])
            for ours, theirs in names.items()
            if ours in reference
        },
    }


def _inputs(dims: Dims, reference: parity.Arrays, row: int, ids: list[int]) -> dict[str, Tensor]:
    """The arguments of the original's call, for a whole sequence."""
    sequence = torch.tensor([ids])
    if dims.kind == "decoder":
        return {"input_ids": sequence}
    return {**_source(dims, reference, row), "decoder_input_ids": sequence}


def _logits(
    original: nn.Module, dims: Dims, reference: parity.Arrays, row: int, ids: list[int]
) -> NDArray[np.float32]:
    """Logits behind each of the ids, (length, vocab)."""
    logits: NDArray[np.float32] = original(**_inputs(dims, reference, row, ids)).logits[0].numpy()
    return logits


def _pooled(
    original: nn.Module, checkpoint: Path, dims: Dims, reference: parity.Arrays
) -> Iterator[parity.Pair]:
    """What an encoder-only model answers, input by input.

    Embeddings are the original's hidden states, pooled by the rules of the checkpoint's folder.
    """
    if dims.dense:
        ours = load_checkpoint(checkpoint, task=dims.task).model
    else:
        with torch.device("meta"):  # no weights are needed
            ours = Transformer(dims)
    for row, recorded in enumerate(reference["pooled"]):
        answer = original(**_source(dims, reference, row))
        if dims.head == "classifier":
            yield recorded, answer.logits[0].numpy()
            continue
        if dims.head == "sparse":
            yield recorded, torch.log1p(torch.relu(answer.logits[0].amax(dim=0))).numpy()
            continue
        if dims.head != "embedding":  # values of each token
            names = ("start_logits", "end_logits") if dims.head == "span" else ("logits",)
            values = [
                answer[name][0].reshape(-1, recorded.shape[1] // len(names)) for name in names
            ]
            yield recorded[: len(values[0])], torch.cat(values, dim=1).numpy()
            continue
        hidden = answer.last_hidden_state[0]  # (source, width)
        yield recorded, ours.embedding_of(POOLED[dims.pooling](hidden)).numpy()


def _scores(
    original: nn.Module, dims: Dims, reference: parity.Arrays, tokens: tuple[int, ...]
) -> Iterator[parity.Pair]:
    """The logit of the first token behind an input, less that of the second if there is one."""
    for row, recorded in enumerate(reference["pooled"]):
        logits = original(**_source(dims, reference, row)).logits[0, -1, list(tokens)].numpy()
        yield recorded, logits[:1] - logits[1:] if len(tokens) > 1 else logits


def _first_difference(
    original: nn.Module, model: Transformer, dims: Dims, reference: parity.Arrays, allowed: float
) -> str:
    """The first place where the hidden states of the first input differ, in words."""
    ids = parity.histories(reference)[-1][0][1] if "prompt" in reference else []
    inputs = _inputs(dims, reference, 0, ids) if ids else _source(dims, reference, 0)
    theirs = original(**inputs, output_hidden_states=True)
    ours = _hidden_states(model, inputs)
    attributes = {"encoder": "encoder_hidden_states", "decoder": "decoder_hidden_states"}
    if dims.kind != "encoder-decoder":
        attributes = {dims.kind: "hidden_states"}
    for side, attribute in attributes.items():
        states = getattr(theirs, attribute, None) or ()
        last = getattr(theirs, f"{side}_last_hidden_state", None)
        if last is not None:  # some classes give the last one without the norm among the others
            states = (*states[:-1], last)
        for i, (state, mine) in enumerate(zip(states, ours[side], strict=False)):
            largest = float(state.abs().max())
            if float((state - mine).abs().max()) > max(allowed, 1e-4 * largest):
                return f"the {side}'s {f'layer {i - 1}' if i else 'embedding'}"
    return "what follows the layers"


def _hidden_states(model: Transformer, inputs: dict[str, Tensor]) -> dict[str, list[Tensor]]:
    """What our stacks hold: embedded, then behind each layer, the last one normalised."""
    states: dict[str, list[Tensor]] = {}

    def watch(side: str) -> None:
        stack = getattr(model, side)
        mine = states.setdefault(side, [])
        for layer in dict.fromkeys(stack.layers):  # one may serve for all
            layer.register_forward_pre_hook(lambda _, args: mine.append(args[0]))
        stack.final_norm.register_forward_hook(lambda _, __, out: mine.append(out))

    for side in ("encoder", "decoder"):
        if hasattr(model, side):
            watch(side)
    source: list[Any] = []
    length = None
    if model.dims.encoder is not None:
        read = inputs[SOURCES[model.dims.source_name]]
        dims, samples = model.dims, None
        length = torch.tensor([dims.source_positions or dims.positions_of(read.shape[1])])
        if dims.samples is not None:
            samples = torch.tensor([read.shape[1]])
        encoded = model.encode(read, length, inputs.get("token_type_ids"), samples)
        source = model.project_source(encoded) if model.dims.decoder is not None else []
    if model.dims.decoder is not None:
        name = "decoder_input_ids" if model.dims.encoder is not None else "input_ids"
        model.decode(inputs[name], source, length)
    return states


def main() -> None:
    """Print what came of it as one line of JSON; dims come on standard input."""
    checkpoint, reference = map(Path, sys.argv[1:])
    values, tokens = json.load(sys.stdin)
    try:
        dims = Dims.from_dict(values)
        comparison = compare(checkpoint, dims, read_reference(reference), tuple(tokens))
        answer = dataclasses.asdict(comparison)
    except NoOriginalError as error:
        answer = {"reason": str(error)}
    print(json.dumps(answer))  # noqa: T201 - it is what the other process reads


if __name__ == "__main__":
    main()
