"""What is built on decoding, on a real device: its answers there are those of the CPU.

A server with clients at once, kept prefixes, constraints, log-probabilities, conversations
and long recordings.
"""

from __future__ import annotations

import concurrent.futures
import functools
import json
import re

import byte_tokens
import pytest
import serving
import speech_models
import tiny_models

import seq2edge
from seq2edge.export.pipeline import export_checkpoint
from seq2edge.runtime.speech.options import SpeechOptions
from seq2edge.runtime.speech.transcriber import Transcriber
from seq2edge.serve.calls.settings import Settings

pytestmark = pytest.mark.gpu

TEMPLATE = "{% for message in messages %}{{ message['content'] }} {% endfor %}w7"
SIZES = {
    "bart": {"d_model": 256},
    "llama": {"hidden_size": 256, "head_dim": 64, "max_position_embeddings": 256},
}
TEXTS = [" ".join(f"w{3 + (7 * i + j) % 80}" for j in range(1 + i % 9)) for i in range(24)]
KINDS = [
    {},
    {"num_beams": 3},
    {"do_sample": True, "seed": 4, "top_k": 12},
    {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2},
]
CLOSE = 1e-4  # of numbers that another device adds in another order


@pytest.fixture(scope="module")
def folders(speaking):
    """Bundles of text by their names."""
    return {
        "translator": speaking("bart", **SIZES["bart"]),
        "writer": speaking("llama", template=TEMPLATE, **SIZES["llama"]),
        "embedder": speaking("bert-embedding"),
    }


@pytest.fixture(scope="module")
def pairs(cuda, folders):
    """Each on the device and on the CPU."""
    return {
        name: tuple(seq2edge.load(folder, device=device) for device in ("cuda", "cpu"))
        for name, folder in folders.items()
    }


def bytes_bundle(folder):
    """A Llama whose tokens are bytes."""
    tiny_models.save("llama", folder / "checkpoint", **SIZES["llama"], vocab_size=byte_tokens.VOCAB)
    byte_tokens.write(folder / "checkpoint" / "tokenizer.json")
    settings = {"tokenizer_class": "TokenizersBackend", "eos_token": "</s>"}
    (folder / "checkpoint" / "tokenizer_config.json").write_text(json.dumps(settings))
    export_checkpoint(folder / "checkpoint", folder / "bundle", original=False)
    return folder / "bundle"


def options_of(model, **changes):
    """Few tokens, and an end that comes by itself or not."""
    return model.options.replace(**{"max_new_tokens": 12, "max_length": None, **changes})


@pytest.mark.parametrize("name", ["translator", "writer"])
def test_a_server_answers_many_clients_as_the_cpu_does(cuda, folders, pairs, name):
    """Requests of every kind at once, embeddings beside them."""
    host = pairs[name][1]
    asked = [(text, KINDS[i % len(KINDS)]) for i, text in enumerate(TEXTS)]
    wanted = [host.generate([text], options_of(host, **kind))[0][0].text for text, kind in asked]
    vectors = pairs["embedder"][1].embed(TEXTS)
    load = functools.partial(seq2edge.load, device="cuda")

    clients = concurrent.futures.ThreadPoolExecutor(16)
    with serving.serve(folders, load=load) as served, clients as pool:

        def complete(question):
            text, kind = question
            body = {"model": name, "prompt": text, "max_tokens": 12, "n": 1, **kind}
            if "do_sample" in kind:
                body["temperature"] = 1.0
            return served.post("/v1/completions", body).json()["choices"][0]["text"]

        def embed(text):
            body = {"model": "embedder", "input": text, "encoding_format": "float"}
            return served.post("/v1/embeddings", body).json()["data"][0]["embedding"]

        texts, found = pool.map(complete, asked), pool.map(embed, TEXTS)
        assert list(texts) == wanted
        for vector, expected in zip(found, vectors, strict=True):
            assert vector == pytest.approx(expected.tolist(), abs=CLOSE)


def test_a_kept_prefix_is_read_back_to_the_device(cuda, folders, pairs, tmp_path):
    """By another server; what goes on from it is the CPU's."""
    host = pairs["writer"][1]
    start = " ".join(TEXTS[5:8])
    load = functools.partial(seq2edge.load, device="cuda")
    for end, cached in (("w50", False), ("w60 w61", True)):
        prompt = f"{start} {end}"
        wanted = host.generate([prompt], options_of(host))[0][0].text
        settings = Settings(cache_dir=tmp_path / "kept")
        with serving.serve({"writer": folders["writer"]}, settings, load) as served:
            body = {"model": "writer", "prompt": prompt, "max_tokens": 12}
            answer = served.post("/v1/completions", body).json()
            serving.soon(lambda: any(tmp_path.glob("kept/*/*.npz")), "nothing is kept")
        assert answer["choices"][0]["text"] == wanted
        kept = answer["usage"]["prompt_tokens_details"]["cached_tokens"]
        assert (kept > 0) == cached


@pytest.mark.parametrize("name", ["translator", "writer"])
@pytest.mark.parametrize("changes", [{}, {"num_beams": 3}, {"do_sample": True, "seed": 1}])
def test_log_probabilities_are_those_of_the_cpu(pairs, name, changes):
    """Of the tokens and of what else was likely."""
    device, host = pairs[name]
    options = options_of(host, logprobs=4, **changes)
    for text in TEXTS[:4]:
        found, wanted = (model.generate([text], options)[0][0] for model in (device, host))
        assert found.ids == wanted.ids
        assert [entry.logprob for entry in found.logprobs] == pytest.approx(
            [entry.logprob for entry in wanted.logprobs], abs=CLOSE
        )
        for ours, theirs in zip(found.logprobs, wanted.logprobs, strict=True):
            values = [[value for _, value in entry.top] for entry in (ours, theirs)]
            assert values[0] == pytest.approx(values[1], abs=CLOSE)


@pytest.mark.parametrize("changes", [{}, {"num_beams": 3}, {"do_sample": True, "seed": 1}])
def test_answers_by_a_rule_are_those_of_the_cpu(cuda, made_once, changes):
    """Which reads all logits."""
    pytest.importorskip("llguidance", reason="install seq2edge[constraints]")
    bundle = made_once(bytes_bundle)
    device, host = (seq2edge.load(bundle, device=name) for name in ("cuda", "cpu"))
    options = options_of(host, eos_token_id=byte_tokens.END, regex="(1[0-9] ?)+", **changes)
    found, wanted = (model.generate(["5", "12 3", "-"], options) for model in (device, host))
    assert all(re.fullmatch("(1[0-9] ?)*1?", some[0].text) for some in found)
    assert [[each.ids for each in some] for some in found] == [
        [each.ids for each in some] for some in wanted
    ]


def test_a_conversation_goes_on_as_on_the_cpu(pairs):
    """With what it computed before."""
    device, host = pairs["writer"]
    sessions = [model.session(options_of(model, eos_token_id=())) for model in (device, host)]
    for text in TEXTS[3:7]:
        found, wanted = (session.chat(text) for session in sessions)
        assert found.ids == wanted.ids


@pytest.mark.parametrize("mode", ["exact", "batched"])
@pytest.mark.parametrize("beams", [1, 3])
def test_a_long_recording_is_heard_as_on_the_cpu(cuda, made_once, mode, beams):
    """Windows with times, one after the other and together."""
    bundle = made_once(speech_models.speech_bundle)
    samples = speech_models.recording(75)
    transcripts = []
    for device in ("cuda", "cpu"):
        model = seq2edge.load(bundle, device=device)
        search = model.options.replace(num_beams=beams)
        options = SpeechOptions(mode=mode, language="en")
        transcripts.append(Transcriber(model, options, search).transcribe(samples))
    found, wanted = transcripts
    assert found.text == wanted.text
    assert [(s.start, s.end, s.ids) for s in found.segments] == [
        (s.start, s.end, s.ids) for s in wanted.segments
    ]
