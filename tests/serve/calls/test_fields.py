"""Fields of a body are read strictly, and every refusal names one."""

from __future__ import annotations

import pytest

from seq2edge.serve.calls.failures import RequestError
from seq2edge.serve.calls.fields import Fields


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "body: not valid JSON"),
        (b"[1]", "body: needs an object"),
        (b"\xff", "body: not valid JSON"),
        (b'{"a": 1e999}', "body: '1e999' is not a finite number"),
        (b'{"a": NaN}', "body: 'NaN' is not a finite number"),
        (b"[" * 100_000, "body: nested too deeply"),
        (b'{"a": 1, "a": 2}', "body: duplicate key 'a' in one object"),
    ],
)
def test_what_is_no_object_is_refused(body, message):
    """Also what Python would read."""
    with pytest.raises(RequestError, match=message):
        Fields.of_json(body)


def test_a_mark_of_the_byte_order_is_no_part_of_a_body():
    """Some clients send one."""
    assert Fields.of_json(b'\xef\xbb\xbf{"a": 1}').take("a") == 1


@pytest.mark.parametrize(
    ("value", "read", "message"),
    [
        (1, lambda fields: fields.text("a"), "a: 1, needs a string"),
        (1, lambda fields: fields.flag("a"), "a: 1, needs true or false"),
        (True, lambda fields: fields.integer("a", least=0, most=2), "a: True, needs an integer"),
        (
            3,
            lambda fields: fields.integer("a", least=0, most=2),
            "a: 3, needs an integer from 0 to 2",
        ),
        ("x", lambda fields: fields.number("a", least=0, most=2), "a: 'x', needs a number"),
        (2.5, lambda fields: fields.number("a", least=0, most=2), "from 0 to 2"),
        ("x", lambda fields: fields.choice("a", ("b", "c")), "a: 'x', needs one of b, c"),
        ([], lambda fields: fields.items("a", most=2), "a: 0 entries, needs 1 to 2"),
        ([1], lambda fields: fields.texts("a", most=2), "a: needs a string, or a list of strings"),
        (None, lambda fields: fields.text("a"), "a: is needed"),
        ([{}], lambda fields: fields.objects("a", most=2)[0].text("b"), r"a\[0\].b: is needed"),
        ([1], lambda fields: fields.objects("a", most=2), r"a\[0\]: needs an object"),
        ({"b": 1}, lambda fields: fields.inner("a").end(), "a.b: no field of this request"),
    ],
)
def test_a_value_that_is_none_of_a_field_is_refused(value, read, message):
    """With what it needs; the error bears the field's name."""
    with pytest.raises(RequestError, match=message) as raised:
        read(Fields({"a": value}))
    assert raised.value.param.startswith("a")


def test_what_is_there_is_given_out_and_what_nobody_took_is_refused():
    """Null is as good as nothing."""
    fields = Fields({"a": "x", "b": None, "c": 2.0, "d": "one", "e": 1})
    assert fields.text("a") == "x"
    assert fields.text("b", "default") == "default"
    assert fields.number("c", least=0, most=2) == 2
    assert fields.texts("d", most=1) == ["one"]
    with pytest.raises(RequestError, match=r"^e: no field of this request, known: a, b, c, d$"):
        fields.end()
