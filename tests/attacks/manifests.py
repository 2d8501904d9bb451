"""Manifests that say what is not so, or what nobody can read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from case import Case, Change, edited, in_text, placed, written

DEEP = 100_000
DIGITS = "9" * 5000
HUGE = (10**9, 2**63 - 1, 2**63, -1)
STACK_SIZES = ("layers", "heads", "kv_heads", "head_dim", "hidden", "max_positions")
ESCAPE = "\x1b[2J\x1b]0;owned\x07"
SHOWN = {  # by inputs and outputs of the graphs
    ("encoder", "max_positions"),
    *(("decoder", name) for name in ("layers", "heads", "kv_heads", "head_dim", "max_positions")),
}
WRONG: dict[str, object] = {
    "null": None,
    "text": "text",
    "a list": [],
    "an object": {},
    "a fraction": 1.5,
    "true": True,
}
NAMES = {
    "of the parent": "../outside/weights.data",
    "hidden in the middle": "a/../../outside/weights.data",
    "absolute": "/etc/passwd",
    "with a NUL": "weights\0.data",
    "with a newline": "weights\n.data",
    "with an escape": f"weights{ESCAPE}.data",
    "with a backslash": "..\\outside\\weights.data",
    "of a drive": "C:/weights.data",
    "of a device": "NUL.onnx",
    "with a full-width dot": "\uff0e\uff0e/outside/weights.data",
    "with a slash of another script": "..\u2215outside",
    "right to left": "weights\u202eatad.onnx",
    "composed": "we\u0301ights.data",
    "empty": "",
    "a dot": ".",
    "two dots": "..",
    "with an empty part": "a//b",
    "ending with a slash": "weights.data/",
    "with a space": "weights .data",
    "hidden": ".weights",
    "a home": "~/weights.data",
    "of 5000 characters": "a" * 5000,
    "an address": "file:///etc/passwd",
    "a lone surrogate": "\ud800",
    "of the manifest": "manifest.json",
    "of the manifest in capitals": "MANIFEST.JSON",
    "a variable": "$HOME/weights.data",
    "a format": "{0.__class__}%s%n",
}
GENERATION: dict[str, object] = {
    "max_length of 10^9": {"max_length": 10**9},
    "max_length of 0": {"max_length": 0},
    "max_new_tokens of 10^18": {"max_new_tokens": 10**18},
    "min_new_tokens beyond the positions": {"min_new_tokens": 10**6, "max_new_tokens": 10**7},
    "num_beams of 10^9": {"num_beams": 10**9},
    "num_beams of 100,000": {"num_beams": 100_000},
    "num_beams beyond the vocabulary": {"num_beams": 97},
    "num_beams as text": {"num_beams": "4"},
    "num_return_sequences of 10^9": {"num_return_sequences": 10**9, "num_beams": 10**9},
    "samples without end": {"num_return_sequences": 10**7, "do_sample": True},
    "suppress_tokens beyond the vocabulary": {"suppress_tokens": [96]},
    "suppress_tokens below zero": {"suppress_tokens": [-1000]},
    "suppress_tokens of 10^18": {"suppress_tokens": [10**18]},
    "begin_suppress_tokens beyond the vocabulary": {"begin_suppress_tokens": [5000]},
    "all tokens suppressed": {"suppress_tokens": list(range(96))},
    "bad_words_ids beyond the vocabulary": {"bad_words_ids": [[5000]]},
    "bad_words_ids of nothing": {"bad_words_ids": [[]]},
    "bad_words_ids as text": {"bad_words_ids": "w5"},
    "sequence_bias of infinity": {"sequence_bias": [[[5000], 1e308]]},
    "forced_bos_token_id beyond the vocabulary": {"forced_bos_token_id": 5000},
    "forced_eos_token_id beyond the vocabulary": {"forced_eos_token_id": 5000},
    "eos_token_id beyond the vocabulary": {"eos_token_id": 5000},
    "eos_token_id below zero": {"eos_token_id": -5},
    "pad_token_id beyond the vocabulary": {"pad_token_id": 2**40},
    "decoder_start_token_id beyond the vocabulary": {"decoder_start_token_id": 96},
    "decoder_start_token_id below zero": {"decoder_start_token_id": -1},
    "decoder_start_token_id of many": {"decoder_start_token_id": list(range(90)) * 50},
    "temperature of 0": {"temperature": 0.0, "do_sample": True},
    "temperature of 1e-300": {"temperature": 1e-300, "do_sample": True},
    "temperature below zero": {"temperature": -1.0, "do_sample": True},
    "top_k below zero": {"top_k": -5, "do_sample": True},
    "top_p of 7": {"top_p": 7.0, "do_sample": True},
    "length_penalty of 1e308": {"length_penalty": 1e308, "num_beams": 2},
    "repetition_penalty of 0": {"repetition_penalty": 0.0},
    "repetition_penalty of 1e-320": {"repetition_penalty": 1e-320},
    "no_repeat_ngram_size of 10^18": {"no_repeat_ngram_size": 10**18},
    "max_time of 0": {"max_time": 0.0},
    "max_time as a list": {"max_time": [1]},
    "stop_strings of nothing": {"stop_strings": [""]},
    "100,000 stop_strings": {"stop_strings": [f"w{i}" for i in range(100_000)]},
    "a stop string of a megabyte": {"stop_strings": ["w" * 2**20]},
    "an unknown option": {"trust_remote_code": True},
    "a regular expression that explodes": {"regex": "(a+)+" * 50},
    "a grammar of nothing": {"grammar": "start: start"},
    "a schema of a file": {"json_schema": '{"$ref": "file:///etc/passwd"}'},
    "a schema of itself": {"json_schema": '{"$ref": "#"}'},
    "an option of itself nested": {"eos_token_id": [[[[2]]]]},
    "a seed of 10^18": {"seed": 10**18, "do_sample": True},
    "prompt lookup of 10^9": {"prompt_lookup_num_tokens": 10**9},
    "capacity of 10^12": {"capacity": 10**12},
    "early_stopping as a number": {"early_stopping": 7},
}
HARMLESS = {  # these are the user's to choose, and cost little
    "no_repeat_ngram_size of 10^18",
    "num_beams beyond the vocabulary",
    "a seed of 10^18",
}
BOUNDED = {
    "max_length of 10^9",
    "prompt lookup of 10^9",
    "100,000 stop_strings",
    "a stop string of a megabyte",
}  # by the positions, or refused


def cases() -> Iterator[Case]:
    """All of this file."""
    yield from _broken_json()
    yield from _shape()
    yield from _sizes()
    yield from _names()
    yield from _texts()
    yield from _generation()
    yield from _belief()


def _bart(name: str, change: Change, **more: Any) -> Case:
    return Case(name=name, start="bart", change=change, **more)


def _raw(name: str, data: bytes | str) -> Case:
    return _bart(name, written("manifest.json", data))


def _broken_json() -> Iterator[Case]:
    yield _raw("empty", "")
    yield _raw("zeros", bytes(4096))
    yield _raw("a list", "[]")
    yield _raw("a number", "4")
    yield _raw("null", "null")
    yield _raw("only spaces", " " * 2**20)
    yield _raw("lists nested 100,000 deep", "[" * DEEP + "]" * DEEP)
    yield _raw("lists opened 100,000 times", "[" * DEEP)
    yield _raw("objects nested 100,000 deep", '{"a":' * DEEP + "1" + "}" * DEEP)
    yield _raw("UTF-16", "{}".encode("utf-16"))
    yield _raw("Latin-1", b'{"kind": "\xe9"}')
    yield _raw("an overlong encoding", b'{"kind": "\xc0\xae\xc0\xae"}')
    yield _raw("a byte order mark", b"\xef\xbb\xbf{}")
    yield _raw("17 MB", '{"a": "' + "a" * (17 * 2**20) + '"}')
    yield _raw("15 MB of brackets", "[" * (15 * 2**20))
    yield _raw("15 MB of numbers", "[" + "1," * (7 * 2**20) + "1]")
    yield _raw("a long number alone", DIGITS)
    yield _bart(
        "a file of 100 GB without contents",
        lambda bundle: (bundle / "manifest.json").open("r+b").truncate(100 * 10**9),
    )
    for what, number in {
        "NaN": "NaN",
        "infinity": "Infinity",
        "minus infinity": "-Infinity",
        "a long integer": DIGITS,
        "a long negative integer": f"-{DIGITS}",
        "a long fraction": f"0.{DIGITS}",
        "1e999": "1e999",
        "a long exponent": f"1e{DIGITS}",
        "nested 100,000 deep": "[" * DEEP + "]" * DEEP,
        "a duplicate": '4, "vocab": 96',
    }.items():
        yield _bart(f"a size is {what}", in_text('"vocab": 96', f'"vocab": {number}'))
    for what, number in {"NaN": "NaN", "a long integer": DIGITS, "1e999": "1e999"}.items():
        edit = in_text('"generation": {', f'"generation": {{"temperature": {number}, ')
        yield _bart(f"a default is {what}", edit)
        edit = in_text('"generation_ignored": {', f'"generation_ignored": {{"a": {number}')
        yield _bart(f"an ignored setting is {what}", edit)
    deep = "[" * 40 + "]" * 40
    yield _bart(
        "a free value nested 40 deep",
        in_text('"generation_ignored": {', f'"generation_ignored": {{"a": {deep}'),
    )
    yield _bart(
        "a free value nested 500 deep",
        in_text('"generation_ignored": {', f'"generation_ignored": {{"a": {"[" * 500}{"]" * 500}'),
    )


def _shape() -> Iterator[Case]:
    keys = "format kind task family dims precision generation graphs files provenance tokenizer"
    for key in keys.split():
        yield _bart(f"without {key}", edited(lambda values, key=key: values.pop(key)))
    for key in ("kind", "dims", "precision", "graphs", "files", "provenance", "labels", "engines"):
        for what, value in WRONG.items():
            if (key, what) not in {("labels", "a list"), ("engines", "a list")}:
                yield _bart(f"{key} is {what}", placed(key, value))
    yield _bart("an unknown key", placed("command", "rm -rf /"))
    yield _bart("an unknown key of control characters", placed(ESCAPE + "\n\r", 1))
    yield _bart("an unknown key of a megabyte", placed("a" * 2**20, 1))
    yield _bart(
        "100,000 unknown keys", edited(lambda v: v.update({f"k{i}": i for i in range(10**5)}))
    )
    yield _bart("__class__ as a key", placed("__class__", "os"))
    for version in (0, 1, 3, 5, 99, 2**70, -4, 4.0, "4", True, None, [4]):
        yield _bart(f"format {version!r}", placed("format", version))
    yield _bart("another kind", placed("kind", "decoder"))
    yield _bart("an unknown kind", placed("kind", "exec"))
    yield _bart("an unknown task", placed("task", "shell"))
    yield _bart("an unknown precision", placed("precision", "int2"))
    yield _bart("quantized without a record", placed("precision", "int8-weight"))
    yield _bart("a graph twice", edited(lambda v: v["graphs"].append(v["graphs"][0])))
    yield _bart("100,000 graphs", edited(lambda v: v.update(graphs=v["graphs"] * 25_000)))
    yield _bart("100,000 labels", placed("labels", ["x"] * 100_000))
    yield _bart(
        "100,000 missing files",
        edited(
            lambda v: v["files"].update(
                {f"f{i}": {"size": 1, "sha256": "0" * 64} for i in range(100_000)}
            )
        ),
    )


def _sizes() -> Iterator[Case]:
    for size in HUGE:
        for side in ("encoder", "decoder"):
            for name in STACK_SIZES if size in (10**9, -1) else ("layers", "head_dim"):
                yield _bart(f"{side} {name} {size}", placed(f"dims.{side}.{name}", size))
        for name in ("vocab", "width", "source_vocab", "encoder_width", "table_width"):
            yield _bart(f"{name} {size}", placed(f"dims.{name}", size))
    for side in ("encoder", "decoder"):
        for name in STACK_SIZES:
            # Nothing at run time asks for most of them, and no file shows them.
            outcome = "refused" if (side, name) in SHOWN else "either"
            yield _bart(f"{side} {name} 0", placed(f"dims.{side}.{name}", 0), outcome=outcome)
    for name in ("vocab", "width"):
        yield _bart(f"{name} 0", placed(f"dims.{name}", 0))
    yield _bart("one layer more", placed("dims.decoder.layers", 3))
    yield _bart("one layer less", placed("dims.decoder.layers", 1))
    yield _bart("one token more", placed("dims.vocab", 97))
    yield _bart("one token less", placed("dims.vocab", 95))
    yield _bart("double heads", placed("dims.decoder.heads", 8), outcome="either")
    yield _bart("half the key heads", placed("dims.decoder.kv_heads", 2))
    yield _bart("another head_dim", placed("dims.decoder.head_dim", 16))
    yield _bart("double positions", placed("dims.decoder.max_positions", 128))
    yield _bart("double source positions", placed("dims.encoder.max_positions", 128))
    yield _bart("10^9 windows", placed("dims.decoder.windows", [1] * 10**6))
    yield _bart("a window below zero", placed("dims.decoder.windows", [-1, 1]))
    yield _bart("a window of another length", placed("dims.decoder.windows", [5]))
    yield _bart("mixers of nothing", placed("dims.decoder.mixers", ["exec", "attention"]))
    yield _bart("recurrent layers", placed("dims.decoder.mixers", ["recurrence", "attention"]))
    yield _bart("convolutions", placed("dims.decoder.mixers", ["convolution"] * 2))
    yield _bart("mels of a text model", placed("dims.mels", 80))
    yield _bart(
        "images of a text model",
        placed(
            "dims.image",
            {
                "height": 10**9,
                "width": 10**9,
                "channels": 3,
                "patch_height": 1,
                "patch_width": 1,
                "tokens": 1,
            },
        ),
    )
    yield _bart(
        "patches of no size",
        placed(
            "dims.image",
            {
                "height": 8,
                "width": 8,
                "channels": 3,
                "patch_height": 0,
                "patch_width": 0,
                "tokens": 1,
            },
        ),
    )
    yield _bart("a head that it has not", placed("dims.head", "classifier"))
    yield _bart("a pooling of nothing", placed("dims.pooling", "exec"))
    yield _bart("an activation of nothing", placed("dims.encoder.activation", "__import__"))
    yield _bart("no stack at all", edited(lambda v: v["dims"].update(encoder=None, decoder=None)))
    yield _bart("no decoder", placed("dims.decoder", None))
    for size in (0, 2, 5, 10**6, 10**9, 2**63 - 1):
        yield Case(
            name=f"a classifier of {size} labels", start="bert", change=placed("dims.labels", size)
        )
    yield Case(name="one label name less", start="bert", change=placed("labels", ["a", "b"]))
    yield Case(name="one label name more", start="bert", change=placed("labels", list("abcd")))
    yield Case(name="no label names", start="bert", change=placed("labels", []))
    yield Case(name="another problem", start="bert", change=placed("problem", "exec"))
    yield Case(name="two types of tokens", start="bert", change=placed("dims.token_types", 10**9))


def _names() -> Iterator[Case]:
    for what, name in NAMES.items():

        def rename(values: dict[str, Any], name: str = name) -> None:
            values["files"][name] = values["files"].pop("weights.data")

        yield _bart(f"a listed name {what}", edited(rename))
        yield _bart(f"a graph's name {what}", placed("graphs.0.file", name))
        yield _bart(f"a tokenizer's name {what}", placed("tokenizer.source", name))
    yield Case(
        name="a template's name of the parent",
        start="llama",
        change=placed("tokenizer.chat_template", "../outside/secret.txt"),
    )
    yield Case(
        name="a template's name absolute",
        start="llama",
        change=placed("tokenizer.chat_template", "/etc/passwd"),
    )
    yield _bart("a lexicon outside", placed("lexicon", "../outside/weights.data"))
    yield _bart("a lexicon that is not listed", placed("lexicon", "lexicon.npz"))
    yield _bart("a lexicon that is the weights", placed("lexicon", "weights.data"))
    yield _bart("a graph that is the weights", placed("graphs.1.file", "weights.data"))
    yield _bart("a graph that is the tokenizer", placed("graphs.2.file", "tokenizer.json"))
    yield _bart("a tokenizer that is a graph", placed("tokenizer.source", "encoder.onnx"))
    yield _bart(
        "a template that is a graph",
        placed("tokenizer.chat_template", "encoder.onnx"),
        outcome="either",
    )
    yield _bart(
        "names that differ in case",
        edited(lambda v: v["files"].update({"WEIGHTS.data": v["files"]["weights.data"]})),
    )
    yield _bart(
        "a file below a file",
        edited(lambda v: v["files"].update({"weights.data/a": v["files"]["weights.data"]})),
    )
    for what, record in {
        "a size below zero": {"size": -1, "sha256": "0" * 64},
        "a size of 2^63": {"size": 2**63, "sha256": "0" * 64},
        "a hash in capitals": {"size": 192512, "sha256": "A" * 64},
        "a short hash": {"size": 192512, "sha256": "0"},
        "a hash with a newline": {"size": 192512, "sha256": "0" * 63 + "\n"},
        "another hash": {"size": 192512, "sha256": "0" * 64},
        "a size as text": {"size": "192512", "sha256": "0" * 64},
        "no hash": {"size": 192512},
        "a third field": {"size": 192512, "sha256": "0" * 64, "url": "http://x"},
    }.items():
        yield _bart(
            f"a file of {what}",
            edited(lambda v, record=record: v["files"].update({"weights.data": record})),
        )


def _texts() -> Iterator[Case]:
    """Texts that a terminal would obey; nothing of them may be printed as it is."""
    for what, text in {
        "escapes": ESCAPE,
        "a second line": "a\nError: all is well",
        "a return": "a\rb",
        "a reversal": "a\u202eb",
        "a separator of lines": "a\u2028b",
        "C1 controls": "a\x9b2Jb",
        "a bell": "\x07",
    }.items():
        for key in (
            "family",
            "provenance.source",
            "provenance.tool_version",
            "provenance.created",
            "provenance.source_format",
            "original.reason",
        ):
            outcome = "refused" if key == "provenance.created" else "either"
            yield _bart(f"{key} with {what}", placed(key, text), outcome=outcome)
        yield Case(
            name=f"labels with {what}",
            start="bert",
            outcome="either",
            change=placed("labels", [text, "b", "c"]),
        )
        yield _bart(
            f"an ignored setting with {what}",
            placed("generation_ignored", {text: text}),
            outcome="either",
        )
        yield _bart(f"a kind with {what}", placed("kind", text))
        yield _bart(f"a default with {what}", placed("generation", {text: 1}))
        yield _bart(f"an input's name with {what}", placed("graphs.1.inputs.0.name", text))
        yield _bart(f"a release with {what}", placed("graphs.1.requires", {"onnxruntime": text}))
        yield _bart(
            f"a language with {what}", placed("tokenizer.languages", {text: 5}), outcome="either"
        )
        yield _bart(
            f"a special token with {what}", placed("tokenizer.special.eos", text), outcome="either"
        )


def _generation() -> Iterator[Case]:
    for what, values in GENERATION.items():

        def put(manifest: dict[str, Any], values: Any = values) -> None:
            manifest["generation"].update(values)

        outcome = "harmless" if what in HARMLESS else "either" if what in BOUNDED else "refused"
        yield _bart(f"defaults: {what}", edited(put), outcome=outcome)


def _without_graph(role: str) -> Change:
    return edited(
        lambda v: v.update(graphs=[graph for graph in v["graphs"] if graph["role"] != role])
    )


def _belief() -> Iterator[Case]:
    """What the manifest says and no file shows."""
    yield _bart("no graphs", placed("graphs", []))
    yield _bart("no encoder", _without_graph("encoder"))
    yield _bart("no decoder graph", _without_graph("decoder"))
    yield _bart(  # a model of token ids
        "no tokenizer",
        placed("tokenizer", None),
        outcome="harmless",
        commands=(("inspect", "."), ("verify", ".")),
    )
    yield _bart("no defaults", placed("generation", None), outcome="either")
    yield _bart("another task", placed("task", "embed"))
    yield _bart("a task of speech", placed("task", "transcribe"))
    yield _bart(
        "graphs for another target", placed("graphs.1.target", "tensorrt"), outcome="either"
    )
    for release in ("999.0", "9" * 40, "1.0", "0"):
        outcome = "refused" if release.startswith("9") else "either"

        def require(values: dict[str, Any], release: str = release) -> None:
            for graph in values["graphs"]:
                graph["requires"] = {"onnxruntime": release}

        yield _bart(f"needs onnxruntime {release}", edited(require), outcome=outcome)
    yield _bart("needs no package", placed("graphs.1.requires", {}), outcome="either")
    for i, side in enumerate(("inputs", "outputs")):
        yield _bart(f"no {side}", placed(f"graphs.1.{side}", []))
        yield _bart(f"{side} of another type", placed(f"graphs.1.{side}.0.dtype", "int8"))
        yield _bart(f"{side} of an unknown type", placed(f"graphs.1.{side}.0.dtype", "object"))
        yield _bart(f"{side} of another name", placed(f"graphs.1.{side}.0.name", f"other_{i}"))
        yield _bart(f"{side} of another shape", placed(f"graphs.1.{side}.0.shape", ["batch", 7, 7]))
        yield _bart(f"{side} of 10^9", placed(f"graphs.1.{side}.0.shape", ["batch", 10**9]))
    yield _bart(
        "a parity that proves nothing", placed("parity.tokens_compared", 0), outcome="either"
    )
    yield _bart(
        "a language beyond the vocabulary",
        edited(
            lambda v: v["tokenizer"].update(
                languages={"fr": 10**6}, language_layout="prefix", source_language="fr"
            )
        ),
    )
    yield _bart(
        "a target language beyond the vocabulary",
        edited(
            lambda v: v["tokenizer"].update(
                languages={"fr": 10**6}, target_layout="forced", target_language="fr"
            )
        ),
    )
    yield _bart("an unknown default language", placed("tokenizer.source_language", "xx"))
    yield _bart("unknown_from 0", placed("tokenizer.unknown_from", 0), outcome="either")
    yield _bart(
        "an end token that is none", placed("tokenizer.special.eos", "<none>"), outcome="either"
    )
    yield _bart(
        "a shortlist that is missing",
        placed(
            "shortlist",
            {
                "file": "shortlist.txt",
                "size": 40,
                "origin": "ids",
                "texts": 0,
                "most": None,
                "source_sha256": "0" * 64,
                "tool_version": "0",
                "created": "2026-01-31T23:59:59Z",
            },
        ),
    )
    yield _bart(
        "audio of a text model",
        placed(
            "audio", {"sampling_rate": 16000, "mels": 80, "fft": 400, "hop": 160, "seconds": 30}
        ),
    )
    yield _bart("an image processor of a text model", placed("images", {"size": [8, 8]}))
    yield _bart(
        "a reranker without a template",
        placed("reranking", {"instruction": "", "generation_prompt": True, "tokens": [1, 2]}),
    )
    yield Case(
        name="a reranker's tokens beyond the vocabulary",
        start="llama",
        change=placed(
            "reranking", {"instruction": "", "generation_prompt": True, "tokens": [10**9, 2]}
        ),
        outcome="either",
    )
    yield Case(
        name="speech settings of a text model",
        start="llama",
        outcome="either",
        change=placed(
            "speech",
            {
                "languages": {"en": 10**9},
                "tasks": {},
                "no_timestamps": 10**9,
                "alignment_heads": [[99, 99]],
            },
        ),
    )
