"""A tiny random multilingual Whisper with the places of the real one's vocabulary, and sounds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import tiny_models
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, pre_tokenizers

from seq2edge.export.pipeline import export_checkpoint

TEXTS = 40  # tokens of text, from 0 on
END, START = TEXTS, TEXTS + 1
LANGUAGES = {code: START + 1 + i for i, code in enumerate(["en", "zh", "de", "es", "fr"])}
TRANSLATE, TRANSCRIBE, PREVIOUS, NO_SPEECH, NO_TIMESTAMPS = 47, 48, 50, 51, 52
FIRST = NO_TIMESTAMPS + 1
VOCAB = FIRST + 1501
POSITIONS = 48
RATE = 16_000

GENERATION = {
    "lang_to_id": {f"<|{code}|>": token for code, token in LANGUAGES.items()},
    "task_to_id": {"translate": TRANSLATE, "transcribe": TRANSCRIBE},
    "no_timestamps_token_id": NO_TIMESTAMPS,
    "is_multilingual": True,
    "prev_sot_token_id": PREVIOUS,
    "max_initial_timestamp_index": 50,
    "decoder_start_token_id": START,
    "bos_token_id": END,
    "eos_token_id": END,
    "pad_token_id": END,
    "max_length": POSITIONS,
    "suppress_tokens": [3, 5, START, TRANSLATE, TRANSCRIBE, 49, PREVIOUS, NO_SPEECH],
    "begin_suppress_tokens": [7, END],
    "return_timestamps": True,
}


def make_speech_model() -> Any:
    """The model, in eval mode: it writes times now and then, and ends."""
    model = tiny_models.make(
        "whisper",
        seed=3,
        vocab_size=VOCAB,
        max_source_positions=1500,
        max_target_positions=POSITIONS,
        **{name: GENERATION[name] for name in ("decoder_start_token_id", "bos_token_id")},
        eos_token_id=END,
        pad_token_id=END,
    )
    rows = model.model.decoder.embed_tokens.weight
    with torch.no_grad():
        # So many times together would outweigh every text.
        rows[FIRST:] *= 0.6
        rows[END] *= 1.3
    for name, value in GENERATION.items():
        setattr(model.generation_config, name, value)
    return model


def save_speech_model(folder: Path, model: Any) -> None:
    """Write it with a tokenizer of the texts w0 to w39."""
    model.save_pretrained(folder)
    words = {f"w{i}": i for i in range(TEXTS)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "TokenizersBackend"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")


def speech_bundle(folder: Path) -> Path:
    """Its bundle, with alignments."""
    save_speech_model(folder / "checkpoint", make_speech_model())
    export_checkpoint(folder / "checkpoint", folder / "bundle", alignments=True, original=False)
    return folder / "bundle"


def recording(seconds: float, seed: int = 0) -> NDArray[np.float32]:
    """Tones and noise that change every second or so, never the same twice."""
    rng = np.random.default_rng(seed)
    length, parts = int(seconds * RATE), []
    while sum(map(len, parts)) < length:
        time = np.arange(int(rng.uniform(0.3, 1.5) * RATE)) / RATE
        tone = np.sin(2 * np.pi * rng.uniform(100, 3000) * time) * rng.uniform(0, 0.5)
        parts.append(tone + rng.normal(size=len(time)) * rng.uniform(0.001, 0.2))
    return np.concatenate(parts)[:length].astype(np.float32)


def features_of(samples: NDArray[np.float32], mels: int) -> torch.Tensor:
    """What transformers' model takes of a recording longer than a window."""
    from transformers import WhisperFeatureExtractor

    extracted = WhisperFeatureExtractor(feature_size=mels)(
        samples,
        sampling_rate=RATE,
        return_tensors="pt",
        truncation=False,
        padding="longest",
    )
    features: torch.Tensor = extracted.input_features
    return features
