"""The workflow that publishes: who may do what, and that what it calls exists. It is not run."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / ".github" / "workflows" / "publish.yml").read_text(encoding="utf-8")
WORKFLOW = yaml.safe_load(TEXT)
JOBS = WORKFLOW["jobs"]


def test_only_a_tag_of_a_version_publishes():
    """Nothing else starts it, and what the job that publishes does waits for the other one."""
    assert WORKFLOW[True] == {"push": {"tags": ["v*"]}}  # YAML reads `on` as true
    assert JOBS["publish"]["needs"] == "build"
    assert set(JOBS) == {"build", "publish"}


def test_the_right_to_publish_is_where_nothing_is_built():
    """No code of the tree runs beside PyPI's identity; no step reads a secret."""
    assert WORKFLOW["permissions"] == {"contents": "read"}
    assert "permissions" not in JOBS["build"]
    assert JOBS["publish"]["permissions"] == {"id-token": "write"}
    assert not [step for step in JOBS["publish"]["steps"] if "run" in step]
    assert "secrets." not in TEXT


def test_what_it_runs_exists():
    """Targets of make, scripts that may be executed, and test files."""
    made = (ROOT / "Makefile").read_text(encoding="utf-8")
    for line in (step["run"] for step in JOBS["build"]["steps"] if "run" in step):
        program, *rest = shlex.split(line)
        if program == "make":
            assert re.search(rf"^{rest[0]}:", made, re.MULTILINE), line
        elif program.startswith(".ci/"):
            assert os.access(ROOT / program, os.X_OK), line
        else:
            assert program in ("test", ".venv/bin/python"), line
            assert all((ROOT / word).is_file() for word in rest if word.startswith("tests/"))


def test_what_was_built_is_what_is_published():
    """Under one name, from one folder to another."""
    (sent,) = (step["with"] for step in JOBS["build"]["steps"] if "upload" in step.get("uses", ""))
    (taken,) = (s["with"] for s in JOBS["publish"]["steps"] if "download" in s["uses"])
    assert (sent["name"], sent["path"]) == (taken["name"], taken["path"]) == ("dist", "dist/")
