"""Texts are written in one way as transformers writes them, where we do not differ on purpose."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from transformers.models.whisper.english_normalizer import (
    BasicTextNormalizer,
    EnglishTextNormalizer,
)

from seq2edge.errors import OptionError
from seq2edge.evaluation.examples import Example
from seq2edge.evaluation.metrics import METRICS, normalized, score_answers
from seq2edge.evaluation.normalization import normalize_basic, normalize_english, normalizer
from seq2edge.runtime.sequences import GeneratedText

ROOT = Path(__file__).resolve().parents[2]
NUMBERS = """
two hundred and five dollars|nineteen ninety nine|one oh one|three point one four|fifty-five
ten thousand dollars|twenty first|one hundred and twenty three million four hundred thousand
five percent|minus five|I have one dog and two cats|the ones that matter|$20 million|£3.50
two and a half|the nineteen sixties|double five|triple two nine|twenty twenty|a hundred people
one thousand and one nights|it costs five dollars and twenty cents|1,000,000 people|the 2nd of may
the third man|one two three four|eighteen oh five|two thousand eight|two thousand and eight
fifty five thousand|ninety nine percent|oh my god|1960s|he came first|four hundred and forty four
six foot two|seven eleven|nine one one|zero|it's 5 o'clock|half past two|twenty four seven
one million|100%|3 million dollars|seventy sixth|nineteen hundred|twenty ten|one hundred fifty
thirty second|five cents|ten pounds|2.5 million|one point five billion|first and second|2.0 mm
"""
SENTENCES = """
I can't believe it's not butter!|We'll be there, won't we?|He'd been gone; she's done.|Let's go...no
Mr. and Mrs. O'Neil (both) said: "Hmm, well, uh, yes."|[applause] Thank you. (laughs)|gonna wanna
Dr. Smith's café on St. John's street|naïve façade, Ærøskøbing, Straße|You're what I'd call "odd"
I've 3,500 reasons & 20% more — that's €50.|They shouldn't've|ma'am, y'all coulda|the dogs' bowls
Prof. Capt. Gen. Rev. Jr. Sr. Esq.|e-mail me at 5 p.m.|rock 'n' roll|It is 2.5 or 3/4 of it
"""
CHINESE = "你好，世界。"  # noqa: RUF001
# What their rules do to these is no difference between two ways of writing.
ON_PURPOSE = {
    "$1.50": "$1.50",  # "one.50"
    "release 1.23.2": "release 1.23.2",  # "release one.23.2"
    "wait ...": "wait",  # "wait ."
    "the ninth": "the 9th",  # as "the 8th" is
}


def parts(text):
    """Those between bars and lines."""
    return [part for line in text.strip().splitlines() for part in line.split("|")]


def prose():
    """Sentences of our documents, without spellings, ellipses and versions, where we differ."""
    texts = [file.read_text(encoding="utf-8") for file in sorted((ROOT / "docs").glob("*.md"))]
    sentences = re.split(r"(?<=[.!?])\s+", re.sub(r"\s+", " ", " ".join(texts)))
    odd = re.compile(r"\.\.\.|\b1\.|\d\.1\b|\d\.\d+\.\d|\bninth")
    return [text for text in sentences if len(text) < 300 and not odd.search(text)]


def test_numbers_and_contractions_are_those_of_transformers():
    """Each of these, spelling aside, which its normaliser reads from a checkpoint."""
    reference = EnglishTextNormalizer({})
    for text in (*parts(NUMBERS), *parts(SENTENCES)):
        assert normalize_english(text) == " ".join(reference(text).split()), text


def test_prose_is_written_as_transformers_writes_it():
    """All but one sentence of a hundred, whose spellings are British."""
    reference = EnglishTextNormalizer({})
    sentences = prose()
    assert len(sentences) > 500
    other = [t for t in sentences if normalize_english(t) != " ".join(reference(t).split())]
    assert len(other) < 0.04 * len(sentences), other


def test_other_languages_are_written_as_transformers_writes_them():
    """Every sentence, and letters apart where there are no spaces."""
    basic = BasicTextNormalizer()
    texts = [*prose(), *parts(SENTENCES), "Größe, ÉTÉ (non) ¿Qué? Привет!", CHINESE]
    for text in texts:
        assert normalize_basic(text) == basic(text).strip(), text
    by_letter = BasicTextNormalizer(split_letters=True)
    assert normalize_basic(CHINESE, by_character=True) == by_letter(CHINESE).strip()
    assert normalizer("basic", "zh")("你好") == "你 好"
    assert normalizer("basic", "de")("Guten Tag") == "guten tag"


@pytest.mark.parametrize("text", ON_PURPOSE)
def test_where_we_differ_on_purpose(text):
    """The first three would make two ways of writing differ, or words of marks."""
    assert normalize_english(text) == ON_PURPOSE[text]
    assert " ".join(EnglishTextNormalizer({})(text).split()) != ON_PURPOSE[text]


@pytest.mark.parametrize(
    ("british", "american"),
    [
        ("the colour of honourable neighbours", "the color of honorable neighbors"),
        ("our four hours tour", "our 4 hours tour"),
        (
            "organise, realised, recognising, civilisation",
            "organize realized recognizing civilization",
        ),
        (
            "advise, promised, exercise, surprising, noise",
            "advise promised exercise surprising noise",
        ),
        ("rise, wise, otherwise, raised, praise", "rise wise otherwise raised praise"),
        ("analyse the centre and theatres", "analyze the center and theaters"),
        ("travelled, cancelling, modelled, jeweller", "traveled canceling modeled jeweler"),
        ("called, falling, wellness, taller", "called falling wellness taller"),
        ("defence licence catalogue grey cheque", "defense license catalog gray check"),
        ("fulfil, enrolment, skilful, programme", "fulfill enrollment skillful program"),
        ("paediatric anaemia oestrogen", "pediatric anemia estrogen"),
    ],
)
def test_british_spellings_become_american(british, american):
    """By what is regular in them; words that only look so stay."""
    assert normalize_english(british) == american
    assert normalize_english(american) == american


def said(text):
    """An answer."""
    return GeneratedText(ids=(), score=0.0, finish_reason="stop", text=text)


def test_error_rates_bear_the_name_of_the_rules():
    """And count what is left; what is nothing by the rules may be a reference, and costs words."""
    wer, other = normalized([METRICS["wer"], METRICS["exact"]], "english")
    assert (wer.name, other.name) == ("wer (english)", "exact")
    examples = [
        Example(input="a", references=("It's fifty dollars",)),
        Example(input="b", references=("(Um)",)),
    ]
    right = score_answers(wer, [said("it is $50."), said("hm")], examples)
    assert right.sums.tolist() == [[0, 3], [1, 0]]
    (exact,) = normalized([METRICS["cer"]], "none")
    assert (
        score_answers(exact, [said("It's")], [Example(input="a", references=("it's",))]).sums[0, 0]
        == 1
    )


def test_unknown_rules_and_metrics_without_are_refused():
    """By name."""
    with pytest.raises(OptionError, match="normalize: 'french' is unknown, known: english, basic"):
        normalizer("french")
    with pytest.raises(OptionError, match="normalize: only for wer and cer, leave it out"):
        normalized([METRICS["bleu"]], "english")
