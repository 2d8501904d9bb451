"""Model families: each module maps foreign checkpoints onto the canonical Transformer.

The registry is keyed by the `model_type` of a Hugging Face config.json.
"""

from __future__ import annotations

import importlib

from seq2edge.checkpoints.families.family import Family
from seq2edge.errors import UnsupportedError

FAMILIES = {
    "bart": "bart:BART",
    "mbart": "bart:MBART",
    "marian": "bart:MARIAN",
    "pegasus": "bart:PEGASUS",
    "m2m_100": "bart:M2M100",
    "whisper": "whisper:WHISPER",
    "t5": "t5:T5",
    "mt5": "t5:MT5",
    "gpt2": "gpt2:GPT2",
    "llama": "llama:LLAMA",
    "mistral": "llama:MISTRAL",
    "qwen2": "llama:QWEN2",
    "qwen3": "llama:QWEN3",
    "smollm3": "llama:SMOLLM3",
    "phi3": "llama:PHI3",
    "ministral": "llama:MINISTRAL",
    "granite": "llama:GRANITE",
    "olmo2": "llama:OLMO2",
    "olmo3": "llama:OLMO3",
    "stablelm": "llama:STABLELM",
    "starcoder2": "llama:STARCODER2",
    "gemma": "gemma:GEMMA",
    "gemma2": "gemma:GEMMA2",
    "gemma3_text": "gemma:GEMMA3",
    "phi": "parallel:PHI",
    "gpt_neox": "parallel:GPT_NEOX",
    "falcon": "parallel:FALCON",
    "ernie4_5": "interleaved:ERNIE",
    "glm": "interleaved:GLM",
    "exaone4": "llama:EXAONE4",
    "modernbert": "modernbert:MODERNBERT",
    "eurobert": "modernbert:EUROBERT",
    "bert": "bert:BERT",
    "roberta": "bert:ROBERTA",
    "distilbert": "bert:DISTILBERT",
    "seq2edge": "native:NATIVE",
}


def find_family(model_type: str) -> Family:
    """The family of a config's `model_type`. Raises UnsupportedError naming the known ones."""
    if model_type not in FAMILIES:
        raise UnsupportedError(
            f"model_type: {model_type!r} is not supported, known: {', '.join(sorted(FAMILIES))}"
        )
    module, attribute = FAMILIES[model_type].split(":")
    family = getattr(importlib.import_module(f"{__name__}.{module}"), attribute)
    assert isinstance(family, Family)
    return family
