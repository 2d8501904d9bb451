"""What encoder-only models do with texts: one call of the graph, no decoding."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from seq2edge.bundle.engine_info import SEGMENTS
from seq2edge.bundle.manifest import EmbeddingRecord
from seq2edge.errors import InputError, OptionError
from seq2edge.runtime.embeddings import first_values, weights_of, with_prompt
from seq2edge.runtime.encoders import BATCH, Ranked, Text, rerank
from seq2edge.runtime.inputs import Ids, Inputs, refuse_one_string
from seq2edge.runtime.likelihood import probabilities
from seq2edge.runtime.sequences import pad

if TYPE_CHECKING:
    from seq2edge.runtime.filling import Filling
    from seq2edge.runtime.reading import Answer
    from seq2edge.runtime.tagging import Aggregation, Entity
    from seq2edge.runtime.tokenizer import EncodedText

TOKEN_TASKS = ("tag", "answer", "fill")  # what answers each token


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classification:
    """The best label and the scores of all; probabilities unless the model is a regression."""

    label: str
    scores: dict[str, float]


class Understanding(Inputs):
    """Classes, scores, embeddings, entities, answers and fillings of texts."""

    def classify(self, texts: Sequence[Text]) -> list[Classification]:
        """The label of each text or pair of texts, with the scores of all labels."""
        refuse_one_string(texts)
        self._require("classify")
        if not texts:
            return []
        labels = self.bundle.manifest.labels
        return [
            Classification(
                label=labels[int(scores.argmax())],
                scores=dict(zip(labels, scores.tolist(), strict=True)),
            )
            for scores in self._scores(self.pool([self.read_text(text) for text in texts]))
        ]

    def classify_ids(self, sources: Sequence[Ids]) -> NDArray[np.float32]:
        """Scores (batch, labels): probabilities, or plain values of a regression."""
        self._require("classify")
        return self._scores(self._pool(sources))

    def _scores(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        return probabilities(logits, self.bundle.manifest.problem)

    def rerank(
        self,
        query: str,
        texts: Sequence[str],
        *,
        instruction: str | None = None,
        batch: int = BATCH,
    ) -> list[Ranked]:
        """The texts with how well each answers the query, best first; `batch` pairs at a time.

        For classifiers of pairs with one label. The score is the sigmoid of its logit, as
        sentence-transformers' CrossEncoder gives it, or the logit where the checkpoint says so.
        `instruction` tells a reranker that is a language model what counts, by default what its
        checkpoint says.
        """
        refuse_one_string(texts)
        self._require("classify")
        return rerank(self, query, texts, instruction, batch)

    def tag(
        self,
        texts: Sequence[str],
        *,
        aggregation: Aggregation = "simple",
        ignore: Collection[str] = ("O",),
        overlap: int | None = None,
        batch: int = BATCH,
    ) -> list[list[Entity]]:
        """The entities of each text, as transformers' TokenClassificationPipeline finds them.

        `aggregation` says what is made of the tokens' labels: "none" keeps every token, "simple"
        joins neighbours of one label, and before that "first", "average" and "max" give a word one
        label. Labels of `ignore` are left out. With `overlap` a text that is too long is read in
        parts which share so many tokens; without it is refused, or cut where the model was loaded
        so. `batch` texts or parts are read at a time.
        """
        from seq2edge.runtime.tagging import tag

        refuse_one_string(texts)
        self._require("tag")
        return tag(self, texts, aggregation, ignore, overlap, batch)

    def answer(
        self,
        question: str,
        context: str,
        *,
        top_k: int = 1,
        longest: int = 15,
        may_be_empty: bool = False,
        window: int | None = None,
        overlap: int | None = None,
        batch: int = BATCH,
    ) -> list[Answer]:
        """The likeliest answers, parts of the context of up to `longest` tokens, best first.

        A long context is read in windows of `window` tokens with the question (384, or as many as
        there are positions), which share `overlap` (128, or half). With `may_be_empty` one of the
        answers may be that there is none.
        """
        from seq2edge.runtime.reading import answer

        self._require("answer")
        return answer(
            self,
            question,
            context,
            top_k=top_k,
            longest=longest,
            may_be_empty=may_be_empty,
            window=window,
            overlap=overlap,
            batch=batch,
        )

    def fill(self, text: str, *, top_k: int = 5) -> list[list[Filling]]:
        """For each mask of a text (`model.tokenizer.record.special.mask`) the likeliest tokens."""
        from seq2edge.runtime.filling import fill

        self._require("fill")
        return fill(self, text, top_k)

    def token_logits(self, sources: Sequence[Ids]) -> NDArray[np.float32]:
        """What a model that tags, answers or fills gives each token, (batch, source, values)."""
        if self.bundle.manifest.task not in TOKEN_TASKS:
            self._require(" or ".join(TOKEN_TASKS))
        return self._pool(sources)

    def embed(
        self, texts: Sequence[Text], *, prompt: str | None = None, dimensions: int | None = None
    ) -> NDArray[np.float32]:
        """Embeddings of texts, or of pairs read as one, (batch, width), as the folder says.

        `prompt` names one of its prompts (`bundle.manifest.embedding`), by default its own default;
        an empty name is none. Texts longer than it takes are cut, with a warning. `dimensions`
        keeps the first values alone, of unit length where all have it.
        """
        self._require("embed")
        read = self._read_to_embed(texts, prompt)
        if not read:
            return self.embed_ids([], dimensions=dimensions)
        return first_values(self.pool(read), self.bundle.manifest, dimensions)

    def weigh(
        self, texts: Sequence[Text], *, prompt: str | None = None, top: int | None = None
    ) -> list[dict[str, float]]:
        """Of each text the vocabulary's tokens that it is about, with their weights, largest first.

        For models that were exported with the task weigh (SPLADE's sparse embeddings). `top` keeps
        so many tokens, by default what the checkpoint says; `prompt` and long texts are as in
        `embed`.
        """
        self._require("weigh")
        record = self.bundle.manifest.embedding
        kept = top if top is not None or record is None else record.dimensions
        if kept is not None and kept < 1:
            raise OptionError(f"top: {kept}, needs 1 or more")
        read = self._read_to_embed(texts, prompt)
        if not read:
            return []
        return [weights_of(self.tokenizer, weights, kept) for weights in self.pool(read)]

    def _read_to_embed(self, texts: Sequence[Text], prompt: str | None) -> list[EncodedText]:
        """Texts behind a prompt, cut to what the checkpoint takes, with a warning."""
        refuse_one_string(texts)
        record, longest = self.bundle.manifest.embedding or EmbeddingRecord(), None
        if self.bundle.manifest.embedding or prompt:
            texts, longest = with_prompt(texts, record, prompt), record.longest
        before = self.tokenizer.shortened if longest else 0
        read = [self.read_text(text, longest=longest) for text in texts]
        if longest and self.tokenizer.shortened > before and not self._cut:
            warnings.warn(
                f"embed: cut texts to {longest} tokens, as the checkpoint says; "
                "model.tokenizer.shortened counts them",
                stacklevel=3,
            )
        return read

    def embed_ids(
        self, sources: Sequence[Ids], *, dimensions: int | None = None
    ) -> NDArray[np.float32]:
        """Sentence embeddings of token ids, (batch, width); see `embed`.

        Of a model that weighs the weights of the whole vocabulary, (batch, vocab).
        """
        if self.bundle.manifest.task != "weigh":
            self._require("embed")
        vectors = np.empty((0, self.dims.embedding_width), dtype=np.float32)
        vectors = self._pool(sources) if sources else vectors
        return first_values(vectors, self.bundle.manifest, dimensions)

    def pool(self, texts: Sequence[EncodedText]) -> NDArray[np.float32]:
        """What an encoder-only model gives for texts, as one batch: see `Backend.pool`."""
        return self._pool([text.ids for text in texts], [text.types for text in texts])

    def _pool(
        self, sources: Sequence[Ids], types: Sequence[Ids] | None = None
    ) -> NDArray[np.float32]:
        self._limits.check_ids(sources, self.dims.vocab)
        tokens, lengths = pad(sources)
        self._limits.check_source(lengths)
        if types is None or self.dims.token_types < 2 or not any(map(any, types)):
            return self.backend.pool(tokens, lengths)
        if not any(
            put.name == SEGMENTS for graph in self.bundle.manifest.graphs for put in graph.inputs
        ):
            raise InputError(
                f"{self.bundle.path}: its encoder cannot tell the texts of a pair apart; "
                "export the checkpoint again"
            )
        return self.backend.pool(tokens, lengths, pad(types)[0])
