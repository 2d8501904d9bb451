"""Text to token ids and back, and chats to text, with `tokenizers` and a sandboxed jinja2.

A bundle's `tokenizer.json` does nearly everything. What it cannot say is in the tokenizer record:
language codes chosen at run time, and pieces that the model has no embedding for.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import functools
import json
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import tokenizers

from seq2edge.bundle.manifest import TokenizerRecord
from seq2edge.errors import BundleError, InputError

if TYPE_CHECKING:
    import jinja2

HIDDEN = "\ue000"  # before a token that only decoding may use
CLEANED = (" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're")


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Read:
    """The ids of a text, the characters of each, and whether there were more."""

    ids: list[int]
    spans: list[tuple[int, int]]
    cut: bool


class Tokenizer:
    """Texts to token ids and back, with the files and rules of one bundle. For any thread."""

    def __init__(self, folder: Path, record: TokenizerRecord) -> None:
        """Read the files that `record` names. Raises BundleError naming a damaged one."""
        self.record = record
        self.shortened = 0  # texts that were cut
        self._counting = threading.Lock()
        self._source = _read_tokenizer(folder / record.source)
        self._target = _read_tokenizer(folder / record.target) if record.target else self._source
        self._template = folder / record.chat_template if record.chat_template else None

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
        read = self._read(
            text,
            special_tokens=special_tokens,
            source_language=source_language,
            target_language=target_language,
            longest=longest,
        )
        if read.cut:
            with self._counting:
                self.shortened += 1
        return read.ids

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
        return self._read(
            text,
            special_tokens=True,
            source_language=source_language,
            target_language=target_language,
            longest=longest,
        ).spans

    def _read(
        self,
        text: str,
        *,
        special_tokens: bool,
        source_language: str | None,
        target_language: str | None,
        longest: int | None,
    ) -> _Read:
        """See `encode`."""
        source = self._language(source_language, self.record.source_language, "source")
        target = self._language(target_language, self.record.target_language, "target")
        layout = self.record.language_layout if special_tokens else ""
        if longest is not None:
            beside = 2 * bool(source is not None and layout)  # the language and the end
            longest -= beside + (target is not None and self.record.target_layout == "source")
        plain = self._ids(text, special_tokens=special_tokens and not layout, longest=longest)
        before = [target] if target is not None and self.record.target_layout == "source" else []
        behind: list[int] = []
        if source is not None and layout:
            end = self._special_id(self.record.special.eos)
            if layout == "prefix":
                before, behind = [source, *before], end
            else:
                behind = [*end, source]
        return _Read(
            ids=[*before, *plain.ids, *behind],
            spans=[*[(0, 0)] * len(before), *plain.spans, *[(0, 0)] * len(behind)],
            cut=plain.cut,
        )

    def encode_target(self, text: str) -> list[int]:
        """Token ids of an answer, without special tokens, as training needs them.

        Raises InputError for text that is not Unicode.
        """
        try:
            ids: list[int] = self._target.encode(text, add_special_tokens=False).ids
        except (TypeError, UnicodeEncodeError) as error:
            raise InputError(f"text: {text!r:.60} is not Unicode text: {error}") from None
        return ids

    def token_id(self, token: str) -> int:
        """The id of one token of the source vocabulary, -1 where there is none."""
        token_id = self._source.token_to_id(token)
        return -1 if token_id is None else int(token_id)

    @property
    def cleaned(self) -> tuple[str, ...]:
        """Parts of a decoded text that lose the space before them."""
        return CLEANED if self.record.clean_up else ()

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
        text: str = self._target.decode(numbers, skip_special_tokens=skip_special_tokens)
        return self.clean(text) if clean else text

    def clean(self, text: str) -> str:
        """A decoded text without the spaces that its checkpoint's tokenizer takes out."""
        for pattern in self.cleaned:
            text = text.replace(pattern, pattern.strip())
        return text

    def render_chat(
        self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = True
    ) -> str:
        """One prompt from a chat, as the checkpoint's template writes it.

        Encode it with `special_tokens=False`: the template writes them itself. Messages have a
        `role` and a `content`. Raises InputError where there is no template, for other messages,
        and with the template's own words where it refuses a chat.
        """
        import jinja2

        template, plain = self._chat, _plain_messages(messages)
        names = {"bos", "eos", "pad", "unk"}
        special = {f"{name}_token": getattr(self.record.special, name) for name in names}
        try:
            return template.render(
                messages=plain,
                add_generation_prompt=add_generation_prompt,
                tools=None,
                documents=None,
                **{name: token for name, token in special.items() if token is not None},
            )
        except (
            jinja2.TemplateError,
            ArithmeticError,
            AttributeError,
            LookupError,
            MemoryError,
            RecursionError,
            TypeError,
            ValueError,
        ) as error:
            raise InputError(f"chat: the template refuses it: {error}") from error

    @functools.cached_property
    def _chat(self) -> jinja2.Template:
        if self._template is None:
            raise InputError("chat: this model has no chat template, give it plain text")
        import jinja2

        try:
            return _environment().from_string(self._template.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, RecursionError, jinja2.TemplateError) as error:
            raise BundleError(f"{self._template}: not a chat template: {error}") from error

    def _ids(self, text: str, *, special_tokens: bool, longest: int | None) -> _Read:
        """What the tokenizer's own file makes of a text, unknown pieces replaced."""
        try:
            encoding = self._source.encode(text, add_special_tokens=special_tokens)
        except (TypeError, UnicodeEncodeError) as error:
            raise InputError(f"text: {text!r:.60} is not Unicode text: {error}") from None
        cut = longest is not None and len(encoding.ids) > longest
        if longest is not None and cut:
            encoding = self._shortened(text, special_tokens=special_tokens, longest=longest)
        ids: list[int] = encoding.ids
        read = _Read(ids=ids, spans=encoding.offsets, cut=cut)
        end = self.record.unknown_from
        if end is None:
            return read
        (unknown,) = self._special_id(self.record.special.unk) or [0]
        for place, i in enumerate(ids):
            if i >= end:
                ids[place] = unknown
            elif i == unknown:
                ids[place] = self._spelled(text, encoding, place)
        return read

    def _shortened(self, text: str, *, special_tokens: bool, longest: int) -> tokenizers.Encoding:
        """The text's first tokens, with the special ones that stand around every text."""
        added = self._source.num_special_tokens_to_add(is_pair=False) if special_tokens else 0
        plain = self._source.encode(text, add_special_tokens=False)
        plain.truncate(max(0, longest - added))
        return self._source.post_process(plain, add_special_tokens=special_tokens)

    def _spelled(self, text: str, encoding: tokenizers.Encoding, place: int) -> int:
        """An unknown run of characters may be a token that only the other language has."""
        run = encoding.tokens[place]
        if run == self.record.special.unk:  # BPE does not tell the run
            run = text[slice(*encoding.offsets[place])]
        hidden = self._source.token_to_id(HIDDEN + run)
        return encoding.ids[place] if hidden is None else int(hidden)

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


def _read_tokenizer(path: Path) -> tokenizers.Tokenizer:
    try:
        tokenizer = tokenizers.Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except Exception as error:  # the library raises nothing narrower
        raise BundleError(f"{path}: not a tokenizer: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _plain_messages(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Copies of JSON values only, so that a template reaches no object of the caller."""
    try:
        plain = json.loads(json.dumps([dict(message) for message in messages]))
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"chat: messages must be JSON objects: {error}") from None
    for i, message in enumerate(plain):
        if not isinstance(message.get("role"), str) or "content" not in message:
            raise InputError(f"chat: message {i} needs a role and a content, got {message!r:.80}")
    return list(plain)


def _environment() -> jinja2.Environment:
    """The names that chat templates rely on, in a sandbox that cannot change its arguments."""
    import jinja2.ext
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(jinja2.ext.Extension):
        """`{% generation %}` marks the assistant's words for training; here it is transparent."""

        tags = {"generation"}  # noqa: RUF012 - the base class declares it so

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return jinja2.nodes.Scope(body, lineno=line)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = _now
    return environment


def _to_json(
    value: Any,
    ensure_ascii: bool = False,  # noqa: FBT001, FBT002 - templates pass them in this order
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,  # noqa: FBT001, FBT002
) -> str:
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _raise(message: str) -> NoReturn:
    import jinja2

    raise jinja2.TemplateError(message)


def _now(layout: str) -> str:
    return dt.datetime.now().strftime(layout)  # noqa: DTZ005 - local time, as written
