"""Doing once what a bundle is made for: its tokenizer, chat template, defaults and task.

What runs here can run; what fails, or gives nothing that could be told from nothing, is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from seq2edge.bundle.lexicon import read_lexicon
from seq2edge.bundle.shortlist import read_shortlist
from seq2edge.errors import BackendError, BundleError, CapacityError, InputError, Seq2EdgeError
from seq2edge.runtime.backend import Features, all_logits
from seq2edge.runtime.options import DecodeOptions
from seq2edge.runtime.recorded import read_recorded
from seq2edge.runtime.rules import format_of

if TYPE_CHECKING:
    from seq2edge.runtime.model import Model
    from seq2edge.runtime.sequences import GeneratedSequence
    from seq2edge.runtime.tokenizer import Tokenizer

TOKENS = 8  # that are generated at most
PLACES = 8  # of the vocabulary, from which words are taken
WORDS = 3  # of a text made of them
EDGE = 8  # pixels of an image


def rehearse(model: Model) -> Iterator[str]:
    """Do once what the model is made for; a line for each part that was done.

    Raises BundleError with what cannot be done.
    """
    bundle = model.bundle
    try:
        texts = ["", ""]
        if bundle.manifest.tokenizer is not None:
            texts = check_tokenizer(model.tokenizer, model.dims.source_vocab or model.dims.vocab)
            yield "tokenizer: texts become tokens, and tokens texts"
        if bundle.manifest.tokenizer is not None and bundle.manifest.tokenizer.chat_template:
            _check_chats(model, texts)
            yield "chat template: writes what is asked"
            yield _told_of_tools(model)
        _check_lists(model, texts[0])
        yield f"{bundle.manifest.task}: {_TASKS[bundle.manifest.task](model, texts)}"
    except Seq2EdgeError as error:
        raise BundleError(f"{bundle.path}: cannot {bundle.manifest.task}: {error}") from error


def check_tokenizer(tokenizer: Tokenizer, rows: int) -> list[str]:
    """Two texts that the tokenizer tells apart; `rows` is how many tokens have an embedding.

    Raises InputError for tokens that have none, special tokens that are unknown, and where all
    texts have the same known tokens or all tokens are the same text.
    """
    end = tokenizer.record.unknown_from
    for token, number in tokenizer.source_tokens().items():
        if number >= rows and (end is None or number < end):
            raise InputError(f"tokenizer: {token!r} has the id {number}, the vocabulary has {rows}")
    for name, token in vars(tokenizer.record.special).items():
        if token is not None and tokenizer.token_id(token) < 0:
            raise InputError(f"tokenizer: special token {name}: {token!r} is none of its tokens")
    known = {
        tuple(set(tokenizer.encode(text, special_tokens=False)) - tokenizer.unknown_ids): text
        for text in _texts(tokenizer)
    }
    texts = [text for ids, text in known.items() if ids and max(ids) < rows]
    if len(texts) < 2:
        raise InputError("tokenizer: it tells no two texts apart")
    numbers = sorted(tokenizer.ids_of_tokens().values())
    answers = [[numbers[place]] for place in _places(len(numbers))]
    answers += [tokenizer.encode_target(text) for text in texts]  # one byte may be no text
    if len({tokenizer.decode(ids) for ids in answers} - {""}) < 2:
        raise InputError("tokenizer: all tokens become the same text")
    return texts[:2]


def _texts(tokenizer: Tokenizer) -> Iterator[str]:
    """Texts of words that the tokenizer has, and of words that most have."""
    tokens = tokenizer.source_tokens()
    words = sorted(tokens, key=tokens.__getitem__)
    for place in _places(len(words)):
        yield tokenizer.join(words[place : place + WORDS]).strip()
    yield "Hello."
    yield "What is this?"


def _places(count: int) -> list[int]:
    """Some places of a sequence of that length."""
    return [(2 * i + 1) * count // (2 * PLACES) for i in range(PLACES)] if count else []


def _check_chats(model: Model, texts: Sequence[str]) -> None:
    """Different messages must become different prompts that the model can read."""
    if model.bundle.manifest.reranking is not None:
        return  # its template has roles of its own, and the task renders it
    prompts = [tuple(model.encode_chat([{"role": "user", "content": text}])) for text in texts]
    if prompts[0] == prompts[1]:
        raise InputError("chat template: it writes the same whatever a message says")
    options = _options(model, prompts[0])
    model.chat_request([{"role": "user", "content": texts[0]}], options)


def _told_of_tools(model: Model) -> str:
    """Whether a chat may call some: no error where it may not."""
    try:
        format_of(model, model.options)
    except InputError as error:
        return str(error)
    return "tools: its calls are read"


def _check_lists(model: Model, text: str) -> None:
    """A shortlist is that of the decoder's graph; a lexicon lets answers end."""
    listed, lexicon = read_shortlist(model.bundle), read_lexicon(model.bundle)
    if listed is not None:
        reference = read_recorded(model.bundle)
        memory = None
        if "source" in reference:
            memory = model.backend.encode(reference["source"], reference["source_length"])
        prompt = reference["prompt"]
        cache = model.backend.start(memory, len(prompt), None)
        logits = all_logits(model.backend.step(prompt, reference["prompt_length"], cache))
        if set(np.flatnonzero(np.isfinite(logits).any(axis=0)).tolist()) != listed:
            raise InputError("shortlist: the decoder computes the logits of other tokens")
    if lexicon is not None:
        allowed = lexicon.allowed(model.encode_text(text) if text else [])
        if not any(allowed[token] for token in model.options.eos_token_id):
            raise InputError("lexicon: it allows no end token, no answer could end")


def _options(model: Model, source: Any, prompt: Sequence[int] = ()) -> DecodeOptions:
    """The bundle's own defaults for a few tokens, where they fit the model as they are."""
    options = model.options.replace(decoder_prompt=prompt) if prompt else model.options
    try:
        limit = min(TOKENS, model.request(source, options).max_new_tokens)
    except CapacityError:
        if model.backend.capacity is None:
            raise
        limit = TOKENS  # an engine's cache is smaller than what the checkpoint wants
    return options.replace(
        max_new_tokens=limit,
        max_length=None,
        max_time=None,
        min_new_tokens=min(limit, options.min_new_tokens),
    )


def _ids(model: Model) -> list[int]:
    """What the first recorded input was, for models without a tokenizer."""
    reference = read_recorded(model.bundle)
    name = "prompt" if model.dims.kind == "decoder" else "source"
    length = int(reference[f"{name}_length"][0])
    return [int(token) for token in reference[name][0, :length]]


def _generate(model: Model, texts: Sequence[str]) -> str:
    if model.bundle.manifest.tokenizer is None:
        ids = _ids(model)
        return _answered(model, model.generate_ids([ids], _options(model, ids))[0])
    record = model.tokenizer.record
    target = next(iter(record.languages), None) if record.target_layout else None
    target = record.target_language or target
    ids = model.encode_text(texts[0], target_language=target)
    options = model.with_target_language(_options(model, ids), target)
    return _answered(model, model.generate(texts[:1], options, target_language=target)[0])


def _answered(model: Model, sequences: Sequence[GeneratedSequence]) -> str:
    count = model.options.num_return_sequences
    if len(sequences) != count or not all(np.isfinite(each.score) for each in sequences):
        raise InputError(f"{len(sequences)} answers where {count} were to come, or not likely ones")
    return f"answered with {len(sequences[0].ids)} tokens"


def _transcribe(model: Model, _: Sequence[str]) -> str:
    """Silence, as a clip where the window is the usual one."""
    speech = model.bundle.manifest.speech
    language = next(iter(speech.languages), None) if speech is not None else None
    prompt = model.speech_prompt(language, "transcribe")
    from seq2edge.runtime.sound import log_mel

    usual = model.dims.samples is not None or model.dims.frames == log_mel.FRAMES
    silence = np.zeros(model.dims.source_shape or log_mel.SAMPLING_RATE, dtype=np.float32)
    options = _options(model, silence, prompt)
    if model.bundle.manifest.tokenizer is None or not usual:
        return _answered(model, model.transcribe_ids(silence[None], options)[0])
    clip = np.zeros(log_mel.SAMPLING_RATE, dtype=np.float32)
    return _answered(model, model.transcribe([clip], options, language=language)[0])


def _read(model: Model, _: Sequence[str]) -> str:
    """A small image, where the bundle says how and Pillow is there to make it pixels."""
    pixels: Features = np.zeros(model.dims.source_shape, dtype=np.float32)
    options = _options(model, pixels)
    said = ""
    if model.bundle.manifest.images is not None:
        try:
            pixels = model.pixels(np.full((EDGE, 2 * EDGE, 3), 127, dtype=np.uint8))
        except BackendError as error:
            said = f", of pixels alone ({error})"
    sequences = model.read_ids(pixels[None], options)[0]
    if model.bundle.manifest.tokenizer is not None:
        model.tokenizer.decode(sequences[0].ids)
    return _answered(model, sequences) + said


def _classify(model: Model, texts: Sequence[str]) -> str:
    if model.bundle.manifest.tokenizer is None:
        return _finite(model.classify_ids([_ids(model)]), "scores of labels")
    if len(model.bundle.manifest.labels) == 1:
        return _finite([each.score for each in model.rerank(texts[0], texts)], "scores of pairs")
    return _finite(list(model.classify(texts[:1])[0].scores.values()), "scores of labels")


def _embed(model: Model, texts: Sequence[str]) -> str:
    if model.bundle.manifest.tokenizer is None:
        return _finite(model.embed_ids([_ids(model)]), "values")
    record = model.bundle.manifest.embedding
    vectors = [
        model.embed(texts[:1], prompt=prompt)
        for prompt in [None, *(record.prompts if record is not None else ())]
    ]
    return _finite(vectors, "values")


def _weigh(model: Model, texts: Sequence[str]) -> str:
    if model.bundle.manifest.tokenizer is None:
        return _finite(model.embed_ids([_ids(model)]), "weights")
    return _finite(list(model.weigh(texts[:1])[0].values()), "weights")


def _of_tokens(model: Model, texts: Sequence[str]) -> str:
    task = model.bundle.manifest.task
    if model.bundle.manifest.tokenizer is None:
        return _finite(model.token_logits([_ids(model)]), "scores")
    if task == "tag":
        return _finite([e.score for e in model.tag(texts[:1], ignore=())[0]], "entities")
    if task == "answer":
        answers = model.answer(texts[0], f"{texts[0]} {texts[1]}", top_k=2)
        return _finite([each.score for each in answers], "answers")
    mask = model.tokenizer.record.special.mask or ""
    fillings = model.fill(f"{texts[0]} {mask}")
    return _finite([each.score for each in fillings[0]], "fillings")


def _finite(values: Any, name: str) -> str:
    numbers = np.asarray(values)
    if not np.isfinite(numbers).all():
        raise InputError(f"{name}: some are no numbers")
    return f"gave {numbers.size} {name}"


_TASKS: dict[str, Callable[[Model, Sequence[str]], str]] = {
    "generate": _generate,
    "transcribe": _transcribe,
    "read": _read,
    "classify": _classify,
    "embed": _embed,
    "weigh": _weigh,
    "tag": _of_tokens,
    "answer": _of_tokens,
    "fill": _of_tokens,
}
