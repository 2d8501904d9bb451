"""What a model reads: texts, pairs, conversations, clips and images, as its graphs take them."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from seq2edge.bundle import Bundle
from seq2edge.bundle.shortlist import read_shortlist
from seq2edge.errors import InputError, OptionError
from seq2edge.runtime.backend import Backend, Features
from seq2edge.runtime.encoders import Text
from seq2edge.runtime.limits import Limits
from seq2edge.runtime.options import DecodeOptions
from seq2edge.runtime.tools import Tools, told_of

if TYPE_CHECKING:
    from seq2edge.runtime.images import Picture
    from seq2edge.runtime.tokenizer import EncodedText, Tokenizer

Ids = Sequence[int]
Audio: TypeAlias = "str | os.PathLike[str] | NDArray[np.float32]"


class Inputs:
    """A bundle on a backend, and how what comes in becomes ids, features or pixels."""

    def __init__(self, bundle: Bundle, backend: Backend, *, cut: bool) -> None:
        """Raises OptionError where `cut` is asked of a model that reads no text of its own."""
        encoder = bundle.manifest.dims.encoder
        if cut and (encoder is None or bundle.manifest.dims.reads_signal):
            raise OptionError("cut: this model has no encoder of texts, nothing can be cut")
        self._cut = cut
        self.bundle = bundle
        self.backend = backend
        self.dims = bundle.manifest.dims
        tokenizer = bundle.manifest.tokenizer
        self._limits = Limits(
            dims=self.dims,
            backend=backend,
            listed=read_shortlist(bundle),
            longest=tokenizer.text_limit if tokenizer is not None else None,
        )
        self._tokenizer: Tokenizer | None = None
        self._lock = threading.Lock()  # of what is made when it is first used

    @property
    def tokenizer(self) -> Tokenizer:
        """The bundle's tokenizer. Raises InputError where the checkpoint had none."""
        if self._tokenizer is None:
            record = self.bundle.manifest.tokenizer
            if record is None:
                raise InputError(f"{self.bundle.path}: has no tokenizer, use token ids")
            from seq2edge.runtime.tokenizer import Tokenizer

            with self._lock:  # one for all threads, since it counts
                if self._tokenizer is None:
                    self._tokenizer = Tokenizer(self.bundle.path, record)
        return self._tokenizer

    @property
    def text_positions(self) -> int | None:
        """How many tokens an encoder takes; None where any number."""
        return self._limits.text_positions(0)

    def read_text(
        self,
        text: Text,
        *,
        instruction: str | None = None,
        cut: bool | None = None,
        longest: int | None = None,
    ) -> EncodedText:
        """A text or a pair as an encoder reads it, with where each of its tokens comes from.

        With `cut`, by default as the model was loaded, as much as it has positions for, and no more
        than `longest` ids: see `encode_text`. A reranker that is a language model reads a pair as
        its prompt, with the `instruction`.
        """
        if not isinstance(text, str) and len(text) != 2:
            raise InputError(f"input: {text!r:.60} is neither a text nor a pair of texts")
        first, second = (text, None) if isinstance(text, str) else text
        longest = self._bound(longest, cut=cut)
        if self.bundle.manifest.reranking is not None:
            encoded = self._prompted(first, second, instruction, longest)
        elif instruction is not None:
            raise InputError(f"instruction: {self.bundle.path} takes none, it reads pairs alone")
        else:
            encoded = self.tokenizer.encode_texts(first, second, longest=longest)
        self._limits.check_text(encoded.ids, text)
        return encoded

    def _prompted(
        self, query: str, text: str | None, instruction: str | None, longest: int | None
    ) -> EncodedText:
        record = self.bundle.manifest.reranking
        assert record is not None
        if text is None:
            raise InputError(f"{self.bundle.path}: reads a query and a text; give pairs, or rerank")
        instruction = record.instruction if instruction is None else instruction
        messages = [{"role": "query", "content": query}, {"role": "document", "content": text}]
        if instruction:
            messages.insert(0, {"role": "system", "content": instruction})
        return self.tokenizer.encode_chat(
            messages, generation_prompt=record.generation_prompt, longest=longest
        )

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
        ids = self.tokenizer.encode(
            text,
            source_language=source_language,
            target_language=target_language,
            longest=self._bound(longest, cut=cut, new_tokens=new_tokens),
        )
        self._limits.check_text(ids, text)
        return ids

    def _bound(self, longest: int | None, *, cut: bool | None, new_tokens: int = 0) -> int | None:
        """The most ids of a text: `longest`, and with `cut` what there are positions for."""
        limits = [longest]
        if self._cut if cut is None else cut:
            limits.append(self._limits.text_positions(new_tokens))
        return min((limit for limit in limits if limit is not None), default=None)

    def encode_chat(
        self, messages: Sequence[Mapping[str, Any]], tools: Tools | None = None
    ) -> list[int]:
        """The ids that the model reads of a conversation, up to where its answer begins."""
        told = told_of(tools)
        prompt = self.tokenizer.render_chat(
            list(messages), tools=None if told is None else told.definitions
        )
        return self.tokenizer.encode(prompt, special_tokens=False)

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
        """What the encoder reads of a clip, as `transcribe` takes it.

        Log-mel features (mels, frames), or the samples (length,) of a model that reads these.
        """
        from seq2edge.runtime.sound import log_mel, recording

        if self.dims.samples is not None:
            return self._samples(clip)
        if self.dims.frames != log_mel.FRAMES:
            seconds = self.dims.frames * log_mel.HOP / log_mel.SAMPLING_RATE
            raise InputError(
                f"{self.bundle.path}: made for windows of {seconds:.1f} s, only 30 s are supported"
            )
        samples = clip if isinstance(clip, np.ndarray) else recording.read_clip(clip)
        return log_mel.log_mel(np.asarray(samples, dtype=np.float32), mels=self.dims.mels)

    def _samples(self, clip: Audio) -> Features:
        from seq2edge.runtime.sound import log_mel, recording

        longest = self.dims.longest_clip // log_mel.SAMPLING_RATE
        if not isinstance(clip, np.ndarray):
            clip = recording.read_clip(clip, seconds=longest)
        samples: Features = np.asarray(clip, dtype=np.float32)
        log_mel.check_samples(samples)
        log_mel.check_seconds(len(samples) / log_mel.SAMPLING_RATE, longest=longest)
        return samples

    def check_signal(self, signal: Features) -> None:
        """Raise InputError for features, samples and pixels that are not of the encoder's shape."""
        shape, samples = np.shape(signal), self.dims.samples
        if samples is None and shape != self.dims.source_shape:
            raise InputError(
                f"{self.dims.source_name}: shape {shape}, the encoder takes "
                f"{self.dims.source_shape}"
            )
        if samples is None:
            return
        least, most = samples.length(1), self.dims.longest_clip
        if len(shape) != 1 or not least <= shape[0] <= most:
            raise InputError(
                f"samples: shape {shape}, the encoder takes those of a clip, {least:,} to {most:,}"
            )

    def pixels(self, image: Picture) -> Features:
        """What the encoder reads of an image, (channels, height, width), as `read` takes it."""
        from seq2edge.runtime import images

        record = self.bundle.manifest.images
        if record is None:
            raise InputError(
                f"{self.bundle.path}: its checkpoint did not say how images become pixels; give "
                "pixels to read_ids"
            )
        return images.pixels(image, record)

    def signal(self, source: str | os.PathLike[str]) -> Features:
        """What the encoder reads of a file: `features` of a clip or `pixels` of an image."""
        return self.pixels(source) if self.dims.image is not None else self.features(source)

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

    def _require(self, task: str) -> None:
        made_to = self.bundle.manifest.task
        if made_to != task:
            raise InputError(f"{self.bundle.path}: made to {made_to}, it cannot {task}")


def _choose(name: str, value: str | None, known: Any) -> int:
    if value not in known:
        raise InputError(f"{name}: {value!r} is unknown, known: {', '.join(sorted(known))}")
    return int(known[value])


def refuse_one_string(values: Any) -> None:
    """Raise InputError for what is no list: a text is a sequence of texts too."""
    if isinstance(values, (str, bytes, np.ndarray)) or not hasattr(values, "__iter__"):
        raise InputError("input: give a list, also for one text, clip or image")
