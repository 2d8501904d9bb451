"""Small tokenizers of every kind, trained on a few words in many scripts, as folders."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sentencepiece
import tokenizers
import transformers
from tokenizers import AddedToken, Tokenizer
from transformers.models.m2m_100.tokenization_m2m_100 import FAIRSEQ_LANGUAGE_CODES as M2M100
from transformers.models.nllb.tokenization_nllb import FAIRSEQ_LANGUAGE_CODES as NLLB

WORDS = {
    "latin": "le petit café façade naïve hello world the quick brown fox Größe schön tiếng Việt",
    "greek": "η γρήγορη αλεπού πηδά πάνω από τον σκύλο",
    "cyrillic": "съешь же ещё этих мягких французских булок",
    "east": "我们今天去北京 天气很好 日本語のテキスト",
    "arabic": "اللغة العربية جميلة جدا",
}
BYTE_LEVEL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
WHISPER = ["<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>"]


def corpus(*scripts: str) -> list[str]:
    """Sentences of random words."""
    random_ = random.Random(0)
    words = [word for script in scripts or WORDS for word in WORDS[script].split()]
    ends = (".", "!", " ?", ", (>> <<) 3/4 </")
    return [" ".join(random_.choices(words, k=8)) + random_.choice(ends) for _ in range(300)]


def train(path: Path, *scripts: str, **options: Any) -> list[str]:
    """Train a small SentencePiece model; the pieces after its three special ones."""
    model = io.BytesIO()
    settings: dict[str, Any] = {"model_type": "unigram", "vocab_size": 300, **options}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus(*scripts)),
        model_writer=model,
        hard_vocab_limit=False,
        minloglevel=2,
        num_threads=1,
        **settings,
    )
    path.write_bytes(model.getvalue())
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    return [processor.id_to_piece(i) for i in range(3, len(processor))]


def write(path: Path, value: object) -> None:
    """A JSON file."""
    path.write_text(json.dumps(value), encoding="utf-8")


def numbered(tokens: list[str]) -> dict[str, int]:
    """A vocab.json in the order of the tokens."""
    return {token: i for i, token in enumerate(dict.fromkeys(tokens))}


def t5(folder: Path) -> str:
    """SentencePiece with pad, eos and unk first."""
    train(folder / "spiece.model", pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
    return "t5"


def mt5(folder: Path) -> str:
    """Byte fallback, no sentinels."""
    options: dict[str, Any] = {"byte_fallback": True, "vocab_size": 600}
    train(folder / "spiece.model", pad_id=0, eos_id=1, unk_id=2, bos_id=-1, **options)
    write(folder / "tokenizer_config.json", {"tokenizer_class": "T5Tokenizer", "extra_ids": 0})
    return "mt5"


def pegasus(folder: Path) -> str:
    """Ids moved by 103 mask tokens."""
    t5(folder)
    return "pegasus"


def mbart(folder: Path) -> str:
    """Languages after the text."""
    train(folder / "sentencepiece.bpe.model")
    return "mbart"


def mbart50(folder: Path) -> str:
    """Languages before the text, defaults in the config."""
    train(folder / "sentencepiece.bpe.model")
    settings = {"tokenizer_class": "MBart50Tokenizer", "src_lang": "de_DE", "tgt_lang": "fr_XX"}
    write(folder / "tokenizer_config.json", settings)
    return "mbart"


def nllb(folder: Path) -> str:
    """SentencePiece BPE and 202 languages."""
    train(folder / "sentencepiece.bpe.model", model_type="bpe")
    settings = {"tokenizer_class": "NllbTokenizer", "extra_special_tokens": NLLB}
    write(folder / "tokenizer_config.json", settings)
    return "m2m_100"


def m2m100(folder: Path, **options: Any) -> str:
    """A vocab.json that misses some pieces, and knows some that the model does not."""
    pieces = train(folder / "sentencepiece.bpe.model", "latin", "greek", **options)
    kept = [piece for i, piece in enumerate(pieces) if i % 9]
    write(
        folder / "vocab.json",
        numbered(["<s>", "<pad>", "</s>", "<unk>", *kept, "北京", "madeupword0000"]),
    )
    settings = {
        "tokenizer_class": "M2M100Tokenizer",
        "additional_special_tokens": [f"__{code}__" for code in M2M100["m2m100"]],
    }
    write(folder / "tokenizer_config.json", settings)
    return "m2m_100"


def m2m100_bpe(folder: Path) -> str:
    """The same over a BPE model."""
    return m2m100(folder, model_type="bpe")


def marian(folder: Path) -> str:
    """Two SentencePiece models, one vocabulary with holes, language codes."""
    source = train(folder / "source.spm", "latin")
    target = train(folder / "target.spm", "latin", "greek", "east", vocab_size=350)
    pieces = [piece for i, piece in enumerate(dict.fromkeys(source + target)) if i % 9]
    codes = [">>fra<<", ">>deu_Latn<<"]
    write(folder / "vocab.json", numbered(["</s>", "<unk>", *pieces, *codes, "<pad>"]))
    return "marian"


def marian_plain(folder: Path) -> str:
    """One pair of languages, no codes."""
    pieces = train(folder / "source.spm", "latin")
    train(folder / "target.spm", "latin")
    write(folder / "vocab.json", numbered(["</s>", "<unk>", *pieces, "<pad>"]))
    return "marian"


def marian_bpe(folder: Path) -> str:
    """Language codes over BPE."""
    pieces = train(folder / "source.spm", "latin", model_type="bpe")
    train(folder / "target.spm", "latin", model_type="bpe")
    kept = [piece for i, piece in enumerate(pieces) if i % 9]
    codes = [">>fra<<", ">>deu_Latn<<"]
    write(folder / "vocab.json", numbered(["</s>", "<unk>", *kept, *codes, "<pad>"]))
    return "marian"


def marian_split(folder: Path) -> str:
    """A vocabulary for each side."""
    pieces = train(folder / "source.spm", "latin")
    write(folder / "vocab.json", numbered(["</s>", "<unk>", "<pad>", *pieces]))
    pieces = train(folder / "target.spm", "greek", "cyrillic")
    write(folder / "target_vocab.json", numbered(["</s>", "<unk>", "<pad>", *pieces]))
    settings = {"tokenizer_class": "MarianTokenizer", "separate_vocabs": True}
    write(folder / "tokenizer_config.json", settings)
    return "marian"


def llama(folder: Path) -> str:
    """SentencePiece BPE with byte fallback."""
    options: dict[str, Any] = {"byte_fallback": True, "remove_extra_whitespaces": False}
    train(folder / "tokenizer.model", model_type="bpe", vocab_size=700, **options)
    settings = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True}
    write(folder / "tokenizer_config.json", settings)
    return "llama"


def bert(folder: Path) -> str:
    """WordPiece in lower case."""
    tokenizer = tokenizers.BertWordPieceTokenizer(lowercase=True)
    tokenizer.train_from_iterator(corpus(), vocab_size=300, show_progress=False)
    tokenizer.save_model(str(folder))
    return "bert"


def distilbert(folder: Path) -> str:
    """Cased WordPiece whose decoding cleans spaces up."""
    bert(folder)
    settings = {"do_lower_case": False, "clean_up_tokenization_spaces": True}
    write(folder / "tokenizer_config.json", settings)
    return "distilbert"


def byte_level(family: str, special: list[str]) -> Callable[[Path], str]:
    """A builder of byte-level BPE files."""

    def build(folder: Path) -> str:
        tokenizer = tokenizers.ByteLevelBPETokenizer()
        tokenizer.train_from_iterator(
            corpus(), vocab_size=500, special_tokens=special, show_progress=False
        )
        tokenizer.save_model(str(folder))
        return family

    return build


def saved(build: Callable[[Path], str]) -> Callable[[Path], str]:
    """The same tokenizer as transformers saves it, with a tokenizer.json that cuts and pads."""

    def save(folder: Path) -> str:
        family = build(folder)
        write(folder / "config.json", {"model_type": family})
        original = transformers.AutoTokenizer.from_pretrained(folder)
        for file in folder.iterdir():
            file.unlink()
        original.add_tokens(["<new>", AddedToken("<special>", special=True, lstrip=True)])
        original.save_pretrained(folder)
        path = folder / "tokenizer.json"
        tokenizer = Tokenizer.from_file(str(path))
        tokenizer.enable_truncation(4)
        tokenizer.enable_padding(length=12)
        tokenizer.save(str(path))
        return family

    return save


KINDS: dict[str, Callable[[Path], str]] = {
    "t5": t5,
    "mt5": mt5,
    "pegasus": pegasus,
    "mbart": mbart,
    "mbart50": mbart50,
    "nllb": nllb,
    "m2m100": m2m100,
    "m2m100 bpe": m2m100_bpe,
    "marian": marian,
    "marian plain": marian_plain,
    "marian bpe": marian_bpe,
    "marian split": marian_split,
    "llama": llama,
    "bert": bert,
    "distilbert": distilbert,
    "gpt2": byte_level("gpt2", ["<|endoftext|>"]),
    "bart": byte_level("bart", BYTE_LEVEL),
    "roberta": byte_level("roberta", BYTE_LEVEL),
    "whisper": byte_level("whisper", WHISPER),
    "qwen2": byte_level("qwen2", ["<|endoftext|>"]),
    "t5 saved": saved(t5),
    "nllb saved": saved(nllb),
    "llama saved": saved(llama),
    "bert saved": saved(bert),
    "gpt2 saved": saved(byte_level("gpt2", ["<|endoftext|>"])),
}
