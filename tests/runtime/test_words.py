"""Words of an answer and the words of the source that their tokens attended to."""

from __future__ import annotations

import byte_tokens
import numpy as np
import pytest

from seq2edge.bundle import Bundle
from seq2edge.bundle.manifest import (
    FileRecord,
    Manifest,
    ProvenanceRecord,
    SpecialTokens,
    TokenizerRecord,
)
from seq2edge.errors import InputError, OptionError
from seq2edge.model.dims import Dims, StackDims
from seq2edge.runtime.fake import FakeBackend
from seq2edge.runtime.model import Model
from seq2edge.runtime.options import DecodeOptions
from seq2edge.runtime.sequences import GeneratedText
from seq2edge.runtime.tokenizer import Tokenizer
from seq2edge.runtime.words import align_words, split_words, token_spans

STACK = StackDims(
    layers=1, heads=1, kv_heads=1, head_dim=4, hidden=4, activation="relu", max_positions=64
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("  one two. ", ["one", "two", "."]),
        ("Don't re-read l\u2019été, ok?", ["Don't", "re-read", "l\u2019été", ",", "ok", "?"]),
        ("- 'tis'", ["-", "'", "tis", "'"]),
        ("日本語 in かな", ["日", "本", "語", "in", "か", "な"]),
        ("हिन्दी 42", ["हिन्दी", "42"]),
        ("", []),
    ],
)
def test_words_and_marks_of_punctuation(text, words):
    """Marks inside of a word are its own; of scripts without spaces each character is one."""
    assert [text[slice(*span)] for span in split_words(text)] == words


def answer_of(text, ids, alignment=None):
    """An answer of this text."""
    return GeneratedText(
        ids=tuple(ids), score=0.0, finish_reason="stop", text=text, alignment=alignment
    )


def bytes_of(folder, **changes):
    """A tokenizer of bytes."""
    byte_tokens.write(folder / "tokenizer.json")
    return Tokenizer(
        folder, TokenizerRecord(source="tokenizer.json", special=SpecialTokens(), **changes)
    )


def test_tokens_of_one_character_add_it_with_the_last(tmp_path):
    """And end tokens nothing."""
    tokenizer = bytes_of(tmp_path)
    ids = [*tokenizer.encode("aé b"), byte_tokens.END]
    text = tokenizer.decode(ids)
    assert token_spans(tokenizer, answer_of(text, ids)) == [
        (0, 1),
        (1, 1),
        (1, 2),
        (2, 3),
        (3, 4),
        (4, 4),
    ]


def test_what_was_cut_off_and_cleaned_up_counts_for_nothing(tmp_path):
    """The spans are those of the text that is returned."""
    tokenizer = bytes_of(tmp_path, clean_up=True)
    ids = tokenizer.encode("a .b")
    assert tokenizer.decode(ids) == "a.b"
    assert token_spans(tokenizer, answer_of("a.", ids)) == [(0, 1), (1, 1), (1, 2), (2, 2)]


def test_each_word_takes_the_word_with_the_largest_weight_together():
    """Of two tokens of a word, and of tokens that lie in two words, each its part."""
    text, answer = "big red dog", "gros chien"
    sources = [(0, 3), (3, 7), (7, 9), (9, 11), (0, 0)]  # big, red, do, g, an end
    targets = [(0, 2), (2, 4), (4, 10), (10, 10)]  # gr, os, chien, an end
    alignment = np.array(
        [
            [0.5, 0.1, 0.1, 0.1, 0.2],
            [0.3, 0.4, 0.1, 0.1, 0.1],
            [0.0, 0.4, 0.3, 0.3, 0.0],  # the dog's parts together have more than red
            [0.0, 0.0, 0.0, 0.0, 1.0],
        ],
        dtype=np.float32,
    )
    pairs = align_words(text, sources, answer_of(answer, [1, 2, 3, 4], alignment), targets)
    assert [(pair.source, pair.target) for pair in pairs] == [((0, 3), (0, 4)), ((8, 11), (5, 10))]
    assert [pair.weight for pair in pairs] == pytest.approx([0.4, 0.6])
    joined = align_words("a b", [(0, 3)], answer_of("c", [1], np.ones((1, 1))), [(0, 1)])
    assert joined[0].weight == pytest.approx(0.5)


def test_words_that_attend_to_no_word_have_none():
    """To special tokens alone."""
    lost = answer_of("c", [1], np.array([[0.0, 1.0]]))
    assert align_words("a", [(0, 1), (0, 0)], lost, [(0, 1)]) == []
    assert align_words(" ", [(0, 1), (0, 0)], lost, [(0, 1)]) == []


@pytest.fixture
def copying(tmp_path):
    """A model that says its source backwards, and looks at what it says."""
    byte_tokens.write(tmp_path / "tokenizer.json")
    manifest = Manifest(
        kind="encoder-decoder",
        task="generate",
        family="fake",
        dims=Dims(width=4, vocab=byte_tokens.VOCAB, encoder=STACK, decoder=STACK),
        tokenizer=TokenizerRecord(source="tokenizer.json", special=SpecialTokens()),
        provenance=ProvenanceRecord(
            tool_version="0", created="2026-01-31T23:59:59Z", source="", source_format=""
        ),
        files={"tokenizer.json": FileRecord(size=0, sha256="0" * 64)},
    )

    def answer(history, source):
        place = len(source) - len(history)
        return np.eye(byte_tokens.VOCAB)[source[place] if place >= 0 else byte_tokens.END] * 9

    def look(history, source):
        return np.eye(len(source))[max(0, len(source) - len(history))]

    bundle = Bundle(path=tmp_path, manifest=manifest)
    return lambda cut=False: Model(bundle, FakeBackend(answer, alignment=look), cut=cut)


OPTIONS = DecodeOptions(
    alignments=True, decoder_start_token_id=1, eos_token_id=byte_tokens.END, max_new_tokens=60
)


@pytest.mark.parametrize("beams", [1, 2])
def test_a_model_aligns_the_words_of_its_answers(copying, beams):
    """Texts of different lengths in one batch; the texts' own words in the answers' order."""
    model, texts = copying(), ["ab cde f", "gh"]
    found = model.generate(texts, OPTIONS.replace(num_beams=beams))
    words = []
    for text, (answer,) in zip(texts, found, strict=True):
        assert answer.text == text[::-1]
        pairs = model.align(text, answer)
        words.append([(text[slice(*p.source)], answer.text[slice(*p.target)]) for p in pairs])
        assert [pair.weight for pair in pairs] == pytest.approx([1.0] * len(pairs))
    assert words == [[("f", "f"), ("cde", "edc"), ("ab", "ba")], [("gh", "hg")]]


def test_a_text_that_was_cut_is_aligned_as_far_as_it_was_read(copying):
    """And is counted once."""
    model, text = copying(cut=True), "ab " * 30
    ((answer,),) = model.generate([text], OPTIONS)
    assert answer.text == text[63:3:-1]
    assert model.align(text, answer)[0].source == (63, 65)
    assert model.tokenizer.shortened == 1


def test_other_texts_and_answers_without_are_refused(copying):
    """By name."""
    model = copying()
    ((answer,),) = model.generate(["ab"], OPTIONS)
    with pytest.raises(InputError, match="align: the text has 1 tokens, the answer was made of 2"):
        model.align("a", answer)
    ((plain,),) = model.generate(["ab"], OPTIONS.replace(alignments=False))
    with pytest.raises(OptionError, match="alignments: the answer has none"):
        model.align("ab", plain)
