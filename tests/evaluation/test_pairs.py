"""Files of terms and templates."""

from __future__ import annotations

import copy
import json
import re

import pytest

from seq2edge.errors import InputError
from seq2edge.evaluation.pairs import read_pairs

GROUP = {
    "alternatives": ["a", "b"],
    "terms": [["one Cat", "one dog"], ["cats", "dogs"]],
    "templates": ["{} sleep.", "We like {}."],
}
LISTS = {"x": ["p", "q"], "y": ["r", "s"]}


def write(folder, values):
    """A file of these values."""
    path = folder / "pairs.json"
    path.write_text(json.dumps(values))
    return path


def test_every_term_stands_in_every_template(tmp_path):
    """With a capital where it opens the sentence."""
    group = read_pairs(write(tmp_path, {"groups": {"pets": GROUP}})).groups["pets"]
    assert group.sentences() == [
        "One Cat sleep.",
        "One dog sleep.",
        "Cats sleep.",
        "Dogs sleep.",
        "We like one Cat.",
        "We like one dog.",
        "We like cats.",
        "We like dogs.",
    ]
    assert group.shape == (2, 2, 2)
    assert group.pairs == [(0, 1)]


def test_toml_is_read_too(tmp_path):
    """Associations beside groups."""
    path = tmp_path / "pairs.toml"
    path.write_text(
        """[groups.pets]
alternatives = ["a", "b"]
terms = [["cat", "dog"]]
templates = ["The {} sleeps."]
agreeing = ["whiskers"]
[[associations]]
name = "pets"
targets = { x = ["p", "q"], y = ["r", "s"] }
attributes = { v = ["t", "u"], w = ["t", "z"] }
"""
    )
    found = read_pairs(path)
    assert found.groups["pets"].agreeing == ("whiskers",)
    assert dict(found.associations[0].targets) == {"x": ("p", "q"), "y": ("r", "s")}


def test_the_packages_own_pairs_can_be_read():
    """Three groups; no term stands twice, and no sentence."""
    found = read_pairs()
    assert list(found.groups) == ["gender", "nationality", "age"]
    assert len(found.associations) == 2
    for group in found.groups.values():
        assert len(set(group.sentences())) == len(group.sentences())


def change(key, value):
    """The group with one value changed, as a file's."""
    return {"groups": {"pets": {**copy.deepcopy(GROUP), key: value}}}


def associate(targets, attributes):
    """A file with one association."""
    association = {"name": "n", "targets": targets, "attributes": attributes}
    return {"groups": {"pets": GROUP}, "associations": [association]}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "expected an object"),
        ({"groups": {}}, "groups: there are none"),
        ({"groups": {"pets": 3}}, "groups.pets: expected an object"),
        (change("alternatives", ["a"]), "groups.pets: alternatives: needs two or more"),
        (change("alternatives", ["a", "a"]), "alternatives: needs two or more that differ"),
        (change("terms", []), "needs a row of terms"),
        (change("terms", [["cat"]]), r"terms: \['cat'\] are not 2, one for each alternative"),
        (change("templates", ["None."]), "templates: 'None.' needs one {} for the term"),
        (change("words", []), "groups.pets.words: unknown key"),
        (associate({"x": ["p", "q"]}, LISTS), "targets: needs two lists"),
        (associate(LISTS, {"x": ["p"], "y": ["q"]}), "attributes: needs two lists of two"),
        (associate({"x": ["p", "q"], "y": ["p", "q", "r"]}, LISTS), "lists of the same length"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, values, message):
    """The file, the place and the fact."""
    with pytest.raises(InputError, match=message) as caught:
        read_pairs(write(tmp_path, values))
    assert re.match(re.escape(str(tmp_path)), str(caught.value))


def test_files_that_are_none(tmp_path):
    """Missing, or in neither grammar."""
    with pytest.raises(InputError, match=r"nothing\.json: No such file"):
        read_pairs(tmp_path / "nothing.json")
    for name in ("bad.json", "bad.toml"):
        (tmp_path / name).write_bytes(b"{\xff")
        with pytest.raises(InputError, match=name):
            read_pairs(tmp_path / name)
