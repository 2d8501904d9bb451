"""Chat templates of strangers: whatever they ask for, they take little time and memory."""
# ruff: noqa: E501 - a template a line

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest
from limited import limited

from seq2edge.errors import BundleError, InputError
from seq2edge.runtime import template_budget
from seq2edge.runtime.templates import LONGEST, ChatTemplate

CHAT = [{"role": "user", "content": "hello " * 20}, {"role": "assistant", "content": "a, b"}]
A = "{% set a = 'a' * 500000 %}"
DOUBLED = "{% set ns = namespace(x=['a']) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}"
# What takes hours or all memory where nothing is counted.
HOSTILE = {
    "loop": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "loop that writes": "{% for i in range(99999) %}{% for j in range(99999) %}abc{% endfor %}{% endfor %}",
    "loop of ifs": "{% for i in range(99999) %}{% for j in range(99999) if i == j %}{% endfor %}{% endfor %}",
    "repeated text": "{{ 'a' * 10**10 }}",
    "repeated list": "{{ ([1] * 10**10) | length }}",
    "repeated lists": "{{ ([[1] * 100000] * 100000) | string }}",
    "power": "{{ 10 ** (10 ** 10) }}",
    "product": "{% set ns = namespace(x=3) %}{% for i in range(64) %}{% set ns.x = ns.x * ns.x %}{% endfor %}",
    "doubled text": "{% set ns = namespace(x='a') %}{% for i in range(64) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "joined text": "{% set ns = namespace(x='a') %}{% for i in range(64) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    "written text": "{% set ns = namespace(x='a') %}{% for i in range(64) %}{% set x %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = x %}{% endfor %}",
    "replaced text": "{% set ns = namespace(x='a') %}{% for i in range(64) %}{% set ns.x = ns.x | replace('a', 'aaa') %}{% endfor %}",
    "method replace": A + "{{ a.replace('a', a) }}",
    "replace nothing": A + "{{ a.replace('', a) }}",
    "filter join": A + "{{ a | join(a) }}",
    "method join": A + "{{ a.join(a) }}",
    "center": "{{ 'a' | center(10**10) }}",
    "ljust": "{{ 'a'.ljust(10**10) }}",
    "zfill": "{{ 'a'.zfill(10**10) }}",
    "expandtabs": "{{ ('\t' * 99999).expandtabs(99999) }}",
    "indent": "{{ ('a\n' * 99999) | indent(99999) }}",
    "percent": "{{ '%10000000000d' % 1 }}",
    "percent star": "{{ '%*d' % (10000000000, 1) }}",
    "percent many": A + "{{ ('%s' * 1000) % ((a,) * 1000) }}",
    "percent name": A + "{{ ('%(a)s' * 100000) % {'a': a} }}",
    "percent digits": "{{ '%.10000000000f' % 1.5 }}",
    "filter format": "{{ '%10000000000d' | format(1) }}",
    "format": "{{ '{:>10000000000}'.format(1) }}",
    "format computed": "{{ '{:>{}}'.format(1, 10**10) }}",
    "format many": A + "{{ ('{0}' * 100000).format(a) }}",
    "format map": A + "{{ ('{a}' * 100000).format_map({'a': a}) }}",
    "translate": A + "{{ a.translate({97: a}) }}",
    "to_bytes": "{{ (1).to_bytes(10**10, 'big') }}",
    "batch": "{% for b in [1] | batch(10**10, 0) %}{{ b }}{% endfor %}",
    "batch of texts": A + "{% for b in [1] | batch(500000, a) %}{{ b }}{% endfor %}",
    "slice": "{{ [1] | slice(10**10) | list | length }}",
    "tojson": "{{ [[[[1]]]] | tojson(indent=10**10) }}",
    "tojson deep": "{{ ([[1]] * 99999) | tojson(indent=9999) }}",
    "lipsum": "{{ lipsum(n=10**6) }}",
    "macro": "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
    "macros": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(90) }}",
    "block": "{% block a %}{{ self.a() }}{% endblock %}",
    "recursive loop": "{% set ns = namespace(x=[1]) %}{% for i in range(90) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{% for i in ns.x recursive %}{{ loop(i) }}{% endfor %}",
    "printed lists": DOUBLED + "{% endfor %}{{ ns.x }}",
    "json of lists": DOUBLED + "{% endfor %}{{ ns.x | tojson }}",
    "compared lists": DOUBLED
    + "{% endfor %}{% set y = ns.x %}"
    + DOUBLED
    + "{% endfor %}{{ y == ns.x }}",
    "own namespace": "{% set a = namespace() %}{% set a.x = [a, a] %}{{ a.x }}{{ a }}{{ a.x | tojson }}",
    "sum of lists": "{{ (([[1, 2, 3, 4, 5]] * 99999) | sum(start=[])) | length }}",
    "sum of lists loop": "{% set x = [[1, 2]] * 40000 %}{% for i in range(9999) %}{% set y = x | sum(start=[]) %}{% endfor %}",
    "striptags": "{{ ('<a>' * 300000) | striptags | length }}",
    "urlize": "{{ ('http://a.b/((((' * 50000) | urlize | length }}",
    "wordwrap": "{{ ('a-' * 500000) | wordwrap(2) | length }}",
    "pprint": "{{ ([[[[[1]]]]] * 99999) | pprint | length }}",
    "strip": A + "{% for i in range(1000) %}{{ a.strip('b' * 500000 + 'a') }}{% endfor %}",
    "trim": A + "{% for i in range(1000) %}{{ a | trim('b' * 500000 + 'a') }}{% endfor %}",
    "rfind": A + "{{ a.rfind('ab' + 'a' * 250000) }}",
    "rsplit": A + "{{ a.rsplit(sep='ab' + 'a' * 250000) }}",
    "in": A
    + "{% for i in range(99999) %}{% for j in range(999) %}{% if 'b' * 1000 in a %}{% endif %}{% endfor %}{% endfor %}",
    "compares": A
    + "{% set b = a + 'b' %}{% for i in range(99999) %}{% for j in range(99999) %}"
    + "{% set x = a + 'c' == b %}" * 500
    + "{% endfor %}{% endfor %}",
    "sorted": "{{ (range(99999) | list) | sort(attribute='a.' * 99999) }}",
    "kept texts": A
    + "{% set ns = namespace(x=[]) %}{% for i in range(99999) %}{% set ns.x = [ns.x, a + (i | string)] %}{% endfor %}",
    "kept lists": "{% set ns = namespace(x=none) %}{% for i in range(99999) %}{% set ns.x = namespace(x=ns.x, y=range(99999) | list) %}{% endfor %}",
    "deep list": "{% set ns = namespace(x=[]) %}{% for i in range(99999) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x }}",
    "punycode": "{% set x %}{% for i in range(99999) %}{{ '%c' % (i + 256) }}{% endfor %}{% endset %}{{ x.encode('punycode') }}",
    "fromkeys": "{{ {}.fromkeys(range(99999), 1) | length }}",
    "escape": "{% set ns = namespace(x='<') %}{% for i in range(64) %}{% set ns.x = '&' ~ (ns.x | string | forceescape) ~ (ns.x | string | forceescape) %}{% endfor %}",
    "map": A + "{{ range(99999) | map('replace', '9', a) | list | length }}",
    "maps": "{{ range(99999) | map('string') | map('center', 99999) | list | length }}",
    "many outputs": "{% for i in range(99999) %}" + "{{ i }}" * 9999 + "{% endfor %}",
    "split": "{% for i in range(9999) %}{% set ns = (('a,' * 500000).split(',')) %}{% endfor %}",
    "filter block": "{% filter center(10**10) %}a{% endfilter %}",
    "autoescape": "{% autoescape true %}{{ ('<' * 500000) ~ ('<' * 500000) * 9999 }}{% endautoescape %}",
}


def written(folder: Path, template: str) -> str:
    """What a template makes of the chat."""
    (folder / "chat.jinja").write_text(template, encoding="utf-8")
    return ChatTemplate(folder / "chat.jinja").render(CHAT)


# What looks like these and is harmless.
HARMLESS = {
    "long text": ("{{ ('ab' * 500000) | length }}", "1000000"),
    "namespaces": (
        "{% set ns = namespace(x=['a']) %}{% for i in range(60) %}{% set ns.x = [namespace(x=ns.x), namespace(x=ns.x)] %}{% endfor %}{{ ns.x }}",
        "[<Namespace>, <Namespace>]",
    ),
    "formats": (
        "{{ '%5.2f|%-3s|%%' % (1.5, 'a') }}{{ '{:>4}{{}}'.format('b') }}",
        " 1.50|a  |%   b{}",
    ),
    "flattened": ("{{ [[1], [2, 3]] | sum(start=[]) }}{{ [1, 2] | sum }}", "[1, 2, 3]3"),
    "methods": (
        "{{ ' a,b '.strip().split(',') | join('-') }}{{ 'xay'.replace('a', 'bb').upper() }}{{ '</think>a</think>b'.rsplit('</think>', 1)[-1] }}{{ {'a': 1}.items() | list }}",
        "a-bXBBYb[('a', 1)]",
    ),
    "slices": ("{{ messages[1:][0].content[::-1] }}{{ messages[0:1] | length }}", "b ,a1"),
    "power": ("{{ 2 ** 10 + 7 // 2 - 3 * 2 }}{{ 2 ** 0.5 > 1 }}", "1021True"),
    "recursive": (
        "{% for i in [[[], []], []] recursive %}<{{ loop(i) }}>{% endfor %}",
        "<<><>><>",
    ),
    "concatenated": ("{{ 1 ~ 'a' ~ none }}{{ ('<' | e) ~ '<' }}", "1aNone&lt;<"),
    "tojson": ("{{ {'a': [1, {'b': '<é>'}]} | tojson(indent=2) }}", None),
}


@pytest.fixture
def little(monkeypatch: pytest.MonkeyPatch) -> None:
    """A smaller budget, for short tests; what it is about is the same."""
    monkeypatch.setattr(template_budget, "SECONDS", 0.3)
    monkeypatch.setattr(template_budget, "STEPS", 200_000)


@pytest.mark.usefixtures("little")
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_template_is_refused_soon(tmp_path: Path, name: str) -> None:
    """None takes more than a few seconds or a fraction of a gigabyte; the error is one line."""
    with limited(), pytest.raises(InputError, match="chat: the template refuses it") as refusal:
        written(tmp_path, HOSTILE[name])
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", HARMLESS)
def test_a_template_of_the_same_means_is_rendered(tmp_path: Path, name: str) -> None:
    """What is bounded is the amount; values are those of plain jinja2."""
    template, expected = HARMLESS[name]
    if expected is None:
        expected = json.dumps({"a": [1, {"b": "<é>"}]}, indent=2, ensure_ascii=False)
    assert written(tmp_path, template) == expected


def test_the_budget_holds_as_it_is(tmp_path: Path) -> None:
    """A loop without end ends within the seconds that a rendering has."""
    with limited(), pytest.raises(InputError, match="more time or memory than a chat needs"):
        written(tmp_path, HOSTILE["loop"])


def test_a_long_chat_is_rendered(tmp_path: Path) -> None:
    """The budget grows with the chat: ten thousand messages, a text of three million characters."""
    template = "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}{% endfor %}"
    (tmp_path / "chat.jinja").write_text(template, encoding="utf-8")
    rendered = ChatTemplate(tmp_path / "chat.jinja")
    many = [{"role": "user", "content": f"{i} "} for i in range(10_000)]
    assert rendered.render(many) == "".join(f"<user>{i}" for i in range(10_000))
    text = "ab " * 1_000_000
    assert rendered.render([{"role": "user", "content": text}]) == f"<user>{text.strip()}"


@pytest.mark.usefixtures("little")
def test_each_thread_has_a_budget_of_its_own(tmp_path: Path) -> None:
    """What one rendering takes, no other misses; after a refusal the next has all again."""
    (tmp_path / "chat.jinja").write_text(
        "{% for i in range(messages[0].content | int) %}{% for j in range(999) %}{% endfor %}"
        "{% endfor %}done"
    )
    template = ChatTemplate(tmp_path / "chat.jinja")
    outcomes: list[str] = []

    def render(count: int) -> None:
        try:
            outcomes.append(template.render([{"role": "user", "content": str(count)}]))
        except InputError:
            outcomes.append("refused")

    threads = [threading.Thread(target=render, args=(count,)) for count in (10, 9_999) * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    render(10)
    assert sorted(outcomes) == ["done"] * 4 + ["refused"] * 3


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"{{ " + b"(" * 50_000, "nested too deeply"),
        (b"{{ " + b"a." * 10_000 + b"b }}", "nested too deeply"),
        (b"{% for a in b %}" * 30 + b"{% endfor %}" * 30, "statically nested"),
        (b" " * (LONGEST + 1), "more than 131,072 bytes"),
        (b"{{ '\xff' }}", "can't decode byte 0xff"),
        (b"{{ 1" + b"0" * 5000 + b" }}", "4300 digits"),
        (b"{{ '\x1b[31m' b }}\n", r"expected token"),
    ],
)
def test_no_template_at_all(tmp_path: Path, data: bytes, message: str) -> None:
    """What cannot be read or compiled is a BundleError of one line."""
    (tmp_path / "chat.jinja").write_bytes(data)
    with limited(), pytest.raises(BundleError, match=message) as refusal:
        ChatTemplate(tmp_path / "chat.jinja")
    assert str(refusal.value).isprintable()


def test_a_pipe_is_no_template(tmp_path: Path) -> None:
    """Reading one would wait for ever."""
    os.mkfifo(tmp_path / "chat.jinja")
    with limited(), pytest.raises(BundleError, match="not a regular file"):
        ChatTemplate(tmp_path / "chat.jinja")


THINKING = """
{%- macro show(content, thinks=false, tag='think') -%}
{%- if content is string -%}{{ content }}
{%- elif content is iterable and content is not mapping -%}
{%- for part in content -%}{%- if part.type == 'text' -%}{{ part['text'] }}{%- endif -%}{%- endfor -%}
{%- else -%}{{ raise_exception('unexpected content') }}{%- endif -%}
{%- if thinks -%}{{ '<' ~ tag ~ '/>' }}{%- endif -%}
{%- endmacro -%}
{%- set ns = namespace(last=messages|length - 1, multi=true, names=[]) -%}
{%- for message in messages[::-1] -%}
{%- set index = (messages|length - 1) - loop.index0 -%}
{%- if ns.multi and message.role == 'user' and not (message.content is string and message.content.startswith('<x>')) -%}
{%- set ns.multi = false -%}{%- set ns.last = index -%}{%- endif -%}
{%- endfor -%}
{%- for message in messages -%}
{%- if loop.first and message.role != 'system' -%}<|sys|>{{ strftime_now('%Y')|length }}{%- endif -%}
{%- if message.role == 'assistant' -%}
{%- set content = message.content -%}
{%- if '</think>' in content -%}
{%- set thought = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') -%}
{%- set content = content.split('</think>')[-1].lstrip('\\n') -%}
[{{ thought }}]
{%- endif -%}
{{- '<|' + message.role + '|>' + content -}}
{%- if message.tool_calls -%}
{%- for call in message.tool_calls -%}
{%- set function = call.function if call.function is defined else call -%}
{{ function.name }}({{ function.arguments | tojson }}){{ ', ' if not loop.last }}
{%- for key, value in function.arguments | items %}{{ key }}={{ value }};{% endfor -%}
{%- for key in function.arguments | dictsort %}{{ key[0] | upper }}{% endfor -%}
{%- endfor -%}
{%- endif -%}
{%- elif message.role in ['user', 'system'] -%}
{{ show(message.content, thinks=loop.index0 > ns.last, tag='t') | trim }}
{%- else -%}
{%- if loop.previtem and loop.previtem.role != 'tool' -%}<tools>{%- endif -%}
{{ loop.cycle('a', 'b') }}{{ message.content | string | replace('"', "'") | indent(2, true) }}
{%- endif -%}
{%- set ns.names = ns.names + [message.role] -%}
{%- endfor -%}
{{ ns.names | unique | join(',') }}{{ messages | selectattr('role', 'equalto', 'user') | list | length }}
{{- messages | map(attribute='role') | map('upper') | join('|') }}{{ messages | rejectattr('tool_calls') | list | count }}
{{- (messages | last).role }}{{ messages[-1]['role'] | default('none') }}{{ [1, 2, 3] | sum }}{{ 7 // 2 }}{{ -3 | abs }}
{{- '%s-%02d' | format('a', 5) }}{{ '%s' % 'b' }}{{ {'a': 1}.get('b', 'c') }}{{ 'x' * 3 }}{{ [0] * 2 }}{{ 'a' in 'cat' }}
{{- messages | groupby('role') | map('first') | list | tojson(indent=1) }}{{ 5 is divisibleby 5 }}{{ none is none }}
{%- filter upper %} done {% endfilter -%}
"""


def test_what_published_templates_do_is_what_transformers_writes(tmp_path: Path) -> None:
    """Thoughts, tools, parts, macros, namespaces, loops and filters of all that is known."""
    utils = pytest.importorskip("transformers.utils.chat_template_utils")
    call = {"function": {"name": "f", "arguments": {"b": [1, {"c": "é"}], "a": None}}}
    chat = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "image"}]},
        {
            "role": "assistant",
            "content": "<think>\nhm\n</think>\n\nyes",
            "tool_calls": [call, call],
        },
        {"role": "tool", "content": '{"x": "y"}'},
        {"role": "tool", "content": {"x": ["z"]}},
        {"role": "assistant", "content": "so"},
        {"role": "user", "content": "  and?  "},
    ]
    expected = utils._compile_jinja_template(THINKING).render(messages=chat)
    (tmp_path / "chat.jinja").write_text(THINKING, encoding="utf-8")
    assert ChatTemplate(tmp_path / "chat.jinja").render(chat) == expected
