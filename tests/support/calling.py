"""A tiny model of bytes that chats with tools, in any form of `tool_templates`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tiny_models
import tool_templates

import seq2edge
from seq2edge.export.pipeline import export_checkpoint
from seq2edge.runtime.templates import ChatTemplate

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "How it will be",
        "parameters": {
            "type": "object",
            "properties": {
                "town": {"enum": ["Paris", 'Saint-"Denis"', "Orl\u00e9ans"]},
                "days": {"type": "integer", "minimum": 1, "maximum": 9},
            },
            "required": ["town"],
        },
    },
}
CLOCK = {"type": "function", "function": {"name": "clock.now"}}
TOOLS = [WEATHER, CLOCK]
ASKED = [{"role": "user", "content": "Rain?"}]


def calling_bundle(folder: Path) -> Path:
    """It, with tags around calls."""
    made = folder / "checkpoint"
    made.mkdir(parents=True)
    tokenizer = tool_templates.with_tags(made / "tokenizer.json")
    model = tiny_models.make(
        "llama",
        vocab_size=tokenizer.get_vocab_size(),
        eos_token_id=tokenizer.token_to_id(tool_templates.END),
        max_position_embeddings=2048,
    )
    model.save_pretrained(made)
    settings = {
        "tokenizer_class": "TokenizersBackend",
        "eos_token": tool_templates.END,
        "chat_template": tool_templates.FORMS["tags"],
    }
    (made / "tokenizer_config.json").write_text(json.dumps(settings))
    export_checkpoint(made, folder / "bundle", task="generate", original=False)
    return folder / "bundle"


@contextmanager
def written_as(model: seq2edge.Model, form: str, folder: Path) -> Iterator[seq2edge.Model]:
    """The model with the chat template of another form."""
    (folder / "chat.jinja").write_text(tool_templates.FORMS[form], encoding="utf-8")
    own = vars(model.tokenizer)
    before = {name: own.pop(name) for name in ("_chat", "_formats") if name in own}
    own.update(_chat=ChatTemplate(folder / "chat.jinja"), _formats={})
    try:
        yield model
    finally:
        del own["_chat"]
        own.update(before)


def pushed(model: seq2edge.Model, text: str, **changes: Any) -> seq2edge.DecodeOptions:
    """Options of a model that would rather write this text than anything else, and then end."""
    ids = model.tokenizer.encode(text, special_tokens=False)
    biases = [(ids[: i + 1], 40.0 * (i + 1)) for i in range(len(ids))]
    biases += [([end], 30.0) for end in model.options.eos_token_id if end not in ids]
    return model.options.replace(
        sequence_bias=biases, max_new_tokens=400, max_length=None, **changes
    )
