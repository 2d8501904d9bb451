"""Texts of the Debian index: names, sections, synopses and descriptions in several languages.

The index is fetched once with `apt-get` into a folder of its own under `.cache`; the system's own
lists stay as they are. It rolls, so figures move a little with the day. The texts have their
packages' licences.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from weights import CACHE, FetchError

INDEX = CACHE.parent / "debian-index"
LANGUAGES = ("en", "de", "fr", "it", "pt_BR")
_CONFIG = """
Dir::State "{folder}/state";
Dir::Cache "{folder}/cache";
Dir::Etc::Parts "{folder}/parts";
Acquire::Languages {{ {languages} }};
Acquire::GzipIndexes "false";
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Package:
    """One binary package; `descriptions` has (synopsis, paragraphs) by language."""

    name: str
    source: str
    section: str
    descriptions: dict[str, tuple[str, tuple[str, ...]]]

    def parallel(self, language: str) -> list[tuple[str, str]]:
        """Paragraphs in English and in that language, where there are equally many in both."""
        nothing = ("", ())
        one, other = (self.descriptions.get(code, nothing)[1] for code in ("en", language))
        return list(zip(one, other, strict=True)) if len(one) == len(other) else []


def packages() -> list[Package]:
    """All packages with an English description, by name. Raises FetchError with the reason."""
    lists = _fetch()
    texts = {language: _descriptions(lists, language) for language in LANGUAGES}
    by_name = {}
    for path in sorted(lists.glob("*_Packages")):
        for entry in _entries(path):
            key = entry.get("Description-md5", "")
            described = {code: known[key] for code, known in texts.items() if key in known}
            if "en" in described:
                source = entry.get("Source", entry["Package"]).split()[0]
                section = entry.get("Section", "").rpartition("/")[2]
                by_name[entry["Package"]] = Package(
                    name=entry["Package"],
                    source=source,
                    section=section,
                    descriptions=described,
                )
    return [by_name[name] for name in sorted(by_name)]


def unpacked(name: str) -> Path:
    """The content of a Debian package, fetched once; apt checks its signature."""
    _fetch()
    target = CACHE.parent / "debian-packages" / name
    if not target.is_dir():
        if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
            raise FetchError(f"{name}: a Debian package, needs apt-get and dpkg-deb")
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as temporary:
            folder = Path(temporary)
            command = ["apt-get", "download", "--quiet", name]
            done = subprocess.run(
                command, cwd=folder, env=_environment(), capture_output=True, text=True, check=False
            )
            files = sorted(folder.glob("*.deb"))
            if done.returncode or len(files) != 1:
                raise FetchError(f"{name}: cannot be fetched: {done.stderr.strip()[-300:]}")
            content = folder / "content"
            subprocess.run(["dpkg-deb", "-x", str(files[0]), str(content)], check=True)
            content.rename(target)
    return target


def part_of(source: str) -> str:
    """Where the packages of a source belong: train (90 %), validation or test (5 % each).

    By a hash of the source's name, so that siblings with the same paragraphs stay together and a
    newer index moves none.
    """
    place = int(hashlib.sha256(source.encode()).hexdigest(), 16) % 20
    return {0: "test", 1: "validation"}.get(place, "train")


def _fetch() -> Path:
    folder = INDEX
    lists = folder / "state" / "lists"
    if not _is_complete(lists):
        if not shutil.which("apt-get"):
            raise FetchError("the Debian index: needs apt-get")
        shutil.rmtree(folder, ignore_errors=True)
        for name in ("state/lists/partial", "cache/archives/partial", "parts"):
            (folder / name).mkdir(parents=True)
        codes = " ".join(f'"{code}";' for code in LANGUAGES)
        config = folder / "apt.conf"
        config.write_text(_CONFIG.format(folder=folder, languages=codes), encoding="utf-8")
        command = ["apt-get", "update", "--quiet"]
        done = subprocess.run(
            command, env=_environment(), capture_output=True, text=True, check=False
        )
        if not any(lists.glob("*_Packages")):
            raise FetchError(f"the Debian index: cannot be fetched: {done.stderr.strip()[-300:]}")
    return lists


def _is_complete(lists: Path) -> bool:
    """Whether an index is there, of all languages: an older one was fetched without some."""
    config = INDEX / "apt.conf"
    named = config.read_text(encoding="utf-8") if config.is_file() else " ".join(LANGUAGES)
    return any(lists.glob("*_Packages")) and all(code in named for code in LANGUAGES)


def _environment() -> dict[str, str]:
    return {"APT_CONFIG": str(INDEX / "apt.conf"), "PATH": "/usr/bin:/bin:/usr/sbin:/sbin"}


def _translations(lists: Path, language: str) -> list[Path]:
    """The files of a language; apt writes an underscore as its code."""
    return sorted(lists.glob(f"*_Translation-{language.replace('_', '%5f')}"))


def _descriptions(lists: Path, language: str) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Synopsis and paragraphs by the MD5 of the English description."""
    descriptions = {}
    for path in _translations(lists, language):
        for entry in _entries(path):
            text = entry.get(f"Description-{language}", "")
            synopsis, _, long = text.partition("\n")
            descriptions[entry["Description-md5"]] = (synopsis.strip(), _paragraphs(long))
    return descriptions


def _paragraphs(long: str) -> tuple[str, ...]:
    """Paragraphs of a description as one line each; lists and listings are left out."""
    blocks = re.split(r"^ \.\s*$", long, flags=re.MULTILINE)
    kept = [block for block in blocks if not re.search(r"^  |^ [*-] ", block, flags=re.MULTILINE)]
    lines = (" ".join(block.split()) for block in kept)
    return tuple(line for line in lines if line)


def _entries(path: Path) -> Iterator[dict[str, str]]:
    """The fields of every stanza."""
    entry: dict[str, str] = {}
    key = ""
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            if line == "\n":
                if entry:
                    yield entry
                entry, key = {}, ""
            elif line[0] == " " and key:
                entry[key] += "\n" + line.rstrip("\n")
            else:
                key, _, value = line.rstrip("\n").partition(": ")
                key = key.rstrip(":")
                entry[key] = value
    if entry:
        yield entry
