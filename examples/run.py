"""One example from its data to measured answers: prepare, train, export, evaluate.

    python examples/run.py g2p               # hours or minutes, as its README says
    python examples/run.py g2p --quick       # seconds: every part once, a model that knows nothing
    python examples/run.py classification --start .cache/runs/pretraining/model

Everything lands in `.cache/runs/NAME`; a run that was stopped goes on where it was.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import shutil
import sys
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from weights import FetchError

from seq2edge.commands.train import changes_of

HERE = Path(__file__).resolve().parent
RUNS = HERE.parent / ".cache" / "runs"
QUICK: dict[str, Any] = {
    "optimizer.steps": 20,
    "optimizer.batch_tokens": 1000,
    "optimizer.warmup": 5,
    "check.every": 10,
    "data.rows": 300,
    "model.preset": "tiny",
    "decoding.num_beams": 1,
    "decoding.max_new_tokens": 20,
}
QUICK_TEST = 20  # rows


@dataclasses.dataclass(frozen=True, kw_only=True)
class Example:
    """What is measured, on which files of the example's `data`; `cut` shortens long texts."""

    metrics: tuple[str, ...] = ()
    tests: tuple[str, ...] = ()
    float16: bool = False
    cut: bool = False


EXAMPLES = {
    "g2p": Example(
        metrics=("per", "exact", "per-nostress", "exact-nostress"),
        tests=("test.jsonl",),
        float16=True,
    ),
    "pretraining": Example(),
    "classification": Example(metrics=("accuracy", "f1"), tests=("test.tsv",), cut=True),
    "summarization": Example(metrics=("chrf", "rougeL"), tests=("test.tsv",), cut=True),
    "translation": Example(
        metrics=("bleu", "chrf"), tests=("help-test.tsv", "packages-test.tsv"), cut=True
    ),
}


@click.command()
@click.argument("name", type=click.Choice(sorted(EXAMPLES)))
@click.option("--quick", is_flag=True, help="Every part once, in seconds.")
@click.option("--start", type=click.Path(path_type=Path, exists=True), help="Checkpoint.")
@click.option("--train", "train_file", help="Another training file of the example's data.")
@click.option("-s", "--set", "settings", multiple=True, metavar="KEY=VALUE", help="As of train.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Folder of the run.")
def main(
    name: str,
    *,
    quick: bool,
    start: Path | None,
    train_file: str | None,
    settings: tuple[str, ...],
    output: Path | None,
) -> None:
    """Prepare, train, export and evaluate the example NAME."""
    folder = output or RUNS / (f"{name}-quick" if quick else name)
    if quick:
        shutil.rmtree(folder, ignore_errors=True)
    prepare(name)
    changes: dict[str, Any] = dict(QUICK) if quick else {}
    changes |= changes_of(settings, start)
    if train_file is not None:
        changes["data.train"] = [f"data/{train_file}"]
    checkpoint = learn(
        name, folder, changes, stored="float16" if EXAMPLES[name].float16 else "float32"
    )

    from seq2edge.export.pipeline import export_checkpoint

    report = export_checkpoint(checkpoint, folder / "bundle", overwrite=True)
    click.echo(report.bundle.path)
    if EXAMPLES[name].tests:
        Console().print(evaluate(name, folder / "bundle", QUICK_TEST if quick else None))


def prepare(name: str) -> None:
    """Run the example's own `prepare.py` where its data is missing."""
    if any((HERE / name / "data").glob("*train*")):
        return
    spec = importlib.util.spec_from_file_location(f"prepare_{name}", HERE / name / "prepare.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main()


def learn(name: str, folder: Path, changes: dict[str, Any], *, stored: Any) -> Path:
    """Train the example's recipe; a finished run is taken as it is."""
    from seq2edge.commands.train import lines_to_stderr
    from seq2edge.training.recipe import read_recipe
    from seq2edge.training.train import train

    recipe = read_recipe(HERE / name / "recipe.toml", changes)
    return train(recipe, folder, resume=True, stored=stored, say=lines_to_stderr()).checkpoint


def evaluate(name: str, bundle: Path, limit: int | None) -> Table:
    """Measure the bundle on the example's held-out files through the runtime."""
    import seq2edge
    from seq2edge.evaluation.examples import read_examples
    from seq2edge.evaluation.metrics import find_metric, score

    model = seq2edge.load(bundle, cut=EXAMPLES[name].cut)
    table = Table("file", "rows", "metric", "value [95 % interval]", title=name)
    for file in EXAMPLES[name].tests:
        examples = read_examples(HERE / name / "data" / file, model.bundle.manifest.task)[:limit]
        for metric in EXAMPLES[name].metrics:
            found = score(find_metric(metric), model, examples).estimate()
            table.add_row(file, f"{len(examples):,}", metric, str(found))
    return table


if __name__ == "__main__":
    try:
        main()
    except FetchError as error:
        sys.exit(f"run: {error}")
