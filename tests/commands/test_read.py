"""Images in, text out: from files to what is printed, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import PIL.Image
import pytest
import tiny_models
import torch
from command_line import call
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

import seq2edge
from seq2edge.errors import InputError, OptionError


@pytest.fixture
def reading(speaking):
    """A bundle that reads images."""
    return speaking("trocr")


@pytest.fixture
def model(reading):
    """The same, loaded; its answers have at most six tokens."""
    model = seq2edge.load(reading, device="cpu", threads=1)
    model.options = model.options.replace(max_new_tokens=6, max_length=None)
    return model


@pytest.fixture
def pictures(tmp_path):
    """Five files of other sizes than the model takes."""
    folder = tmp_path / "lines"
    folder.mkdir()
    rng = np.random.default_rng(1)
    for number in range(5):
        few = PIL.Image.fromarray(rng.integers(0, 256, (6, 10, 3), dtype=np.uint8))
        few.resize((70, 30 + number), PIL.Image.Resampling.BOX).save(folder / f"{number}.png")
    return sorted(folder.iterdir())


def test_files_are_read_as_transformers_reads_them(reading, model, pictures):
    """From the picture to the tokens, alone and together; pictures and arrays are files too."""
    processor = ViTImageProcessorPil.from_pretrained(reading.parent / "checkpoint")
    pixels = processor([str(file) for file in pictures], return_tensors="pt").pixel_values
    with torch.no_grad():
        wanted = tiny_models.make("trocr").generate(pixels, max_new_tokens=6, num_beams=2)
    options = model.options.replace(num_beams=2)
    texts = [best for best, *_ in model.read(pictures, options)]
    for text, row in zip(texts, wanted.tolist(), strict=True):
        assert list(text.ids) == row[1 : 1 + len(text.ids)]
        assert text.text.split() == [f"w{i}" for i in text.ids if i > 2]
    assert len({text.ids for text in texts}) > 1, "it looks at the picture"
    for file, text in zip(pictures, texts, strict=True):
        with PIL.Image.open(file) as picture:
            for one in (str(file), picture, np.array(picture)):
                assert model.read([one], options)[0][0].ids == text.ids
    assert model.read([]) == []


def test_a_service_reads_too(model, pictures):
    """In the batch of everybody, and as a stream."""
    wanted = model.read(pictures)
    with seq2edge.Service(model) as service:
        replies = [service.read(file) for file in pictures]
        assert [reply.result for reply in replies] == [texts[0] for texts in wanted]


def test_the_command_prints_a_line_for_each_image(reading, model, pictures):
    """In their order, whatever the batches; with --json everything."""
    wanted = [texts[0].text for texts in model.read(pictures)]
    for batch in (1, 2, 8):
        result = call("read", reading, *pictures, "--max-new-tokens", 6, "--batch", batch)
        assert result.exit_code == 0, result.stderr
        assert result.stdout.splitlines() == wanted
    result = call("read", reading, pictures[0], "--max-new-tokens", 6, "--json", "-b", 3, "-n", 2)
    values = json.loads(result.stdout)
    assert values["input"] == str(pictures[0])
    assert len(values["results"]) == 2


def test_what_a_bundle_cannot_do_is_said(reading, bundles, pictures, tmp_path):
    """Images for a model of texts, and the other way round; what is no image."""
    refused = call("read", bundles("bart"), pictures[0])
    assert refused.exit_code == 1
    assert "made to generate, it cannot read" in refused.stderr
    for command in (["run", "w5"], ["transcribe", "x.wav"], ["classify", "w5"], ["chat"]):
        name, *words = command
        refused = call(name, reading, *words, input="w5\n")
        assert refused.exit_code == 1
        assert "made to read, it cannot " in refused.stderr
    (tmp_path / "text.png").write_text("hello")
    refused = call("read", reading, tmp_path / "text.png")
    assert refused.exit_code == 1
    assert "text.png: no image that Pillow knows" in refused.stderr


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda m: m.read("line.png"), "give a list, also for one text, clip or image"),
        (lambda m: m.read(PIL.Image.new("L", (9, 9))), "give a list"),
        (lambda m: m.generate(["w5"]), "made to read, it cannot generate"),
        (
            lambda m: m.read_ids(np.zeros((1, 3, 20, 12), np.float32)),
            r"pixels: shape \(3, 20, 12\), the encoder takes \(3, 12, 20\)",
        ),
    ],
)
def test_other_input_is_told(model, ask, message):
    """Which input, what is wrong."""
    with pytest.raises(InputError, match=message):
        ask(model)


def test_a_text_cannot_be_cut_for_it(reading):
    """It reads none."""
    with pytest.raises(OptionError, match="no encoder of texts"):
        seq2edge.load(reading, device="cpu", cut=True)


def test_without_an_image_processor_pixels_alone_are_read(exported):
    """And the export says so."""
    _, folder, report = exported("trocr")
    assert "the checkpoint has no image processor: the bundle takes pixels alone" in report.notes
    model = seq2edge.load(folder / "bundle", device="cpu", threads=1)
    with pytest.raises(InputError, match="did not say how images become pixels"):
        model.read([np.zeros((9, 9), np.uint8)])
    shown = call("inspect", folder / "bundle").stdout
    assert "images      12 x 20 pixels, in patches of 4 x 4\n" in shown
    assert "images      none is made ready here: it reads pixels alone" in shown


def test_a_bundle_is_inspected_and_verified(reading):
    """Its images, both widths, and the recorded answers of both kinds of graphs."""
    shown = call("inspect", reading).stdout
    assert "made to read" in shown
    assert "encoder     2 layers, 4 heads of 12, width 48, 16 positions" in shown
    assert "decoder     2 layers, 4 heads of 8, width 32, 64 positions" in shown
    assert "pixels alone" not in shown
    assert json.loads(call("inspect", reading, "--json").stdout)["images"]["size"] == [12, 20]
    result = call("verify", reading, "--device", "cpu")
    assert result.exit_code == 0, result.output


def test_folders_of_images_are_measured(reading, model, pictures):
    """Against transcripts beside them: wrong ones err, its own answers do not."""
    folder = pictures[0].parent
    lines = [
        f"{file.stem}\t{best.text}\n"
        for file, (best,) in zip(pictures, model.read(pictures), strict=True)
    ]
    (folder / "transcripts.tsv").write_text("".join(lines))
    words = ("eval", reading, folder, "--max-new-tokens", 6, "--json")
    right = json.loads(call(*words).stdout)
    assert [row["metric"] for row in right["rows"]] == ["cer", "wer"]
    assert [row["value"]["value"] for row in right["rows"]] == [0.0, 0.0]
    (folder / "transcripts.tsv").write_text("".join(f"{n}.png\tother words\n" for n in range(5)))
    wrong = json.loads(call(*words).stdout)
    assert all(row["value"]["value"] > 50 for row in wrong["rows"])
    refused = call(*words, "--language", "en")
    assert "of speech, this model reads images" in refused.stderr


def test_it_is_quantized_on_images(reading, model, pictures, tmp_path):
    """Calibrated on what it will read, and measured with what is written there."""
    folder = pictures[0].parent
    answers = zip(pictures, model.read(pictures), strict=True)
    lines = [f"{file.stem}\t{best.text}\n" for file, (best,) in answers]
    (folder / "transcripts.tsv").write_text("".join(lines))
    result = call(
        "quantize", reading, "-o", tmp_path / "small", "-r", "int8-static", "--calibration", folder,
        "--evaluation", folder, "--threads", 1,
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert "cer" in result.stdout
    assert call("read", tmp_path / "small", pictures[0], "--max-new-tokens", 4).stdout.strip()
