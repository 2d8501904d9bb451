"""`make docs`: the site builds without a warning, and its pages fetch nothing from elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RESOURCE = re.compile(
    r"""<(?:script|link|img|iframe)[^>]*?(?:src|href)="([^"]*)"|url\(["']?(.*?)["']?\)"""
)


def build(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run mkdocs as the Makefile does, into a folder; with --quiet it would not be strict."""
    command = [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(folder)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(
        [*command, *options], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


def test_the_site_builds_without_a_warning(tmp_path):
    """With every page, the signatures and docstrings of the API, and the commands' help."""
    built = build(tmp_path)
    assert built.returncode == 0, built.stderr
    assert "WARNING" not in built.stderr
    pages = {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")}
    assert all((tmp_path / page).with_suffix(".html").is_file() for page in pages)
    api = (tmp_path / "api" / "model.html").read_text(encoding="utf-8")
    assert 'id="seq2edge.Model.generate"' in api
    assert "Open a bundle on the best backend that works here" in api
    assert "--num-beams" in (tmp_path / "commands.html").read_text(encoding="utf-8")
    checked = 0
    for file in [*tmp_path.rglob("*.html"), *tmp_path.rglob("*.css")]:
        for names in RESOURCE.findall(file.read_text(encoding="utf-8")):
            address = names[0] or names[1]
            assert not re.match(r"(https?:)?//", address), f"{file}: {address}"
            checked += 1
    assert checked > len(pages)


def test_a_broken_link_stops_the_build(tmp_path):
    """So the test above can fail."""
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "index.md").write_text("[nowhere](nowhere.md)\n", encoding="utf-8")
    settings = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").split("\nhooks:")[0]
    config = tmp_path / "mkdocs.yml"
    config.write_text(f"{settings}\n", encoding="utf-8")
    built = build(tmp_path / "site", "--config-file", str(config))
    assert built.returncode == 1
    assert "nowhere.md" in built.stderr
