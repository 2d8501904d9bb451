"""The public runtime: load a bundle, then generate, transcribe, classify or embed.

Everything textual stands on `Model.generate_ids` and on the backend seam below it.
"""

from __future__ import annotations

import collections
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from seq2edge.bundle import Bundle
from seq2edge.bundle.lexicon import read_lexicon
from seq2edge.bundle.manifest import MANIFEST
from seq2edge.bundle.origin import KeyFile
from seq2edge.errors import BundleError, InputError, OptionError
from seq2edge.runtime.backend import Backend, Features, Memory, open_backend
from seq2edge.runtime.group import Group
from seq2edge.runtime.inputs import Audio, Ids, refuse_one_string
from seq2edge.runtime.options import DecodeOptions
from seq2edge.runtime.request import Request, rows_of
from seq2edge.runtime.rules import rules_of
from seq2edge.runtime.scheduler import ROWS, Scheduler, decode
from seq2edge.runtime.scoring import ScoredSequence, score_labels
from seq2edge.runtime.sequences import GeneratedSequence, GeneratedText, pad
from seq2edge.runtime.speculation import check_draft, make_drafter
from seq2edge.runtime.streaming import StopStrings, TextStream, cut_at_stop
from seq2edge.runtime.understanding import Understanding

if TYPE_CHECKING:
    from seq2edge.runtime.images import Picture
    from seq2edge.runtime.service import Reply, Service
    from seq2edge.runtime.session import Session
    from seq2edge.runtime.tools import Tools
    from seq2edge.runtime.words import WordAlignment

MOST_ROWS = 1000  # of one text, as a bundle's own defaults; whoever calls may ask for more
AHEAD = 2  # times as many texts as are decoded at a time are read ahead


def load(
    path: str | os.PathLike[str],
    *,
    device: str = "auto",
    threads: int | None = None,
    graphs: str | None = None,
    hashes: bool = False,
    require_key: KeyFile | Sequence[KeyFile] | None = None,
    sha256: str | None = None,
    trust_engines: bool = False,
    cut: bool = False,
    draft: str | os.PathLike[str] | None = None,
) -> Model:
    """Open a bundle on the best backend that works here; `model.reason` says which and why.

    device: auto, cpu, cuda or tensorrt; threads: for the CPU, all cores by default; graphs:
    canonical or onnxruntime, by default the fastest; hashes: also read and check every file;
    require_key: files of public keys, one of which must have signed the bundle and its draft;
    sha256: the hash that the manifest must have (`seq2edge inspect` prints it), both with hashes;
    trust_engines: open TensorRT engines, which are code, that were not built on this machine too;
    cut: read long texts up to the encoder's positions instead of refusing them
    (`model.tokenizer.shortened` counts those); draft: the bundle of a smaller model of the same
    vocabulary, which guesses tokens that this one verifies.
    Raises BundleError for a damaged bundle, BackendError where nothing here can run it, and
    EngineError where tensorrt was asked for and its engine does not work.
    """
    if sha256 is not None and draft is not None:
        raise OptionError("sha256: pins one bundle; load the draft apart, and call `use_draft`")
    bundle = Bundle.open(
        path, hashes=hashes, require_key=require_key, sha256=sha256, trust_engines=trust_engines
    )
    backend, reason = open_backend(bundle, device=device, threads=threads, graphs=graphs)
    model = Model(bundle, backend, reason=reason, cut=cut)
    if draft is not None:
        guesses = load(
            draft,
            device=device,
            threads=threads,
            graphs=graphs,
            hashes=hashes,
            require_key=require_key,
            trust_engines=trust_engines,
        )
        model.use_draft(guesses)
    return model


class Model(Understanding):
    """A bundle on a backend. For any thread: calls share nothing but what none of them changes."""

    def __init__(
        self, bundle: Bundle, backend: Backend, *, reason: str = "", cut: bool = False
    ) -> None:
        """Raises OptionError where `cut` is asked of a model that reads no text of its own.

        BundleError for decoding defaults and a lexicon that do not fit the model.
        """
        super().__init__(bundle, backend, cut=cut)
        self.reason = reason
        try:
            self.options = DecodeOptions.from_dict(dict(bundle.manifest.generation or {}))
            self._limits.check_options(self.options)
            if (rows := rows_of(self.options)) > MOST_ROWS:
                raise OptionError(f"{rows:,} beams or samples of a text, at most {MOST_ROWS:,}")
        except OptionError as error:
            place = f"{bundle.path / MANIFEST}: generation"
            raise BundleError(f"{place}: {error}; export the checkpoint again") from error
        self._lexicon = read_lexicon(bundle)
        self._draft: Model | None = None
        self._service: Service | None = None  # of the asynchronous calls

    def use_draft(self, draft: Model) -> None:
        """Let a smaller model guess what this one generates. Raises OptionError if it cannot."""
        check_draft(self, draft)
        self._draft = draft

    @property
    def draft(self) -> Model | None:
        """What guesses for it. See `use_draft`."""
        return self._draft

    def generate_ids(
        self, prompts: Sequence[Ids], options: DecodeOptions | None = None
    ) -> list[list[GeneratedSequence]]:
        """For each prompt `num_return_sequences` sequences, best first.

        A prompt is a decoder-only model's beginning, or an encoder-decoder model's source. Without
        options the checkpoint's own defaults hold. Raises InputError, OptionError, CapacityError.
        """
        self._require("generate")
        return decode(self.backend, self._requests(prompts, options or self.options))

    def _requests(self, prompts: Sequence[Ids], options: DecodeOptions) -> list[Request]:
        """Those of some ids, which are checked together."""
        if prompts:
            self._limits.check_prompts(prompts)
        return [self.request(prompt, options) for prompt in prompts]

    def generate(
        self,
        prompts: Sequence[str],
        options: DecodeOptions | None = None,
        *,
        source_language: str | None = None,
        target_language: str | None = None,
    ) -> list[list[GeneratedText]]:
        """`generate_ids` on text. Languages are codes of a multilingual model's tokenizer."""
        refuse_one_string(prompts)
        self._require("generate")
        ids = [
            self.encode_text(
                prompt, source_language=source_language, target_language=target_language
            )
            for prompt in prompts
        ]
        options = self.with_target_language(options or self.options, target_language)
        return self._decode(self._requests(ids, options))

    def generate_each(
        self,
        prompts: Iterable[str],
        options: DecodeOptions | None = None,
        *,
        rows: int = ROWS,
        source_language: str | None = None,
        target_language: str | None = None,
    ) -> Iterator[list[GeneratedText]]:
        """`generate` for any number of texts, in their order; `rows` sequences at a time.

        Texts are taken from `prompts` as they are needed: those behind a long answer are decoded
        beside it. Raises InputError for a text that cannot be read, behind the answers to those
        before it.
        """
        self._require("generate")
        options = self.with_target_language(options or self.options, target_language)
        ids = (
            self.encode_text(
                prompt, source_language=source_language, target_language=target_language
            )
            for prompt in prompts
        )
        return self._each(ids, options, rows)

    def chat_each(
        self,
        chats: Iterable[Sequence[Mapping[str, Any]]],
        options: DecodeOptions | None = None,
        *,
        rows: int = ROWS,
        tools: Tools | None = None,
    ) -> Iterator[list[GeneratedText]]:
        """`chat` for any number of conversations; see `generate_each`."""
        self._require("generate")
        ids = (self.encode_chat(messages, tools) for messages in chats)
        return self._each(ids, options or self.options, rows, tools)

    def score_ids(
        self,
        sequences: Sequence[Ids],
        targets: Sequence[Ids] | None = None,
        options: DecodeOptions | None = None,
    ) -> list[ScoredSequence]:
        """How likely the model finds each sequence, as one batch; nothing is added to the ids.

        A decoder-only model is given sequences alone, and scores the tokens after the first. An
        encoder-decoder scores all tokens of `targets` as its output for `sequences`, after the
        start tokens of `options` (by default the checkpoint's). Raises InputError and OptionError.
        """
        self._require("generate")
        if (targets is None) != (self.dims.kind == "decoder"):
            needs = "takes no targets" if targets is not None else "needs a target for each source"
            raise InputError(f"score: a model of kind {self.dims.kind} {needs}")
        if not sequences:
            return []
        if targets is None:
            self._limits.check_ids(sequences, self.dims.vocab)
            prompts = [ids[:1] for ids in sequences]
            return self._score(None, prompts, [ids[1:] for ids in sequences])
        if len(targets) != len(sequences):
            raise InputError(f"score: {len(targets)} targets for {len(sequences)} sources")
        self._limits.check_ids(targets, self.dims.vocab)
        starts = [self.start_tokens(options or self.options)] * len(targets)
        return self._score(self._encode(sequences), starts, targets)

    def score(
        self,
        texts: Sequence[str],
        targets: Sequence[str] | None = None,
        *,
        source_language: str | None = None,
        target_language: str | None = None,
    ) -> list[ScoredSequence]:
        """`score_ids` on text: of a decoder-only model's texts, or of targets given sources.

        A target counts with the language token that is forced before it and the end token behind
        it, as `generate` counts them; a text with the special tokens that inputs have.
        """
        refuse_one_string(texts)
        self._require("generate")
        ids = [
            self.encode_text(text, source_language=source_language, target_language=target_language)
            for text in texts
        ]
        if targets is None:
            return self.score_ids(ids)
        refuse_one_string(targets)
        options = self.with_target_language(self.options, target_language)
        first = () if options.forced_bos_token_id is None else (options.forced_bos_token_id,)
        end = options.eos_token_id[:1]
        outputs = [(*first, *self.tokenizer.encode_target(text), *end) for text in targets]
        return self.score_ids(ids, outputs, options)

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        options: DecodeOptions | None = None,
        *,
        tools: Tools | None = None,
    ) -> list[GeneratedText]:
        """Answers to a conversation of `{"role": ..., "content": ...}` messages, best first.

        With `tools` an answer may ask for some, in its `tool_calls`, by rules that keep these to
        the tools' schemas; its `message` and one of the role "tool" with what each call gave go on
        with the conversation. Needs `seq2edge[constraints]`; raises InputError where the chat
        template knows no tools.
        """
        return self._decode([self.chat_request(messages, options, tools=tools)])[0]

    def stream(
        self,
        prompt: str,
        options: DecodeOptions | None = None,
        *,
        source_language: str | None = None,
        target_language: str | None = None,
    ) -> TextStream:
        """`generate` for one text, piece by piece, as soon as nothing can change a piece.

        In beam search that is what all beams have in common. Of several results the best one.
        """
        return self._stream(
            self.text_request(
                prompt,
                options,
                source_language=source_language,
                target_language=target_language,
            )
        )

    def stream_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        options: DecodeOptions | None = None,
        *,
        tools: Tools | None = None,
    ) -> TextStream:
        """`chat`, piece by piece; see `stream`. Calls of tools are in the result alone."""
        return self._stream(self.chat_request(messages, options, tools=tools))

    async def generate_async(
        self,
        prompts: Sequence[str],
        options: DecodeOptions | None = None,
        *,
        source_language: str | None = None,
        target_language: str | None = None,
    ) -> list[list[GeneratedText]]:
        """`generate` that holds up no event loop; calls meanwhile are decoded in one batch.

        It ends with its task. Texts are read at once, and may take `ROWS` rows each. A `Service`
        of your own bounds how many wait.
        """
        from seq2edge.runtime.service import results_of

        refuse_one_string(prompts)
        return await results_of(
            self._shared_service().generate(
                prompt,
                options,
                source_language=source_language,
                target_language=target_language,
            )
            for prompt in prompts
        )

    async def chat_async(
        self,
        messages: Sequence[Mapping[str, Any]],
        options: DecodeOptions | None = None,
        *,
        tools: Tools | None = None,
    ) -> list[GeneratedText]:
        """`chat`; see `generate_async`."""
        return await self._shared_service().chat(messages, options, tools=tools)

    def stream_async(
        self,
        prompt: str,
        options: DecodeOptions | None = None,
        *,
        source_language: str | None = None,
        target_language: str | None = None,
    ) -> Reply:
        """`stream`, for `async for`; see `generate_async`."""
        return self._shared_service().generate(
            prompt, options, source_language=source_language, target_language=target_language
        )

    def _shared_service(self) -> Service:
        from seq2edge.runtime.service import Service

        with self._lock:
            if self._service is None:
                self._service = Service(self, requests=None)
            return self._service

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
        refuse_one_string(clips)
        self._require("transcribe")
        if not clips:
            return []
        requests = [
            self.speech_request(clip, options, language=language, task=task) for clip in clips
        ]
        return self._decode(requests)

    def transcribe_ids(
        self, features: Features | Sequence[Features], options: DecodeOptions | None = None
    ) -> list[list[GeneratedSequence]]:
        """For log-mel features (batch, mels, frames) the sequences of each clip, best first.

        A model that reads samples takes those of each clip, (length,) float32 at 16 kHz.
        """
        self._require("transcribe")
        return self.signal_ids(features, options or self.options)

    def read(
        self, images: Sequence[Picture], options: DecodeOptions | None = None
    ) -> list[list[GeneratedText]]:
        """Text of images: paths of files, pictures of Pillow's, or arrays of values 0 to 255.

        Arrays are (height, width), or have 1, 3 or 4 channels behind. For each image
        `num_return_sequences` texts, best first. Needs `seq2edge[images]`; raises InputError for
        what is no image, damaged or too large.
        """
        refuse_one_string(images)
        self._require("read")
        if not images:
            return []
        return self._decode([self.image_request(image, options) for image in images])

    def read_ids(
        self, pixels: Features, options: DecodeOptions | None = None
    ) -> list[list[GeneratedSequence]]:
        """For pixels (batch, channels, height, width) the sequences of each image, best first.

        They are as the model was trained on them, scaled and normalised. Raises InputError for
        images of another size.
        """
        self._require("read")
        return self.signal_ids(pixels, options or self.options)

    def signal_ids(
        self, signals: Iterable[Features], options: DecodeOptions
    ) -> list[list[GeneratedSequence]]:
        """What is decoded of such signals, each of one input."""
        return decode(self.backend, [self.request(signal, options) for signal in signals])

    def _encode(self, sources: Sequence[Ids]) -> Memory:
        """An encoder-decoder's memory of some sources' ids."""
        self._limits.check_prompts(sources)
        return self.backend.encode(*pad(sources))

    def session(
        self,
        options: DecodeOptions | None = None,
        *,
        system: str | None = None,
        prefix: str | os.PathLike[str] | None = None,
        tools: Tools | None = None,
    ) -> Session:
        """A conversation whose cache stays between its turns.

        `system` is what the model is told first, `tools` what it may call; `prefix` a file that
        `Session.save` wrote, so that what is in it is not computed again. Raises InputError where
        the model cannot chat, or the file is of another bundle.
        """
        from seq2edge.runtime.session import Session

        self._require("generate")
        return Session(self, options or self.options, system=system, prefix=prefix, tools=tools)

    def texts_of(self, group: Group) -> list[GeneratedText]:
        """The answers of a request that is done, best first."""
        return self._texts(group.results(), group.request)

    def text_of(self, group: Group) -> GeneratedText:
        """The best of them."""
        return self.texts_of(group)[0]

    def _each(
        self,
        prompts: Iterable[Ids],
        options: DecodeOptions,
        rows: int,
        tools: Tools | None = None,
    ) -> Iterator[list[GeneratedText]]:
        scheduler = Scheduler(self.backend, rows=max(rows, rows_of(options)))
        groups: collections.deque[Group] = collections.deque()

        def answers(most: int) -> Iterator[list[GeneratedText]]:
            """Those of the first inputs, until no more than `most` wait."""
            while len(groups) > most:
                while not groups[0].done:
                    scheduler.step()
                yield self.texts_of(groups.popleft())

        try:
            for number, ids in enumerate(prompts):
                self._limits.check_prompts([ids], number)
                groups.append(scheduler.submit(self.request(ids, options, tools=tools)))
                yield from answers(AHEAD * rows)
        except InputError:
            yield from answers(0)  # what came before it is answered
            raise
        yield from answers(0)

    def _stream(self, request: Request) -> TextStream:
        return TextStream(self.backend, request, self.tokenizer, self.text_of)

    def text_request(
        self,
        prompt: str,
        options: DecodeOptions | None = None,
        *,
        source_language: str | None = None,
        target_language: str | None = None,
    ) -> Request:
        """`request` for a text, as `generate` takes it; raises what that does."""
        self._require("generate")
        ids = self.encode_text(
            prompt, source_language=source_language, target_language=target_language
        )
        self._limits.check_prompts([ids])
        return self.request(
            ids, self.with_target_language(options or self.options, target_language)
        )

    def chat_request(
        self,
        messages: Sequence[Mapping[str, Any]],
        options: DecodeOptions | None = None,
        *,
        tools: Tools | None = None,
    ) -> Request:
        """`request` for a conversation, as `chat` takes it; raises what that does."""
        self._require("generate")
        ids = self.encode_chat(messages, tools)
        self._limits.check_prompts([ids])
        return self.request(ids, options, tools=tools)

    def speech_request(
        self,
        clip: Audio,
        options: DecodeOptions | None = None,
        *,
        language: str | None = None,
        task: str = "transcribe",
    ) -> Request:
        """`request` for a clip, as `transcribe` takes it; raises what that does."""
        self._require("transcribe")
        prompt = self.speech_prompt(language, task)
        return self.request(
            self.features(clip), (options or self.options).replace(decoder_prompt=prompt)
        )

    def image_request(self, image: Picture, options: DecodeOptions | None = None) -> Request:
        """`request` for an image, as `read` takes it; raises what that does."""
        self._require("read")
        return self.request(self.pixels(image), options)

    def request(
        self,
        source: Ids | Features,
        options: DecodeOptions | None = None,
        *,
        tools: Tools | None = None,
    ) -> Request:
        """What a scheduler decodes: a prompt, or a source: ids, features, samples or pixels.

        With `tools`, which the prompt tells of, its answers may call some. Raises CapacityError and
        OptionError for what can never fit, and InputError for what is not of the encoder's shape.
        """
        options = options or self.options
        if self.dims.reads_signal:
            self.check_signal(np.asarray(source))
        self._limits.check_options(options)
        if options.alignments and not self.backend.aligns:
            raise OptionError(
                f"alignments: {self.bundle.path} gives none on {self.backend.name}; export an "
                "encoder-decoder with --alignments and run its graphs on the cpu or cuda"
            )
        stops = options.stop_strings
        holds_stop = StopStrings(self.tokenizer, stops) if stops else None
        start = tuple(source) if self.dims.kind == "decoder" else self.start_tokens(options)
        processors, calls = rules_of(self, options, len(start), tools)
        allowed = None
        if self._lexicon is not None and not isinstance(source, np.ndarray):
            allowed = self._lexicon.allowed(source)
        new_tokens = self._limits.new_tokens(len(start), options)
        self._limits.check_memory(rows_of(options), len(start), new_tokens, options.capacity)
        return Request(
            prompt=start,
            source=None if self.dims.kind == "decoder" else source,
            positions=self._positions(source),
            options=options,
            max_new_tokens=new_tokens,
            holds_stop=holds_stop,
            processors=processors,
            allowed=allowed,
            drafter=make_drafter(self, self._draft, options, source),
            calls=calls,
        )

    def _positions(self, source: Ids | Features) -> int:
        """Encoder positions of a signal, 0 of ids."""
        if self.dims.samples is None:
            return self.dims.source_positions
        return int(self.dims.positions_of(len(source)))

    def _score(
        self, memory: Memory | None, prompts: Sequence[Ids], labels: Sequence[Ids]
    ) -> list[ScoredSequence]:
        self._limits.check_targets(labels)
        self._limits.check_scored(len(prompts[0]) + max(map(len, labels)))
        return score_labels(self.backend, memory, prompts, labels)

    def align(
        self,
        text: str,
        answer: GeneratedText,
        *,
        source_language: str | None = None,
        target_language: str | None = None,
    ) -> list[WordAlignment]:
        """Which word of `text` each word of its answer comes from, by what the answer attended to.

        `answer` is one that `generate` gave for the text, in these languages, with
        `DecodeOptions(alignments=True)`. Raises InputError for another text and OptionError for an
        answer without an alignment.
        """
        from seq2edge.runtime.words import align_words, token_spans

        self._require("generate")
        if answer.alignment is None:
            raise OptionError("alignments: the answer has none, generate it with alignments=True")
        if not answer.ids:
            return []
        positions = answer.alignment.shape[1]
        spans = self.tokenizer.spans(
            text,
            source_language=source_language,
            target_language=target_language,
            longest=positions,  # as it was cut, if it was
        )
        if len(spans) != positions:
            raise InputError(
                f"align: the text has {len(spans)} tokens, the answer was made of {positions}; "
                "give the text and languages that it answers"
            )
        return align_words(text, spans, answer, token_spans(self.tokenizer, answer))

    def _decode(self, requests: Sequence[Request]) -> list[list[GeneratedText]]:
        """The answers to each, best first, as one batch."""
        groups = decode(self.backend, requests)
        return [self._texts(*pair) for pair in zip(groups, requests, strict=True)]

    def _texts(
        self, sequences: Sequence[GeneratedSequence], request: Request
    ) -> list[GeneratedText]:
        return [self._text(sequence, request) for sequence in sequences]

    def _text(self, sequence: GeneratedSequence, request: Request) -> GeneratedText:
        tokenizer, calls = self.tokenizer, request.calls
        stops = request.options.stop_strings
        if calls is None:
            text = cut_at_stop(tokenizer.decode(sequence.ids), stops)
            return GeneratedText(**vars(sequence), text=text)
        said = tokenizer.decode(calls.said(sequence.ids))
        whole = tokenizer.decode(sequence.ids, skip_special_tokens=False, clean=False)
        return GeneratedText(
            **vars(sequence),
            text=cut_at_stop(said, (*stops, *calls.stop_strings)),
            tool_calls=calls.calls(whole),
        )
