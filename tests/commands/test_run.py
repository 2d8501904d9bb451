"""The commands that run a bundle: what they print where, and what they read."""

from __future__ import annotations

import json
import os
import re
import threading

import numpy as np
import pytest
from click import testing
from command_line import call

import seq2edge


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
    length = "length: 2 of 2 answers ended at the limit of tokens; --max-new-tokens sets it"
    assert result.stderr == f"seq2edge: cpu: asked for\n{length}\n"


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
    assert found["usage"] == {
        "prompt_tokens": 1,
        "reused_tokens": 0,
        "steps": wanted[0].usage.steps,
        "guessed_tokens": 0,
        "accepted_tokens": 0,
    }


def test_run_tells_log_probabilities_in_json(bundles):
    """Of each token and of the likeliest at its place; not without JSON."""
    bundle = bundles("bart")
    result = call("run", bundle, "w5 w6", "--json", "--logprobs", 2, "--max-new-tokens", 4)
    (found,) = json.loads(result.stdout)["results"]
    assert [len(entry["top"]) for entry in found["logprobs"]] == [2] * len(found["ids"])
    total = sum(entry["logprob"] for entry in found["logprobs"])
    assert total == pytest.approx(found["score"], abs=1e-4)
    result = call("run", bundle, "w5 w6", "--logprobs", 2)
    assert result.exit_code == 2
    assert "--logprobs goes with --json" in result.stderr


def test_run_tells_in_json_where_words_come_from(bundles):
    """Of each result, with the words; refused by a bundle without, and without JSON."""
    bundle, arguments = bundles("bart", alignments=True), ("w5 w6", "--alignments")
    result = call("run", bundle, *arguments, "--json", "-b", 2, "-n", 2, "--max-new-tokens", 4)
    found = json.loads(result.stdout)["results"]
    assert len(found) == 2
    for answer in found:
        assert answer["alignments"]
        for pair in answer["alignments"]:
            source, target = slice(*pair["source"]), slice(*pair["target"])
            assert pair["words"] == ["w5 w6"[source], answer["text"][target]]
            assert 0 < pair["weight"] <= 1
    result = call("run", bundle, *arguments)
    assert result.exit_code == 2
    assert "--alignments goes with --json" in result.stderr
    result = call("run", bundles("bart"), *arguments, "--json")
    assert result.exit_code == 1
    assert "export an encoder-decoder with --alignments" in result.stderr


def test_run_guesses_and_tells_how_well(bundles):
    """By prompt lookup and by a draft; the answers stay, and what cannot be is refused."""
    bundle = bundles("bart")
    text, limit = "w5 w6 w7 w5 w6", ("--max-new-tokens", 20)
    plain = call("run", bundle, text, *limit)
    looked_up = call("run", bundle, text, *limit, "--prompt-lookup", 4)
    drafted = call("run", bundle, text, *limit, "--draft", bundle, "--draft-tokens", 3)
    assert plain.stdout == looked_up.stdout == drafted.stdout
    assert "guesses" not in plain.stderr
    assert re.search(r"guesses: \d+ of \d+ tokens were right, 0\.\d\d steps", drafted.stderr)
    result = call("run", bundle, text, "--prompt-lookup", 4, "-b", 2)
    assert result.exit_code == 1
    assert "prompt_lookup_num_tokens: 4 with num_beams 2" in result.stderr
    result = call("run", bundle, text, "--draft", bundles("bert"))
    assert "is of kind encoder, made to classify; it needs" in result.stderr


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


def test_a_line_that_is_no_utf8_is_named(bundles, tmp_path):
    """With its file and number; a mark of the byte order before the first line is no text."""
    bundle = bundles("bart")
    (tmp_path / "marked.txt").write_bytes(b"\xef\xbb\xbfw5 w6\nw7\n")
    wanted = call("run", bundle, "w5 w6", "w7").stdout
    assert call("run", bundle, "-f", tmp_path / "marked.txt").stdout == wanted
    (tmp_path / "latin.txt").write_bytes(b"w5\nw\xe9\n")
    result = call("run", bundle, "-f", tmp_path / "latin.txt")
    assert result.exit_code == 1
    assert "latin.txt: line 2 is no UTF-8 from its byte 2 on; convert the file" in result.stderr
    result = call("classify", bundles("bert"), "-", input=b"w\xff\n")
    assert "standard input: line 1 is no UTF-8" in result.stderr


def test_a_file_of_answers_goes_on_where_it_was(bundles, tmp_path):
    """Behind the last whole line, as text and as JSON; what it has is not made again."""
    bundle, out = bundles("bart"), tmp_path / "out"
    lines = "w5 w6\n\nw7\nw8 w9 w10\nw11\n"
    for more in ([], ["--json"], ["-b", 2, "-n", 2]):
        out.unlink(missing_ok=True)
        whole = call("run", bundle, "-", *more, input=lines).stdout
        assert call("run", bundle, "-", "-o", out, *more, input=lines).stdout == ""
        assert out.read_text() == whole
        out.write_text(whole[: len(whole) * 2 // 3])
        assert call("run", bundle, "-", "-o", out, *more, input=lines).exit_code == 0
        assert out.read_text() == whole
        result = call("run", bundle, "-", "-o", out, *more, input=lines)
        assert "length" not in result.stderr
        assert out.read_text() == whole


@pytest.fixture
def screen(monkeypatch):
    """`screen("stderr")`: those streams of the runner are terminals."""

    def show(*names):
        def isatty(stream):
            return stream.name.strip("<>") in names

        monkeypatch.setattr(testing._NamedTextIOWrapper, "isatty", isatty, raising=False)

    return show


def test_a_file_has_a_bar_of_its_rows(bundles, tmp_path, screen):
    """On a terminal, blank lines too; from where an output was."""
    bundle, out = bundles("bart"), tmp_path / "out"
    (tmp_path / "lines.txt").write_text("w5 w6\n\nw7\nw8 w9 w10\n \n")
    asked = ("run", bundle, "-f", tmp_path / "lines.txt", "--batch", 1, "--max-new-tokens", 4)
    plain = call(*asked)
    assert "rows" not in plain.stderr
    screen("stderr")
    result = call(*asked)
    assert result.stdout == plain.stdout
    lines = re.findall(r"(\d) of 5 rows, ([\d,]+) tokens/s", result.stderr)
    assert [int(done) for done, _ in lines] == [1, 3, 4, 5]
    assert all(int(rate.replace(",", "")) > 0 for _, rate in lines)
    assert "100%" in result.stderr
    out.write_text("".join(plain.stdout.splitlines(keepends=True)[:3]))
    result = call(*asked, "-o", out)
    assert out.read_text() == plain.stdout
    assert f"{out}: goes on behind the answers to 3\n" in result.stderr
    assert re.search(r"3 of 5 rows +\[-+\] +0%", result.stderr)
    assert re.findall(r"(\d) of 5 rows, [^\r]*\] +(\d+)%", result.stderr) == [
        ("4", "50"),
        ("5", "100"),
    ]
    result = call(*asked, "-o", out)
    assert "goes on behind the answers to 5" in result.stderr
    assert "rows" not in result.stderr


def test_there_is_no_bar_where_it_would_be_in_the_way(bundles, tmp_path, screen):
    """Among answers on the same screen, of texts in the command, of lines that nobody can count."""
    bundle = bundles("bart")
    (tmp_path / "lines.txt").write_text("w5 w6\n")
    more = ("--max-new-tokens", 4)
    screen("stdout", "stderr")
    assert "rows" not in call("run", bundle, "-f", tmp_path / "lines.txt", *more).stderr
    result = call("run", bundle, "-f", tmp_path / "lines.txt", "-o", tmp_path / "out", *more)
    assert "1 of 1 rows" in result.stderr
    screen("stderr")
    assert "rows" not in call("run", bundle, "w5", *more).stderr
    result = call("run", bundle, "-", "-f", tmp_path / "lines.txt", *more, input="w7\n")
    assert len(result.stdout.splitlines()) == 2
    assert "rows" not in result.stderr
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_text, args=("w5 w6\n",))
    writer.start()
    result = call("run", bundle, "-f", tmp_path / "pipe", *more)
    writer.join()
    assert len(result.stdout.splitlines()) == 1
    assert "rows" not in result.stderr


def test_a_stream_is_what_run_prints(bundles):
    """Piece by piece; not where there are several results or JSON."""
    bundle = bundles("bart")
    texts = ["w5 w6", "", "w7"]
    assert call("run", bundle, *texts, "--stream").stdout == call("run", bundle, *texts).stdout
    for more in (["--json"], ["-b", 2, "-n", 2], ["-o", "x"]):
        result = call("run", bundle, "w5", "--stream", *more)
        assert result.exit_code == 2
        assert "--stream prints one text" in result.stderr


def test_an_answer_that_its_length_ended_is_told(bundles):
    """On stderr, with what sets it; and in JSON."""
    bundle = bundles("bart")
    result = call("run", bundle, "w5 w6", "w7", "--max-new-tokens", 3)
    assert "length: 2 of 2 answers ended at the limit of tokens; --max-new-tokens" in result.stderr
    result = call("run", bundle, "w5 w6", "--max-new-tokens", 3, "--json")
    assert json.loads(result.stdout)["results"][0]["finish_reason"] == "length"


def test_options_of_drawing_draw(bundles):
    """Each of them asks for it; the same seed gives the same; refused together with --no-sample."""
    bundle = bundles("bart")
    drawn = [
        call("run", bundle, "w5 w6", "--seed", seed, "--temperature", 3, "--max-new-tokens", 9)
        for seed in (1, 1, 2)
    ]
    assert drawn[0].stdout == drawn[1].stdout != drawn[2].stdout
    wanted = call("run", bundle, "w5 w6", "--max-new-tokens", 9).stdout
    plain = call("run", bundle, "w5 w6", "--no-sample", "--seed", 1, "--max-new-tokens", 9)
    assert plain.stdout == wanted
    several = call(
        "run", bundle, "w5", "-n", 3, "--top-p", 0.9, "--top-k", 0, "--min-p", 0.01,
        "--typical-p", 0.9, "--stop", "w9", "--max-time", 60, "--presence-penalty", 0.1,
        "--frequency-penalty", 0.1, "--max-new-tokens", 4,
    )  # fmt: skip
    assert len(several.stdout.splitlines()) == 3
    assert "top_p: 2" in call("run", bundle, "w5", "--top-p", 2).stderr
