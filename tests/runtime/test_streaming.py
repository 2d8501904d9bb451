"""A stream gives the text of the plain call, in whole characters, and takes nothing back."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers

import seq2edge
from seq2edge.bundle.manifest import SpecialTokens, TokenizerRecord
from seq2edge.errors import InputError, OptionError
from seq2edge.runtime.streaming import REPLACEMENT, Detokenizer, StopStrings, cut_at_stop
from seq2edge.runtime.tokenizer import Tokenizer

WORDS = [
    "▁the",
    "▁cat",
    "s",
    "▁",
    "▁naïve",
    "é",
    "🙂",
    "▁.",
    "▁,",
    "▁'",
    "▁n't",
    "n",
    "'t",
    ".",
    "漢",
]


def byte_level():
    """GPT-2's way: every token is bytes, of which several may make one character."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: i for i, letter in enumerate(["<s>", *alphabet])}
    made = tokenizers.Tokenizer(models.BPE(vocabulary, []))
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(["<s>"])
    return made


def byte_fallback():
    """Llama's way: words with a mark for the space, and bytes for everything else."""
    names = ["<s>", *WORDS, *(f"<0x{byte:02X}>" for byte in range(256))]
    made = tokenizers.Tokenizer(models.BPE({name: i for i, name in enumerate(names)}, []))
    made.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    made.add_special_tokens(["<s>"])
    return made


def metaspace():
    """T5's way."""
    names = ["<s>", *WORDS]
    made = tokenizers.Tokenizer(models.Unigram([(name, 0.0) for name in names]))
    made.decoder = decoders.Metaspace()
    made.add_special_tokens(["<s>"])
    return made


def word_piece():
    """BERT's way, with its own cleaning."""
    names = ["<s>", "[UNK]", "the", "cat", "##s", ".", ",", "'", "n't", "##é", "🙂", "do", "not"]
    made = tokenizers.Tokenizer(
        models.WordPiece({name: i for i, name in enumerate(names)}, unk_token="[UNK]")
    )
    made.decoder = decoders.WordPiece()
    made.add_special_tokens(["<s>"])
    return made


KINDS = {f.__name__: f for f in (byte_level, byte_fallback, metaspace, word_piece)}


@pytest.fixture(scope="module")
def kinds(tmp_path_factory):
    """A tokenizer of each kind, with and without the cleaning of old checkpoints."""
    folder = tmp_path_factory.mktemp("tokenizers")
    made = {}
    for name, make in KINDS.items():
        make().save(str(folder / f"{name}.json"))
        record = TokenizerRecord(source=f"{name}.json", special=SpecialTokens())
        for clean in (False, True):
            made[name, clean] = Tokenizer(folder, dataclasses.replace(record, clean_up=clean))
    return made


def streamed(tokenizer, ids, stop_strings=()):
    """The pieces, given after every id."""
    text = cut_at_stop(tokenizer.decode(ids), stop_strings)
    stream = Detokenizer(tokenizer, stop_strings)
    pieces = [stream.certain(ids[:end]) for end in range(1, len(ids))]
    return [*pieces, stream.rest(text)], text


@pytest.mark.parametrize("clean", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_pieces_make_the_whole_text(kinds, kind, clean):
    """1,000 random sequences, whose bytes make few whole characters; and texts of any kind."""
    tokenizer = kinds[kind, clean]
    size = tokenizer._target.get_vocab_size()
    rng = np.random.default_rng(0)
    early = 0
    for _ in range(1000):
        ids = rng.integers(0, size, rng.integers(1, 25)).tolist()
        pieces, text = streamed(tokenizer, ids)
        assert "".join(pieces) == text
        early += sum(map(len, pieces[:-1]))
        seen = ""
        for piece in pieces:
            seen += piece
            assert text.startswith(seen)
    assert early > 1000, "most of a text comes before its end"


@settings(max_examples=200, deadline=None)
@given(st.text(min_size=1, max_size=30))
def test_no_piece_holds_half_a_character(text):
    """Emoji and other characters of several tokens come whole, and at once."""
    made = byte_level()
    alphabet = {byte: made.token_to_id(letter) for byte, letter in letters().items()}
    ids = [alphabet[byte] for byte in text.encode()]

    class Plain:
        cleaned = ()
        clean = staticmethod(str)

        def token(self, token_id):
            return made.id_to_token(token_id)

        def decode(self, ids, **_):
            return made.decode(list(ids))

    stream = Detokenizer(Plain())
    pieces = [stream.certain(ids[:end]) for end in range(1, len(ids) + 1)]
    assert "".join(pieces) == text.rstrip(REPLACEMENT)
    assert all(REPLACEMENT not in piece for piece in pieces) or REPLACEMENT in text


def letters():
    """GPT-2's letter for every byte."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    shifted = [byte for byte in range(256) if byte not in plain]
    return {byte: chr(byte) for byte in plain} | {b: chr(256 + i) for i, b in enumerate(shifted)}


def test_a_stop_string_lies_across_tokens(kinds):
    """Its beginning is held back, and given where it was none."""
    tokenizer = kinds["byte_level", False]
    ids = [tokenizer._target.token_to_id(letter) for letter in "ab#c##END"]
    pieces, text = streamed(tokenizer, ids, ("##",))
    assert text == "ab#c"
    assert pieces[:4] == ["a", "b", "", "#c"]
    assert "".join(pieces) == "ab#c"
    stops = StopStrings(tokenizer, ("##",))
    assert [stops(ids[:end]) for end in range(1, len(ids) + 1)] == [False] * 5 + [True] * 4


@pytest.fixture
def model(speaking):
    """A small translator of words."""
    return seq2edge.load(speaking("bart"), device="cpu", threads=1)


@pytest.mark.parametrize("beams", [1, 3])
def test_a_models_stream_is_its_text(model, beams):
    """Greedy and beams; more than one piece of it before the end."""
    options = model.options.replace(num_beams=beams, max_new_tokens=12, max_length=None)
    wanted = model.generate(["w5 w6 w7"], options)[0][0]
    stream = model.stream("w5 w6 w7", options)
    pieces = list(stream)
    assert "".join(pieces) == wanted.text
    assert stream.result == wanted
    assert beams > 1 or len(pieces) > 2


def test_a_stop_string_ends_an_answer(model):
    """In its middle, in every way of decoding; the ids go up to it, the text up to before it."""
    options = model.options.replace(max_new_tokens=12, max_length=None)
    plain = model.generate(["w5 w6 w7"], options)[0][0]
    words = plain.text.split()
    stop = words[2]
    stopped = model.generate(["w5 w6 w7"], options.replace(stop_strings=(stop, "unseen")))[0][0]
    assert stopped.finish_reason == "stop_string"
    assert stopped.finished
    assert stopped.text == plain.text[: plain.text.index(stop)]
    assert stopped.ids == plain.ids[: len(stopped.ids)]
    assert len(stopped.ids) < len(plain.ids)
    stream = model.stream("w5 w6 w7", options.replace(stop_strings=stop))
    assert "".join(stream) == stopped.text
    beams = options.replace(num_beams=3, num_return_sequences=3, stop_strings=(stop,))
    for result in model.generate(["w5 w6 w7"], beams)[0]:
        assert stop not in result.text


def test_a_dropped_stream_runs_no_further(model):
    """And a cancelled one ends with what it has."""
    options = model.options.replace(max_new_tokens=12, max_length=None)
    stream = model.stream("w5 w6 w7", options)
    first = next(stream)
    stream.cancel()
    assert stream.result.finish_reason == "cancelled"
    assert stream.result.text.startswith(first)
    assert len(stream.result.ids) < 12
    with pytest.raises(OptionError, match="stop_strings: holds an empty string"):
        options.replace(stop_strings=("a", ""))


def test_streams_are_of_models_that_generate(speaking):
    """Others say what they are for."""
    with pytest.raises(InputError, match="made to classify, it cannot generate"):
        seq2edge.load(speaking("bert"), device="cpu").stream("w5")
