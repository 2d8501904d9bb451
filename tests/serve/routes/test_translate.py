"""`/v1/translate` gives what `Model.generate` gives."""

from __future__ import annotations

import json
import shutil

import pytest
import serving

LANGUAGES = {
    "languages": {"eng_Latn": 3, "deu_Latn": 4},
    "language_layout": "prefix",
    "target_layout": "forced",
    "source_language": "eng_Latn",
}
TEXTS = ["w5 w6 w7 w8", "w20", "w9 w9 w30 w31 w32"]


def brief(text):
    """What a translation shows of it."""
    return {"text": text.text, "score": pytest.approx(text.score, abs=1e-3)}


def test_texts_are_translated_as_by_the_library(served, models):
    """One or several, with any of its options; others are given where they are asked for."""
    model = models["translator"]
    for options in ({}, {"num_beams": 3, "num_return_sequences": 2, "max_new_tokens": 9}):
        chosen = model.options.replace(**options, **({"max_length": None} if options else {}))
        wanted = model.generate(TEXTS, chosen)
        answer = served.post("/v1/translate", {"model": "translator", "text": TEXTS, **options})
        values = answer.json()
        for translation, texts in zip(values["translations"], wanted, strict=True):
            best, *others = map(brief, texts)
            assert translation == {**best, **({"alternatives": others} if others else {})}
        written = sum(len(text.ids) for texts in wanted for text in texts)
        read = sum(len(model.encode_text(text)) for text in TEXTS)
        assert values["usage"] == {
            "prompt_tokens": read,
            "completion_tokens": written,
            "total_tokens": read + written,
        }
    (one,) = served.post("/v1/translate", {"model": "translator", "text": "w20"}).json()[
        "translations"
    ]
    assert one == brief(model.generate(["w20"])[0][0])


def test_languages_are_those_of_the_model(folders, tmp_path):
    """By its codes; others are refused with those that there are."""
    bundle = shutil.copytree(folders["translator"], tmp_path / "translator")
    file = bundle / "manifest.json"
    manifest = json.loads(file.read_text(encoding="utf-8"))
    manifest["tokenizer"] |= LANGUAGES
    file.write_text(json.dumps(manifest), encoding="utf-8")
    model = serving.load(bundle)
    with serving.serve({"translator": bundle}) as served:
        body = {"model": "translator", "text": TEXTS[0], "target_language": "deu_Latn"}
        answer = served.post("/v1/translate", body)
        wanted = model.generate([TEXTS[0]], target_language="deu_Latn")
        assert answer.json()["translations"] == [brief(wanted[0][0])]
        answer = served.post("/v1/translate", body | {"target_language": "tlh_Latn"})
        assert answer.status_code == 400
        assert "tlh_Latn" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text": None}, "text: is needed"),
        ({"text": ["w5"] * 65}, "text: 65 entries, needs 1 to 64"),
        ({"format": "html"}, "format: no field of this request"),
        ({"target_language": "deu_Latn"}, "language"),
        ({"model": "writer"}, "writer continues texts, it cannot translate them"),
        ({"model": "embedder"}, "made to embed, it cannot generate"),
        ({"num_beams": 0}, "num_beams: 0"),
    ],
)
def test_what_cannot_be_translated_is_refused(served, change, message):
    """With 400, in one line."""
    answer = served.post("/v1/translate", {"model": "translator", "text": "w5", **change})
    assert answer.status_code == 400
    assert message in answer.json()["error"]["message"]
