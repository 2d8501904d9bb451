"""Real weights from public registries, from checkpoint to answer, against other implementations."""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
from itertools import pairwise
from pathlib import Path

import bergamot_folders
import ctranslate2
import demo_translate
import numpy as np
import pytest
import sentencepiece
import torch
import transformers
import weights
from click.testing import CliRunner
from tokenizers import Tokenizer

import seq2edge
from seq2edge.bundle.lexicon import read_lexicon
from seq2edge.checkpoints.importers import open_foreign
from seq2edge.checkpoints.importers.marian_file import read_marian
from seq2edge.checkpoints.load import load_checkpoint
from seq2edge.checkpoints.tokenizer import convert_tokenizer
from seq2edge.cli import main
from seq2edge.errors import CheckpointError
from seq2edge.quantize.pipeline import quantize_bundle
from seq2edge.runtime.backend import all_logits
from seq2edge.runtime.likelihood import log_softmax
from seq2edge.runtime.scheduler import decode
from seq2edge.runtime.sound import log_mel, recording

pytestmark = pytest.mark.network

NEW = 32


def fetched(name):
    """The folder, or a skip that says why it cannot be had here."""
    try:
        return weights.fetch(name)
    except weights.FetchError as error:
        pytest.skip(str(error))


def bundle_of(folder, checkpoint):
    """The bundle that the command line makes of it."""
    result = CliRunner().invoke(main, ["export", checkpoint, "-o", str(folder / "bundle")])
    assert result.exit_code == 0, result.output
    return folder / "bundle"


@pytest.fixture
def loaded(made_once):
    """`loaded(checkpoint)`: its bundle, made once, as a model."""
    return lambda checkpoint: seq2edge.load(made_once(bundle_of, str(checkpoint)), device="cpu")


def test_whisper_hears_what_ctranslate2_hears(loaded):
    """The tokens and text of five sentences, which are those that were read aloud, but for few."""
    checkpoint, clips = fetched("whisper-tiny.en"), fetched("librivox")
    model = loaded(checkpoint)
    theirs = ctranslate2.models.Whisper(str(checkpoint), compute_type="float32", intra_threads=1)
    prompt = [model.options.decoder_start_token_id, *model.speech_prompt(None, "transcribe")]
    files = sorted(clips.glob("*.wav"))
    assert len(files) == 5
    for file in files:
        features = log_mel.log_mel(recording.read_clip(file), mels=model.dims.mels)
        found = theirs.generate(
            ctranslate2.StorageView.from_array(features[None]),
            [prompt],
            beam_size=1,
            max_length=448,
        )
        wanted = found[0].sequences_ids[0]
        ours = model.transcribe([file])[0][0]
        assert [token for token in ours.ids if token != model.options.eos_token_id[0]] == wanted
        assert ours.text == model.tokenizer.decode(wanted)
        assert ours.finished
        assert len(ours.text.split()) > 5


def test_whisper_in_8_bits_hears_the_same(loaded, tmp_path):
    """The words of the five sentences are the float model's, but for one, in a third of the size.

    That one is for kernels of other processors, which round otherwise.
    """
    model = loaded(fetched("whisper-tiny.en"))
    report = quantize_bundle(model.bundle.path, tmp_path / "small", "int8-weight")
    small = seq2edge.load(report.bundle.path, device="cpu", threads=1)
    assert report.kept == ()
    assert 3 * report.bundle.size < model.bundle.size
    files = sorted(fetched("librivox").glob("*.wav"))
    wanted, found = (
        [word for file in files for word in each.transcribe([file])[0][0].text.split()]
        for each in (model, small)
    )
    matches = difflib.SequenceMatcher(None, wanted, found, autojunk=False).get_matching_blocks()
    assert sum(block.size for block in matches) >= max(len(wanted), len(found)) - 1
    assert len(wanted) > 50


def perplexity(model, ids):
    """Of the ids from the second on, each given all before it."""
    cache, total = model.backend.start(None, 1, len(ids)), 0.0
    for token, following in pairwise(ids):
        logits = all_logits(model.backend.step(np.array([[token]]), np.array([1]), cache))
        total -= float(log_softmax(logits)[0, following])
    return math.exp(total / (len(ids) - 1))


def test_smollm2_in_8_bits_is_as_little_surprised(loaded, tmp_path):
    """Perplexity of a page of English within 2 percent."""
    (file,) = fetched("smollm2-135m").glob("*.gguf")
    model = loaded(file)
    small = quantize_bundle(model.bundle.path, tmp_path / "small", "int8-weight").bundle
    small = seq2edge.load(small.path, device="cpu", threads=1)
    page = Path(__file__).parents[1] / "support" / "page_of_english.md"
    text = page.read_text(encoding="utf-8")
    ids = model.tokenizer.encode(text)[:300]
    assert perplexity(small, ids) == pytest.approx(perplexity(model, ids), rel=0.02)


def test_smollm2_answers_as_its_dequantized_weights_do(loaded):
    """The same tokens as transformers with the weights of the same file, and a right answer."""
    folder = fetched("smollm2-135m")
    (file,) = folder.glob("*.gguf")
    model = loaded(file)
    question = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = model.tokenizer.encode(model.tokenizer.render_chat(question), special_tokens=False)
    reference = transformers.AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=file.name, dtype=torch.float32
    ).eval()
    with torch.no_grad():
        wanted = reference.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
            max_new_tokens=NEW,
            do_sample=False,
            eos_token_id=2,
            pad_token_id=2,
        )[0, len(prompt) :]
    options = model.options.replace(max_new_tokens=NEW, max_length=None)
    answer = model.chat(question, options)[0]
    assert list(answer.ids) == wanted.tolist()
    assert answer.text == "The capital of France is Paris."
    names = load_checkpoint(file).source.names
    assert names == {n for n in reference.state_dict() if n != "lm_head.weight"}


def test_smollm2_tokenizer_cuts_as_the_original():
    """The tokenizer rebuilt from the file gives transformers' ids for text without digits."""
    folder = fetched("smollm2-135m")
    (file,) = folder.glob("*.gguf")
    source = open_foreign(file)
    converted = convert_tokenizer(
        file, config=source.config, vocab=49152, files=source.tokenizer_files
    )
    ours = Tokenizer.from_str(converted.files["tokenizer.json"].decode())
    original = transformers.AutoTokenizer.from_pretrained(folder, gguf_file=file.name)
    for text in (
        "Hello world, it's me!",
        "naïve café 漢字 здравствуй\n\n  two",
        "<|im_start|>user",
    ):
        assert ours.encode(text).ids == original(text)["input_ids"]
        assert ours.decode(ours.encode(text).ids, skip_special_tokens=False) == text


def test_minilm_finds_the_known_similarity(loaded):
    """Two sentences about eating: cosine 0.761; unit length, alone and in a batch."""
    model = loaded(fetched("minilm-l6"))
    texts = ["A man is eating food.", "Someone eats a meal."]
    first, second = model.embed(texts)
    assert first @ second == pytest.approx(0.761, abs=5e-4)
    assert np.linalg.norm(first) == pytest.approx(1.0, abs=1e-5)
    np.testing.assert_allclose(model.embed(texts[:1])[0], first, atol=1e-5)


def test_minilm_cuts_texts_as_its_folder_says(loaded):
    """With a warning, to the embedding of the first tokens that transformers gives."""
    checkpoint = fetched("minilm-l6")
    model = loaded(checkpoint)
    longest = model.bundle.manifest.embedding.longest
    assert longest is not None
    text = " ".join(["A man is eating food."] * longest)
    with pytest.warns(UserWarning, match=f"cut texts to {longest} tokens"):
        (found,) = model.embed([text])
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    inputs = tokenizer(text, truncation=True, max_length=longest, return_tensors="pt")
    with torch.no_grad():
        hidden = transformers.AutoModel.from_pretrained(checkpoint)(**inputs).last_hidden_state
    wanted = torch.nn.functional.normalize(hidden[0].mean(dim=0), dim=0)
    np.testing.assert_allclose(found, wanted.numpy(), atol=1e-5)


def test_a_pickled_checkpoint_is_refused_with_the_way_out():
    """Weights that could run code are never read."""
    with pytest.raises(CheckpointError, match="pickled weights can run code"):
        load_checkpoint(fetched("rxnmapper"))


SENTENCES = [
    *demo_translate.SENTENCES,
    "How are you today?",
    "Prices rose by 3.5% in 2023, the largest increase since 1981!",
    "She said: \u201cI'll be there at 9\u201d, but nobody came.",
    "A library for reading and writing XML files, with bindings for Python and Perl.",
    "What?",
    "The \u65e5\u672c\u8a9e text and the \U0001f600 stay as they are, don't they?",
]


def test_firefox_translates_as_a_float_reference_does(loaded):
    """The tokens that Marian's formulas in float64 give, with and without the lexical shortlist.

    `DESCRIPTIONS=200` in the environment takes so many sentences of Debian's packages.
    """
    folder, texts = fetched("firefox-en-pt"), SENTENCES
    if count := int(os.environ.get("DESCRIPTIONS", "0")):
        texts = [text for text, _ in demo_translate.pairs(count)]
    (file,), (vocabulary,) = folder.glob("model.*.bin"), folder.glob("vocab.*.spm")
    stored = read_marian(file)
    names = [n for n in stored.tensors if not n.startswith("special:") and "QuantMult" not in n]
    marian = bergamot_folders.Marian({name: stored.read(name) for name in names}, heads=8)
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(vocabulary))
    model = loaded(folder)
    lexicon = read_lexicon(model.bundle)
    for text in texts:
        source = [*pieces.encode(text), 0]
        assert model.tokenizer.encode(text) == source
        for allowed in (lexicon.allowed(source), None):
            request = dataclasses.replace(model.request(source), allowed=allowed)
            ids = list(decode(model.backend, [request])[0][0].ids)
            assert ids == marian.greedy(source, 200, allowed)
            assert model.tokenizer.decode(ids) == pieces.decode(ids)
