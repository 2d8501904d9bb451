"""Masked words are those of transformers' own pipeline."""

from __future__ import annotations

import pytest
from eager_models import eager_model
from transformers import FillMaskPipeline

from seq2edge.errors import InputError, OptionError


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert"])
def test_fillings_are_those_of_the_pipeline(tmp_path, kind):
    """One mask or several, each with the text that comes of it."""
    reference, tokenizer, model = eager_model(tmp_path, f"{kind}-masked", kind)
    pipeline = FillMaskPipeline(model=reference, tokenizer=tokenizer, device="cpu")
    mask = model.tokenizer.record.special.mask
    assert mask == tokenizer.mask_token
    for text in (f"hello {mask} world", f"the {mask} fox {mask}."):
        wanted = pipeline(text, top_k=3)
        wanted = wanted if text.count(mask) > 1 else [wanted]
        for each, theirs in zip(model.fill(text, top_k=3), wanted, strict=True):
            assert [(f.id, f.token, f.text) for f in each] == [
                (f["token"], f["token_str"], f["sequence"]) for f in theirs
            ]
            scores = [f["score"] for f in theirs]
            assert [f.score for f in each] == pytest.approx(scores, abs=1e-5)
    with pytest.raises(InputError, match=r"fill: 'hello' has no .MASK.|mask"):
        model.fill("hello")
    with pytest.raises(OptionError, match="top_k: 0, needs 1 or more"):
        model.fill(mask, top_k=0)
