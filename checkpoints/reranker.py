"""Rerankers that are language models: how sure one is to say yes where its prompt asks.

The score is the logit of one word behind the prompt, by default less that of another, so that its
sigmoid is the probability of the first among both. That is a classifier of one label whose weights
are rows of the product with the vocabulary (Zhang et al. 2025, Qwen3 Embedding).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

import tokenizers
from torch import Tensor

from seq2edge.bundle.manifest import RerankRecord
from seq2edge.checkpoints.families import find_family
from seq2edge.checkpoints.importers.huggingface import Source
from seq2edge.checkpoints.tokenizer import TEMPLATE, Converted, convert_tokenizer
from seq2edge.errors import CheckpointError, OptionError, UnsupportedError

TASK = "rerank"  # of an export; the bundle classifies pairs
WORDS = ("yes", "no")
SCORE = "score.weight"  # as transformers' classifiers over decoders call it
CAUSAL = re.compile(r"(.*)(ForCausalLM|LMHeadModel)")
CLASSES = "ForSequenceClassification"
ROLES = re.compile(r"""["'](query|document)["']""")
_CONTENTS = "".join(
    f'{{%- set {role} = messages | selectattr("role", "eq", "{role}") '
    '| map(attribute="content") | first -%}\n'
    for role in ("system", "query", "document")
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prompt:
    """How a published reranker is asked, as its card says: a chat template, words, instruction."""

    template: str
    words: tuple[str, ...] = WORDS
    instruction: str = ""


PROMPTS = {
    "qwen3-reranker": Prompt(
        template=_CONTENTS
        + "<|im_start|>system\nJudge whether the Document meets the requirements based on the "
        'Query and the Instruct provided. Note that the answer can only be "yes" or "no".'
        "<|im_end|>\n<|im_start|>user\n<Instruct>: {{ system }}\n<Query>: {{ query }}\n"
        "<Document>: {{ document }}<|im_end|>\n"
        '<|im_start|>assistant\n{{ "<think>\\n\\n</think>\\n\\n" }}',
        instruction="Given a web search query, retrieve relevant passages that answer the query",
    ),
    "mxbai-rerank-v2": Prompt(
        template=_CONTENTS
        + "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant."
        '<|im_end|>\n<|im_start|>user\n{{ "instruction: " ~ system ~ "\\n" if system else "" }}'
        "query: {{ query }}\ndocument: {{ document }}\nYou are a search relevance expert who "
        "evaluates how well documents match search queries. For each query-document pair, "
        "carefully analyze the semantic relationship between them, then provide your binary "
        "relevance judgment (0 for not relevant, 1 for relevant).\nRelevance:<|im_end|>\n"
        '<|im_start|>assistant{{ "\\n" }}',
        words=("1", "0"),
    ),
    "bge-reranker-v2-gemma": Prompt(
        template=_CONTENTS
        + "{{ bos_token }}A: {{ query }}\nB: {{ document }}\nGiven a query A and a passage B, "
        "determine whether the passage contains an answer to the query by providing a prediction "
        "of either 'Yes' or 'No'.",
        words=("Yes",),
    ),
}
# What is asked of a language model of that type, whose folder says nothing.
BY_FAMILY = {
    "qwen3": "qwen3-reranker",
    "qwen2": "mxbai-rerank-v2",
    "gemma": "bge-reranker-v2-gemma",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reranker:
    """The checkpoint as a classifier, its tokenizer with the template, and how it is asked."""

    source: Source
    tokenizer: Converted
    record: RerankRecord


def read_reranker(
    source: Source, task: str | None, *, words: Sequence[str] = (), template: str = ""
) -> Reranker | None:
    """None where pairs are read as the tokenizer joins them, or it is no reranker.

    `words` are the one that means yes and, if there is one, the one that means no; `template` is a
    name of PROMPTS or a chat template. By default both are what the folder says, or what is known
    of its model type. Raises UnsupportedError where nobody says them, and for words of several
    tokens.
    """
    sentence = source.sentence
    if task != TASK and (words or template):
        raise OptionError("words, template: they go with the task rerank")
    prompts = sentence is not None and sentence.prompts_pairs
    if task not in (None, TASK) or not (task or prompts):
        return None
    architecture = str((source.config.get("architectures") or [""])[0])
    causal = CAUSAL.fullmatch(architecture)
    if causal is None and not architecture.endswith(CLASSES):
        raise UnsupportedError(
            f"task 'rerank': {architecture or 'the checkpoint'} gives no score; it takes a "
            "classifier with one label, or a language model"
        )
    if causal is None and words:
        raise OptionError(f"words: {architecture} has a score of its own, leave them out")
    if causal is None and not template and not prompts:
        return None
    converted = _tokenizer(source)
    model_type = str(source.config.get("model_type", ""))
    prompt = _prompt(converted, model_type, template, own=prompts)
    record = RerankRecord(instruction=prompt.instruction)
    if sentence is not None:
        record = RerankRecord(
            instruction=sentence.prompts.get(sentence.default_prompt, ""),
            generation_prompt=sentence.generation_prompt,
        )
    if causal is not None:
        chosen = tuple(words) or prompt.words
        tokens = sentence.scored if sentence is not None else ()
        tokens = tokens or _token_ids(converted, chosen, source)
        source = _as_classifier(source, f"{causal[1]}{CLASSES}", tokens)
        record = dataclasses.replace(record, tokens=tokens)
    converted = dataclasses.replace(
        converted,
        files={**converted.files, TEMPLATE: prompt.template.encode()},
        record=dataclasses.replace(converted.record, chat_template=TEMPLATE),
    )
    return Reranker(source=source, tokenizer=converted, record=record)


def _tokenizer(source: Source) -> Converted:
    converted = convert_tokenizer(
        source.path,
        config=source.config,
        vocab=int(source.config.get("vocab_size") or 0),
        files=source.tokenizer_files,
    )
    if converted is None:
        raise CheckpointError(f"{source.path}: no tokenizer, which writes a reranker's prompt")
    return converted


def _prompt(converted: Converted, model_type: str, template: str, *, own: bool) -> Prompt:
    """What was chosen, else the folder's own where it is for pairs, else what is known."""
    stored = converted.files.get(TEMPLATE, b"").decode()
    if template in PROMPTS:
        return PROMPTS[template]
    if template:
        if not _has_roles(template):
            raise OptionError(
                f"template: {template!r:.60} is no chat template with the roles query and document "
                f"and none of {', '.join(PROMPTS)}"
            )
        return Prompt(template=template)
    if stored and (own or _has_roles(stored)):
        words = PROMPTS[BY_FAMILY[model_type]].words if model_type in BY_FAMILY else WORDS
        return Prompt(template=stored, words=words)
    if model_type not in BY_FAMILY:
        raise UnsupportedError(
            f"task 'rerank': nothing says how a {model_type} is asked; give a chat template with "
            f"the roles query and document (--template), or one of {', '.join(PROMPTS)}"
        )
    return PROMPTS[BY_FAMILY[model_type]]


def _has_roles(template: str) -> bool:
    return len(set(ROLES.findall(template))) == 2


def _token_ids(converted: Converted, words: Sequence[str], source: Source) -> tuple[int, ...]:
    """The ids of one or two words, which must be a token each."""
    if not 1 <= len(words) <= 2 or len(set(words)) < len(words):
        raise OptionError(
            f"words: {', '.join(words)}; needed is the one for yes, or two, yes first"
        )
    tokenizer = tokenizers.Tokenizer.from_str(converted.files[converted.record.source].decode())
    ids: list[int] = []
    for word in words:
        encoding = tokenizer.encode(word, add_special_tokens=False)
        tokens = encoding.tokens
        if len(tokens) != 1 or tokens[0] == converted.record.special.unk:
            raise UnsupportedError(
                f"{source.path}: {word!r} is {len(tokens)} tokens ({' '.join(tokens)}), a word "
                "that is scored must be a known one; choose others with --words"
            )
        ids.extend(encoding.ids)
    return tuple(ids)


def _as_classifier(source: Source, architecture: str, tokens: tuple[int, ...]) -> Source:
    """The language model as a classifier with one label, a row or a difference of two."""
    family = find_family(str(source.config.get("model_type", "")))
    if architecture not in family.architectures:
        raise UnsupportedError(f"task 'rerank': transformers has no {architecture} to make of it")
    (embedding, (head, *_)), *_ = (
        (name, others) for name, others in family.aliases.items() if name in source.names
    )
    if head.replace(".weight", ".bias") in source.names:
        raise UnsupportedError("task 'rerank': a bias of the vocabulary's product is not supported")
    tied = bool(source.config.get("tie_word_embeddings", head not in source.names))
    vocab = int(source.config.get("vocab_size") or 0)
    for token in tokens:
        if not 0 <= token < vocab:
            raise CheckpointError(f"{source.path}: token {token}, the vocabulary has {vocab}")

    def read(name: str) -> Tensor:
        if name != SCORE:
            return source.read(name)
        rows = source.read(embedding if tied else head)[list(tokens)]
        return rows[:1] - rows[1:] if len(tokens) > 1 else rows.clone()

    config = {**source.config, "architectures": [architecture], "num_labels": 1}
    if len(tokens) < 2 and "sentence_transformers" not in config:  # its sigmoid means nothing
        config["sentence_transformers"] = {"activation_fn": "Identity"}
    return dataclasses.replace(
        source, config={**config, "id2label": None}, names=source.names | {SCORE}, read=read
    )
