"""English and German texts: LibreOffice's help and descriptions of Debian's packages.

    python examples/translation/prepare.py

Writes `data/{help,packages}-{train,validation,test}.tsv` (English, tab, German). Pages of the help
and packages of one source stay in one part; a pair stands once.
"""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from debian import packages, part_of, unpacked
from weights import FetchError

DATA = Path(__file__).resolve().parent / "data"
PARTS = ("train", "validation", "test")
Pairs = dict[str, dict[tuple[str, str], None]]  # by part, each pair once


class Paragraphs(HTMLParser):
    """Texts of paragraphs and headings by their ids, which are the same in all languages."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: dict[str, str] = {}
        self._id = self._tag = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """A paragraph begins."""
        name = dict(attrs).get("id") or ""
        if re.match(r"(par|hd)_id", name):
            self._id, self._tag = name, tag
            self.texts[name] = ""

    def handle_endtag(self, tag: str) -> None:
        """A paragraph ends."""
        if tag == self._tag:
            self._id = self._tag = ""

    def handle_data(self, data: str) -> None:
        """Text in it, or in what it holds."""
        if self._id:
            self.texts[self._id] += data


def main() -> None:
    """See the module."""
    DATA.mkdir(exist_ok=True)
    for domain, pairs in (("help", of_help()), ("packages", of_packages())):
        for part in PARTS:
            lines = [f"{one}\t{other}\n" for one, other in pairs[part]]
            path = DATA / f"{domain}-{part}.tsv"
            path.write_text("".join(lines), encoding="utf-8")
            print(f"{path}: {len(lines):,} pairs")


def of_help() -> Pairs:
    """Paragraphs of the same id on the same page."""
    root = "usr/share/libreoffice/help"
    english = unpacked("libreoffice-help-en-us") / root / "en-US"
    german = unpacked("libreoffice-help-de") / root / "de"
    pairs: Pairs = {part: {} for part in PARTS}
    for page in sorted(english.rglob("*.html")):
        name = page.relative_to(english)
        if (german / name).is_file():
            one, other = texts_of(page), texts_of(german / name)
            for key in one.keys() & other.keys():
                add(pairs[part_of(str(name))], one[key], other[key])
    return distinct(pairs)


def of_packages() -> Pairs:
    """Synopses and paragraphs of packages that have the same number of them in both languages."""
    pairs: Pairs = {part: {} for part in PARTS}
    for package in packages():
        if "de" in package.descriptions:
            short, kurz = (package.descriptions[code][0] for code in ("en", "de"))
            part = pairs[part_of(package.source)]
            for one, other in ((short, kurz), *package.parallel("de")):
                add(part, one, other)
    return distinct(pairs)


def texts_of(page: Path) -> dict[str, str]:
    """Texts of a page by the ids of its paragraphs."""
    parser = Paragraphs()
    parser.feed(page.read_text(encoding="utf-8"))
    return {key: " ".join(text.split()) for key, text in parser.texts.items()}


def add(pairs: dict[tuple[str, str], None], one: str, other: str) -> None:
    """Keep a pair that is text, and not the same in both languages."""
    if one != other and re.search(r"[a-z]", one) and other:
        pairs[one, other] = None


def distinct(pairs: Pairs) -> Pairs:
    """Without the pairs of a held-out part that training has too (buttons, headings)."""
    known = {one for one, _ in pairs["train"]}
    for part in PARTS[1:]:
        pairs[part] = {pair: None for pair in sorted(pairs[part]) if pair[0] not in known}
    return pairs


if __name__ == "__main__":
    try:
        main()
    except FetchError as error:
        sys.exit(f"prepare: {error}")
