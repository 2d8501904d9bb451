"""Text to token ids and back, and chats to text, with `tokenizers` and a sandboxed jinja2.

A bundle's `tokenizer.json` does nearly everything. What it cannot say is in the tokenizer record:
language codes chosen at run time, and pieces that the model has no embedding for.
"""

from __future__ import annotations

import dataclasses
import functools
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seq2edge.bundle.manifest import TokenizerRecord
from seq2edge.errors import InputError, foreign_errors
from seq2edge.runtime.tokenizer_file import TokenizerFile

if TYPE_CHECKING:
    from seq2edge.runtime.templates import ChatTemplate
    from seq2edge.runtime.tool_format import ToolFormat

HIDDEN = "\ue000"  # before a token that only decoding may use
CLEANED = (" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncodedText:
    """A text, or a pair, as a model reads it; every field has an entry for each of its tokens.

    `types` tell the texts of a pair apart, as the model learnt it. `texts` say which text a token
    is of, 0 or 1, None for a special token around them; `spans` are its characters there, first and
    behind the last, and `words` the number of its word there.
    """

    ids: list[int]
    tokens: list[str]
    types: list[int]
    texts: list[int | None]
    spans: list[tuple[int, int]]
    words: list[int | None]

    def only(self, places: Iterable[int]) -> EncodedText:
        """The tokens at these places."""
        kept = list(places)
        return EncodedText(**{name: [vars(self)[name][i] for i in kept] for name in vars(self)})


class Tokenizer:
    """Texts to token ids and back, with the files and rules of one bundle. For any thread."""

    def __init__(self, folder: Path, record: TokenizerRecord) -> None:
        """Read the files that `record` names. Raises BundleError naming a damaged one."""
        self.record = record
        self.shortened = 0  # texts that were cut
        self._counting = threading.Lock()
        self._source_file = TokenizerFile.read(folder / record.source)
        self._target_file = (
            TokenizerFile.read(folder / record.target) if record.target else self._source_file
        )
        self._source, self._target = self._source_file.library, self._target_file.library
        self._template = folder / record.chat_template if record.chat_template else None
        self._formats: dict[tuple[str, ...], ToolFormat] = {}

    def encode(
        self,
        text: str,
        *,
        special_tokens: bool = True,
        source_language: str | None = None,
        target_language: str | None = None,
        longest: int | None = None,
    ) -> list[int]:
        """Token ids of a text, with the special tokens that the model's inputs have.

        `source_language` and `target_language` are codes of `record.languages`; the target's
        matters here only where it stands before the source text. Nothing is cut off unless
        `longest` bounds the ids, special ones included; `shortened` counts the texts cut so.
        Raises InputError for text that is not Unicode and for unknown or useless languages.
        """
        ids, _, cut = self._read(
            text,
            special_tokens=special_tokens,
            source_language=source_language,
            target_language=target_language,
            longest=longest,
        )
        if cut:
            self._count_cut()
        return ids

    def encode_texts(
        self, first: str, second: str | None = None, *, longest: int | None = None
    ) -> EncodedText:
        """A text or a pair with the special tokens around them, and where each token comes from.

        `longest` bounds the ids as in `encode`; of a pair the longer text is cut first. Raises
        InputError for text that is not Unicode.
        """
        encoded, cut = self._encoded(first, second, special_tokens=True, longest=longest)
        if cut:
            self._count_cut()
        return encoded

    def encode_chat(
        self,
        messages: Sequence[Mapping[str, str]],
        *,
        generation_prompt: bool = True,
        longest: int | None = None,
    ) -> EncodedText:
        """A chat as its template writes it, and where each token comes from in that.

        `longest` bounds the ids: the last message loses its last tokens, which is counted. Raises
        what `render_chat` does, and InputError where what stands around it alone is longer.
        """
        prompt = self.render_chat(messages, add_generation_prompt=generation_prompt)
        encoded, _ = self._encoded(prompt, special_tokens=False, longest=None)
        if longest is None or len(encoded.ids) <= longest:
            return encoded
        last = messages[-1]["content"].strip()
        begin = prompt.rfind(last)
        within = [
            i
            for i, (start, end) in enumerate(encoded.spans)
            if begin <= start < end <= begin + len(last)
        ]
        spare = len(encoded.ids) - longest
        if begin < 0 or spare > len(within):
            raise InputError(
                f"text: {len(encoded.ids)} tokens, {longest} are allowed; the prompt around it has "
                f"{len(encoded.ids) - len(within)}, shorten the query"
            )
        self._count_cut()
        cut = set(within[len(within) - spare :])
        return encoded.only(i for i in range(len(encoded.ids)) if i not in cut)

    def windows(
        self, first: str, second: str | None = None, *, longest: int, overlap: int
    ) -> Iterator[EncodedText]:
        """Parts of a text, of a pair the whole first one with parts of the second.

        Each has at most `longest` ids, and shares `overlap` tokens with the next one; spans count
        from the text's own beginning. Raises InputError where no more than these have room.
        """
        whole, _ = self._encoded(first, second, special_tokens=True, longest=None)
        split = 0 if second is None else 1
        places = [i for i, text in enumerate(whole.texts) if text == split]
        rest = len(whole.ids) - len(places)
        room = longest - rest
        if room <= overlap:
            what = f"{first!r:.60} takes" if second is not None else "what stands around it takes"
            raise InputError(
                f"text: {what} {rest} of the {longest} tokens that are read at a time, and parts "
                f"share {overlap}: nothing is left; shorten it, or let them share fewer (--overlap)"
            )
        for start in range(0, max(1, len(places) - overlap), room - overlap):
            part = set(places[start : start + room])
            yield whole.only(i for i, of in enumerate(whole.texts) if of != split or i in part)

    def spans(
        self,
        text: str,
        *,
        source_language: str | None = None,
        target_language: str | None = None,
        longest: int | None = None,
    ) -> list[tuple[int, int]]:
        """The characters of a text that each id of `encode` stands for, first and behind the last.

        (0, 0) for what stands for none. Raises what `encode` does; counts nothing.
        """
        _, spans, _ = self._read(
            text,
            special_tokens=True,
            source_language=source_language,
            target_language=target_language,
            longest=longest,
        )
        return spans

    def _read(
        self,
        text: str,
        *,
        special_tokens: bool,
        source_language: str | None,
        target_language: str | None,
        longest: int | None,
    ) -> tuple[list[int], list[tuple[int, int]], bool]:
        """The ids of a text, the characters of each, and whether there were more: see `encode`."""
        source = self._language(source_language, self.record.source_language, "source")
        target = self._language(target_language, self.record.target_language, "target")
        layout = self.record.language_layout if special_tokens else ""
        if longest is not None:
            beside = 2 * bool(source is not None and layout)  # the language and the end
            longest -= beside + (target is not None and self.record.target_layout == "source")
        special_tokens = special_tokens and not layout
        plain, cut = self._encoded(text, special_tokens=special_tokens, longest=longest)
        before = [target] if target is not None and self.record.target_layout == "source" else []
        behind: list[int] = []
        if source is not None and layout:
            end = self._special_id(self.record.special.eos)
            if layout == "prefix":
                before, behind = [source, *before], end
            else:
                behind = [*end, source]
        ids = [*before, *plain.ids, *behind]
        return ids, [*[(0, 0)] * len(before), *plain.spans, *[(0, 0)] * len(behind)], cut

    def encode_target(self, text: str) -> list[int]:
        """Token ids of an answer, without special tokens, as training needs them.

        Raises InputError for text that is not Unicode.
        """
        ids: list[int] = self._target_file.encode(text, special_tokens=False).ids
        return ids

    def token_id(self, token: str) -> int:
        """The id of one token of the source vocabulary, -1 where there is none."""
        token_id = self._source.token_to_id(token)
        return -1 if token_id is None else int(token_id)

    @property
    def unknown_ids(self) -> set[int]:
        """What text becomes that the vocabulary has no token for."""
        names = {self.record.special.unk, getattr(self._source.model, "unk_token", None)}
        return {i for name in names for i in self._special_id(name)}

    @property
    def marks_pieces(self) -> bool:
        """Whether a token shows that its word began before it, as WordPiece writes ##."""
        return bool(getattr(self._source.model, "continuing_subword_prefix", None))

    def join(self, tokens: Sequence[str]) -> str:
        """The text of some tokens of a source."""
        decoder = self._source.decoder
        with foreign_errors(InputError, "tokens: cannot be joined"):
            return " ".join(tokens) if decoder is None else str(decoder.decode(list(tokens)))

    @property
    def cleaned(self) -> tuple[str, ...]:
        """Parts of a decoded text that lose the space before them."""
        return CLEANED if self.record.clean_up else ()

    def source_tokens(self) -> dict[str, int]:
        """Every token that a text may become, and its id: no special ones, none to decode alone."""
        added = self._source.get_added_tokens_decoder()
        special = {token.content for token in added.values() if token.special}
        tokens: dict[str, int] = self._source.get_vocab()
        return {t: i for t, i in tokens.items() if t not in special and not t.startswith(HIDDEN)}

    def ids_of_tokens(self) -> dict[str, int]:
        """Every token that the model generates, and its id."""
        ids: dict[str, int] = self._target.get_vocab()
        return ids

    def added_ids(self) -> set[int]:
        """Tokens that stand beside the vocabulary: special ones, languages, times, reserved."""
        return set(self._target.get_added_tokens_decoder())

    def token(self, token_id: int) -> str:
        """What a generated id stands for, empty where it is no token."""
        return self._target.id_to_token(token_id) or ""

    def target_token(self, language: str | None = None) -> int | None:
        """The id of the target language, None where neither an argument nor a default gives one.

        `record.target_layout` says whether it starts the decoder or is forced out of it first.
        """
        return self._language(language, self.record.target_language, "target")

    def decode(
        self, ids: Sequence[int], *, skip_special_tokens: bool = True, clean: bool = True
    ) -> str:
        """The text of generated ids. Raises InputError for ids that are no token.

        With `clean` as the checkpoint's tokenizer cleans it up.
        """
        numbers = [int(i) for i in ids]
        size = self._target.get_vocab_size(with_added_tokens=True)
        for number in numbers:
            if not 0 <= number < 2**32:
                raise InputError(f"token id {number}: not between 0 and the vocabulary's {size}")
        text = self._target_file.decode(numbers, skip_special_tokens=skip_special_tokens)
        return self.clean(text) if clean else text

    def clean(self, text: str) -> str:
        """A decoded text without the spaces that its checkpoint's tokenizer takes out."""
        for pattern in self.cleaned:
            text = text.replace(pattern, pattern.strip())
        return text

    def added_tokens(self) -> dict[str, int]:
        """Tokens that were added to the vocabulary of generated text, and their ids."""
        added = self._target.get_added_tokens_decoder()
        return {token.content: number for number, token in added.items()}

    def render_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> str:
        """One prompt from a chat, as the checkpoint's template writes it.

        Encode it with `special_tokens=False`: the template writes them itself. Messages have a
        `role` and a `content`. Raises InputError where there is no template, for other messages,
        and with the template's own words where it refuses a chat.
        """
        names = {"bos", "eos", "pad", "unk"}
        special = {f"{name}_token": getattr(self.record.special, name) for name in names}
        return self._chat.render(
            messages,
            add_generation_prompt=add_generation_prompt,
            tools=None if tools is None else list(tools),
            documents=None,
            **{name: token for name, token in special.items() if token is not None},
        )

    def tool_format(self, ends: tuple[str, ...]) -> ToolFormat:
        """How its chat template writes calls of tools; one of these texts ends an answer.

        Raises InputError for a template that has no place for tools, or whose calls are not read.
        """
        if ends not in self._formats:
            from seq2edge.runtime.tool_format import find_format

            self._formats[ends] = find_format(self.render_chat, ends)
        return self._formats[ends]

    @functools.cached_property
    def _chat(self) -> ChatTemplate:
        if self._template is None:
            raise InputError("chat: this model has no chat template, give it plain text")
        from seq2edge.runtime.templates import ChatTemplate

        return ChatTemplate(self._template)

    def _encoded(
        self, text: str, second: str | None = None, *, special_tokens: bool, longest: int | None
    ) -> tuple[EncodedText, bool]:
        """What its file makes of a text or a pair, or of each the first tokens; if there were more.

        The special tokens that stand around every text are kept.
        """
        encoding = self._source_file.encode(text, second, special_tokens=special_tokens)
        around = zip(encoding.special_tokens_mask, encoding.sequence_ids, strict=True)
        encoded = EncodedText(
            ids=encoding.ids,
            tokens=encoding.tokens,
            types=encoding.type_ids,
            texts=[None if special else of for special, of in around],
            spans=encoding.offsets,
            words=encoding.word_ids,
        )
        cut = longest is not None and len(encoded.ids) > longest
        if longest is not None and cut:
            encoded = encoded.only(_fitting(encoded.texts, longest))
        if self.record.unknown_from is not None:
            self._replace_unknown((text, second), encoded, self.record.unknown_from)
        return encoded, cut

    def _count_cut(self) -> None:
        with self._counting:
            self.shortened += 1

    def _replace_unknown(
        self, texts: tuple[str, str | None], encoded: EncodedText, end: int
    ) -> None:
        (unknown,) = self._special_id(self.record.special.unk) or [0]
        for place, i in enumerate(encoded.ids):
            if i >= end:
                encoded.ids[place] = unknown
            elif i == unknown:
                text = texts[encoded.texts[place] or 0] or ""
                encoded.ids[place] = self._spelled(text, encoded, place)

    def _spelled(self, text: str, encoded: EncodedText, place: int) -> int:
        """An unknown run of characters may be a token that only the other language has."""
        run = encoded.tokens[place]
        if run == self.record.special.unk:  # BPE does not tell the run
            run = text[slice(*encoded.spans[place])]
        hidden = self._source.token_to_id(HIDDEN + run)
        return encoded.ids[place] if hidden is None else int(hidden)

    def _special_id(self, token: str | None) -> list[int]:
        token_id = None if token is None else self._source.token_to_id(token)
        return [] if token_id is None else [token_id]

    def _language(self, code: str | None, default: str, side: str) -> int | None:
        chosen = code or default
        if not chosen:
            return None
        languages = self.record.languages
        uses = {"source": self.record.language_layout, "target": self.record.target_layout}
        if not languages or not uses[side]:
            raise InputError(f"{side} language {chosen!r}: this model takes none")
        if chosen not in languages:
            known = ", ".join(languages)
            raise InputError(f"{side} language {chosen!r}: unknown, this model knows: {known}")
        return languages[chosen]


def _fitting(texts: Sequence[int | None], longest: int) -> list[int]:
    """The places of all special tokens, and of as many of each text as fit beside them."""
    first, second = texts.count(0), texts.count(1)
    room = max(0, longest - texts.count(None))
    shorter = min(first, second)
    if 2 * shorter <= room:  # it stays whole
        shares = [min(length, room - shorter) for length in (first, second)]
    else:  # of an odd number the longer text has one more, of two that are as long the second
        shares = [room // 2, room - room // 2]
        shares = shares[::-1] if first > second else shares
    counts, places = [0, 0], []
    for place, text in enumerate(texts):
        if text is None or counts[text] < shares[text]:
            places.append(place)
        if text is not None:
            counts[text] += 1
    return places
