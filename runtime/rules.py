"""What keeps an answer to rules: those of its options, or of the tools that it may call."""

from __future__ import annotations

from typing import TYPE_CHECKING

from seq2edge.errors import OptionError
from seq2edge.runtime.options import DecodeOptions
from seq2edge.runtime.search import Processor
from seq2edge.runtime.tools import Tools, told_of

if TYPE_CHECKING:
    from seq2edge.runtime.model import Model
    from seq2edge.runtime.tool_format import CallReader, ToolFormat


def rules_of(
    model: Model, options: DecodeOptions, prompt: int, tools: Tools | None
) -> tuple[list[Processor], CallReader | None]:
    """Processors of scores behind a prompt of so many tokens, and what reads an answer's calls.

    Raises OptionError for rules that are not understood, and where there are both; InputError where
    the chat template knows no tools.
    """
    told = told_of(tools)
    if options.constraint is None and told is None:
        return [], None
    from seq2edge.runtime.constraints import Constraint, special_tokens
    from seq2edge.runtime.tool_format import CallReader

    record, vocab = model.tokenizer.record, model.dims.vocab
    file = model.bundle.file(record.target or record.source)
    if told is None:
        return [Constraint(options, file, vocab, prompt)], None
    if options.constraint is not None:
        name = options.constraint[0]
        raise OptionError(f"{name}: an answer that may call tools has rules of its own")
    form = format_of(model, options)
    added = model.tokenizer.added_tokens()
    calls = CallReader(form, told, special_tokens(added, file, vocab, options.eos_token_id))
    kept = Constraint(options, file, vocab, prompt, grammar=calls.grammar, named=calls.named)
    return [kept], calls


def format_of(model: Model, options: DecodeOptions) -> ToolFormat:
    """How a model writes calls. Raises InputError where its chat template knows none."""
    return model.tokenizer.tool_format(tuple(map(model.tokenizer.token, options.eos_token_id)))
