"""What is installed is what is in the tree."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from seq2edge import __version__

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
OUTSIDE = {"tests", "benchmarks", "examples", "scripts", "build", "dist", "docs"}


def packages_in_the_tree():
    """Folders with an __init__.py, as packages of seq2edge."""
    found = set()
    for file in ROOT.rglob("__init__.py"):
        parts = file.parent.relative_to(ROOT).parts
        if not parts or (parts[0] not in OUTSIDE and not parts[0].startswith(".")):
            found.add(".".join(("seq2edge", *parts)))
    return found


def test_the_list_of_packages_is_the_tree():
    """A new folder is added to pyproject.toml by hand; this tells when it was forgotten."""
    assert set(SETTINGS["tool"]["setuptools"]["packages"]) == packages_in_the_tree()


def test_every_module_lies_in_a_package():
    """A folder without an __init__.py would be left out of the wheel."""
    for file in ROOT.rglob("*.py"):
        parts = file.relative_to(ROOT).parts
        if len(parts) > 1 and parts[0] not in OUTSIDE and not parts[0].startswith("."):
            assert (file.parent / "__init__.py").is_file(), file


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder with a source archive of a copy of the tracked files, and a wheel built from it."""
    folder = tmp_path_factory.mktemp("wheel")
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a git checkout, so the tracked files are not known")
    source = folder / "source"
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_symlink() or not (ROOT / name).is_file():
            continue
        target = source / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "build", "--no-isolation", "-o", str(folder)]
    done = subprocess.run([*command, str(source)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def wheel(built):
    """The names in the wheel."""
    (file,) = built.glob("*.whl")
    with zipfile.ZipFile(file) as archive:
        return set(archive.namelist())


def test_the_wheel_holds_every_module_and_nothing_else(wheel):
    """Modules, the schema, the typing marker; no tests, examples or scripts."""
    modules = set()
    for package in SETTINGS["tool"]["setuptools"]["packages"]:
        folder = ROOT.joinpath(*package.split(".")[1:])
        prefix = "/".join(package.split("."))
        modules |= {f"{prefix}/{file.name}" for file in folder.glob("*.py")}
    data = {"seq2edge/manifest.schema.json", "seq2edge/py.typed"}
    data.add("seq2edge/evaluation/pairs.json")
    data |= {f"seq2edge/serve/page/{file.name}" for file in (ROOT / "serve" / "page").iterdir()}
    inside = {name for name in wheel if ".dist-info/" not in name}
    assert inside == modules | data


def test_the_wheel_carries_its_licence_and_command(wheel):
    """So that whoever installs it has both."""
    assert any(name.endswith("licenses/LICENSE") for name in wheel)
    assert any(name.endswith("entry_points.txt") for name in wheel)


def test_both_bear_the_version(built):
    """That of `__init__.py`, which is written nowhere else as a fact."""
    assert sorted(file.name for file in built.iterdir() if file.is_file()) == [
        f"seq2edge-{__version__}-py3-none-any.whl",
        f"seq2edge-{__version__}.tar.gz",
    ]


def test_the_source_archive_holds_what_the_wheel_is_built_from(built, wheel):
    """And its papers; no tests, which need what is not in it, and nothing of the builder's."""
    with tarfile.open(built / f"seq2edge-{__version__}.tar.gz") as archive:
        files = {name.name.partition("/")[2] for name in archive if name.isfile()}
    modules = {name.partition("/")[2] for name in wheel if ".dist-info/" not in name}
    papers = {"README.md", "CHANGELOG.md", "LICENSE", "MANIFEST.in", "pyproject.toml"}
    made = {"PKG-INFO", "setup.cfg"}
    rest = {name for name in files if not name.startswith("seq2edge.egg-info/")}
    assert rest == modules | papers | made


def test_what_names_the_version_names_this_one():
    """The wheels that pages install, and the images of the manifests."""
    texts = [ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("deploy/**/*.yaml")]
    names = re.findall(
        r"seq2edge[-:](\d+\.\d+\.\d+)", "".join(file.read_text(encoding="utf-8") for file in texts)
    )
    assert set(names) == {__version__}
