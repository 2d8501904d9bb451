"""Chat templates that leave their sandbox, never end, or write without end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from case import Case, sealed, written

TEMPLATE = "chat_template.jinja"
ESCAPES = (
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ messages.__class__ }}",
    "{{ cycler.__init__.__globals__.os.system('touch ../ran') }}",
    "{{ self.__init__.__globals__ }}",
    "{{ self._TemplateReference__context }}",
    "{{ lipsum.__globals__['os'].popen('touch ../ran').read() }}",
    "{{ raise_exception.__globals__ }}",
    "{{ strftime_now.__globals__ }}",
    "{{ joiner.__init__.__globals__ }}",
    "{{ namespace.__init__.__globals__ }}",
    "{{ ''['__class__'] }}",
    "{{ ''|attr('__class__') }}",
    "{{ ''|attr('\\x5f\\x5fclass\\x5f\\x5f') }}",
    "{{ ['__class__']|map('attr', '__class__')|list }}",
    "{{ messages|map(attribute='__class__.__init__')|list }}",
    "{{ '{0.__class__.__init__.__globals__}'.format(messages) }}",
    "{{ '{0.__class__}'.format_map({'0': messages}) }}",
    "{{ ('%s'|format('x')).__class__ }}",
    "{{ messages.append({'role': 'x', 'content': 'y'}) }}",
    "{{ messages[0].update(a=1) }}",
    "{{ messages.clear() }}",
    "{{ messages.sort(key=raise_exception) }}",
    "{% set x = messages.__iter__().__reduce__() %}{{ x }}",
    "{% include '../outside/secret.txt' %}",
    "{% import '/etc/passwd' as x %}",
    "{% extends '../outside/secret.txt' %}",
    "{% from 'os' import system %}",
    "{% do messages.clear() %}",
    "{{ dict.__base__.__subclasses__() }}",
    "{{ range.__self__ }}",
    "{{ caller() }}",
    "{{ loop.__class__ }}",
    "{% call(x) lipsum() %}{% endcall %}",
    "{{ (1).__class__.__base__ }}",
    "{{ ().__class__.__bases__[0] }}",
    "{{ config }}{{ request }}{{ g }}{{ url_for.__globals__ }}",
    "{{ messages.__getattribute__('__class__') }}",
    "{{ strftime_now('%' * 10000) }}",
)
REFUSED_ENDLESS = {
    "a loop of 10^9": "{% for i in range(1000000000) %}x{% endfor %}",
    "a loop of loops": "{% for a in range(99999) %}{% for b in range(99999) %}"
    "{% for c in range(99999) %}x{% endfor %}{% endfor %}{% endfor %}",
    "a silent loop of loops": "{% for a in range(99999) %}{% for b in range(99999) %}"
    "{% if false %}x{% endif %}{% endfor %}{% endfor %}",
    "a macro that calls itself": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "a macro that calls itself twice": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}"
    "{% endif %}{% endmacro %}{{ f(60) }}",
    "a loop that recurs": "{% for x in [[1]] recursive %}{{ loop([x]) }}{% endfor %}",
    "a text times 10^10": "{{ 'x' * 10000000000 }}",
    "a text times 10^9": "{{ 'w7 ' * 1000000000 }}",
    "a list times 10^9": "{{ ([0] * 1000000000)|length }}",
    "a power": "{{ 10 ** (10 ** 10) }}",
    "a power of powers": "{{ 9 ** 9 ** 9 }}",
    "a shift": "{{ '%d' % (2 ** 1000000000) }}",
    "a width of 10^9": "{{ '%1000000000d' % 5 }}",
    "a format of 10^9": "{{ '{:1000000000}'.format(5) }}",
    "a centre of 10^9": "{{ 'x'|center(1000000000) }}",
    "an indent of 10^9": "{{ 'x\\nx'|indent(1000000000) }}",
    "a text adjusted to 10^9": "{{ 'x'.ljust(1000000000) }}",
    "doubled 40 times": "{% set ns = namespace(t='w7 ') %}{% for i in range(40) %}"
    "{% set ns.t = ns.t + ns.t %}{% endfor %}{{ ns.t }}",
    "replaced again and again": "{% set ns = namespace(t='xx') %}{% for i in range(9) %}"
    "{% set ns.t = ns.t.replace('x', 'x' * 100) %}{% endfor %}{{ ns.t }}",
    "joined without end": "{{ (range(99999)|list * 1000)|join('w7 ' * 1000) }}",
    "sorted without end": "{% for i in range(99999) %}{{ range(99999)|sort|first }}{% endfor %}",
    "batches without end": "{{ [1]|batch(1000000000, 0)|list|length }}",
    "slices without end": "{{ [1]|slice(1000000000)|list|length }}",
    "lipsum without end": "{{ lipsum(n=1000000, min=100, max=101) }}",
    "words wrapped without end": "{{ ('x' * 10000000)|wordwrap(1) }}",
    "a matrix of pairs": "{% for a in range(9999) %}{{ range(99999)|list|tojson }}{% endfor %}",
}
BROKEN = {
    "an open block": "{% for x in y %}",
    "an open expression": "{{",
    "an unknown tag": "{% exec 'x' %}",
    "an unknown filter": "{{ 'x'|exec }}",
    "an unknown test": "{{ 'x' is exec }}",
    "nesting of 5000 brackets": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "nesting of 5000 conditions": "{% if true %}" * 5000 + "x" + "{% endif %}" * 5000,
    "nesting of 100 loops": "{% for x in [1] %}" * 100 + "x" + "{% endfor %}" * 100,
    "5000 plus": "{{ 1" + " + 1" * 5000 + " }}",
    "100,000 nots": "{{ " + "not " * 100_000 + "1 }}",
    "a long number": "{{ " + "9" * 5000 + " }}",
    "an error of control characters": "{{ raise_exception('\\x1b[2J\\nError: all is well') }}",
    "an error of a megabyte": "{{ raise_exception('x' * 1000000) }}",
    "an error that is no text": "{{ raise_exception({}) }}",
    "a name of control characters": "{{ messages['\\x1b[2J\\n'].x.y }}",
    "a division by zero": "{{ 1 / 0 }}",
    "an error of types": "{{ 'x' + 1 }}",
    "a missing key": "{{ messages[99].content.x }}",
    "a surrogate": "{{ '\\ud800' }}",
    "a break outside": "{% break %}",
    "a block twice": "{% block a %}{% endblock %}{% block a %}{% endblock %}",
    "an assignment to a name that is none": "{% set __class__.x = 1 %}",
}
CHAT = (("verify", "."), ("run", ".", "--chat", "w5 w6 w7", "--max-new-tokens", "3"))


def cases() -> Iterator[Case]:
    """All of this file."""
    for number, text in enumerate(ESCAPES):
        yield _case(f"an escape {number}: {text[:50]}", text, outcome="either")
    for what, text in REFUSED_ENDLESS.items():
        yield _case(what, text)
    for what, text in BROKEN.items():
        outcome = "either" if what in ACCEPTABLE else "refused"
        yield _case(what, text, outcome=outcome)
    yield _case("20 MB of text", "w7 " * (7 * 2**20))
    yield _case("15 MB of comments", "{# x #}" * (2 * 2**20) + "w7", outcome="either")
    yield _case("nothing", "", outcome="either")
    yield _raw("no text", b"\xff\xfe\xff")
    yield _raw("zeros", bytes(4096), outcome="either")
    yield _case("control characters", "\x1b[2J\x07 w7", outcome="either")
    yield _case("100,000 tokens", "w7 " * 100_000)


# jinja2 may render these, and then they are harmless.
ACCEPTABLE = {
    "nesting of 5000 brackets",
    "5000 plus",
    "100,000 nots",
    "a long number",
    "a name of control characters",
    "nesting of 100 loops",
}


def _case(name: str, text: str, **more: Any) -> Case:
    return _raw(name, text.encode("utf-8", "surrogatepass"), **more)


def _raw(name: str, data: bytes, **more: Any) -> Case:
    return Case(
        name=name, start="llama", commands=CHAT, change=sealed(written(TEMPLATE, data)), **more
    )
