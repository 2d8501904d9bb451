"""Folders of a tiny Whisper that CTranslate2 itself writes."""

from __future__ import annotations

import tiny_models
from ctranslate2.converters import transformers as ct2_loaders

NAMED = {
    1: "<|endoftext|>",
    2: "<|startoftranscript|>",
    5: "<|notimestamps|>",
    6: "<|startofprev|>",
}


class Tokens:
    """As much of a tokenizer as CTranslate2's converter asks for."""

    additional_special_tokens = ()

    def get_vocab(self):
        """Made-up tokens with the special ones among them."""
        return {NAMED.get(i, f"t{i}"): i for i in range(tiny_models.VOCAB)}


def convert(folder, quantization=None):
    """Write the model as CTranslate2's own converter does, which quantizes in place."""
    model = tiny_models.make("whisper")
    model.generation_config.suppress_tokens = [7, 8]
    model.generation_config.begin_suppress_tokens = [9]
    spec = ct2_loaders.WhisperLoader()(model, Tokens())
    spec.validate()
    spec.optimize(quantization=quantization)
    folder.mkdir(parents=True)
    spec.save(str(folder))
    return folder
