"""Model families: each module maps foreign checkpoints onto the canonical Transformer.

The registry is keyed by the `model_type` of a Hugging Face config.json.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from seq2edge.checkpoints.families.family import Family
from seq2edge.checkpoints.families.missing import MISSING
from seq2edge.errors import UnsupportedError

FAMILIES = {
    "bart": "bart:BART",
    "mbart": "bart:MBART",
    "marian": "bart:MARIAN",
    "bergamot": "bart:BERGAMOT",
    "pegasus": "bart:PEGASUS",
    "m2m_100": "bart:M2M100",
    "blenderbot": "bart:BLENDERBOT",
    "blenderbot-small": "bart:BLENDERBOT_SMALL",
    "whisper": "whisper:WHISPER",
    "moonshine": "moonshine:MOONSHINE",
    "vision-encoder-decoder": "vision:VISION_ENCODER_DECODER",
    "t5": "t5:T5",
    "mt5": "t5:MT5",
    "umt5": "t5:UMT5",
    "t5gemma": "t5gemma:T5GEMMA",
    "gpt2": "gpt2:GPT2",
    "opt": "opt:OPT",
    "llama": "llama:LLAMA",
    "mistral": "llama:MISTRAL",
    "qwen2": "llama:QWEN2",
    "qwen3": "llama:QWEN3",
    "smollm3": "llama:SMOLLM3",
    "phi3": "llama:PHI3",
    "ministral": "llama:MINISTRAL",
    "granite": "llama:GRANITE",
    "granitemoehybrid": "llama:GRANITE_HYBRID",
    "olmo2": "llama:OLMO2",
    "olmo3": "llama:OLMO3",
    "stablelm": "llama:STABLELM",
    "starcoder2": "llama:STARCODER2",
    "lfm2": "lfm2:LFM2",
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
    "nomic_bert": "nomic:NOMIC_BERT",
    "gte": "nomic:GTE",
    "bert": "bert:BERT",
    "roberta": "bert:ROBERTA",
    "xlm-roberta": "bert:XLM_ROBERTA",
    "camembert": "bert:CAMEMBERT",
    "electra": "electra:ELECTRA",
    "albert": "electra:ALBERT",
    "mpnet": "electra:MPNET",
    "deberta": "deberta:DEBERTA",
    "deberta-v2": "deberta:DEBERTA_V2",
    "distilbert": "bert:DISTILBERT",
    "seq2edge": "native:NATIVE",
}


def model_type_of(architectures: Sequence[str]) -> str:
    """The `model_type` of a config that has none, by the class it names; empty where none knows."""
    for model_type in FAMILIES:
        if set(map(str, architectures)) & set(find_family(model_type).architectures):
            return model_type
    return ""


def find_family(model_type: str) -> Family:
    """The family of a config's `model_type`. Raises UnsupportedError naming the known ones."""
    if model_type not in FAMILIES:
        need = f": it needs {MISSING[model_type]}" if model_type in MISSING else ""
        raise UnsupportedError(
            f"model_type: {model_type!r} is not supported{need}; "
            f"known: {', '.join(sorted(FAMILIES))}"
        )
    module, attribute = FAMILIES[model_type].split(":")
    family = getattr(importlib.import_module(f"{__name__}.{module}"), attribute)
    assert isinstance(family, Family)
    return family
