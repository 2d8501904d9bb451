"""Rows in, rows out: every task answers as the model does, and what fails is a row alone."""

from __future__ import annotations

import dataclasses
import json
import pickle
import wave

import calling
import numpy as np
import pytest
import speech_models

import seq2edge
from seq2edge.errors import InputError, OptionError
from seq2edge.serve.predictor import Predictor

CPU = {"device": "cpu", "threads": 1}
TEMPLATE = "{% for m in messages %}{{ m.content }} {% endfor %}w4"


def test_generate_answers_as_the_model_does(speaking):
    """Ids come back; a row of another form and one that is too long fail alone."""
    bundle = str(speaking("bart"))
    predictor = Predictor(
        bundle=bundle, task="generate", load=CPU, decode={"max_new_tokens": 5}, batch=2
    )
    rows = [
        {"text": "w5 w6", "id": "a"},
        {"texts": "w5"},
        {"text": " ".join(["w5"] * 100), "id": 2},
        {"text": "w7"},
        {"text": "w8 w9"},
    ]
    answers = predictor(rows)
    model = seq2edge.load(bundle, **CPU)
    texts = ["w5 w6", "w7", "w8 w9"]
    expected = model.generate(texts, model.options.replace(max_new_tokens=5))
    assert [answers[i]["results"][0]["text"] for i in (0, 3, 4)] == [e[0].text for e in expected]
    assert answers[0]["id"] == "a"
    assert answers[1] == {"error": "texts: unknown key with the value 'w5'"}
    assert set(answers[2]) == {"error", "id"}
    assert "101" in answers[2]["error"]
    assert json.loads(json.dumps(answers)) == answers


def test_chat_answers_conversations(speaking):
    """As `Model.chat`; the bundle decides how a conversation is written."""
    bundle = str(speaking("llama", template=TEMPLATE))
    messages = [{"role": "user", "content": "w5 w6"}]
    predictor = Predictor(bundle=bundle, task="chat", load=CPU, decode={"max_new_tokens": 4})
    (answer,) = predictor([{"messages": messages}])
    model = seq2edge.load(bundle, **CPU)
    (expected,) = model.chat(messages, model.options.replace(max_new_tokens=4))
    assert answer["results"][0] == {
        "text": expected.text, "score": expected.score, "finish_reason": expected.finish_reason
    }  # fmt: skip


def test_chats_may_call_tools(made_once):
    """A row says which; their calls are in its results."""
    bundle = str(made_once(calling.calling_bundle))
    chat = {"messages": calling.ASKED, "tools": [calling.CLOCK]}
    rows = [
        {**chat, "tool_choice": "clock.now"},
        {**chat, "tool_choice": "x"},
        {**chat, "tools": [1]},
    ]
    called, other, none = Predictor(bundle=bundle, task="chat", load=CPU)(rows)
    (call,) = called["results"][0]["tool_calls"]
    assert call["function"] == {"name": "clock.now", "arguments": {}}
    assert called["results"][0]["text"] == ""
    assert other["error"].startswith("tool_choice: 'x', needs one of auto")
    assert none["error"].startswith("tools")


def test_encoders_answer_texts_and_pairs(speaking):
    """Classes, scores of a reranker and entities, a batch at a time."""
    bundle = str(speaking("bert"))
    classified = Predictor(bundle=bundle, task="classify", load=CPU, batch=2)(
        [{"text": "w5"}, {"text": "w6", "pair": "w7"}, {"text": 3}, {"text": " ".join("w" * 99)}]
    )
    model = seq2edge.load(bundle, **CPU)
    expected = [dataclasses.asdict(e) for e in model.classify(["w5", ("w6", "w7")])]
    assert [answer["label"] for answer in classified[:2]] == [e["label"] for e in expected]
    assert classified[1]["scores"] == pytest.approx(expected[1]["scores"], abs=1e-5)
    assert classified[2] == {"error": "text: expected a string, got 3"}
    assert "error" in classified[3]
    one = str(speaking("bert", num_labels=1))
    (ranked,) = Predictor(bundle=one, task="rerank", load=CPU)(
        [{"query": "w5", "texts": ["w6", "w7"]}]
    )
    best = seq2edge.load(one, **CPU).rerank("w5", ["w6", "w7"])
    assert [each["index"] for each in ranked["ranked"]] == [each.index for each in best]
    tags = str(speaking("bert-tokens"))
    (tagged,) = Predictor(bundle=tags, task="tag", load=CPU)([{"text": "w5 w6"}])
    entities = seq2edge.load(tags, **CPU).tag(["w5 w6"])[0]
    assert [each["word"] for each in tagged["entities"]] == [each.word for each in entities]


def test_recordings_are_found_in_the_folder(made_once, tmp_path):
    """Relative paths begin there; one that is no sound fails alone."""
    samples = (speech_models.recording(2.0) * 32767).astype(np.int16)
    with wave.open(str(tmp_path / "clip.wav"), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(samples.tobytes())
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    predictor = Predictor(
        bundle=str(made_once(speech_models.speech_bundle)),
        task="transcribe", load=CPU, source_language="de", folder=str(tmp_path),
    )  # fmt: skip
    good, broken, missing = predictor([{"audio": f} for f in ("clip.wav", "broken.wav", "no.wav")])
    assert (good["language"], good["duration"]) == ("de", 2.0)
    assert "broken.wav" in broken["error"]
    assert "no.wav" in missing["error"]


def test_it_travels_as_its_settings(speaking):
    """Without the model, which every process loads for itself."""
    predictor = Predictor(bundle=str(speaking("bart")), task="generate", load=CPU)
    predictor([])
    assert "model" in vars(predictor)
    copy = pickle.loads(pickle.dumps(predictor))
    assert copy == predictor
    assert "model" not in vars(copy)


def test_what_can_answer_no_row_raises(speaking):
    """An unknown task, a bundle that was made for another one, options that cannot be."""
    with pytest.raises(OptionError, match="task: 'sing', needs one of generate, chat"):
        Predictor(bundle="bundle", task="sing")
    bundle = str(speaking("bart"))
    with pytest.raises(InputError, match="made to generate, it cannot embed"):
        Predictor(bundle=bundle, task="embed", load=CPU)([])
    with pytest.raises(OptionError, match="max_tokens"):
        Predictor(bundle=bundle, task="generate", load=CPU, decode={"max_tokens": 1})([])
