"""Chat templates with tools, of the forms in which published models write calls; words are ours.

Every template ends an answer with `END`. `with_tags` has tokens for what they write.
"""

from __future__ import annotations

from pathlib import Path

import byte_tokens
import tokenizers

LINE = "{{ '\\n' }}"  # a plain one behind a tag is trimmed
END = "<|end|>"
TOLD = """
{%- if tools %}<|system|>You may call:
{%- for tool in tools %} {{ tool.function | tojson }}{% endfor %}<|end|>
{% endif %}"""
SAID = """{{ '<|' + message.role + '|>' + message.content + '<|end|>\\n' }}"""
ASKED = "{% if add_generation_prompt %}<|assistant|>{% endif %}"


def template(calls: str, said: str = SAID) -> str:
    """One with what it writes for a message that has calls."""
    body = (
        "{% if 'tool_calls' in message %}<|assistant|>{{ message.content }}"
        + calls
        + "<|end|>"
        + LINE
    )
    loop = (
        "{%- for message in messages %}" + body + "{% else %}" + said + "{% endif %}{% endfor -%}"
    )
    return TOLD + loop + ASKED


EACH = "{% for call in message.tool_calls %}"
NAME, ARGUMENTS = "{{ call.function.name }}", "{{ call.function.arguments | tojson }}"
OBJECT = '{"name": "' + NAME + '", "arguments": ' + ARGUMENTS
FORMS = {
    # Tags around each call, as of Hermes, Qwen and SmolLM3.
    "tags": template(
        EACH
        + "{% if message.content or not loop.first %}"
        + LINE
        + "{% endif %}<tool_call>"
        + LINE
        + OBJECT
        + "}"
        + LINE
        + "</tool_call>{% endfor %}"
    ),
    # The object alone, of which there is one, as of Llama 3.
    "object": template(
        "{% if message.tool_calls | length > 1 %}{{ raise_exception('one at a time') }}{% endif %}"
        + EACH
        + OBJECT.replace("arguments", "parameters", 1)
        + "}{% endfor %}"
    ),
    # A list behind a token, with ids, and a blank before other answers, as of Mistral.
    "list": template(
        "[CALLS] ["
        + EACH
        + OBJECT
        + ', "id": "{{ call.id }}"}{% if not loop.last %}, {% endif %}{% endfor %}]',
        SAID.replace("|>' +", "|> ' +"),
    ),
    # The name outside of the JSON, as of Functionary and later ones of Mistral.
    "function": template(EACH + "<function=" + NAME + ">" + ARGUMENTS + "</function>{% endfor %}"),
    # JSON without blanks, between tokens.
    "dense": template(
        EACH
        + "<|call|>"
        + NAME
        + "<|with|>{{ call.function.arguments | tojson(separators=(',', ':')) }}<|done|>"
        + "{% endfor %}"
    ),
}
# Forms that are not read, and what is said of them.
UNREAD = {
    "no place": ("{% for message in messages %}{{ message.content }}{% endfor %}", "no place for"),
    "lines": (
        template(
            EACH + NAME + "({% for key in call.function.arguments %}{{ key }} {% endfor %})"
            "{% endfor %}"
        ),
        "not read here",
    ),
    "id first": (
        template(EACH + "{{ call.id }}:" + NAME + " " + ARGUMENTS + "{% endfor %}"),
        "not read here",
    ),
    "nothing before": (template(EACH + NAME + " " + ARGUMENTS + "{% endfor %}"), "not read here"),
    "elsewhere": (
        "{% if messages | length > 1 %}{{ messages | tojson }}{% endif %}"
        + template(EACH + NAME + ARGUMENTS + "{% endfor %}"),
        "not read here",
    ),
}
TAGS = ["<tool_call>", "</tool_call>"]
SPECIAL = ["<|system|>", "<|user|>", "<|assistant|>", "<|tool|>", END, "[CALLS]"]
SPECIAL += ["<|call|>", "<|with|>", "<|done|>"]


def with_tags(file: Path) -> tokenizers.Tokenizer:
    """A tokenizer of bytes and these tokens, saved there."""
    made = byte_tokens.write(file)
    made.add_special_tokens(SPECIAL)
    made.add_tokens(TAGS)
    made.save(str(file))
    return made
