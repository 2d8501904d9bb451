"""Text: ids with languages chosen at run time, decoding, chats through untrusted templates."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors

from seq2edge.bundle.manifest import SpecialTokens, TokenizerRecord
from seq2edge.errors import BundleError, InputError
from seq2edge.runtime.tokenizer import HIDDEN, Tokenizer

TOKENS = ["<unk>", "<s>", "</s>", "en", "fr", "hello", "world", ",", "n't", "do", "."]
RECORD = TokenizerRecord(source="tokenizer.json", special=SpecialTokens(eos="</s>", unk="<unk>"))
LANGUAGES = dataclasses.replace(
    RECORD,
    languages={"en": 3, "fr": 4},
    language_layout="prefix",
    target_layout="forced",
    source_language="en",
)


def words(tokens: list[str]) -> tokenizers.Tokenizer:
    """A tokenizer of whole words between `<s>` and `</s>`."""
    vocabulary = {token: i for i, token in enumerate(tokens)}
    tokenizer = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    tokenizer.add_tokens([AddedToken(token, special=True) for token in ("<s>", "</s>", "en")])
    return tokenizer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a tokenizer.json that would cut to three tokens and pad to twenty."""
    tokenizer = words(TOKENS)
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=20)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def test_text_is_neither_cut_nor_padded(folder: Path) -> None:
    """Truncation and padding stored in a tokenizer.json have no effect."""
    text = Tokenizer(folder, RECORD)
    assert text.encode("hello world hello world nothing") == [1, 5, 6, 5, 6, 0, 2]
    assert text.encode("") == [1, 2]


def test_special_tokens_may_be_left_out(folder: Path) -> None:
    """A rendered chat has its special tokens written out already."""
    assert Tokenizer(folder, RECORD).encode("<s> hello", special_tokens=False) == [1, 5]


def test_text_that_is_not_unicode_is_refused(folder: Path) -> None:
    """Lone surrogates and other types are InputErrors."""
    text = Tokenizer(folder, RECORD)
    with pytest.raises(InputError, match=r"text: 'a\\udc80' is not Unicode text"):
        text.encode("a\udc80")
    with pytest.raises(InputError, match="text: 5 is not Unicode text"):
        text.encode(5)  # type: ignore[arg-type]


@pytest.mark.parametrize(("layout", "expected"), [("prefix", [4, 5, 2]), ("suffix", [5, 2, 4])])
def test_the_source_language_stands_where_the_record_says(
    folder: Path, layout: Any, expected: list[int]
) -> None:
    """The language id stands before or after the text, with the end token."""
    text = Tokenizer(folder, dataclasses.replace(LANGUAGES, language_layout=layout))
    assert text.encode("hello", source_language="fr") == expected
    assert text.encode("hello", source_language="fr", special_tokens=False) == [5]


def test_languages_have_defaults(folder: Path) -> None:
    """The record's languages are used where none is given."""
    text = Tokenizer(folder, dataclasses.replace(LANGUAGES, target_language="fr"))
    assert text.encode("hello") == [3, 5, 2]
    assert (text.target_token(), text.target_token("en")) == (4, 3)
    assert Tokenizer(folder, LANGUAGES).target_token() is None


def test_a_target_language_may_stand_before_the_source(folder: Path) -> None:
    """Where the record says so, the target's id is put first and no source language exists."""
    record = dataclasses.replace(
        LANGUAGES, language_layout="", target_layout="source", source_language=""
    )
    text = Tokenizer(folder, record)
    assert text.encode("hello", target_language="fr") == [4, 1, 5, 2]
    with pytest.raises(InputError, match="source language 'fr': this model takes none"):
        text.encode("hello", source_language="fr")


def test_unknown_languages_list_the_known(folder: Path) -> None:
    """A wrong code is an InputError with the codes that there are."""
    text = Tokenizer(folder, LANGUAGES)
    with pytest.raises(InputError, match="source language 'de': unknown, this model knows: en, fr"):
        text.encode("hello", source_language="de")
    with pytest.raises(InputError, match="target language 'de': unknown, this model knows: en, fr"):
        text.target_token("de")
    with pytest.raises(InputError, match="target language 'en': this model takes none"):
        Tokenizer(folder, RECORD).encode("hello", target_language="en")


def test_pieces_without_an_embedding_become_unknown(tmp_path: Path) -> None:
    """Ids past the vocabulary are the unknown token; a run only the decoder has keeps its id."""
    words([*TOKENS, f"{HIDDEN}mot", "extra"]).save(str(tmp_path / "tokenizer.json"))
    text = Tokenizer(tmp_path, dataclasses.replace(RECORD, unknown_from=len(TOKENS) + 1))
    assert text.encode("hello extra strange mot") == [1, 5, 0, 0, 11, 2]


def test_decoding_skips_special_tokens_unless_asked(folder: Path) -> None:
    """Special tokens are left out by default."""
    text = Tokenizer(folder, RECORD)
    assert text.decode([1, 5, 6, 2]) == "hello world"
    assert text.decode([1, 5, 2], skip_special_tokens=False) == "<s> hello </s>"
    assert text.decode([]) == ""


def test_decoding_cleans_up_where_the_checkpoint_does(folder: Path) -> None:
    """English punctuation loses the space before it only if the record says so."""
    ids = [9, 8, 5, 7, 6, 10]
    assert Tokenizer(folder, RECORD).decode(ids) == "do n't hello , world ."
    record = dataclasses.replace(RECORD, clean_up=True)
    assert Tokenizer(folder, record).decode(ids) == "don't hello, world."


def test_decoding_uses_the_target_side(folder: Path) -> None:
    """A split vocabulary decodes with its own tokenizer."""
    tokenizer = words(["<unk>", "<s>", "</s>", "bon", "jour"])
    tokenizer.decoder = decoders.Fuse()
    tokenizer.save(str(folder / "tokenizer.target.json"))
    text = Tokenizer(folder, dataclasses.replace(RECORD, target="tokenizer.target.json"))
    assert text.encode("hello") == [1, 5, 2]
    assert text.decode([3, 4]) == "bonjour"


@pytest.mark.parametrize("number", [-1, 2**32])
def test_decoding_refuses_what_is_no_id(folder: Path, number: int) -> None:
    """Negative and absurd ids are InputErrors."""
    with pytest.raises(InputError, match=f"token id {number}: not between 0 and the vocabulary's"):
        Tokenizer(folder, RECORD).decode([number])


@pytest.mark.parametrize("data", [b"", b"{}", b'{"version":"1.0"}', b"\xff"])
def test_damaged_tokenizers_are_named(tmp_path: Path, data: bytes) -> None:
    """A tokenizer.json that cannot be read is a BundleError with its path."""
    (tmp_path / "tokenizer.json").write_bytes(data)
    with pytest.raises(BundleError, match=r"tokenizer\.json: not a tokenizer"):
        Tokenizer(tmp_path, RECORD)


def test_missing_tokenizers_are_named(tmp_path: Path) -> None:
    """So is one that is not there."""
    with pytest.raises(BundleError, match=r"tokenizer\.json: not a tokenizer"):
        Tokenizer(tmp_path, RECORD)


CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi & <bye>", "extra": [1, None]},
]
TEMPLATES = {
    "chatml": """{% for message in messages %}
    {%- if loop.first and message['role'] != 'system' %}{{ 'none' }}{% endif %}
<|im_start|>{{ message['role'] + '\\n' + message['content'] }}<|im_end|>
{% endfor %}
{% if add_generation_prompt %}
<|im_start|>assistant
{% endif %}""",
    "namespace": """{{ bos_token }}{% set ns = namespace(n=0) %}
{% for m in messages %}{% set ns.n = ns.n + 1 %}{% if m.role == 'system' %}{% continue %}{% endif %}
  [{{ ns.n }}:{{ m.content | trim }}]{{ eos_token }}{% generation %}{{ m.content }}
{% endgeneration %}
{% endfor %}{{ missing }}{{ tools is none }}""",
    "json": "{{ messages | tojson }} {{ messages | tojson(indent=2) }} {{ messages[1].extra }}",
    "time": "{{ strftime_now('%Y') | length }}",
}


def chat(folder: Path, template: str) -> Tokenizer:
    """The text side of a bundle with a chat template."""
    (folder / "chat.jinja").write_text(template, encoding="utf-8")
    special = SpecialTokens(bos="<s>", eos="</s>", unk="<unk>")
    return Tokenizer(
        folder, dataclasses.replace(RECORD, chat_template="chat.jinja", special=special)
    )


@pytest.mark.parametrize("prompt", [True, False])
@pytest.mark.parametrize("name", TEMPLATES)
def test_chats_are_written_as_transformers_does(folder: Path, name: str, *, prompt: bool) -> None:
    """Whitespace, filters and globals of a template work as in transformers."""
    transformers = pytest.importorskip("transformers")
    original = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"),
        chat_template=TEMPLATES[name],
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
    )
    expected = original.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=prompt)
    rendered = chat(folder, TEMPLATES[name]).render_chat(CHAT, add_generation_prompt=prompt)
    assert rendered == expected


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ messages.append(1) }}", "access to attribute 'append'"),
        ("{{ messages.__class__.__mro__ }}", "access to attribute '__class__'"),
        ("{{ messages[7].content + 1 }}", "has no element 7|no attribute"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ messages + 1 }}", "can only concatenate"),
        ("{{ nothing() }}", "'nothing' is undefined"),
        ("{% for i in range(10**9) %}{% endfor %}", "Range too big"),
        ("{% include '/etc/passwd' %}", "no loader"),
    ],
)
def test_a_template_that_refuses_a_chat_is_an_input_error(
    folder: Path, template: str, message: str
) -> None:
    """What a template raises, on purpose or not, and what the sandbox stops, is one error."""
    with pytest.raises(InputError, match=f"chat: the template refuses it: .*({message})"):
        chat(folder, template).render_chat(CHAT)


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([{"role": "user"}], "message 0 needs a role and a content, got {'role': 'user'}"),
        ([CHAT[0], {"content": "x"}], "message 1 needs a role"),
        ([{"role": 3, "content": "x"}], "message 0 needs a role"),
        (["hello"], "messages must be JSON objects"),
        ([{"role": "user", "content": object()}], "messages must be JSON objects"),
    ],
)
def test_messages_that_are_no_chat_are_refused(
    folder: Path, messages: list[Any], message: str
) -> None:
    """Every message needs a role and a content, of JSON values."""
    with pytest.raises(InputError, match=f"chat: {re.escape(message)}"):
        chat(folder, TEMPLATES["json"]).render_chat(messages)


def test_chats_need_a_template(folder: Path) -> None:
    """A model without a chat template says so."""
    with pytest.raises(InputError, match="chat: this model has no chat template"):
        Tokenizer(folder, RECORD).render_chat(CHAT)


@pytest.mark.parametrize("data", [b"{% if %}", b"{{ a b }}", b"\xff", None])
def test_damaged_templates_are_named(folder: Path, data: bytes | None) -> None:
    """A template that cannot be read or compiled is a BundleError with its path."""
    text = chat(folder, "")
    if data is None:
        (folder / "chat.jinja").unlink()
    else:
        (folder / "chat.jinja").write_bytes(data)
    with pytest.raises(BundleError, match=r"chat\.jinja: not a chat template"):
        text.render_chat(CHAT)


def test_messages_are_not_changed(folder: Path) -> None:
    """A template works on copies."""
    before = json.dumps(CHAT)
    chat(folder, "{% for m in messages %}{{ m }}{% endfor %}").render_chat(CHAT)
    assert json.dumps(CHAT) == before
