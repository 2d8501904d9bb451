"""Which tests `make check` runs for which changed file."""

from __future__ import annotations

import importlib.util
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def script():
    """The script, which is in no package."""
    path = ROOT / "scripts" / "check_changes.py"
    spec = importlib.util.spec_from_file_location("check_changes", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def tree(tmp_path):
    """A small repository with a main branch."""
    for name, text in {
        "runtime/beam.py": "",
        "runtime/__init__.py": "",
        "schema.json": "{}",
        "tests/conftest.py": "",
        "tests/test_import_rule.py": "",
        "tests/test_packaging.py": "",
        "tests/support/tiny.py": "",
        "tests/support/larger.py": "import tiny\n",
        "tests/support/program.py": "",
        "tests/runtime/conftest.py": "",
        "tests/runtime/test_beam.py": "",
        "tests/runtime/test_beam_ties.py": "from larger import made\n",
        "tests/runtime/test_loop.py": "from seq2edge.runtime import beam, other\nimport tiny\n",
        "tests/files/test_schema.py": 'read("schema.json")\nrun("program.py")\n',
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    for command in (
        "init -q -b main",
        "config user.email a@b",
        "config user.name a",
        "add -A",
        "commit -qm first",
        "checkout -qb work",
    ):
        subprocess.run(["git", *command.split()], cwd=tmp_path, check=True)
    return tmp_path


RULE, PACKAGING = "tests/test_import_rule.py", "tests/test_packaging.py"


@pytest.mark.parametrize(
    ("file", "tests"),
    [
        ("tests/runtime/test_loop.py", ["tests/runtime/test_loop.py"]),
        ("tests/runtime/test_removed.py", []),
        ("tests/support/larger.py", ["tests/runtime/test_beam_ties.py"]),
        (
            "tests/support/tiny.py",
            ["tests/runtime/test_beam_ties.py", "tests/runtime/test_loop.py"],
        ),
        ("tests/support/program.py", ["tests/files/test_schema.py"]),
        ("schema.json", ["tests/files/test_schema.py"]),
        ("README.md", []),
        ("pyproject.toml", [PACKAGING]),
        (
            "runtime/beam.py",
            ["tests/runtime/test_beam.py", "tests/runtime/test_beam_ties.py", RULE],
        ),
        ("runtime/other.py", ["tests/runtime/test_loop.py", RULE]),
        (
            "runtime/lonely.py",
            [*(f"tests/runtime/test_{name}.py" for name in ("beam", "beam_ties", "loop")), RULE],
        ),
        ("runtime/__init__.py", ["tests/runtime/test_loop.py", RULE, PACKAGING]),
        (
            "tests/runtime/conftest.py",
            [f"tests/runtime/test_{name}.py" for name in ("beam", "beam_ties", "loop")],
        ),
    ],
)
def test_a_file_stands_for_its_tests(script, tree, file, tests):
    """Its own, its mirror, those that import or name it, or its room; modules keep the rule."""
    assert sorted(script.tests_of(file, tree)) == sorted(tests)


def test_a_document_stands_for_the_documents_tests(script, tree):
    """Whether a test names it or not."""
    (tree / "tests" / "docs").mkdir()
    (tree / "tests" / "docs" / "test_pages.py").write_text("")
    assert script.tests_of("docs/training.md", tree) == {"tests/docs/test_pages.py"}
    assert script.tests_of("schema.json", tree) == {"tests/files/test_schema.py"}


def test_what_changed_is_committed_uncommitted_or_new(script, tree):
    """Since the branch left main; what main got later is no change of ours."""
    (tree / "runtime/beam.py").write_text("x = 1")
    subprocess.run(["git", "commit", "-qam", "beam"], cwd=tree, check=True)
    (tree / "schema.json").write_text("[]")
    (tree / "new.py").write_text("")
    (tree / "tests/support/program.py").unlink()
    assert script.changed_files(tree) == {
        "runtime/beam.py",
        "schema.json",
        "new.py",
        "tests/support/program.py",
    }


def test_what_everything_reads_is_left_to_the_whole_suite(script, tree, monkeypatch, capfd):
    """And said so: nothing is dropped in silence."""
    (tree / "tests/conftest.py").write_text("x = 1")
    monkeypatch.setattr(script, "ROOT", tree)
    monkeypatch.setattr(script, "MANY", 5)
    monkeypatch.setattr(script.sys, "argv", ["check_changes.py"])
    assert script.main() == 0
    assert (
        "tests/conftest.py: read by 6 test files, which `make test` runs" in capfd.readouterr().out
    )


def test_the_tests_run_and_their_failure_is_ours(script, tree, monkeypatch, capfd):
    """With pytest's own exit code."""
    (tree / "tests/runtime/test_loop.py").write_text("def test_it():\n    assert 1 == 2\n")
    monkeypatch.setattr(script, "ROOT", tree)
    monkeypatch.setattr(script.sys, "argv", ["check_changes.py", "-p", "no:cacheprovider"])
    assert script.main() == 1
    assert "assert 1 == 2" in capfd.readouterr().out
