"""The public runtime: load a bundle, then generate, transcribe, classify or embed.

Everything textual stands on `Model.generate_ids` and on the backend seam below it.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from seq2edge.bundle import Bundle
from seq2edge.errors import CapacityError, InputError, OptionError
from seq2edge.runtime.backend import Backend, Features, Lengths, Memory, Tokens, open_backend
from seq2edge.runtime.decoding import GeneratedSequence, decode
from seq2edge.runtime.options import DecodeOptions

if TYPE_CHECKING:
    from seq2edge.runtime.tokenizer import Tokenizer

DEFAULT_NEW_TOKENS = 256  # where neither the options nor the checkpoint say
Ids = Sequence[int]
Audio: TypeAlias = "str | os.PathLike[str] | NDArray[np.float32]"


@dataclasses.dataclass(frozen=True, kw_only=True)
class GeneratedText:
    """One sequence as text. `score` as in `GeneratedSequence`; `finished`: it ended by itself."""

    text: str
    ids: tuple[int, ...]
    score: float
    finished: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classification:
    """The best label and the scores of all; probabilities unless the model is a regression."""

    label: str
    scores: dict[str, float]


def load(
    path: str | os.PathLike[str],
    *,
    device: str = "auto",
    threads: int | None = None,
    graphs: str | None = None,
    hashes: bool = False,
    cut: bool = False,
) -> Model:
    """Open a bundle on the best backend that works here; `model.reason` says which and why.

    device: auto, cpu, cuda or tensorrt; threads: for the CPU, all cores by default; graphs:
    canonical or onnxruntime, by default the fastest; hashes: also read and check every file;
    cut: read long texts up to the encoder's positions instead of refusing them
    (`model.tokenizer.shortened` counts those).
    Raises BundleError for a damaged bundle, BackendError where nothing here can run it, and
    EngineError where tensorrt was asked for and its engine does not work.
    """
    bundle = Bundle.open(path, hashes=hashes)
    backend, reason = open_backend(bundle, device=device, threads=threads, graphs=graphs)
    return Model(bundle, backend, reason=reason, cut=cut)


class Model:
    """A bundle on a backend."""

    def __init__(
        self, bundle: Bundle, backend: Backend, *, reason: str = "", cut: bool = False
    ) -> None:
        """Raises OptionError where `cut` is asked of a model that reads no text of its own."""
        encoder = bundle.manifest.dims.encoder
        if cut and (encoder is None or bundle.manifest.dims.mels):
            raise OptionError("cut: this model has no encoder of texts, nothing can be cut")
        self._cut = cut
        self.bundle = bundle
        self.backend = backend
        self.reason = reason
        self.dims = bundle.manifest.dims
        self.options = DecodeOptions.from_dict(dict(bundle.manifest.generation or {}))
        self._tokenizer: Tokenizer | None = None

    @property
    def tokenizer(self) -> Tokenizer:
        """The bundle's tokenizer. Raises InputError where the checkpoint had none."""
        if self._tokenizer is None:
            record = self.bundle.manifest.tokenizer
            if record is None:
                raise InputError(f"{self.bundle.path}: has no tokenizer, use token ids")
            from seq2edge.runtime.tokenizer import Tokenizer

            self._tokenizer = Tokenizer(self.bundle.path, record)
        return self._tokenizer

    def generate_ids(
        self, prompts: Sequence[Ids], options: DecodeOptions | None = None
    ) -> list[list[GeneratedSequence]]:
        """For each prompt `num_return_sequences` sequences, best first.

        A prompt is a decoder-only model's beginning, or an encoder-decoder model's source. Without
        options the checkpoint's own defaults hold. Raises InputError, OptionError, CapacityError.
        """
        self._require("generate")
        options = options or self.options
        if not prompts:
            return []
        vocab = self.dims.vocab if self.dims.kind == "decoder" else self.dims.source_vocab
        self._check_ids(prompts, vocab or self.dims.vocab)
        if self.dims.kind == "decoder":
            return self._decode(None, prompts, options)
        tokens, lengths = _pad(prompts)
        self._check_source(lengths)
        memory = self.backend.encode(tokens, lengths)
        return self._decode(memory, [self.start_tokens(options)] * len(prompts), options)

    def generate(
        self,
        prompts: Sequence[str],
        options: DecodeOptions | None = None,
        *,
        source_language: str | None = None,
        target_language: str | None = None,
    ) -> list[list[GeneratedText]]:
        """`generate_ids` on text. Languages are codes of a multilingual model's tokenizer."""
        _refuse_one_string(prompts)
        self._require("generate")
        ids = [
            self.encode_text(
                prompt, source_language=source_language, target_language=target_language
            )
            for prompt in prompts
        ]
        options = self.with_target_language(options or self.options, target_language)
        return [self._texts(sequences) for sequences in self.generate_ids(ids, options)]

    def chat(
        self, messages: Sequence[dict[str, str]], options: DecodeOptions | None = None
    ) -> list[GeneratedText]:
        """Answers to a conversation of `{"role": ..., "content": ...}` messages, best first."""
        prompt = self.tokenizer.render_chat(list(messages))
        ids = self.tokenizer.encode(prompt, special_tokens=False)
        return self._texts(self.generate_ids([ids], options)[0])

    def transcribe(
        self,
        clips: Sequence[Audio],
        options: DecodeOptions | None = None,
        *,
        language: str | None = None,
        task: str = "transcribe",
    ) -> list[list[GeneratedText]]:
        """Text of audio clips: paths of WAVE files, or samples (length,) float32 at 16 kHz.

        `language` is needed where the model knows several. Raises InputError for longer clips
        than the model's window.
        """
        _refuse_one_string(clips)
        self._require("transcribe")
        if not clips:
            return []
        options = options or self.options
        options = options.replace(decoder_prompt=self.speech_prompt(language, task))
        features = np.stack([self.features(clip) for clip in clips])
        return [self._texts(sequences) for sequences in self.transcribe_ids(features, options)]

    def transcribe_ids(
        self, features: Features, options: DecodeOptions | None = None
    ) -> list[list[GeneratedSequence]]:
        """For log-mel features (batch, mels, frames) the sequences of each clip, best first."""
        self._require("transcribe")
        options = options or self.options
        lengths = np.full(len(features), self.dims.frames // 2, dtype=np.int64)
        memory = self.backend.encode(features, lengths)
        return self._decode(memory, [self.start_tokens(options)] * len(features), options)

    def classify(self, texts: Sequence[str]) -> list[Classification]:
        """The label of each text, with the scores of all labels."""
        _refuse_one_string(texts)
        self._require("classify")
        if not texts:
            return []
        manifest = self.bundle.manifest
        scores = self.classify_ids(self._encoded(texts))
        return [
            Classification(
                label=manifest.labels[int(row.argmax())],
                scores={
                    label: float(score) for label, score in zip(manifest.labels, row, strict=True)
                },
            )
            for row in scores
        ]

    def classify_ids(self, sources: Sequence[Ids]) -> NDArray[np.float32]:
        """Scores (batch, labels): probabilities, or plain values of a regression."""
        self._require("classify")
        logits = self._pool(sources)
        problem = self.bundle.manifest.problem
        if problem == "regression":
            return logits
        if problem == "multi_label":
            sigmoid = (np.tanh(logits / 2) + 1) / 2  # this form never overflows
            return sigmoid.astype(np.float32)
        exponent = np.exp(logits - logits.max(axis=-1, keepdims=True))
        softmax: NDArray[np.float32] = exponent / exponent.sum(axis=-1, keepdims=True)
        return softmax

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Sentence embeddings, (batch, width)."""
        _refuse_one_string(texts)
        self._require("embed")
        return self.embed_ids(self._encoded(texts))

    def embed_ids(self, sources: Sequence[Ids]) -> NDArray[np.float32]:
        """Sentence embeddings of token ids, (batch, width)."""
        self._require("embed")
        if not sources:
            return np.empty((0, self.dims.width), dtype=np.float32)
        return self._pool(sources)

    def encode_text(
        self,
        text: str,
        *,
        cut: bool | None = None,
        new_tokens: int = 0,
        longest: int | None = None,
        source_language: str | None = None,
        target_language: str | None = None,
    ) -> list[int]:
        """The ids that the model reads of a text, special ones included: all, or with `cut` a part.

        With `cut` (by default as the model was loaded) as many are read as it has positions for. An
        encoder's positions hold the text alone. Those of a decoder-only model hold its answer too:
        `new_tokens` of them stay free, but for one that it reads at least. `longest` is another
        limit, also without `cut`. The special tokens around every text are kept, and
        `tokenizer.shortened` counts the texts cut. Raises InputError as `tokenizer.encode`.
        """
        limits = [longest]
        if self._cut if cut is None else cut:
            limits.append(self._positions_of_text(new_tokens))
        return self.tokenizer.encode(
            text,
            source_language=source_language,
            target_language=target_language,
            longest=min((limit for limit in limits if limit is not None), default=None),
        )

    def with_target_language(self, options: DecodeOptions, language: str | None) -> DecodeOptions:
        """The options that ask a multilingual model for a language, by default its tokenizer's."""
        target = self.tokenizer.target_token(language)
        layout = self.tokenizer.record.target_layout
        if target is not None and layout == "forced":
            return options.replace(forced_bos_token_id=target)
        if target is not None and layout == "start":
            return options.replace(decoder_start_token_id=target)
        return options

    def features(self, clip: Audio) -> Features:
        """Log-mel features (mels, frames) of a clip, as `transcribe` takes it."""
        from seq2edge.runtime import audio

        if self.dims.frames != audio.FRAMES:
            seconds = self.dims.frames * audio.HOP / audio.SAMPLING_RATE
            raise InputError(
                f"{self.bundle.path}: made for windows of {seconds:.1f} s, only 30 s are supported"
            )
        samples = clip if isinstance(clip, np.ndarray) else audio.read_clip(clip)
        return audio.log_mel(np.asarray(samples, dtype=np.float32), mels=self.dims.mels)

    def start_tokens(self, options: DecodeOptions) -> tuple[int, ...]:
        """The ids an encoder-decoder starts from. Raises OptionError where nobody says them."""
        start = options.decoder_start_token_id
        if start is None:
            start = options.bos_token_id
        if start is None:
            raise OptionError("decoder_start_token_id: neither the options nor the checkpoint has")
        return (start, *options.decoder_prompt)

    def speech_prompt(self, language: str | None, task: str) -> tuple[int, ...]:
        """The ids after the start that ask a speech model for a language and a task."""
        speech = self.bundle.manifest.speech
        ids: list[int] = []
        if speech is not None and speech.languages:
            ids.append(_choose("language", language, speech.languages))
            ids.append(_choose("task", task, speech.tasks))
        elif language not in (None, "en") or task != "transcribe":
            raise InputError("language: this model knows English alone, and no other task")
        if speech is not None and speech.no_timestamps is not None:
            ids.append(speech.no_timestamps)
        return tuple(ids)

    def _encoded(self, texts: Sequence[str]) -> list[list[int]]:
        return [self.encode_text(text) for text in texts]

    def _pool(self, sources: Sequence[Ids]) -> NDArray[np.float32]:
        self._check_ids(sources, self.dims.vocab)
        tokens, lengths = _pad(sources)
        self._check_source(lengths)
        return self.backend.pool(tokens, lengths)

    def _decode(
        self, memory: Memory | None, prompts: Sequence[Ids], options: DecodeOptions
    ) -> list[list[GeneratedSequence]]:
        longest = max(map(len, prompts))
        limit = self._new_tokens(longest, options)
        if options.capacity is not None and longest + limit > options.capacity:
            raise CapacityError(
                f"capacity: a prompt of {longest} and {limit} new tokens do not fit "
                f"{options.capacity}; set a larger capacity, none, or a lower max_new_tokens"
            )
        return decode(self.backend, memory, prompts, options, max_new_tokens=limit)

    def _new_tokens(self, prompt: int, options: DecodeOptions) -> int:
        """How many tokens may follow the prompt; what positions or an engine's cache leave."""
        positions, has = self._decoder_positions()
        room = positions - prompt if positions is not None else None
        if room is not None and room < 1:
            raise CapacityError(f"prompt: {prompt} tokens, {has}")
        asked = options.max_new_tokens
        if asked is None and options.max_length is not None:
            asked = options.max_length - prompt
            if asked < 1:
                raise OptionError(f"max_length: {options.max_length}, the prompt has {prompt}")
            return asked if room is None else min(asked, room)
        if asked is not None and room is not None and asked > room:
            raise CapacityError(f"max_new_tokens: {asked} after a prompt of {prompt}, {has}")
        return asked or min(DEFAULT_NEW_TOKENS, room or DEFAULT_NEW_TOKENS)

    def _decoder_positions(self) -> tuple[int | None, str]:
        """How many tokens its positions or an engine's cache hold, and words on which it is."""
        assert self.dims.decoder is not None
        positions, capacity = self.dims.decoder.max_positions, self.backend.capacity
        if capacity is not None and (not positions or capacity < positions):
            has = f"the engine was built for {capacity} tokens; build with a larger --capacity"
            return capacity, has
        return positions or None, f"the model has {positions} positions"

    def _positions_of_text(self, new_tokens: int) -> int | None:
        """How many ids of a text have a position; None where any number has."""
        if self.dims.encoder is not None:
            return self.dims.encoder.max_positions or None
        positions, _ = self._decoder_positions()
        return None if positions is None else max(1, positions - new_tokens)

    def _texts(self, sequences: Sequence[GeneratedSequence]) -> list[GeneratedText]:
        return [
            GeneratedText(
                text=self.tokenizer.decode(sequence.ids),
                ids=sequence.ids,
                score=sequence.score,
                finished=sequence.finished,
            )
            for sequence in sequences
        ]

    def _require(self, task: str) -> None:
        found = self.bundle.manifest.task
        if found != task:
            raise InputError(f"{self.bundle.path}: made to {found}, it cannot {task}")

    def _check_ids(self, prompts: Sequence[Ids], vocab: int) -> None:
        for number, prompt in enumerate(prompts):
            if not len(prompt):
                raise InputError(f"prompt {number}: has no tokens")
            for token in prompt:
                if not 0 <= token < vocab:
                    raise InputError(f"prompt {number}: id {token}, the vocabulary has {vocab}")

    def _check_source(self, lengths: Lengths) -> None:
        assert self.dims.encoder is not None
        limit = self.dims.encoder.max_positions
        if limit and lengths.max() > limit:
            raise InputError(
                f"source {int(lengths.argmax())}: {lengths.max()} tokens, the model takes {limit}; "
                "shorten it, or load the model with cut (--cut)"
            )


def _choose(name: str, value: str | None, known: Any) -> int:
    if value not in known:
        raise InputError(f"{name}: {value!r} is unknown, known: {', '.join(sorted(known))}")
    return int(known[value])


def _pad(prompts: Sequence[Ids]) -> tuple[Tokens, Lengths]:
    """Right-padded ids (batch, longest) and lengths (batch,); no graph looks at the padding."""
    lengths = np.array([len(prompt) for prompt in prompts], dtype=np.int64)
    tokens = np.zeros((len(prompts), int(lengths.max())), dtype=np.int64)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)] = prompt
    return tokens, lengths


def _refuse_one_string(values: Any) -> None:
    if isinstance(values, (str, bytes, np.ndarray)):
        raise InputError("input: give a list, also for one text or clip")
