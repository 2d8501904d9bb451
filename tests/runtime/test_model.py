"""The public runtime: what it refuses, and how options and defaults meet."""

from __future__ import annotations

import shutil
import wave

import numpy as np
import pytest

import seq2edge
from seq2edge.errors import BundleError, CapacityError, InputError, OptionError


@pytest.fixture(scope="module")
def loaded(exported):
    """Loads the tiny bundle of that name."""
    return lambda name: seq2edge.load(exported(name)[1] / "bundle", device="cpu", threads=1)


@pytest.fixture(scope="module")
def speaking(speaking):
    """Loads the tiny model of that name with a tokenizer of words."""
    return lambda *name, **changes: seq2edge.load(
        speaking(*name, **changes), device="cpu", threads=1
    )


def test_text_goes_in_and_comes_out(speaking):
    """The same tokens as from ids, as text without special tokens, with the raw ids kept."""
    model = speaking("bart")
    texts = ["w5 w17 w40", "w8 w9"]
    options = model.options.replace(max_new_tokens=6, max_length=None, num_beams=2)
    results = model.generate(texts, options)
    ids = model.generate_ids([[5, 17, 40, 2], [8, 9, 2]], options)
    assert [r[0].ids for r in results] == [s[0].ids for s in ids]
    assert [r[0].score for r in results] == [s[0].score for s in ids]
    for result in results:
        shown = [f"w{i}" for i in result[0].ids if i > 2]
        assert result[0].text.split() == shown
    assert model.generate([]) == []
    assert model.generate_ids([]) == []


@pytest.mark.parametrize("option", ["suppress_tokens", "eos_token_id", "forced_bos_token_id"])
def test_tokens_beyond_the_vocabulary_are_refused(speaking, option):
    """By the option's name, before anything is decoded."""
    model = speaking("bart")
    with pytest.raises(OptionError, match=f"{option}: token 96, the vocabulary has 96"):
        model.generate(["w5"], model.options.replace(**{option: 96}))


def test_a_chat_is_rendered_and_continued(speaking):
    """The template writes all special tokens; every result that was asked for comes back."""
    model = speaking("gpt2", template="{{ eos_token }} w7 {{ messages[0].content }} w9")
    options = model.options.replace(
        num_beams=3, num_return_sequences=2, max_new_tokens=4, max_length=None
    )
    answers = model.chat([{"role": "user", "content": "w5 w6"}], options)
    wanted = model.generate_ids([[2, 7, 5, 6, 9]], options)[0]
    assert [answer.ids for answer in answers] == [sequence.ids for sequence in wanted]
    assert len(answers) == 2


def test_a_chat_needs_a_template(speaking):
    """A model without one says so."""
    with pytest.raises(InputError, match="no chat template"):
        speaking("gpt2").chat([{"role": "user", "content": "w5"}])


def test_classification_gives_labels_and_probabilities(speaking):
    """Softmax for one label, sigmoid for many, plain values for a regression."""
    single = speaking("bert")
    texts = ["w5 w17 w40", "w8 w9"]
    for result in single.classify(texts):
        assert sum(result.scores.values()) == pytest.approx(1.0, abs=1e-6)
        assert result.label == max(result.scores, key=result.scores.get)
        assert list(result.scores) == ["LABEL_0", "LABEL_1", "LABEL_2"]
    assert single.classify([]) == []
    multi = speaking("bert", problem_type="multi_label_classification")
    plain = speaking("bert", problem_type="regression")
    ids = [multi.tokenizer.encode(text) for text in texts]
    expected = 1 / (1 + np.exp(-plain.classify_ids(ids).astype(np.float64)))
    np.testing.assert_allclose(multi.classify_ids(ids), expected, atol=1e-6)


def test_embeddings_do_not_depend_on_the_batch(speaking):
    """Padding is not seen; an empty batch is an empty array."""
    model = speaking("bert-embedding")
    texts = ["w5 w17 w40 w6 w7", "w8"]
    together = model.embed(texts)
    assert together.shape == (2, 32)
    np.testing.assert_allclose(model.embed(texts[1:])[0], together[1], atol=1e-5)
    assert model.embed_ids([]).shape == (0, 32)


@pytest.mark.parametrize(
    ("name", "call", "message"),
    [
        ("bart", lambda m: m.generate(["hello"]), "has no tokenizer, use token ids"),
        ("bart", lambda m: m.generate("hello"), "give a list, also for one"),
        ("bart", lambda m: m.transcribe("clip.wav"), "give a list"),
        ("bart", lambda m: m.transcribe(["clip.wav"]), "made to generate, it cannot transcribe"),
        ("bart", lambda m: m.classify_ids([[5]]), "made to generate, it cannot classify"),
        ("bert", lambda m: m.generate_ids([[5]]), "made to classify, it cannot generate"),
        ("bert", lambda m: m.embed_ids([[5]]), "made to classify, it cannot embed"),
        ("whisper", lambda m: m.generate_ids([[5]]), "made to transcribe, it cannot generate"),
        ("bart", lambda m: m.generate_ids([[5], []]), "prompt 1: has no tokens"),
        ("bart", lambda m: m.generate_ids([[5, 96]]), "prompt 0: id 96, the vocabulary has 96"),
        ("bart", lambda m: m.generate_ids([[-1]]), "prompt 0: id -1"),
        ("bart", lambda m: m.generate_ids([[5] * 65]), "source 0: 65 tokens, the model takes 64"),
        ("bert", lambda m: m.classify_ids([[5], [5] * 67]), "source 1: 67 tokens"),
    ],
)
def test_input_that_cannot_be_used_is_told(loaded, name, call, message):
    """Which input, what is wrong, what to do."""
    with pytest.raises(InputError, match=message):
        call(loaded(name))


def test_lengths_that_do_not_fit_are_refused_before_decoding(loaded):
    """By the model's positions, the capacity that was set, and max_length."""
    model = loaded("llama")
    options = model.options.replace(max_length=None)
    with pytest.raises(CapacityError, match=r"max_new_tokens: 60 after a prompt of 5, .* 64 pos"):
        model.generate_ids([[5] * 5], options.replace(max_new_tokens=60))
    with pytest.raises(CapacityError, match="prompt: 64 tokens, the model has 64 positions"):
        model.generate_ids([[5] * 64], options)
    with pytest.raises(CapacityError, match="prompt of 5 and 4 new tokens do not fit 8"):
        model.generate_ids([[5] * 5], options.replace(max_new_tokens=4, capacity=8))
    with pytest.raises(OptionError, match="max_length: 5, the prompt has 5"):
        model.generate_ids([[5] * 5], options.replace(max_length=5))


def test_limits_come_from_options_then_checkpoint_then_positions(loaded):
    """max_length counts the prompt, max_new_tokens does not."""
    model = loaded("llama")
    endless = model.options.replace(eos_token_id=(), max_length=None)
    count = lambda options: len(model.generate_ids([[5, 6, 7]], options)[0][0].ids)  # noqa: E731
    assert count(endless.replace(max_new_tokens=4)) == 4
    assert count(endless.replace(max_length=10)) == 7
    assert count(endless.replace(max_length=10, max_new_tokens=4)) == 4
    assert count(endless.replace(max_length=500)) == 61
    assert count(endless.replace(max_new_tokens=4, capacity=7)) == 4
    assert count(endless) == 61


def test_an_engines_capacity_is_a_limit_like_positions(loaded, monkeypatch):
    """The smaller of both bounds what is generated by default, and is named where it is passed."""
    model = loaded("llama")
    endless = model.options.replace(eos_token_id=(), max_length=None)
    monkeypatch.setattr(model.backend, "capacity", 20)
    assert len(model.generate_ids([[5, 6, 7]], endless)[0][0].ids) == 17
    with pytest.raises(CapacityError, match="built for 20 tokens; build with a larger --capacity"):
        model.generate_ids([[5] * 3], endless.replace(max_new_tokens=18))
    with pytest.raises(CapacityError, match="prompt: 20 tokens, the engine was built for 20"):
        model.generate_ids([[5] * 20], endless)
    monkeypatch.setattr(model.backend, "capacity", 100)
    assert len(model.generate_ids([[5, 6, 7]], endless)[0][0].ids) == 61


def test_a_start_token_must_come_from_somewhere(loaded):
    """An encoder-decoder without one cannot begin."""
    model = loaded("bart")
    options = model.options.replace(decoder_start_token_id=None, bos_token_id=None)
    with pytest.raises(OptionError, match="decoder_start_token_id: neither"):
        model.generate_ids([[5]], options)


def test_speech_is_read_from_files_and_samples(speaking, tmp_path):
    """A clip gives the same tokens either way; languages are refused where there are none."""
    model = speaking("whisper", max_source_positions=1500, num_mel_bins=80)
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, 16000).astype(np.float32)
    file = tmp_path / "clip.wav"
    with wave.open(str(file), "wb") as out:
        out.setparams((1, 2, 16000, 0, "NONE", ""))
        out.writeframes((samples * 32767).astype("<i2").tobytes())
    options = model.options.replace(max_new_tokens=5, max_length=None)
    exact = (samples * 32767).astype("<i2").astype(np.float32) / 32768
    first, second = model.transcribe([file, exact], options)
    assert first == second
    assert len(first[0].ids) == 5
    with pytest.raises(InputError, match="language: this model knows English alone"):
        model.transcribe([file], options, language="de")
    assert model.transcribe([], options) == []
    with pytest.raises(OptionError, match=r"encoder_no_repeat_ngram_size: .* reads no tokens"):
        model.transcribe([file], options.replace(encoder_no_repeat_ngram_size=2))


def test_a_window_of_another_length_is_refused(speaking):
    """The features are those of Whisper's 30 seconds."""
    with pytest.raises(InputError, match=r"made for windows of 1\.0 s, .* 30 s"):
        speaking("whisper").transcribe([np.zeros(16000, dtype=np.float32)])


def test_only_bundles_are_loaded(exported, tmp_path):
    """A folder of something else, a missing one, a file that changed."""
    with pytest.raises(BundleError, match="no such folder"):
        seq2edge.load(tmp_path / "none")
    with pytest.raises(BundleError, match="this is not a bundle"):
        seq2edge.load(exported("bart")[1] / "checkpoint")
    copy = shutil.copytree(exported("bart")[1] / "bundle", tmp_path / "copy")
    data = bytearray((copy / "weights.data").read_bytes())
    data[100] ^= 1
    (copy / "weights.data").write_bytes(data)
    with pytest.raises(BundleError, match=r"weights\.data"):
        seq2edge.load(copy, hashes=True)


def test_the_model_says_what_runs_it_and_why(loaded):
    """For logs and bug reports."""
    model = loaded("bart")
    assert model.reason == "cpu: asked for"
    assert model.backend.target == "onnxruntime"


def test_a_long_text_is_cut_where_that_was_asked(speaking):
    """Its first tokens and the end token; the count tells, and short texts stay as they are."""
    model = speaking("bart")
    long = " ".join(["w5", "w17", "w40"] * 40)
    with pytest.raises(InputError, match=r"121 tokens, the model takes 64; .*cut"):
        model.generate([long])
    cutting = seq2edge.load(model.bundle.path, device="cpu", threads=1, cut=True)
    options = model.options.replace(max_new_tokens=4, max_length=None)
    found = cutting.generate([long, "w8 w9"], options)
    wanted = model.generate_ids([[*([5, 17, 40] * 21), 2], [8, 9, 2]], options)
    assert [r[0].ids for r in found] == [r[0].ids for r in wanted]
    assert cutting.tokenizer.shortened == 1


@pytest.mark.parametrize("name", ["llama", "whisper"])
def test_nothing_is_cut_where_there_is_no_encoder_of_texts(loaded, name):
    """A prompt's last tokens matter most, and sound is no text."""
    with pytest.raises(OptionError, match="cut: this model has no encoder of texts"):
        seq2edge.load(loaded(name).bundle.path, device="cpu", cut=True)


@pytest.mark.parametrize(
    ("name", "read", "answer"),
    [
        ("bart", 64, 0),  # the decoder's positions are its own
        ("bart", 64, 60),
        ("gpt2", 64, 0),
        ("gpt2", 44, 20),  # prompt and answer share the positions
        ("gpt2", 1, 64),
        ("gpt2", 1, 99),
        ("llama", 44, 20),
        ("t5", None, 20),  # any number
    ],
)
def test_what_is_read_of_a_text(speaking, name, read, answer):
    """All where it has positions for it, else the first tokens and the end; the same for all."""
    model = speaking(name)
    for words in (read - 2, read - 1, read, read + 1) if (read or 0) > 1 else (1, 200):
        text = " ".join(f"w{5 + i % 90}" for i in range(words))
        ids = model.tokenizer.encode(text)
        assert model.encode_text(text) == ids
        count = model.tokenizer.shortened
        cut = model.encode_text(text, cut=True, new_tokens=answer)
        fits = read is None or len(ids) <= read
        assert cut == (ids if fits else [*ids[: read - 1], 2])
        assert model.tokenizer.shortened == count + (not fits)
    assert model.encode_text("w5 w6 w7 w8", cut=True, new_tokens=answer, longest=1) == [2]
    assert model.encode_text("w5 w6 w7 w8", longest=3) == [5, 6, 2]


def test_texts_are_answered_up_to_one_that_cannot_be_read(speaking):
    """In their order, whatever the number of rows; then the error, with the text's number."""
    model = speaking("bart")
    options = model.options.replace(max_new_tokens=5, max_length=None)
    texts = [f"w{i} w{i + 1}" for i in range(5, 12)]
    wanted = [answers[0] for answers in model.generate(texts, options)]
    for rows in (1, 3, 64):
        found = [answers[0] for answers in model.generate_each(iter(texts), options, rows=rows)]
        assert [answer.ids for answer in found] == [answer.ids for answer in wanted]
    long = " ".join(["w5"] * 100)
    answers = model.generate_each([*texts, long, "w5"], options, rows=2)
    found = []
    with pytest.raises(InputError, match="source 7: 101 tokens, the model takes"):
        found.extend(answers)
    assert len(found) == 7
