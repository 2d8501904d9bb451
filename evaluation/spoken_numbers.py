"""English numbers in digits: "two hundred and five dollars" is $205, "nineteen ninety nine" 1999.

A reader goes over the words once. Parts of one number are added ("twenty" and "one") or multiplied
("two" and "thousand"); where that is impossible, digits are set beside each other, as in years and
telephone numbers ("one oh one", "nineteen ninety"). "One" alone stays a word, as it is a pronoun.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from typing import Final

_SMALL: Final = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen"
).split()
_TENS: Final = "twenty thirty forty fifty sixty seventy eighty ninety".split()
ADDED: Final = {
    **{word: value for value, word in enumerate(_SMALL)},
    **{word: 10 * value for value, word in enumerate(_TENS, start=2)},
    "oh": 0,
    "o": 0,
}
MULTIPLIED: Final = {
    "hundred": 100,
    **{
        f"{word}illion": 1000**power
        for power, word in enumerate("m b tr quadr quint sext sept oct non dec".split(), start=2)
    },
    "thousand": 1000,
}
_ORDINAL: Final = {
    "first": "one",
    "second": "two",
    "third": "three",
    "fifth": "five",
    "eighth": "eight",
    "ninth": "nine",
    "twelfth": "twelve",
}
CURRENCIES: Final = {"$": "dollar", "£": "pound", "€": "euro"}
_MARKS: Final = {
    **{f"{name}{s}": mark for mark, name in CURRENCIES.items() for s in ("", "s")},
    "cent": "¢",
    "cents": "¢",
}
SIGNS: Final = {"minus": "-", "negative": "-", "plus": "+", "positive": "+"}
REPEATED: Final = {"double": 2, "triple": 3}
_LITERAL: Final = re.compile(r"([$£€¢]?)(\d+(?:\.\d+)?)(st|nd|rd|th|s|%|)")


def write_numbers(text: str) -> str:
    """A text in lower case with its numbers in digits."""
    text = re.sub(r"\band a half\b", "point five", text)
    text = re.sub(r"([a-z])(\d)", r"\1 \2", text)
    text = re.sub(r"(\d)(?!(?:st|nd|rd|th|s)\b)([a-z])", r"\1 \2", text)
    text = re.sub(r"(\d)\s+(st|nd|rd|th|s)\b", r"\1\2", text)
    text = re.sub(r"\bper cent\b", "percent", text)
    words, written, place = text.split(), list[str](), 0
    while place < len(words):
        reader = _Reader(words, place)
        if reader.read():
            written.append(reader.text())
            place = reader.place
        else:
            written.append(words[place])
            place += 1
    result = " ".join(written)
    result = re.sub(r"([$£€])(\d+) (?:and )?¢(\d{1,2})\b", _with_cents, result)
    result = re.sub(r"([$£€])0\.(\d\d)\b", lambda cents: f"¢{int(cents[2])}", result)
    return re.sub(r"\b(?<![.$£€¢+-])1(s?)\b(?![.%])", r"one\1", result)


def _with_cents(sum_: re.Match[str]) -> str:
    return f"{sum_[1]}{sum_[2]}.{int(sum_[3]):02d}"


class _Reader:
    """Reads one number from a place on."""

    def __init__(self, words: Sequence[str], place: int) -> None:
        self.words, self.place = words, place
        self.before = ""  # digits that were set beside the number that is read now
        self.whole = Fraction(0)  # what thousands and more gave
        self.part: Fraction | None = None  # what is below a thousand
        self.last = ""  # what the last word was: added, multiplied, literal
        self.sign = self.mark = self.suffix = ""
        self.literal = ""  # what `part` was written as, its zeros included

    def word(self, ahead: int = 0) -> str:
        """A word from here on, empty behind the last."""
        return self.words[self.place + ahead] if self.place + ahead < len(self.words) else ""

    def read(self) -> bool:
        """Go behind the number that begins here; whether there is one."""
        if self.word() in SIGNS and self._is_number(self.word(1)):
            self.sign = SIGNS[self.word()]
            self.place += 1
        if not self._is_number(self.word()):
            return False
        while not self.suffix and self._take(self.word()):
            self.place += 1
        if not self.suffix:
            self._read_behind()
        return True

    def _is_number(self, word: str) -> bool:
        if word in REPEATED:
            return ADDED.get(self.word(1), 10) < 10
        plain, _ = _cardinal(word)
        return plain in ADDED or plain in MULTIPLIED or bool(_LITERAL.fullmatch(word))

    def _take(self, word: str) -> bool:
        """Add, multiply or set beside what the word says; whether it belongs to the number."""
        if word == "and":
            return self.last == "multiplied" and _cardinal(self.word(1))[0] in ADDED
        if word == "point":
            return self._read_decimals()
        if word in REPEATED:
            digit = ADDED.get(self.word(1), 10)
            if digit > 9:
                return False
            self._beside(str(digit) * (REPEATED[word] - 1))
            return True
        literal = _LITERAL.fullmatch(word)
        if literal is not None:
            return self._take_literal(literal)
        plain, suffix = _cardinal(word)
        if plain in ADDED:
            self._add(ADDED[plain], zero=plain in ("oh", "o", "zero"))
        elif plain in MULTIPLIED:
            self._multiply(MULTIPLIED[plain])
        else:
            return False
        self.suffix = suffix
        return True

    def _take_literal(self, literal: re.Match[str]) -> bool:
        if self.last == "literal" or (self.last and literal[1]):
            return False
        if self.last:
            self._beside("")
        self.mark, self.part, self.suffix = literal[1], Fraction(literal[2]), literal[3]
        self.literal = literal[2]
        self.last = "literal"
        return True

    def _add(self, value: int, *, zero: bool) -> None:
        part = self.part
        fits = part is None or (
            self.last == "multiplied"
            or (self.last == "added" and part % 100 >= 20 and part % 10 == 0 and 0 < value < 10)
        )
        if part is not None and (not fits or zero):
            self._beside("")
            part = None
        self.part = Fraction(value) if part is None else part + value
        self.last = "added"

    def _multiply(self, factor: int) -> None:
        part = Fraction(1) if self.part is None and not self.whole else self.part or Fraction(0)
        if factor == 100:
            self.part = part * 100
        else:
            self.whole, self.part = self.whole + part * factor, Fraction(0)
        self.last = "multiplied"

    def _beside(self, digits: str) -> None:
        """Keep what was read as digits, and begin again."""
        if self.part is not None or self.whole:
            self.before += _digits(self.whole + (self.part or 0))
        self.before += digits
        self.whole, self.part, self.literal = Fraction(0), None, ""

    def _read_decimals(self) -> bool:
        digits = ""
        while ADDED.get(self.word(1 + len(digits)), 10) < 10:
            digits += str(ADDED[self.word(1 + len(digits))])
        if not digits or self.last == "":
            return False
        self.part = (self.part or Fraction(0)) + Fraction(f"0.{digits}")
        self.place += len(digits)
        self.last = "literal"
        return True

    def _read_behind(self) -> None:
        """Percent and currencies stand at the number."""
        if self.word() == "percent":
            self.suffix = "%"
            self.place += 1
        elif self.word() in _MARKS and not self.mark:
            self.mark = _MARKS[self.word()]
            self.place += 1

    def text(self) -> str:
        """The number in digits, with its sign, mark and ending."""
        value = self.whole + (self.part or 0)
        digits = self.before
        if self.part is not None or self.whole:
            written = value.denominator > 1 and self.literal and value == Fraction(self.literal)
            digits += self.literal if written else _digits(value)
        return f"{self.sign}{self.mark}{digits}{self.suffix}"


def _digits(value: Fraction) -> str:
    if value.denominator == 1:
        return str(value.numerator)
    return f"{float(value):.10f}".rstrip("0").rstrip(".")


def _cardinal(word: str) -> tuple[str, str]:
    """The number that an ordinal or a plural is made of, and its ending in digits."""
    if word in ADDED or word in MULTIPLIED:
        return word, ""
    plain = _ORDINAL.get(word)
    if plain is None and word.endswith("th"):
        plain = word[:-2] if word[:-2] in {**ADDED, **MULTIPLIED} else ""
        plain = f"{word[:-4]}y" if word.endswith("ieth") and f"{word[:-4]}y" in ADDED else plain
    if plain:
        return plain, {"one": "st", "two": "nd", "three": "rd"}.get(plain, "th")
    for ending, instead in (("ies", "y"), ("es", ""), ("s", "")):
        single = word.removesuffix(ending) + instead
        if word.endswith(ending) and (single in ADDED or single in MULTIPLIED) and single != "o":
            return single, "s"
    return word, ""
