"""Firefox's translation models against Marian's formulas, written down once more in float64."""

from __future__ import annotations

import shutil
import struct

import bergamot_folders
import numpy as np
import pytest
import sentencepiece

import seq2edge
from seq2edge.checkpoints.importers import open_foreign
from seq2edge.checkpoints.load import load_checkpoint
from seq2edge.checkpoints.tokenizer import convert_tokenizer
from seq2edge.errors import CheckpointError, UnsupportedError
from seq2edge.export.eager import EagerBackend
from seq2edge.export.pipeline import export_checkpoint
from seq2edge.quantize.pipeline import quantize_bundle
from seq2edge.runtime.tokenizer import Tokenizer

SOURCES = ([5, 9, 31, 7, 0], [14, 0], [44, 3, 3, 21, 60, 17, 8, 90, 0])


def all_logits(model, source, ids):
    """What the loaded model answers behind the start and each of the tokens."""
    backend = EagerBackend(model)
    memory = backend.encode(np.array([source]), np.array([len(source)]))
    cache, start, one = backend.start(memory, 1, None), model.dims.vocab - 1, np.array([1])
    steps = [backend.step(np.array([[token]]), one, cache)[0] for token in (start, *ids)]
    return np.stack(steps)[:, :start]


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        ({}, {}),
        ({"quantized": False}, {"transformer-ffn-activation": "swish"}),
        ({"shared": False}, {}),
        ({}, {"transformer-decoder-autoreg": "self-attention"}),
    ],
    ids=["8 bits", "float32, swish", "two vocabularies", "self-attention"],
)
def test_gives_marians_logits(tmp_path, options, settings):
    """Encoder, recurrence, cross-attention, positions and the tables, token by token."""
    tensors = bergamot_folders.save(tmp_path / "model", **options, **settings)
    loaded = load_checkpoint(tmp_path / "model")
    activation = settings.get("transformer-ffn-activation", "relu")
    marian = bergamot_folders.Marian(tensors, activation=activation)
    for source in SOURCES:
        ids = [11, 4, 4, 27, 35, 6]
        expected = marian.logits(marian.encode(source), ids)
        np.testing.assert_allclose(all_logits(loaded.model, source, ids), expected, atol=2e-4)
    assert loaded.source.source_format == "bergamot"
    assert not loaded.unused_tensors


@pytest.fixture(params=["onnxruntime", "canonical"])
def model(request, exported):
    """The bundle of a folder, on each kind of its graphs."""
    folder = exported("bergamot")[1]
    return seq2edge.load(folder / "bundle", device="cpu", threads=1, graphs=request.param)


@pytest.fixture(scope="module")
def marian(tmp_path_factory):
    """What Marian computes of the same folder."""
    return bergamot_folders.Marian(bergamot_folders.save(tmp_path_factory.mktemp("b") / "model"))


def test_bundles_give_marians_tokens(model, marian):
    """Of several sources at once, of each alone, and where tokens are guessed and taken back."""
    options = model.options.replace(max_new_tokens=20, max_length=None)
    expected = [marian.greedy(source, 20) for source in SOURCES]
    together = model.generate_ids(SOURCES, options)
    assert [list(each[0].ids) for each in together] == expected
    for source, ids in zip(SOURCES, expected, strict=True):
        assert list(model.generate_ids([source], options)[0][0].ids) == ids
    if model.backend.verifies:
        guessed = model.generate_ids(SOURCES, options.replace(prompt_lookup_num_tokens=4))
        assert [list(each[0].ids) for each in guessed] == expected


def test_beams_have_marians_scores(model, marian):
    """The sum of log-probabilities of what a beam wrote, by the length."""
    options = model.options.replace(max_new_tokens=12, max_length=None, num_beams=4)
    for (best,), source in zip(model.generate_ids(SOURCES, options), SOURCES, strict=True):
        logits = marian.logits(marian.encode(source), list(best.ids[:-1]))
        normal = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        total = normal[np.arange(len(best.ids)), list(best.ids)].sum()
        assert best.score == pytest.approx(total / len(best.ids), abs=1e-3)


def test_a_prompt_of_the_decoder_is_read_at_once(model, marian):
    """Several tokens in one call give the state that one after the other do."""
    options = model.options.replace(max_new_tokens=8, max_length=None)
    start = model.options.decoder_start_token_id
    for source in SOURCES:
        whole = marian.greedy(source, 12)
        prompt = (start, *whole[:4])
        ids = model.generate_ids([source], options.replace(decoder_prompt=prompt))[0][0].ids
        assert list(ids[: len(whole) - 4]) == whole[4:12]


def test_cuts_text_as_sentencepiece_does(tmp_path):
    """With what it has no piece for, and with bytes in its place."""
    bergamot_folders.save(tmp_path / "one")
    bergamot_folders.save(tmp_path / "two", shared=False)
    for name, *vocabularies in (("one", "vocab", "vocab"), ("two", "srcvocab", "trgvocab")):
        source = open_foreign(tmp_path / name)
        converted = convert_tokenizer(
            tmp_path / name,
            config=source.config,
            vocab=source.config["decoder_vocab_size"],
            source_vocab=source.config["vocab_size"],
            pieces=source.pieces,
        )
        (tmp_path / name / "made").mkdir()
        for file, data in converted.files.items():
            (tmp_path / name / "made" / file).write_bytes(data)
        made = Tokenizer(tmp_path / name / "made", converted.record)
        read, written = (
            sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / name / f"{v}.aabb.spm"))
            for v in vocabularies
        )
        for text in ("le petit café", "我们 hello", "hello Zz!? <0>", " съешь  ещё "):
            assert made.encode(text) == [*read.encode(text), 0]
            ids = written.encode(text)
            if 1 not in ids:  # which no answer has
                assert made.decode([*ids, 0]) == written.decode(ids)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"dec-cell": "gru"}, "dec-cell 'gru'"),
        ({"transformer-preprocess": "n"}, "transformer-preprocess 'n'"),
        ({"transformer-heads": 0}, "transformer-heads is 0"),
        ({"transformer-new-thing": 3}, "transformer-new-thing 3"),
        ({"transformer-ffn-activation": "prelu"}, "activation 'prelu'"),
        ({"tied-embeddings-all": False}, "not tied"),
    ],
    ids=["cell", "norm before", "heads", "unknown", "activation", "tables"],
)
def test_refuses_settings_that_change_the_model(tmp_path, settings, said):
    """By their name, those that nobody here knows too."""
    bergamot_folders.save(tmp_path / "model", **settings)
    with pytest.raises((CheckpointError, UnsupportedError), match=said):
        load_checkpoint(tmp_path / "model")


def test_refuses_damaged_folders(tmp_path):
    """Every cut of the file, two models, and a vocabulary of another model."""
    folder = tmp_path / "model"
    bergamot_folders.save(folder)
    file = folder / "model.aabb.bin"
    data = file.read_bytes()
    for length in (0, 1, 15, 16, 100, 5000, len(data) // 2, len(data) - 1):
        file.write_bytes(data[:length])
        with pytest.raises(CheckpointError, match=r"model\.aabb\.bin"):
            load_checkpoint(folder)
    file.write_bytes(data)
    (folder / "model.other.bin").write_bytes(data)
    with pytest.raises(CheckpointError, match="keep one of them"):
        load_checkpoint(folder)
    (folder / "model.other.bin").unlink()
    bergamot_folders.save(tmp_path / "other", shared=False)
    shutil.copy(tmp_path / "other" / "srcvocab.aabb.spm", folder / "vocab.aabb.spm")
    with pytest.raises(CheckpointError, match="pieces, the model has"):
        export_checkpoint(folder, tmp_path / "bundle")


def test_refuses_other_kinds_of_numbers(tmp_path):
    """Integers laid out for one kind of processors, by the name of the tensor."""
    bergamot_folders.save(tmp_path / "model")
    file = tmp_path / "model" / "model.aabb.bin"
    data = file.read_bytes().replace(struct.pack("<Q", 0x4101), struct.pack("<Q", 0x6101), 1)
    file.write_bytes(data)
    with pytest.raises(UnsupportedError, match="Wemb is intgemm8 laid out for AVX2"):
        load_checkpoint(tmp_path / "model")


@pytest.fixture
def lists():
    """Three translations of every source token, by a rule."""
    return lambda size: [[(7 * t + k * k) % size for k in (2, 5, 9)] for t in range(size)]


def test_an_answer_has_tokens_of_its_lexical_shortlist_alone(tmp_path, lists):
    """The frequent ones, translations of the source's tokens, and these themselves."""
    folder = tmp_path / "model"
    marian = bergamot_folders.Marian(bergamot_folders.save(folder))
    size = len(marian.target)
    bergamot_folders.write_lexicon(folder / "lex.bin", lists(size), frequent=10)
    export_checkpoint(folder, tmp_path / "bundle")
    model = seq2edge.load(tmp_path / "bundle", device="cpu", threads=1)
    free = [marian.greedy(source, 20) for source in SOURCES]
    for changes in ({}, {"num_beams": 3}, {"do_sample": True, "seed": 3}):
        options = model.options.replace(max_new_tokens=20, max_length=None, **changes)
        answers = [list(each[0].ids) for each in model.generate_ids(SOURCES, options)]
        for source, ids in zip(SOURCES, answers, strict=True):
            listed = {*range(10), *source}
            listed |= {t for s in source for t in lists(size)[s]}
            assert set(ids) <= listed
            if not changes:
                allowed = np.array([t in listed for t in range(size)])
                assert ids == marian.greedy(source, 20, allowed)
        assert answers != free
    quantize_bundle(tmp_path / "bundle", tmp_path / "small", "int8-weight")
    assert seq2edge.load(tmp_path / "small", device="cpu").bundle.manifest.lexicon


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda data: b"x" + data[1:], "not a binary lexical shortlist"),
        (lambda data: data[:-4], "damaged or belongs to another"),
        (lambda data: data[:-4] + b"\xff\xff\xff\x7f", "belongs to another"),
        (lambda data: data[:56] + b"\xff" * 8 + data[64:], "do not ascend"),
        (lambda data: data[:20], "beyond the file's end"),
    ],
    ids=["magic", "cut", "an id", "an offset", "the head"],
)
def test_refuses_damaged_lexical_shortlists(tmp_path, lists, damage, said):
    """By the file's name."""
    folder = tmp_path / "model"
    size = len(bergamot_folders.save(folder)["Wemb"])
    bergamot_folders.write_lexicon(folder / "lex.bin", lists(size), frequent=10)
    load_checkpoint(folder)
    (folder / "lex.bin").write_bytes(damage((folder / "lex.bin").read_bytes()))
    with pytest.raises(CheckpointError, match=f"lex.bin: .*{said}"):
        load_checkpoint(folder)
