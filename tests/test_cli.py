"""The command line: what it prints where, exit codes, and no tracebacks."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner
from speaking import sentences

import seq2edge
from seq2edge import cli
from seq2edge.bundle import Bundle
from seq2edge.evaluation.metrics import METRICS
from seq2edge.quantize.recipes import RANGE_METHODS, RECIPES
from seq2edge.runtime import diagnosis

COMMANDS = [
    "build",
    *"export quantize targets run transcribe classify embed verify inspect pack".split(),
    *"unpack doctor train sweep eval audit canary distil".split(),
]


@pytest.fixture
def bundles(speaking):
    """Small bundles with a tokenizer of words, by name."""
    return lambda name: str(speaking(name))


def call(*arguments, **more):
    """Run the command line in this process."""
    return CliRunner().invoke(cli.main, list(map(str, arguments)), **more)


def test_help_lists_every_command_and_its_purpose():
    """The list of commands is a contract."""
    result = call("--help")
    assert result.exit_code == 0
    listed = [line.split()[0] for line in result.stdout.split("Commands:")[1].strip().splitlines()]
    assert sorted(listed) == sorted(COMMANDS)
    for command in COMMANDS:
        shown = call(command, "--help")
        assert shown.exit_code == 0
        assert shown.stdout.startswith(f"Usage: main {command} ")
        assert call(command, "-h").stdout == shown.stdout


def test_the_version_is_the_packages():
    """As pip shows it."""
    assert call("--version").stdout == f"seq2edge, version {seq2edge.__version__}\n"


def test_help_imports_nothing_heavy():
    """So that it answers at once."""
    code = (
        "import sys\nfrom seq2edge.cli import main\n"
        "try: main(['export', '--help'])\nexcept SystemExit: pass\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    roots = {name.split(".")[0] for name in done.stderr.split()}
    heavy = {"numpy", "onnxruntime", "onnx", "torch", "transformers", "tokenizers", "jinja2"}
    assert "click" in roots
    assert not roots & heavy


@pytest.mark.parametrize("command", COMMANDS)
def test_an_unknown_option_is_a_usage_error(command):
    """Exit code 2, whatever else is on the line."""
    result = call(command, "--no-such-option")
    assert result.exit_code == 2
    assert "No such option" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["run"],
        ["export", "x"],
        ["run", "b", "t", "--num-beams", "0"],
        ["run", "b", "--device", "x"],
        ["run", "b", "t", "--chat", "--to", "fra_Latn"],
    ],
)
def test_bad_usage_has_exit_code_2(arguments):
    """Missing arguments and values out of range."""
    assert call(*arguments).exit_code == 2


def test_text_is_needed_from_somewhere(bundles):
    """No text, no dash, no file: a usage error before the model is loaded."""
    result = call("run", bundles("bart"))
    assert result.exit_code == 2
    assert "give a text, - for standard input, or --file" in result.stderr
    assert "seq2edge: cpu" not in result.stderr


def test_run_prints_results_on_stdout_and_the_rest_on_stderr(bundles):
    """One line a text, so that it can be piped."""
    result = call("run", bundles("bart"), "w5 w6", "w7", "--device", "cpu")
    assert result.exit_code == 0
    assert len(result.stdout.splitlines()) == 2
    assert all(word.startswith("w") for word in result.stdout.split())
    assert result.stderr == "seq2edge: cpu: asked for\n"


def test_run_takes_lines_from_stdin_and_files(bundles, tmp_path):
    """Line n answers line n, blank ones too; batches make no difference."""
    lines = "w5 w6\n \nw7\nw8 w9 w10\n\n"
    (tmp_path / "lines.txt").write_text(lines)
    bundle = bundles("bart")
    arguments = ["w5 w6", "", "w7", "w8 w9 w10", ""]
    wanted = call("run", bundle, *arguments).stdout
    alone = [call("run", bundle, text).stdout for text in arguments]
    assert wanted == "".join(alone)
    assert [line == "" for line in wanted.splitlines()] == [False, True, False, False, True]
    two = call("run", bundle, "-b", 2, "-n", 2, "", "w7").stdout.splitlines()
    assert [line == "" for line in two] == [True, True, False, False]
    assert json.loads(call("run", bundle, "", "--json").stdout) == {"input": "", "results": []}
    assert call("run", bundle, "-", input=lines).stdout == wanted
    assert call("run", bundle, "-f", tmp_path / "lines.txt", "--batch", 1).stdout == wanted


def test_run_as_json_gives_ids_and_scores(bundles):
    """One object a text, with as many results as were asked for; every option reaches decoding."""
    result = call(
        "run", bundles("bart"), "w5 w6", "--json", "-b", 4, "-n", 3, "--max-new-tokens", 5,
        "--min-new-tokens", 2, "--length-penalty", 0.5, "--early-stopping", "never",
        "--no-repeat-ngram-size", 2, "--repetition-penalty", 1.2, "--capacity", 16, "--threads", 1,
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    model = seq2edge.load(bundles("bart"), device="cpu")
    options = model.options.replace(
        num_beams=4, num_return_sequences=3, max_new_tokens=5, max_length=None, min_new_tokens=2,
        length_penalty=0.5, early_stopping="never", no_repeat_ngram_size=2,
        repetition_penalty=1.2, capacity=16,
    )  # fmt: skip
    wanted = model.generate(["w5 w6"], options)[0]
    assert found["input"] == "w5 w6"
    assert [r["ids"] for r in found["results"]] == [list(t.ids) for t in wanted]
    assert [r["score"] for r in found["results"]] == pytest.approx([t.score for t in wanted])


def test_classify_and_embed(bundles):
    """Label and probability, or JSON."""
    line = call("classify", bundles("bert"), "w5 w6").stdout
    label, score = line.split("\t")
    values = json.loads(call("classify", bundles("bert"), "w5 w6", "--json").stdout)
    assert values["label"] == label
    assert values["scores"][label] == pytest.approx(float(score), abs=1e-4)
    values = json.loads(call("embed", bundles("bert-embedding"), "w5 w6").stdout)
    model = seq2edge.load(bundles("bert-embedding"))
    np.testing.assert_allclose(values["embedding"], model.embed(["w5 w6"])[0], atol=1e-6)


def test_quantize_writes_a_bundle_and_a_verdict(bundles, tmp_path):
    """Figures of both, a sentence, the place; as JSON too. The result is a bundle like others."""
    texts = tmp_path / "texts.txt"
    texts.write_text("w5 w6\nw7 w8 w9\n")
    small = tmp_path / "small"
    arguments = ["quantize", bundles("bart"), "-r", "int8-weight", "--threads", 1]
    result = call(*arguments, "-o", small, "--evaluation", texts)
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["float32", "quantized"]
    assert lines[-2].startswith("int8-weight ")
    assert lines[-2].endswith("on the examples given")
    assert lines[-1].startswith(str(small))
    assert call("verify", small).exit_code == 0
    assert "int8-weight" in call("inspect", small).stdout
    assert call("run", small, "w5 w6").exit_code == 0
    values = json.loads(call(*arguments, "-o", small, "--overwrite", "--json").stdout)
    assert values["unit"] == "tokens"
    assert values["quantized"]["bytes"] == Bundle.open(small).size


def test_quantize_for_tensorrt_is_judged_by_emulation(bundles, tmp_path):
    """Size and answers are told; what only an engine can show is left open."""
    texts = tmp_path / "texts.txt"
    texts.write_text("".join(f"{example.input}\n" for example in sentences(20)))
    arguments = ["quantize", bundles("bart"), "-r", "int8-static", "--target", "tensorrt"]
    arguments += ["--calibration", texts, "--evaluation", texts, "--threads", 1]
    result = call(*arguments, "-o", tmp_path / "small")
    assert result.exit_code == 0, result.stderr
    assert "does not run here, its answers are emulated" in result.stdout
    rows = {line[:20].strip(): line[20:].split() for line in result.stdout.splitlines()}
    assert rows["load, s"] == rows["tokens/s, batch 8"] == ["-", "-"]
    assert float(rows["size, MB"][1]) < float(rows["size, MB"][0])
    verified = call("verify", tmp_path / "small")
    assert verified.exit_code == 0
    assert "an engine has to be built for tensorrt on the device first" in verified.stdout


def test_quantize_finds_a_recipe_by_itself(bundles, tmp_path):
    """Every trial in a table, the verdict on the chosen one, and a report beside the bundle."""
    texts = tmp_path / "texts.txt"
    texts.write_text("".join(f"{example.input}\n" for example in sentences(20)))
    arguments = ["quantize", bundles("bart"), "-r", "auto", "--budget", "agreement-100"]
    arguments += ["--calibration", texts, "--evaluation", texts, "--threads", 1]
    result = call(*arguments, "-o", tmp_path / "small", "--json")
    assert result.exit_code == 0, result.stderr
    values = json.loads(result.stdout)
    chosen = [trial for trial in values["search"]["trials"] if trial["chosen"]]
    assert len(chosen) == 1
    assert Bundle.open(tmp_path / "small").manifest.precision == chosen[0]["recipe"]
    assert values["report"] == str(tmp_path / "small.html")
    assert (tmp_path / "small.html").read_text().startswith("<!doctype html>")
    for recipe in ("float32", "int8-weight", "int4-weight", "int8-dynamic", "int8-static"):
        assert recipe in result.stderr


def test_quantize_names_every_recipe(bundles):
    """In its help, which cannot import them."""
    text = re.sub(r"-\n\s+", "-", call("quantize", "--help").stdout)
    assert all(name in text for name in (*RECIPES, "auto"))
    assert all(name in text for name in (*RANGE_METHODS, *METRICS, "agreement"))


def test_quantize_refuses_what_it_cannot_use(bundles, tmp_path):
    """In a line each, with nothing written."""
    (tmp_path / "empty.txt").write_text("\n \n")
    (tmp_path / "few.txt").write_text("w5 w6\n")
    few = ["--calibration", tmp_path / "few.txt", "--evaluation", tmp_path / "few.txt"]
    auto = ["-r", "auto", *few, "--budget"]
    for extra, message in (
        (["-r", "auto"], "auto needs a --budget, such as wer+0.5"),
        (["-r", "int8-weight", "--budget", "wer+1"], "--budget is for --recipe auto"),
        (["-r", "int8-weight", "--report", "r.html"], "--report is for --recipe auto"),
        (["-r", "int8-weight", "--metric", "wer"], "--metric is measured on --evaluation"),
        ([*auto, "wer+1", "--target", "tensorrt"], "where nothing for tensorrt runs"),
    ):
        result = call("quantize", bundles("bart"), "-o", tmp_path / "x", *extra)
        assert result.exit_code == 2
        assert message in " ".join(result.stderr.split())
    for extra, message in (
        ([*auto, "chrf+1"], "larger values of chrf are better; write chrf-1"),
        ([*auto, "chrf-1"], "at least 64 are needed"),
        (["-r", "int8-static"], "int8-static for onnxruntime needs examples"),
        (["-r", "fp16", "--target", "onnxruntime"], "fp16 is not made for 'onnxruntime'"),
        (["-r", "int8-weight", "--smoothing", "0.5"], "smoothing: int8-weight has no 8-bit inputs"),
        (["-r", "int8-static", "--ranges", "x"], "ranges: 'x' is unknown, known: min-max"),
        (["-r", "int8-weight", "--int8-cache"], "8-bit caches need examples, they show how large"),
    ):
        result = call("quantize", bundles("bart"), "-o", tmp_path / "x", *extra)
        assert result.exit_code == 1, (extra, result.stderr)
        assert message in result.stderr
    for extra, message in (
        (["-r", "int3"], "recipe: 'int3' is unknown"),
        (["-r", "int8-weight", "--evaluation", tmp_path / "empty.txt"], "holds no text"),
        (["-r", "int4-weight", "--calibration", tmp_path / "few.txt"], "at least 64 are needed"),
        (
            ["-r", "int8-weight", "--calibration", tmp_path / "few.txt"],
            "onnxruntime uses none",
        ),
        (["-r", "int4-weight", "--calibration", tmp_path], "a folder, this model reads text"),
        (["-r", "int8-weight", "--evaluation", tmp_path / "few.txt", "--metric", "rouge"], "known"),
    ):
        result = call("quantize", bundles("bart"), "-o", tmp_path / "x", *extra)
        assert result.exit_code == 1
        assert message in result.stderr
    assert not (tmp_path / "x").exists()


def test_verify_inspect_pack_and_unpack(bundles, tmp_path):
    """From the folder to one file and back, and the same answers after."""
    bundle = bundles("bart")
    verified = call("verify", bundle)
    assert verified.exit_code == 0
    assert verified.stdout.count("equal: largest error") == 2
    assert "files: " in call("verify", bundle, "--no-run").stdout
    shown = call("inspect", bundle)
    assert "bart, encoder-decoder, made to generate" in shown.stdout
    assert json.loads(call("inspect", bundle, "--json").stdout)["family"] == "bart"
    assert call("pack", bundle, tmp_path / "b.s2e").exit_code == 0
    assert call("pack", bundle, tmp_path / "b.s2e").exit_code == 1
    assert call("unpack", tmp_path / "b.s2e", tmp_path / "copy").exit_code == 0
    assert call("run", tmp_path / "copy", "w5").stdout == call("run", bundle, "w5").stdout


def test_verify_fails_where_answers_differ(bundles, tmp_path, monkeypatch):
    """Exit code 1 and the figures."""
    from seq2edge.runtime import parity

    monkeypatch.setitem(parity.TOLERANCES, "float32", parity.Tolerance(absolute=0, relative=0))
    result = call("verify", bundles("bart"))
    assert result.exit_code == 1
    assert "DIFFERENT: largest error" in result.stdout
    assert "does not give what was recorded" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "none", "text"],
        ["export", "none", "-o", "out"],
        ["export", ".", "-o", "out"],
        ["inspect", "."],
        ["verify", "none"],
        ["unpack", "none", "out"],
        ["pack", "none", "out"],
        ["transcribe", "none", "clip.wav"],
    ],
)
def test_user_errors_are_one_line_and_exit_code_1(arguments, tmp_path, monkeypatch):
    """No traceback, nothing on stdout, the subject first."""
    monkeypatch.chdir(tmp_path)
    result = call(*arguments)
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    assert result.stdout == ""
    assert result.stderr.splitlines()[-1].startswith("Error: ")
    assert "Traceback" not in result.stderr


def test_export_without_its_packages_names_the_extra(tmp_path, monkeypatch):
    """On a device, where torch is not."""
    monkeypatch.setitem(sys.modules, "seq2edge.export.pipeline", None)
    result = call("export", tmp_path, "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert "install seq2edge[export,cpu]" in result.stderr


def test_doctor_tells_what_is_here_and_what_to_install(monkeypatch):
    """Exit code 0 even where much is missing: it is a report."""
    result = call("doctor")
    assert result.exit_code == 0
    assert "ok  onnxruntime" in result.stdout
    assert {"subject", "works", "detail"} == set(json.loads(call("doctor", "--json").stdout)[0])
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    missing = call("doctor")
    assert missing.exit_code == 0
    assert "--  onnxruntime" in missing.stdout
    assert "pip install 'seq2edge[cpu]'" in missing.stdout
    assert not diagnosis._package("no-such-package").works


def test_a_reader_that_goes_away_is_no_error(bundles):
    """`seq2edge ... | head -1` ends quietly."""
    command = f"{sys.executable} -m seq2edge.cli inspect {bundles('bart')} | head -1"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, check=True, env=dict(os.environ)
    )
    assert "Traceback" not in done.stderr
