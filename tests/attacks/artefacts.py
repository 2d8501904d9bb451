"""Honest artefacts, which attacks begin with: `python tests/attacks/artefacts.py FOLDER`.

Tests hand in the bundles that they share (`test_attacks.py`); here each is made anew.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
TEMPLATE = "{% for m in messages %}w7 {{ m.content }} w9 {% endfor %}"
BUNDLES: dict[str, dict[str, Any]] = {  # what `speaking_bundle` makes of them
    "bart": {},
    "llama": {"template": TEMPLATE, "max_position_embeddings": 256},
    "bert": {},
    "whisper": {"max_source_positions": 1500, "num_mel_bins": 80},
    "trocr": {},
}


def gather(folder: Path, bundles: dict[str, Path]) -> None:
    """Every artefact in `folder`; of bundles that lie beside their checkpoints, and made here."""
    import bergamot_folders
    import ctranslate2_folders
    import gguf_files
    import numpy as np
    import tiny_models
    import torch

    from seq2edge.bundle import archive
    from seq2edge.bundle.lexicon import Lexicon, write_lexicon

    folder.mkdir()
    for name, bundle in bundles.items():
        shutil.copytree(bundle, folder / name)
    shutil.copytree(bundles["bart"].parent / "checkpoint", folder / "checkpoint")
    archive.pack(bundles["bart"], folder / "bart.s2e")
    (folder / "gguf").mkdir()
    gguf_files.write(tiny_models.make("llama"), folder / "gguf" / "model.gguf", tokens={})
    ctranslate2_folders.convert(folder / "ctranslate2")
    bergamot_folders.save(folder / "marian")
    bergamot_folders.write_lexicon(folder / "lexicon.bin", [[4, 5]] * 96, frequent=3)
    torch.save(tiny_models.make("llama").state_dict(), folder / "pickle.bin")
    lexicon = Lexicon(
        frequent=3, offsets=2 * np.arange(97), ids=np.arange(192) % 96, copies=True, vocab=96
    )
    write_lexicon(folder / "lexicon.npz", lexicon)


def main() -> None:
    """Makes all of them, unless the folder is there."""
    folder = Path(sys.argv[1])
    if folder.is_dir():
        return
    sys.path.insert(0, str(ROOT / "tests" / "support"))
    from speaking import speaking_bundle

    with tempfile.TemporaryDirectory() as exports:
        places = {name: Path(exports) / name for name in BUNDLES}
        for place in places.values():
            place.mkdir()
        bundles = {n: speaking_bundle(p, n, **BUNDLES[n]) for n, p in places.items()}
        partial = folder.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.parent.mkdir(parents=True, exist_ok=True)
        gather(partial, bundles)
    partial.rename(folder)


if __name__ == "__main__":
    main()
