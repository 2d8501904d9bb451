"""Tokenizers of every kind of checkpoint become one tokenizer.json with the same ids."""
# ruff: noqa: RUF001 - text in many scripts on purpose

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers
from small_tokenizers import (
    BYTE_LEVEL,
    KINDS,
    WHISPER,
    bert,
    byte_level,
    m2m100,
    marian,
    marian_split,
    mbart,
    mbart50,
    nllb,
    numbered,
    saved,
    t5,
    write,
)
from tokenizers import AddedToken

from seq2edge.checkpoints.remapped_sentencepiece import SAMPLE
from seq2edge.checkpoints.tokenizer import Converted, convert_tokenizer
from seq2edge.errors import CheckpointError, InputError, UnsupportedError
from seq2edge.runtime.rehearsal import check_tokenizer
from seq2edge.runtime.tokenizer import Tokenizer

pytestmark = pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses")

SPECIAL_TEXTS = (
    "a</s> b <pad> c<unk>d",
    " <s>z",
    "[MASK] x [SEP]",
    "<mask> y",
    "<|endoftext|>z <|startoftranscript|>",
    "foo <extra_id_0> bar",
    "decomposed: tie\u0302\u0301ng Vie\u0323\u0302t, U\u0308\u0304, \u1112\u1161\u11ab",
    "ligature ﬃ, full-width ＡＢ, half-width ｶﾞ, circled ⑳, no-break\u00a0space",
    "\u200d👨‍👩‍👧‍👦 zero\u200bwidth",
)
MARIAN_TEXTS = (
    ">>fra<<",
    ">>fra<<   x",
    ">>fra<<x",
    " >>fra<< x",
    "a >>deu_Latn<< b</s>>>fra<< c",
    ">>fra<< >>deu_Latn<< c",
    ">>no\nsuch<< c",
    "猫",
    "北京",
    "x 北京 z",
    "我们",
    "hello 今天去 world",
    "ff我ff",
    "▁x ▁▁ y▁",
    "\ue000x \ue001 \U000f0000 \uf8ff",
    "\ue001",
)
LANGUAGES = {
    "mbart": ("en_XX", "ro_RO"),
    "mbart50": ("de_DE", "gl_ES"),
    "nllb": ("eng_Latn", "fra_Latn"),
    "nllb saved": ("zul_Latn",),
    "m2m100": ("en", "fr"),
    "m2m100 bpe": ("zu",),
}


def converted(folder: Path, family: str, **options: Any) -> Converted:
    """The conversion of a folder that has a tokenizer."""
    result = convert_tokenizer(
        folder, config={"model_type": family}, vocab=options.pop("vocab", 10**6), **options
    )
    assert result is not None
    return result


def opened(result: Converted, folder: Path) -> Tokenizer:
    """The runtime's side of a conversion."""
    folder.mkdir()
    for name, data in result.files.items():
        (folder / name).write_bytes(data)
    return Tokenizer(folder, result.record)


@pytest.fixture(params=KINDS)
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Tokenizer, Any]:
    """A kind of tokenizer, converted, and the original."""
    family = KINDS[request.param](tmp_path)
    text = opened(converted(tmp_path, family), tmp_path / "bundle")
    write(tmp_path / "config.json", {"model_type": family})
    return request.param, text, transformers.AutoTokenizer.from_pretrained(tmp_path)


def test_ids_and_text_are_those_of_transformers(pair: tuple[str, Tokenizer, Any]) -> None:
    """Every kind gives the original's ids on all scripts, in every language, and its text back."""
    kind, text, original = pair
    for line in (*SAMPLE, *SPECIAL_TEXTS, *(MARIAN_TEXTS if "m" in kind else ())):
        for language in LANGUAGES.get(kind, (None,)):
            if language:
                original.src_lang = language
            ids = original(line).input_ids
            assert text.encode(line, source_language=language) == ids, (line, language)
        plain = original(line, add_special_tokens=False).input_ids
        assert text.encode(line, special_tokens=False) == plain, line
        if kind != "marian split":
            assert text.decode(ids) == original.decode(ids, skip_special_tokens=True)
            assert text.decode(ids, skip_special_tokens=False) == original.decode(ids)


PAIR_SAMPLE = [
    ("a le  petit café?", "hello world"),
    ("hello", " ".join(SAMPLE)),
    ("hello world, the quick fox",) * 2,
]


def test_verify_has_texts_for_every_kind(pair: tuple[str, Tokenizer, Any]) -> None:
    """Two that it tells apart; every token that text may become has an embedding."""
    _, ours, _ = pair
    rows = max(ours.source_tokens().values()) + 1
    first, second = check_tokenizer(ours, rows)
    assert ours.encode(first) != ours.encode(second)
    if ours.record.unknown_from is None:
        with pytest.raises(InputError, match=f"has the id {rows - 1}, the vocabulary has"):
            check_tokenizer(ours, rows - 1)


def test_pairs_are_those_of_transformers(pair: tuple[str, Tokenizer, Any]) -> None:
    """Ids, types and places of whole and of cut pairs, and of windows over the second text."""
    kind, text, original = pair
    if kind not in ("bert", "roberta", "distilbert", "bert saved"):
        return
    options = {"return_token_type_ids": True, "return_offsets_mapping": True}
    for first, second in PAIR_SAMPLE:
        wanted = original(first, second, **options)
        whole = text.encode_texts(first, second)
        assert fields(whole) == (wanted.input_ids, wanted.token_type_ids, wanted.offset_mapping)
        assert whole.texts == wanted.sequence_ids()
        assert whole.words == wanted.word_ids()
        for longest in (4, 5, 8, 9, 16, 21):
            wanted = original(first, second, truncation=True, max_length=longest, **options)
            found = fields(text.encode_texts(first, second, longest=longest))
            assert found == (wanted.input_ids, wanted.token_type_ids, wanted.offset_mapping)
    windows = {"truncation": "only_second", "return_overflowing_tokens": True, **options}
    first, second = PAIR_SAMPLE[1]
    for longest, stride in ((14, 0), (20, 5), (500, 7)):
        wanted = original(first, second, max_length=longest, stride=stride, **windows)
        found = list(text.windows(first, second, longest=longest, overlap=stride))
        wanted = zip(wanted.input_ids, wanted.token_type_ids, wanted.offset_mapping, strict=True)
        assert [fields(window) for window in found] == list(wanted)
    with pytest.raises(InputError, match=r"'hello' takes \d of the 4 tokens"):
        list(text.windows(first, second, longest=4, overlap=0))


def fields(encoded: Any) -> tuple[Any, ...]:
    """What both tell of a pair."""
    return encoded.ids, encoded.types, encoded.spans


def test_random_ids_decode_as_in_transformers(pair: tuple[str, Tokenizer, Any]) -> None:
    """What a model may generate, any ids in any order, becomes the original's text."""
    kind, text, original = pair
    if kind == "marian split":
        ids = list(original.target_encoder.values())
    else:
        ids = list(original.get_vocab().values())
    special = set(original.all_special_ids)
    ids = sorted(i for i in ids if i not in special and "madeup" not in original.decode([i]))
    random_ = random.Random(1)
    for _ in range(50):
        chosen = random_.choices(ids, k=9)
        assert text.decode(chosen) == original.decode(chosen, skip_special_tokens=True), chosen


def test_stored_files_neither_cut_nor_pad(tmp_path: Path) -> None:
    """Truncation and padding of the checkpoint are not in the bundle's tokenizer.json."""
    result = converted(tmp_path, saved(bert)(tmp_path))
    stored = json.loads(result.files["tokenizer.json"])
    assert (stored["truncation"], stored["padding"]) == (None, None)


def test_defaults_of_languages_are_kept(tmp_path: Path) -> None:
    """The record has the languages' ids, where they stand, and the config's defaults."""
    record = converted(tmp_path, mbart50(tmp_path)).record
    assert (record.language_layout, record.target_layout) == ("prefix", "forced")
    assert (record.source_language, record.target_language) == ("de_DE", "fr_XX")
    assert len(record.languages) == 52
    assert record.languages["fr_XX"] - record.languages["ar_AR"] == 7


def test_the_first_mbart_starts_its_decoder_with_the_language(tmp_path: Path) -> None:
    """mBART-25 writes the language after the text and as the decoder's first token."""
    record = converted(tmp_path, mbart(tmp_path)).record
    assert (record.language_layout, record.target_layout) == ("suffix", "start")


def test_marian_takes_its_target_language_as_a_code(tmp_path: Path) -> None:
    """`target_language="fra"` is the same as writing `>>fra<<` before the text."""
    text = opened(converted(tmp_path, marian(tmp_path)), tmp_path / "bundle")
    assert text.record.languages.keys() == {"fra", "deu_Latn"}
    assert text.encode("hello", target_language="fra") == text.encode(">>fra<< hello")


def test_a_split_marian_decodes_with_the_target_side(tmp_path: Path) -> None:
    """Ids that a split model generates are read with target_vocab.json and target.spm."""
    result = converted(tmp_path, marian_split(tmp_path), source_vocab=10**6)
    assert set(result.files) == {"tokenizer.json", "tokenizer.target.json"}
    text = opened(result, tmp_path / "bundle")
    original = transformers.MarianTokenizer.from_pretrained(tmp_path)
    ids = original(text_target="πάνω από τον σκύλο же ещё").input_ids
    assert text.decode(ids) == "πάνω από τον σκύλο же ещё"


def test_whisper_text_has_no_timestamps(tmp_path: Path) -> None:
    """Timestamps are left out of the text, as transformers does."""
    family = byte_level("whisper", WHISPER)(tmp_path)
    write(tmp_path / "config.json", {"model_type": family})
    original = transformers.AutoTokenizer.from_pretrained(tmp_path)
    original.add_tokens([AddedToken(f"<|{i * 0.02:.2f}|>", special=False) for i in range(100)])
    original.save_pretrained(tmp_path)
    ids = original("<|0.00|> hello world<|1.00|>", add_special_tokens=False).input_ids
    text = opened(converted(tmp_path, family), tmp_path / "bundle")
    assert text.decode(ids) == original.decode(ids) == " hello world"


def test_a_folder_without_a_tokenizer_has_none(tmp_path: Path) -> None:
    """No tokenizer files, no tokenizer."""
    write(tmp_path / "config.json", {"model_type": "t5"})
    assert convert_tokenizer(tmp_path, config={"model_type": "t5"}, vocab=9) is None


def test_files_may_come_from_memory(tmp_path: Path) -> None:
    """An importer gives the files' contents in place of a folder's."""
    family = bert(tmp_path)
    files = {"vocab.txt": (tmp_path / "vocab.txt").read_bytes()}
    assert converted(tmp_path / "nowhere", family, files=files) == converted(tmp_path, family)


DAMAGE: dict[str, tuple[Callable[[Path], str], str, bytes, str]] = {
    "cut json": (
        saved(t5),
        "tokenizer.json",
        b'{"version":',
        r"tokenizer\.json: not a tokenizer: ",
    ),
    "no tokenizer": (saved(t5), "tokenizer.json", b'{"a": 1}', r"tokenizer\.json: not a tokenizer"),
    "config": (t5, "tokenizer_config.json", b"[1", r"tokenizer_config\.json: damaged: "),
    "empty": (bert, "vocab.txt", b"", r"vocab\.txt: empty"),
    "not utf-8": (bert, "vocab.txt", b"\xff\xfe", r"vocab\.txt: damaged: "),
    "text for a model": (marian, "source.spm", b"hello", "cannot read the tokenizer: "),
    "no unknown": (marian, "vocab.json", b'{"</s>": 0}', "cannot read the tokenizer: "),
    "bad ids": (
        marian,
        "vocab.json",
        b'{"</s>": 0, "<unk>": 1, "<pad>": 2, "x": -1}',
        r"vocab\.json: 'x' has the id -1",
    ),
    "huge ids": (
        marian,
        "vocab.json",
        b'{"</s>": 0, "<unk>": 1, "<pad>": 2, "x": 99999999}',
        r"vocab\.json: 'x' has the id 99999999",
    ),
    "same ids": (
        marian,
        "vocab.json",
        b'{"</s>": 0, "<unk>": 1, "<pad>": 2, "x": 3, "y": 3}',
        r"vocab\.json: id 3 for both 'x' and 'y'",
    ),
    "no target end": (marian_split, "target_vocab.json", b'{"<unk>": 1}', r"vocab\.json: no </s>"),
    "no languages": (
        nllb,
        "tokenizer_config.json",
        b'{"tokenizer_class": "NllbTokenizer"}',
        "no token for the language 'eng_Latn', the folder needs its tokenizer.json",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_files_are_named(name: str, tmp_path: Path) -> None:
    """A broken tokenizer file is a CheckpointError, never a traceback of a library."""
    build, file, data, message = DAMAGE[name]
    family = build(tmp_path)
    (tmp_path / file).write_bytes(data)
    with pytest.raises(CheckpointError, match=message):
        converted(tmp_path, family)


@pytest.mark.parametrize(
    ("build", "file", "message"),
    [
        (t5, "spiece.model", "no vocabulary, copy one of tokenizer.json, spiece.model"),
        (
            byte_level("gpt2", ["<|endoftext|>"]),
            "merges.txt",
            "no merges.txt, which a GPT2|cannot read the tokenizer: .*merges",
        ),
        (
            m2m100,
            "sentencepiece.bpe.model",
            "no sentencepiece.bpe.model, which a M2M100|cannot read",
        ),
        (marian, "target.spm", "cannot read the tokenizer|no target.spm"),
    ],
)
def test_missing_files_are_named(
    build: Callable[[Path], str], file: str, message: str, tmp_path: Path
) -> None:
    """An incomplete tokenizer is refused; transformers would make the rest up."""
    family = build(tmp_path)
    (tmp_path / file).unlink()
    if not (tmp_path / "tokenizer_config.json").exists():
        write(tmp_path / "tokenizer_config.json", {})
    with pytest.raises(CheckpointError, match=message):
        converted(tmp_path, family)


def test_kinds_without_conversion_are_refused_by_name(tmp_path: Path) -> None:
    """A tokenizer that runs in Python only, and one that needs no files, are named."""
    write(tmp_path / "tokenizer_config.json", {"tokenizer_class": "ByT5Tokenizer"})
    with pytest.raises(UnsupportedError, match="ByT5Tokenizer has no conversion"):
        converted(tmp_path, "t5")
    byte_level("roberta", BYTE_LEVEL)(tmp_path)
    write(tmp_path / "tokenizer_config.json", {"tokenizer_class": "CTRLTokenizer"})
    with pytest.raises(
        UnsupportedError, match=r"CTRLTokenizer has no conversion .* MarianTokenizer"
    ):
        converted(tmp_path, "gpt2")


@pytest.mark.parametrize(
    ("options", "setting"),
    [
        ({"byte_fallback": True, "vocab_size": 600}, "byte_fallback"),
        ({"treat_whitespace_as_suffix": True}, "treat_whitespace_as_suffix"),
        ({"model_type": "word"}, "model type 3"),
        ({"model_type": "bpe", "user_defined_symbols": ["<x>"]}, "BPE model with the reserved"),
    ],
)
def test_other_sentencepiece_models_are_refused(
    options: dict[str, Any], setting: str, tmp_path: Path
) -> None:
    """What cannot be rebuilt with other ids is refused by name."""
    m2m100(tmp_path, **options)
    with pytest.raises(UnsupportedError, match=f"sentencepiece.bpe.model: .*{setting}"):
        converted(tmp_path, "m2m_100")


def test_user_defined_pieces_are_always_cut_out(tmp_path: Path) -> None:
    """A piece that SentencePiece was told to keep whole outbids all others."""
    m2m100(tmp_path, user_defined_symbols=["zz", "etit"])
    write(tmp_path / "config.json", {"model_type": "m2m_100"})
    original = transformers.AutoTokenizer.from_pretrained(tmp_path)
    text = opened(converted(tmp_path, "m2m_100"), tmp_path / "bundle")
    assert text.encode("le petit café") == original("le petit café").input_ids


def test_a_rebuilt_tokenizer_that_differs_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The comparison with the original is not for show."""
    family = marian(tmp_path)
    monkeypatch.setattr(
        "seq2edge.checkpoints.remapped_sentencepiece.SAMPLE", ("＜/s＞",)
    )  # a known difference
    with pytest.raises(
        UnsupportedError, match=r"of MarianTokenizer cannot be converted, '.*' would"
    ):
        converted(tmp_path, family)


def test_ids_without_an_embedding_are_refused(tmp_path: Path) -> None:
    """A vocabulary larger than the model belongs to another checkpoint."""
    family = bert(tmp_path)
    size = len((tmp_path / "vocab.txt").read_text().splitlines())
    assert converted(tmp_path, family, vocab=size)
    message = f"has the id {size - 1}, but the model has only {size - 1} embeddings"
    with pytest.raises(CheckpointError, match=message):
        converted(tmp_path, family, vocab=size - 1)


def test_each_side_of_a_split_vocabulary_is_checked(tmp_path: Path) -> None:
    """The encoder's and the decoder's embeddings are counted apart."""
    family = marian_split(tmp_path)
    source = len(json.loads((tmp_path / "vocab.json").read_text()))
    target = len(json.loads((tmp_path / "target_vocab.json").read_text()))
    assert converted(tmp_path, family, vocab=target, source_vocab=source)
    with pytest.raises(CheckpointError, match=f"has only {source - 1} embeddings"):
        converted(tmp_path, family, vocab=target, source_vocab=source - 1)
    with pytest.raises(CheckpointError, match=f"has only {target - 1} embeddings"):
        converted(tmp_path, family, vocab=target - 1, source_vocab=source)


def test_a_mask_token_may_lack_an_embedding(tmp_path: Path) -> None:
    """Published BART checkpoints have one embedding less than tokens: the mask is never needed."""
    family = byte_level("bart", [])(tmp_path)
    vocabulary = json.loads((tmp_path / "vocab.json").read_text())
    tokens = numbered([*vocabulary, "<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    write(tmp_path / "vocab.json", tokens)
    assert converted(tmp_path, family, vocab=len(tokens) - 1)
    with pytest.raises(CheckpointError, match="token '<unk>' has the id"):
        converted(tmp_path, family, vocab=len(tokens) - 2)


def test_split_special_tokens_are_refused(tmp_path: Path) -> None:
    """A setting that a tokenizer.json cannot keep is refused."""
    family = bert(tmp_path)
    write(tmp_path / "tokenizer_config.json", {"split_special_tokens": True})
    with pytest.raises(UnsupportedError, match="split_special_tokens is not supported"):
        converted(tmp_path, family)


def test_remote_code_is_not_run(tmp_path: Path) -> None:
    """A checkpoint that brings its own tokenizer code is refused."""
    family = bert(tmp_path)
    (tmp_path / "evil.py").write_text("raise SystemExit('ran')")
    settings = {"auto_map": {"AutoTokenizer": ["evil.Evil", None]}, "tokenizer_class": "Evil"}
    write(tmp_path / "tokenizer_config.json", settings)
    with pytest.raises(CheckpointError, match="cannot read the tokenizer: "):
        converted(tmp_path, family)


def test_the_default_chat_template_is_kept(tmp_path: Path) -> None:
    """One template is kept as it is; of several the default, and the others are reported."""
    family = bert(tmp_path)
    write(tmp_path / "tokenizer_config.json", {"chat_template": "{{ messages }}"})
    result = converted(tmp_path, family)
    assert result.files["chat_template.jinja"] == b"{{ messages }}"
    assert result.record.chat_template == "chat_template.jinja"
    assert result.notes == ()
    named = [{"name": "tool", "template": "t"}, {"name": "default", "template": "d"}]
    write(tmp_path / "tokenizer_config.json", {"chat_template": named})
    result = converted(tmp_path, family)
    assert result.files["chat_template.jinja"] == b"d"
    assert result.notes == ("chat templates left out: tool; only the default one is kept",)
    write(tmp_path / "tokenizer_config.json", {"chat_template": named[:1]})
    result = converted(tmp_path, family)
    assert result.record.chat_template is None
    assert len(result.notes) == 1


def test_a_chat_template_file_wins(tmp_path: Path) -> None:
    """chat_template.jinja is read like transformers does."""
    family = bert(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("from the file")
    assert converted(tmp_path, family).files["chat_template.jinja"] == b"from the file"


def test_prompts_come_from_the_config(tmp_path: Path) -> None:
    """The task prefixes of a T5 are kept by task."""
    t5(tmp_path)
    tasks = {"summarization": {"prefix": "summarize: ", "num_beams": 4}, "other": {}}
    config = {"model_type": "t5", "task_specific_params": tasks}
    result = convert_tokenizer(tmp_path, config=config, vocab=10**6)
    assert result is not None
    assert result.record.prompts == {"summarization": "summarize: "}


def test_how_much_a_tokenizer_allows_is_told(tmp_path: Path) -> None:
    """As its settings say; where they say nothing, there is no limit."""
    family = KINDS["bert"](tmp_path)
    assert converted(tmp_path, family).longest is None
    write(tmp_path / "tokenizer_config.json", {"model_max_length": 77})
    assert converted(tmp_path, family).longest == 77
