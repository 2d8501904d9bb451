"""Tiny language models that rerank: a chat model's tokenizer, and scores as their cards say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import small_tokenizers
import tiny_models
import tokenizers
import torch
import transformers
from tokenizers import decoders, models, pre_tokenizers, trainers

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"]
TEXTS = small_tokenizers.corpus("latin")[:5]
PREFIX = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and "
    'the Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>\n'
    "<|im_start|>user\n"
)
SUFFIX = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"


def write_tokenizer(folder: Path) -> Any:
    """A byte-level tokenizer with a chat's special tokens, and the words yes, no, 1 and 0."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    words = ["yes no" + "yes\nno\nYes\n" * 9] * 40
    tokenizer.train_from_iterator([*small_tokenizers.corpus("latin")[:40], *words], trainer)
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    fast.save_pretrained(folder)
    return fast


def causal_reranker(folder: Path, name: str = "qwen3", **changes: Any) -> tuple[Any, Any]:
    """A language model's folder; the model and its tokenizer."""
    tokenizer = write_tokenizer(folder)
    sizes = {"vocab_size": 340, "max_position_embeddings": 512, "pad_token_id": 0}
    return tiny_models.save(name, folder, **{**sizes, **changes}), tokenizer


@torch.no_grad()
def card_score(model: Any, ids: list[int], yes: int, no: int) -> float:
    """As the card of Qwen3-Reranker computes it: the log-softmax over both words."""
    scores = model(input_ids=torch.tensor([ids])).logits[:, -1, :]
    both = torch.stack([scores[:, no], scores[:, yes]], dim=1)
    return torch.nn.functional.log_softmax(both, dim=1)[:, 1].exp().item()


def card_ids(tokenizer: Any, query: str, text: str, instruction: str = INSTRUCTION) -> list[int]:
    """As that card makes them: prefix, pair and suffix each by itself."""
    pair = f"<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {text}"
    parts = (PREFIX, pair, SUFFIX)
    return [i for part in parts for i in tokenizer.encode(part, add_special_tokens=False)]
