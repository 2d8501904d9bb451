"""`response_format` and rules of ours keep an answer to a form."""

from __future__ import annotations

import json

import byte_tokens
import jsonschema
import pytest
import serving
import tiny_models

from seq2edge.export.pipeline import export_checkpoint

SCHEMA = {
    "type": "object",
    "properties": {"digit": {"type": "integer", "minimum": 0, "maximum": 9}},
    "required": ["digit"],
    "additionalProperties": False,
}
SAID = [{"role": "user", "content": "a digit"}]


def bytewise(folder):
    """A tiny model that chats in bytes."""
    model = tiny_models.make(
        "llama",
        vocab_size=byte_tokens.VOCAB,
        eos_token_id=byte_tokens.END,
        max_position_embeddings=256,
    )
    model.save_pretrained(folder / "checkpoint")
    byte_tokens.write(folder / "checkpoint" / "tokenizer.json")
    settings = {
        "tokenizer_class": "TokenizersBackend",
        "eos_token": "</s>",
        "chat_template": "{{ messages[0]['content'] }}",
    }
    (folder / "checkpoint" / "tokenizer_config.json").write_text(json.dumps(settings))
    export_checkpoint(folder / "checkpoint", folder / "bundle", task="generate", original=False)
    return folder / "bundle"


@pytest.fixture(scope="module")
def bytes_served(made_once):
    """A server of it."""
    with serving.serve({"bytes": made_once(bytewise)}) as server:
        yield server


@pytest.mark.parametrize("strict", [True, None])
def test_an_answer_keeps_to_its_schema(bytes_served, strict):
    """It can be read, and ends by itself."""
    schema = {"name": "digit", "schema": SCHEMA, **({"strict": True} if strict else {})}
    answer = bytes_served.openai().chat.completions.create(
        model="bytes",
        messages=SAID,
        response_format={"type": "json_schema", "json_schema": schema},
        temperature=5,  # the likeliest are blanks without an end
        seed=1,
    )
    jsonschema.validate(json.loads(answer.choices[0].message.content), SCHEMA)
    assert answer.choices[0].finish_reason == "stop"


def test_a_regular_expression_is_an_option_like_others(bytes_served):
    """By its name in DecodeOptions, also of a stream."""
    chunks = bytes_served.openai().completions.create(
        model="bytes", prompt="a", stream=True, extra_body={"regex": "yes|no"}
    )
    assert "".join(chunk.choices[0].text for chunk in chunks) in ("yes", "no")


def test_what_is_no_schema_is_refused(bytes_served):
    """With the reason."""
    form = {"type": "json_schema", "json_schema": {"schema": {"type": "nothing"}}}
    body = {"model": "bytes", "messages": SAID, "response_format": form}
    answer = bytes_served.post("/v1/chat/completions", body)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith("json_schema: ")
