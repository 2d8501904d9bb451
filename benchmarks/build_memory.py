"""Builds real engines and prints their memory beside what was planned (`memory_plan.py`).

Makes models of OPUS-MT's, T5's and BART-base's sizes with random weights, fetches Whisper
tiny.en and SmolLM2-135M (pinned, see examples/weights.py), and builds each in a process of its own
with TensorRT-RTX, which needs no GPU. The peak is the kernel's own figure of that process; weights
and activations are what the builder states of its engine.

    python benchmarks/build_memory.py [--models Whisper ...] [--write docs/building.md]
    python benchmarks/build_memory.py --plans docs/jetson.md    # what is told for a board, no build
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import onnx_ir as ir

from seq2edge.bundle import Bundle
from seq2edge.bundle.manifest import Role
from seq2edge.export.passes.length_to_mask import LengthToMask
from seq2edge.export.passes.lower_to_opset18 import LowerToOpset18
from seq2edge.export.passes.scale_queries import ScaleQueries
from seq2edge.export.passes.split_heads import SplitHeads
from seq2edge.export.tensorrt.engine import (
    Profile,
    _logger,
    build_engine,
    decoder_profiles,
    import_tensorrt,
)
from seq2edge.export.tensorrt.memory_plan import BOARDS, GraphPlan, plan_memory
from seq2edge.export.tensorrt.sizes import BuildSizes
from seq2edge.export.tensorrt.targets import TARGETS, Target
from seq2edge.export.weights import WEIGHTS, WeightsWriter

MEASURED, PLANS = "memory", "plans"  # the marks of tables in documents
HEAD = (
    "| model | engine | for | sizes | peak, MB | told | | engine, MB | told | activations, MB "
    "| told | s |\n|---|---|---|---|---|---|---|---|---|---|---|---|"
)
PLANS_HEAD = (
    "| model | engines | building | running | builds on, GB | runs on, GB |\n" + "|---" * 6 + "|"
)
BOARD = "orin-jetpack6.2"
TYPES = {"fp16": ir.DataType.FLOAT16, "bf16": ir.DataType.BFLOAT16}
USUAL = BuildSizes()
SIZES = {
    "usual": USUAL,
    "a board": dataclasses.replace(USUAL, batch=(1, 1, 4)),
    "one row": dataclasses.replace(USUAL, batch=(1, 1, 1), beams=1),
    "one input": dataclasses.replace(USUAL, batch=(1, 1, 1)),
    "large": dataclasses.replace(
        USUAL, batch=(1, 4, 32), prompt=(1, 32, 512), capacity=2048, source=(1, 64, 512)
    ),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """A model in a precision, for a target and sizes; whether the constants were fitted to it."""

    model: str
    precision: str
    target: str = "rtx-ampere"
    sizes: str = "usual"
    fitted: bool = False
    lowered: bool = False

    @property
    def name(self) -> str:
        """As the table has it."""
        form = ", lowered" if self.lowered else ""
        return f"{self.model}, {self.precision}{form}{' (fitted)' if self.fitted else ''}"


CASES = (
    Case(model="OPUS-MT-sized", precision="fp16", fitted=True),
    Case(model="Whisper tiny.en", precision="fp16", fitted=True),
    Case(model="Whisper tiny.en", precision="int8-static", fitted=True),
    Case(model="SmolLM2-135M", precision="fp16", fitted=True),
    Case(model="T5-small-sized", precision="bf16"),
    Case(model="T5-base-sized", precision="bf16"),
    Case(model="BART-base-sized", precision="fp16"),
    Case(model="SmolLM2-135M", precision="int4-weight"),
    Case(model="Whisper tiny.en", precision="int8-weight"),
    Case(model="OPUS-MT-sized", precision="float32"),
    Case(model="OPUS-MT-sized", precision="fp16", lowered=True),
    Case(model="OPUS-MT-sized", precision="fp16", sizes="one row"),
    Case(model="OPUS-MT-sized", precision="fp16", sizes="one input"),
    Case(model="OPUS-MT-sized", precision="fp16", sizes="large"),
    Case(model="SmolLM2-135M", precision="fp16", sizes="one input"),
    Case(model="SmolLM2-135M", precision="int4-weight", sizes="one row"),
    Case(model="Whisper tiny.en", precision="fp16", target="portable"),
    Case(model="BART-base-sized", precision="fp16", target="portable"),
    Case(model="SmolLM2-135M", precision="int4-weight", target="portable"),
)

ON_BOARDS = (
    ("OPUS-MT-sized", "fp16"),
    ("BART-base-sized", "fp16"),
    ("Whisper tiny.en", "fp16"),
    ("Whisper tiny.en", "int8-static"),
    ("SmolLM2-135M", "fp16"),
    ("SmolLM2-135M", "int4-weight"),
)


def _random_opus(folder: Path) -> Path:
    from decode_speed import make_model

    return make_model(folder)


def _random_t5(sizes: dict[str, int], folder: Path) -> Path:
    import torch
    import transformers

    config = transformers.T5Config(
        vocab_size=32128, d_kv=64, decoder_start_token_id=0, pad_token_id=0, eos_token_id=1, **sizes
    )
    torch.manual_seed(0)
    transformers.T5ForConditionalGeneration(config).eval().save_pretrained(folder)
    return folder


def _random_bart(folder: Path) -> Path:
    import torch
    import transformers

    stack = {"layers": 6, "attention_heads": 12, "ffn_dim": 3072}
    sizes = {f"{side}_{k}": v for side in ("encoder", "decoder") for k, v in stack.items()}
    config = transformers.BartConfig(
        vocab_size=50265, d_model=768, max_position_embeddings=1024, **sizes
    )
    torch.manual_seed(0)
    transformers.BartForConditionalGeneration(config).eval().save_pretrained(folder)
    return folder


def _fetched(name: str, _: Path) -> Path:
    from weights import fetch

    return fetch(name)


MODELS: dict[str, Callable[[Path], Path]] = {
    "OPUS-MT-sized": _random_opus,
    "T5-small-sized": functools.partial(
        _random_t5, {"d_model": 512, "d_ff": 2048, "num_layers": 6, "num_heads": 8}
    ),
    "T5-base-sized": functools.partial(
        _random_t5, {"d_model": 768, "d_ff": 3072, "num_layers": 12, "num_heads": 12}
    ),
    "BART-base-sized": _random_bart,
    "Whisper tiny.en": functools.partial(_fetched, "whisper-tiny.en"),
    "SmolLM2-135M": functools.partial(_fetched, "smollm2-135m"),
}
EXAMPLES = {  # to calibrate on: what, of which task, how many
    "Whisper tiny.en": ("librivox", "transcribe", 5),
    "SmolLM2-135M": ("paragraphs", "generate", 3),
}


def make_graphs(case: Case, folder: Path) -> tuple[Bundle, dict[Role, Path]]:
    """The bundle of the case's model, and the files that its engines are built of."""
    place = folder / case.model.replace(" ", "-")
    if not (place / "float").exists():
        from seq2edge.export.pipeline import export_checkpoint

        place.mkdir(parents=True, exist_ok=True)
        export_checkpoint(MODELS[case.model](place / "checkpoint"), place / "float")
    bundle = Bundle.open(place / "float")
    if case.model in EXAMPLES and case.precision != "float32":
        bundle = _quantized(case, place)
        files = {graph.role: bundle.file(graph.file) for graph in bundle.manifest.graphs}
    else:
        files = _written(case, bundle, place)
    return bundle, files


def _quantized(case: Case, place: Path) -> Bundle:
    if not (place / case.precision).exists():
        from weights import prepare

        from seq2edge.evaluation.examples import read_examples
        from seq2edge.quantize.pipeline import quantize_bundle

        name, task, count = EXAMPLES[case.model]
        examples = read_examples(prepare(name), task)[:count]
        quantize_bundle(
            place / "float",
            place / case.precision,
            case.precision,
            target="tensorrt",
            calibration=examples,
            threads=1,
        )
    return Bundle.open(place / case.precision)


def _written(case: Case, bundle: Bundle, place: Path) -> dict[Role, Path]:
    """What `quantize` would write of a model without a tokenizer: nobody runs random weights."""
    from seq2edge.quantize.passes.half_precision import HalfPrecisionWeights, ToHalfPrecision

    folder = place / (f"{case.precision}-lowered" if case.lowered else case.precision)
    roles = [g.role for g in bundle.manifest.graphs if g.target == "canonical"]
    files = {role: folder / f"{role}.onnx" for role in roles}
    if folder.exists():
        return files
    models = {role: ir.load(bundle.file(bundle.graph(role).file)) for role in roles}
    narrowed = HalfPrecisionWeights(TYPES.get(case.precision, ir.DataType.FLOAT))
    for model in models.values():
        LengthToMask()(model)
        ScaleQueries()(model)
        SplitHeads()(model)
        if case.precision in TYPES:
            ToHalfPrecision(narrowed)(model)
        if case.lowered:
            LowerToOpset18()(model)
    folder.mkdir()
    WeightsWriter(folder / WEIGHTS).write(models.values())
    for role, model in models.items():
        ir.save(model, files[role])
    return files


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
    """What one build took; bytes and seconds."""

    peak: int
    engine: int
    activations: int
    seconds: float


def measure(graph: Path, role: Role, sizes: BuildSizes, target: Target) -> Measured:
    """Build in a fresh process."""
    given = json.dumps(dataclasses.asdict(sizes))
    command = [sys.executable, __file__, "--build", str(graph), role, given, target.name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"build_memory: {graph}: {done.stderr.strip().splitlines()[-1:]}")
    return Measured(**json.loads(done.stdout))


def build(graph: str, role: str, sizes: str, target: str) -> None:
    """In the fresh process: build, and print what it took."""
    wanted = {k: tuple(v) if isinstance(v, list) else v for k, v in json.loads(sizes).items()}
    chosen = BuildSizes(**wanted)
    begin = time.monotonic()
    engine = build_engine(
        Path(graph),
        profiles(role, chosen),
        static={"capacity": chosen.capacity} if role == "decoder" else {},
        capabilities=TARGETS[target].capabilities,
    )
    seconds = time.monotonic() - begin
    log = "\n".join(text for _, text in _logger(import_tensorrt()).lines)
    status = Path("/proc/self/status").read_text(encoding="ascii")
    found = Measured(
        peak=int(re.findall(r"VmHWM:\s+(\d+)", status)[0]) * 1024,
        engine=len(engine.plan),
        activations=sum(map(int, re.findall(r"Total Activation Memory: (\d+)", log))),
        seconds=round(seconds, 1),
    )
    print(json.dumps(dataclasses.asdict(found)))


def profiles(role: str, sizes: BuildSizes) -> tuple[Profile, ...]:
    """As `seq2edge build` has them."""
    if role == "encoder":
        encode = {"batch": sizes.batch, "source": sizes.source}
        return (Profile(name="encode", sizes=encode),)
    return decoder_profiles(
        batch=sizes.batch, beams=sizes.beams, source=sizes.source, new=sizes.prompt
    )


def rows(case: Case, folder: Path) -> Iterator[str]:
    """A line of the table for each engine."""
    bundle, files = make_graphs(case, folder)
    target = TARGETS[case.target]
    if case.lowered:
        target = dataclasses.replace(target, form="lowered")
    sizes = SIZES[case.sizes].fitted(bundle.manifest.dims)
    plan = plan_memory(bundle, sizes, files, target=target)
    for graph in plan.graphs:
        found = measure(files[graph.role], graph.role, sizes, target)
        yield _row(case, graph, found)


def _row(case: Case, graph: GraphPlan, found: Measured) -> str:
    off = graph.build_peak / found.peak - 1
    pairs = (
        (found.engine, graph.engine),
        (found.activations, graph.activations),
    )
    sizes = " | ".join(f"{seen / 1e6:.0f} | {told / 1e6:.0f}" for seen, told in pairs)
    return (
        f"| {case.name} | {graph.role} | {case.target} | {case.sizes} | {found.peak / 1e6:.0f} "
        f"| {graph.build_peak / 1e6:.0f} | {off:+.0%} | {sizes} | {found.seconds:.1f} |"
    )


def told(folder: Path) -> Iterator[str]:
    """A line for each model, of what is told for a board."""
    for model, precision in ON_BOARDS:
        case = Case(model=model, precision=precision, target=BOARD, sizes="a board")
        bundle, files = make_graphs(case, folder)
        plan = plan_memory(bundle, SIZES[case.sizes], files, target=TARGETS[BOARD])
        boards = (
            next((str(b) for b in BOARDS if fits(b)), "none")
            for fits in (plan.fits_build, plan.fits_run)
        )
        sizes = (f"{size / 1e6:.0f}" for size in (plan.engines, plan.build_peak, plan.run_peak))
        yield f"| {model}, {precision} | {' | '.join((*sizes, *boards))} |"


def write_table(path: Path, mark: str, lines: list[str]) -> None:
    """Replace what stands between the marks."""
    begin, end = f"<!-- {mark}: begin -->", f"<!-- {mark}: end -->"
    before, rest = path.read_text(encoding="utf-8").split(begin)
    text = "\n".join((before + begin, *lines, end + rest.split(end)[1]))
    path.write_text(text, encoding="utf-8")


def main() -> None:
    """Build, print, and write the table where that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path(".cache/build_memory"))
    parser.add_argument("--models", nargs="*", help="parts of names, all by default")
    parser.add_argument("--write", type=Path, help="replace the table in this file")
    parser.add_argument("--plans", type=Path, help="replace the table of plans in this file")
    parser.add_argument("--build", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.build:
        build(*given.build)
        return
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples"))
    if given.plans:
        write_table(given.plans, PLANS, [PLANS_HEAD, *told(given.folder)])
        return
    lines = []
    for case in CASES:
        if not given.models or any(part in case.name for part in given.models):
            for line in rows(case, given.folder):
                lines.append(line)
                print(line, flush=True)
    trt = import_tensorrt()
    note = (
        f"Made by `python benchmarks/build_memory.py` on {time.strftime('%Y-%m-%d')}: "
        f"{trt.__name__} {trt.__version__}, Python {platform.python_version()}, "
        f"{platform.machine()}, no GPU."
    )
    if given.write:
        write_table(given.write, MEASURED, [note, "", HEAD, *lines])


if __name__ == "__main__":
    main()
