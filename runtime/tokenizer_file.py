"""A `tokenizer.json` of a stranger, on the `tokenizers` library, within bounds of time and memory.

What a file says is bounded when it is read: its size, the length of a token, and how many times
longer than what they read its normalizers, decoders and templates make a text. What no reading
tells, such as how long a regular expression looks for a match, is bounded when a text is read, by
the clock. The library's panics are errors of ours.
"""

from __future__ import annotations

import base64
import contextlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers

from seq2edge.errors import BundleError, InputError, Seq2EdgeError, foreign_errors
from seq2edge.files.storage import read_regular
from seq2edge.runtime.panics import without_panic_reports
from seq2edge.runtime.timed import within

LARGEST = 2**26  # bytes of a file: the largest that are known have half of it
ENTRIES = 2**21  # commas of a file: tokens and merges, of which memory takes hundreds of bytes each
LONGEST_TOKEN = 4096  # characters
READ = 2**22  # characters of a text, where nothing makes it longer
GROWTH = 1024  # times that a text may become longer
WRITTEN = 2**24  # characters of a text that became longer
REPLACEMENT = 256  # bytes of what a map of characters has for one of them
AROUND = 64  # pieces around a text, and ids of one of them
AFFIX = 64  # characters before or behind a piece of a word
REPEATED_GROUP = re.compile(rb"\)[*+{]")  # in a regular expression, which may try all ways
SECONDS = 5.0  # for a text, beside what its length is worth
PER_SECOND = 20_000  # characters that the slowest device reads


class TokenizerFile:
    """The tokens of one file. For any thread."""

    def __init__(self, data: bytes, subject: str, kind: type[Seq2EdgeError] = BundleError) -> None:
        """Raises an error of that kind about `subject` for no tokenizer, or an unbounded one."""
        with foreign_errors(kind, f"{subject}: not a tokenizer"):
            text = data.decode("utf-8")
            if text.count(",") > ENTRIES:
                raise kind(f"{subject}: more than {ENTRIES:,} entries")
            for charsmap in re.findall(r'"precompiled_charsmap"\s*:\s*"([^"]*)"', text):
                _longest_replacement(charsmap)  # the library panics of one that is damaged
            with without_panic_reports():
                self.library = tokenizers.Tokenizer.from_str(text)
            self.library.no_truncation()
            self.library.no_padding()
            read, self._written = _check_parts(self.library, text, f"{subject}: ", kind)
        self.longest = min(READ, int(WRITTEN / read))
        self._subject = subject
        self._slow = False  # once a text took too long
        parts = (self.library.normalizer, self.library.pre_tokenizer, self.library.decoder)
        self._may_panic = any(
            part is not None and REPEATED_GROUP.search(part.__getstate__()) for part in parts
        )

    @classmethod
    def read(cls, path: Path) -> TokenizerFile:
        """The tokenizer of a bundle's file. Raises BundleError naming it."""
        with foreign_errors(BundleError, f"{path}: not a tokenizer"):
            data = read_regular(path, LARGEST)
        return cls(data, str(path))

    def encode(self, text: str, second: str | None = None, *, special_tokens: bool) -> Any:
        """The library's encoding of a text or a pair. Raises InputError for what is no Unicode."""
        shown: Any = text if second is None else (text, second)
        try:
            length = len(text.encode()) + len((second or "").encode())
        except (AttributeError, UnicodeEncodeError) as error:
            raise InputError(f"text: {shown!r:.60} is not Unicode text: {error}") from None
        if length > self.longest:
            raise InputError(
                f"text: {length:,} bytes, at most {self.longest:,} are read at a time, cut it"
            )
        # Of a batch the library lets other threads run meanwhile.
        return self._call(
            lambda: self.library.encode_batch([shown], add_special_tokens=special_tokens)[0],
            length,
            f"text {shown!r:.60}",
        )

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        """The text of ids. Raises InputError where it would be too long."""
        if self._written > 1:
            tokens = (self.library.id_to_token(number) or "" for number in ids)
            if sum(map(len, tokens)) * self._written > WRITTEN:
                raise InputError(f"token ids: their text has more than {WRITTEN:,} characters")

        def decode() -> str:
            texts = self.library.decode_batch([ids], skip_special_tokens=skip_special_tokens)
            return str(texts[0])

        return str(self._call(decode, len(ids), "token ids"))

    def _call(self, function: Any, length: int, what: str) -> Any:
        """What the library answers, in time."""
        if self._slow:
            raise InputError(f"{self._subject}: took too long for an earlier text, it is not used")
        try:
            quiet = without_panic_reports() if self._may_panic else contextlib.nullcontext()
            with foreign_errors(InputError, f"{what}: {self._subject} cannot read it"), quiet:
                return within(SECONDS + length / PER_SECOND, function)
        except InputError as error:
            self._slow = isinstance(error.__cause__, TimeoutError)
            raise


def _check_parts(
    library: tokenizers.Tokenizer, text: str, subject: str, kind: type[Seq2EdgeError]
) -> tuple[float, float]:
    """How many times longer a text becomes at most where it is read, and where it is written.

    Raises where that is too much, or something else is.
    """
    parts = {
        name: json.loads(part.__getstate__())
        for name in ("normalizer", "pre_tokenizer", "post_processor", "decoder")
        if (part := getattr(library, name)) is not None
    }
    growths = {name: _growth(parts.get(name)) for name in ("normalizer", "decoder")}
    for name, growth in growths.items():
        if growth > GROWTH:
            raise kind(f"{subject}{name}: makes a text more than {GROWTH:,} times longer")
    for part in _all(parts.get("post_processor")):
        if _is_unbounded(part):
            raise kind(f"{subject}post_processor: repeats a text, or has too much around it")
    for name in ("continuing_subword_prefix", "end_of_word_suffix"):
        if len(getattr(library.model, name, None) or "") > AFFIX:
            raise kind(f"{subject}{name}: more than {AFFIX} characters")
    # Quotes end a string; those inside of one are taken out first. No JSON is read twice for it.
    if re.search(f'"[^"]{{{LONGEST_TOKEN + 1}}}', text.replace('\\"', "__")):
        _check_tokens(library, subject, kind)
    return growths["normalizer"], growths["decoder"]


def _check_tokens(library: tokenizers.Tokenizer, subject: str, kind: type[Seq2EdgeError]) -> None:
    """Raise where one is too long; a file may have other long strings."""
    for token in library.get_vocab(with_added_tokens=True):
        if len(token) > LONGEST_TOKEN:
            raise kind(
                f"{subject}{token!r:.40}...: a token of more than {LONGEST_TOKEN:,} characters"
            )


def _all(part: Any) -> Iterator[Mapping[str, Any]]:
    """A part, or those that stand in it one behind another."""
    inner = (
        []
        if part is None
        else next(
            (part[key] for key in ("normalizers", "decoders", "processors") if key in part), None
        )
    )
    if inner is None:
        yield part
    for each in inner or ():
        yield from _all(each)


def _growth(part: Any) -> float:
    """How many times longer than what it reads the text of normalizers or decoders is at most.

    That is a product over what may be done to what was done before, which alone would forbid long
    lists of codes and their marks. So three kinds of replacements are told from the others: at the
    beginning of a text (once); of something with a character that no replacement before wrote
    (every character that is read is taken once, by one of them); of something that stays, with an
    end that none of them looks for (what they look for does not become more). Behind a part that
    makes other characters of those that were written, nothing is known of these.
    """
    growth, once, fresh, kept = 1.0, 0, 0, 0.0
    written: set[str] = set()
    known = True
    parts = [each for each in _all(part) if each is not None]
    stay = [
        pair for pair in map(_replaced, parts) if pair and pair[0] and pair[1].startswith(pair[0])
    ]
    sought = {character for literal, _ in stay for character in literal}
    for each in parts:
        pair = _replaced(each)
        if pair is None:
            growth *= max(1.0, _growth_of_one(each))
            known = known and (not written or each["type"] in ("Fuse", "Strip"))
            continue
        literal, content = pair
        pattern = each["pattern"].get("Regex") or ""
        if pattern.startswith(r"\A") and "|" not in pattern:
            once += len(content)
        elif len(content) <= len(literal):
            pass
        elif known and set(literal) - written:
            fresh = max(fresh, len(content))
        elif known and pair in stay and not sought.intersection(content[len(literal) :]):
            kept += len(content) / len(literal) - 1
        else:
            growth *= len(content) / len(literal) if literal else 1 + len(content)
        written |= set(content)
    return growth * max(1, fresh) * (1 + kept) if once <= READ else math.inf


def _replaced(part: Mapping[str, Any]) -> tuple[str, str] | None:
    """What a replacement's every match has in it, as far as that is known, and what it becomes."""
    if part["type"] != "Replace":
        return None
    pattern = part["pattern"]
    if pattern.get("String"):
        return pattern["String"], part["content"]
    # A literal, and any number of one character behind it. Of others nothing is known: they may
    # match nothing, and so between all characters.
    rest = re.sub(r"(?<!\\)[^\\()\[\]{}|*+?.^$]\*\Z", "", pattern["Regex"])
    literal = re.sub(r"\\([^a-zA-Z0-9])", r"\1", rest)
    return (literal if re.escape(literal) == rest else ""), part["content"]


def _growth_of_one(part: Mapping[str, Any]) -> float:
    if part["type"] == "Prepend":
        return 1 + len(part["prepend"])
    if part["type"] == "Precompiled":
        longest = _longest_replacement(part["precompiled_charsmap"])
        return 1 if longest <= REPLACEMENT else math.inf
    return 1


def _longest_replacement(charsmap: str) -> int:
    """Bytes of the longest text that a map of SentencePiece has for a character.

    The size of a trie (4 bytes), the trie, and the texts, each with a zero behind it.
    """
    data = base64.b64decode(charsmap, validate=True)
    size = int.from_bytes(data[:4], "little")
    if not 0 < size <= len(data) - 4 or size % 4:
        raise ValueError("a map of characters is damaged")
    return max(map(len, data[4 + size :].decode().encode().split(b"\0")))


def _is_unbounded(part: Mapping[str, Any]) -> bool:
    """Whether a template has a text twice, or more around it than any model is trained with."""
    if part["type"] != "TemplateProcessing":
        return False
    for name in ("single", "pair"):
        pieces = part[name]
        texts = [piece["Sequence"]["id"] for piece in pieces if "Sequence" in piece]
        tokens = {piece["SpecialToken"]["id"] for piece in pieces if "SpecialToken" in piece}
        if tokens - set(part["special_tokens"]):
            raise ValueError("a template has tokens that it does not know")  # a panic, later
        if len(texts) > len(set(texts)) or len(pieces) > AROUND:
            return True
    return any(len(special["ids"]) > AROUND for special in part["special_tokens"].values())
