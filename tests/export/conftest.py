"""Small exported bundles that several tests look at."""

from __future__ import annotations

import pytest
import tiny_models

from seq2edge.export.pipeline import export_checkpoint


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """Makes (once) the checkpoint of that name and its bundle; gives model, folder and report."""
    made = {}

    def get(name):
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            model = tiny_models.save(name, folder / "checkpoint")
            report = export_checkpoint(folder / "checkpoint", folder / "bundle")
            made[name] = (model, folder, report)
        return made[name]

    return get
