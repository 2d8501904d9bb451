"""What users hand over and may have from a stranger: sounds, images, lists of examples, recipes."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Iterator
from typing import Any

from case import Case, Outcome, written

ESCAPE = "\x1b[2J\nError: all is well"
DEEP = 100_000


def cases() -> Iterator[Case]:
    """All of this file."""
    yield from _sounds()
    yield from _images()
    yield from _examples()
    yield from _texts()
    yield from _options()
    yield from _recipes()


def _sound(name: str, data: bytes, outcome: Outcome = "refused") -> Case:
    return Case(
        name=f"a sound that {name}",
        start="whisper",
        outcome=outcome,
        change=_beside("clip.wav", data),
        commands=(("transcribe", ".", "../clip.wav", "--max-new-tokens", "3"),),
    )


def _beside(name: str, data: bytes | str) -> Any:
    return lambda folder: written(name, data)(folder.parent)


def _wav(fmt: bytes, data: bytes, size: int | None = None, head: bytes = b"RIFF") -> bytes:
    chunks = b"fmt " + struct.pack("<I", len(fmt)) + fmt
    chunks += b"data" + struct.pack("<I", len(data) if size is None else size) + data
    return head + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


def _fmt(code: int = 1, channels: int = 1, rate: int = 16000, bits: int = 16) -> bytes:
    align = channels * bits // 8
    return struct.pack(
        "<HHIIHH", code, channels & 0xFFFF, rate, (rate * align) & 0xFFFFFFFF, align & 0xFFFF, bits
    )


def _sounds() -> Iterator[Case]:
    second = bytes(32000)
    yield _sound("is whole", _wav(_fmt(), second), "harmless")
    for what, data in {
        "is empty": b"",
        "is noise": random.Random(0).randbytes(50_000),
        "is a header alone": b"RIFF\xff\xff\xff\xffWAVE",
        "has no samples": _wav(_fmt(), b""),
        "has no format": b"RIFF"
        + struct.pack("<I", 40)
        + b"WAVEdata"
        + struct.pack("<I", 4)
        + b"1234",
        "has a short format": _wav(b"\x01\0", second),
        "has no channels": _wav(_fmt(channels=0), second),
        "has 65,535 channels": _wav(_fmt(channels=65535), second),
        "has 0 Hz": _wav(_fmt(rate=0), second),
        "has 1 Hz": _wav(_fmt(rate=1), second),
        "has 4 GHz": _wav(_fmt(rate=2**32 - 1), second),
        "has 0 bits": _wav(_fmt(bits=0), second),
        "has 64,000 bits": _wav(_fmt(bits=64000), second),
        "has 7 bits": _wav(_fmt(bits=7), second),
        "is MP3 inside": _wav(_fmt(code=0x55), second),
        "has an unknown code": _wav(_fmt(code=0x1234), second),
        "has floats that are none": _wav(
            _fmt(code=3, bits=32), struct.pack("<f", float("nan")) * 99
        ),
        "has infinite floats": _wav(_fmt(code=3, bits=64), struct.pack("<d", float("inf")) * 99),
        "has floats of 1e308": _wav(_fmt(code=3, bits=64), struct.pack("<d", 1e308) * 99),
        "is cut short": _wav(_fmt(), second, size=10**6),
        "lasts an hour": _wav(_fmt(rate=1000, bits=8), bytes(3_600_000)),
        "is big-endian": _wav(_fmt(), second, head=b"RIFX"),
        "has chunks without end": b"RIFF\xff\xff\xff\xffWAVE" + b"junk\0\0\0\0" * 100_000,
        "has a chunk of 4 GB": b"RIFF\xff\xff\xff\xffWAVEjunk\xff\xff\xff\xff" + second,
        "is extensible with nothing": _wav(_fmt(code=0xFFFE), second),
        "is compressed": b"RIFF" + zlib.compress(second),
    }.items():
        yield _sound(what, data)
    yield _sound("has half a sample", _wav(_fmt(), second + b"\0"), "either")
    yield _sound("has a rate of primes", _wav(_fmt(rate=767_999, bits=8), bytes(10**6)), "either")
    for seed in range(8):

        def flipped(seed: int = seed) -> bytes:
            chosen = random.Random(seed)
            data = bytearray(_wav(_fmt(), second))
            for _ in range(3):
                data[chosen.randrange(44)] = chosen.randrange(256)
            return bytes(data)

        yield _sound(f"is changed at random {seed}", flipped(), "either")
    for place in ("/dev/zero", "/proc/self/mem", ".", "nothing.wav", "x" * 5000):
        yield Case(
            name=f"a sound at {place[:20]!r}",
            start="whisper",
            change=lambda _: None,
            commands=(("transcribe", ".", place),),
        )


def _png(width: int, height: int, data: bytes, kind: int = 2, bits: int = 8) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    head = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(data))
        + chunk(b"IEND", b"")
    )


def _images() -> Iterator[Case]:
    for what, data in {
        "is empty": b"",
        "is noise": random.Random(0).randbytes(5000),
        "is a header alone": b"\x89PNG\r\n\x1a\n",
        "promises 2^31 pixels a side": _png(2**31 - 1, 2**31 - 1, b""),
        "promises 60,000 pixels a side": _png(60_000, 60_000, b"\0" * 1000),
        "is a bomb of 180 MB": _png(13_000, 13_000, bytes(13_001 * 13_000), kind=0),
        "has no pixels": _png(0, 0, b""),
        "is cut": _png(8, 8, bytes(200))[:40],
        "is SVG with a file": b'<svg><image href="/etc/passwd"/></svg>',
        "is PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n(../ran) (w) file\n",
        "is PDF": b"%PDF-1.4\n",
        "has a text of 100 MB": b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 10**8) + b"tEXt",
        "is a GIF of frames without end": b"GIF89a\x08\x00\x08\x00\x80\x00\x00" + b"\x2c" * 500,
        "is a TIFF of itself": b"II*\0\x08\0\0\0" + b"\x01\0" + bytes(12) + b"\x08\0\0\0",
        "is an icon of 4 GB": b"\0\0\1\0\1\0\0\0\0\0\1\0\x20\0\xff\xff\xff\xff\x16\0\0\0",
    }.items():
        yield Case(
            name=f"an image that {what}",
            start="trocr",
            change=_beside("image.png", data),
            commands=(("read", ".", "../image.png", "--max-new-tokens", "3"),),
        )
    for place in ("/dev/zero", ".", "nothing.png", "/dev/null"):
        yield Case(
            name=f"an image at {place}",
            start="trocr",
            change=lambda _: None,
            commands=(("read", ".", place),),
        )


def _examples() -> Iterator[Case]:
    """Lists that `eval` reads."""
    for what, text in {
        "is empty": "",
        "is a list": "[]\n",
        "is deep": "[" * DEEP + "]" * DEEP + "\n",
        "has deep inputs": '{"input": ' + "[" * DEEP + "]" * DEEP + "}\n",
        "has a long integer": '{"input": ' + "9" * 5000 + "}\n",
        "has NaN": '{"input": NaN, "reference": "a"}\n',
        "has a lone surrogate": '{"input": "\\ud800", "reference": "a"}\n',
        "has numbers for texts": '{"input": 4, "reference": 5}\n',
        "has unknown keys": '{"input": "w5", "reference": "w5", "exec": 1}\n',
        "has keys of control characters": '{"input": "w5", "\\u001b[2J\\n": 1}\n',
        "has null": "null\n",
        "is half a line": '{"input": "w5", "refe',
    }.items():
        yield Case(
            name=f"examples in JSON that {what}",
            start="bart",
            change=_beside("test.jsonl", text),
            commands=(("eval", ".", "../test.jsonl", "--metric", "exact", "--device", "cpu"),),
        )
    for what, raw in {
        "are no text": b"\xff\xfe\t\xff\n",
        "have zeros": bytes(5000),
        "have no tab": b"w5 w6\n" * 3,
    }.items():
        yield Case(
            name=f"examples in columns that {what}",
            start="bart",
            outcome="either",
            change=_beside("test.tsv", raw),
            commands=(("eval", ".", "../test.tsv", "--metric", "exact", "--device", "cpu"),),
        )
    for suffix, raw in {
        "gz": b"\x1f\x8bnot gzip",
        "xz": b"\xfd7zXZ\0not",
        "bz2": b"BZh9not",
        "zst": b"\x28\xb5\x2f\xfdnot",
    }.items():
        yield Case(
            name=f"examples in a damaged {suffix}",
            start="bart",
            change=_beside(f"test.jsonl.{suffix}", raw),
            commands=(
                ("eval", ".", f"../test.jsonl.{suffix}", "--metric", "exact", "--device", "cpu"),
            ),
        )


def _texts() -> Iterator[Case]:
    few = ("--max-new-tokens", "3")
    for what, text, outcome in (
        ("of a megabyte", "w5 " * 350_000, "refused"),
        ("of one word of a megabyte", "w" * 2**20, "either"),
        ("of nothing", "", "either"),
        ("of spaces", "   ", "either"),
        ("of control characters", "\x1b[2J\x07", "either"),
        ("that is no text", "\udcff\udcfe", "refused"),
        ("of marks", "w5" + "\u0301" * 10_000, "either"),
        ("of special tokens", "</s> <s> <pad> </s>", "either"),
        ("of directions", "\u202e\u2066 w5", "either"),
    ):
        yield Case(
            name=f"a text {what}",
            start="bart",
            outcome=outcome,
            change=lambda _: None,
            commands=(("run", ".", text, *few),),
        )
    for what, raw in {
        "that is no text": b"\xff\xfe\n",
        "of zeros": bytes(100_000),
        "of one line of 5 MB": b"w5 " * 1_700_000,
    }.items():
        yield Case(
            name=f"a file {what}",
            start="bart",
            change=_beside("in.txt", raw),
            outcome="refused" if what != "of zeros" else "either",
            commands=(("run", ".", "-f", "../in.txt", *few),),
        )


def _options() -> Iterator[Case]:
    """A request that asks for too much."""
    for options, outcome in (
        (("--num-beams", "1000000000"), "refused"),
        (("--sample", "-n", "100000000"), "refused"),
        (("--capacity", "1000000000000"), "refused"),
        (("--capacity", str(10**30)), "refused"),
        (("--max-new-tokens", "1000000000000"), "refused"),
        (("--batch", "1000000000"), "harmless"),
        (("--top-k", str(10**30)), "either"),
        (("--seed", str(10**30)), "either"),
        (("--temperature", "1e-320"), "refused"),
        (("--temperature", "nan"), "refused"),
        (("--length-penalty", "1e308", "-b", "2"), "refused"),
        (("--repetition-penalty", "inf"), "refused"),
        (("--presence-penalty", "nan"), "refused"),
        (("--top-p", "nan"), "refused"),
        (("--max-time", "nan"), "refused"),
        (("--max-time", "-1"), "refused"),
        (("--stop", ""), "refused"),
        (("--regex", "(" * 5000), "refused"),
        (("--regex", "(a{1,1000}){1,1000}" * 3), "refused"),
        (("--regex", "\ud800"), "refused"),
        (("--prompt-lookup", "1000000000"), "either"),
        (("--json", "--logprobs", "1000000000"), "either"),
        (("--from", ESCAPE), "refused"),
        (("--to", "x" * 10**5), "refused"),
        (("--draft", "/dev/zero"), "refused"),
        (("-b", "50000"), "refused"),
        (("-b", "1000000", "-n", "1000000"), "refused"),
        (("--threads", "1000000"), "refused"),
    ):
        shown = " ".join(options)[:50]
        yield Case(
            name=f"asked for {shown!r}",
            start="bart",
            outcome=outcome,
            change=lambda _: None,
            commands=(("run", ".", "w5 w6", *options),),
        )
    for what, text in {
        "that is no JSON": "{",
        "of itself": '{"$ref": "#"}',
        "deep": "[" * DEEP,
        "of a file": '{"$ref": "file:///etc/passwd"}',
        "of nothing": "false",
        "of 10^9 items": '{"type": "array", "minItems": 1000000000, "items": {"type": "null"}}',
        "of a long integer": '{"const": ' + "9" * 5000 + "}",
        "of a net": '{"$ref": "http://127.0.0.1:1/x"}',
        "of a hard pattern": '{"type": "string", "pattern": "(a|b)*c{1,100000}"}',
    }.items():
        yield Case(
            name=f"a schema {what}",
            start="bart",
            outcome="refused",
            change=_beside("schema.json", text),
            commands=(("run", ".", "w5 w6", "--json-schema", "../schema.json"),),
        )
    for what, text in {
        "that is none": "%%%",
        "of itself": "start: start",
        "of nothing": "",
        "that is deep": "start: " + "(" * 20_000 + '"a"' + ")" * 20_000,
        "of a file": "%import ..outside.secret\nstart: secret",
    }.items():
        yield Case(
            name=f"a grammar {what}",
            start="bart",
            outcome="refused",
            change=_beside("grammar.lark", text),
            commands=(("run", ".", "w5 w6", "--grammar", "../grammar.lark"),),
        )


RECIPE = 'objective = "causal"\n[data]\ntrain = ["train.txt"]\n[optimizer]\nsteps = 1\n'


def _recipes() -> Iterator[Case]:
    for what, text in {
        "that is empty": "",
        "that is no TOML": "[[[",
        "that is no text": "\ud800",
        "nested deep": "a = " + "[" * DEEP + "]" * DEEP,
        "of a long integer": f"seed = {'9' * 5000}\n" + RECIPE,
        "of an unknown key": "exec = 1\n" + RECIPE,
        "of a key of control characters": '"\\u001b[2J\\n" = 1\n' + RECIPE,
        "of NaN": RECIPE + "learning_rate = nan\n",
        "without steps": RECIPE.replace("steps = 1", "steps = 0"),
        "of 10^18 steps": RECIPE.replace("steps = 1", f"steps = {10**18}"),
        "of data outside": RECIPE.replace("train.txt", "/dev/zero"),
        "of data that are missing": RECIPE,
        "of a width of 10^9": RECIPE + "[model]\nwidth = 1000000000\n",
        "of sizes below zero": RECIPE + "[model]\nwidth = -4\n",
        "of a folder": RECIPE.replace("train.txt", "."),
    }.items():
        yield Case(
            name=f"a recipe {what}",
            start="checkpoint",
            change=_beside("recipe.toml", text),
            commands=(("train", "../recipe.toml", "-o", "out", "--device", "cpu"),),
        )
    for place in ("/dev/zero", ".", "nothing.toml"):
        yield Case(
            name=f"a recipe at {place}",
            start="checkpoint",
            change=lambda _: None,
            commands=(("train", place, "-o", "out", "--device", "cpu"),),
        )
