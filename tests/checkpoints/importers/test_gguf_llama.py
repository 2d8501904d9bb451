"""The files are written with ggml's own Python package from tiny random models."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import tiny_models
import torch
from gguf_files import TOKENS, settings, write
from tokenizers import Tokenizer

from seq2edge.checkpoints.importers import open_foreign
from seq2edge.checkpoints.load import load_checkpoint
from seq2edge.checkpoints.tokenizer import convert_tokenizer
from seq2edge.errors import CheckpointError, UnsupportedError
from seq2edge.export.eager import EagerBackend


@pytest.fixture(scope="module")
def original():
    """A random Llama with grouped heads and an LM head of its own."""
    return tiny_models.make("llama")


@pytest.mark.parametrize("name", ["llama", "llama-biases-tied"])
def test_gives_the_logits_of_the_model_it_was_made_from(name, tmp_path):
    """Names and the order of rows come back, with biases and a tied table too."""
    model = tiny_models.make(name)
    loaded = load_checkpoint(write(model, tmp_path / "model.gguf"))
    tokens = [5, 17, 40, 8, 21]
    with torch.no_grad():
        wanted = model(input_ids=torch.tensor([tokens])).logits[:, -1]
    backend = EagerBackend(loaded.model)
    found = backend.step(np.array([tokens]), np.array([5]), backend.start(None, 1, None))
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    assert loaded.dims.tied == model.config.tie_word_embeddings
    assert loaded.source.source_format == "gguf"


def test_llama_3s_frequencies_are_divided_by_the_factors_of_the_file(tmp_path):
    """As the model's config says it in a formula."""
    scaling = {
        "rope_type": "llama3",
        "rope_theta": 10000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 24,
    }
    model = tiny_models.make("llama", rope_parameters=scaling)
    plain = 10000.0 ** (-np.arange(0, 8, 2) / 8)
    factors = plain / model.model.rotary_emb.inv_freq.numpy()
    assert factors.max() == pytest.approx(8)
    loaded = load_checkpoint(write(model, tmp_path / "model.gguf", rope_freqs=factors))
    assert loaded.dims.decoder.max_positions == model.config.max_position_embeddings
    tokens = torch.randint(3, 80, (1, 30), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        wanted = model(input_ids=tokens).logits[:, -1]
    backend = EagerBackend(loaded.model)
    found = backend.step(tokens.numpy(), np.array([30]), backend.start(None, 1, None))
    np.testing.assert_allclose(found, wanted, atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "error"), [("F16", 1e-3), ("BF16", 1e-2), ("Q8_0", 1e-2), ("Q4_1", 0.1)]
)
def test_reads_quantized_types(original, tmp_path, kind, error):
    """Every row of blocks is dequantized to within what its type keeps."""
    source = open_foreign(write(original, tmp_path / "model.gguf", gguf.GGMLQuantizationType[kind]))
    weights = original.state_dict()
    assert source.names == set(weights)
    for name in source.names:
        largest = weights[name].abs().max().item()
        torch.testing.assert_close(source.read(name), weights[name], atol=error * largest, rtol=0)


def test_a_folder_with_one_file_is_that_file(original, tmp_path):
    """Whoever unpacked it need not know the name; of two files one must be named."""
    write(original, tmp_path / "a.gguf")
    assert open_foreign(tmp_path).names == set(original.state_dict())
    write(original, tmp_path / "b.gguf")
    with pytest.raises(CheckpointError, match=r"holds a\.gguf, b\.gguf, name the file"):
        open_foreign(tmp_path)


def test_the_tokenizer_inside_becomes_a_tokenizer_json(original, tmp_path):
    """Digits one by one, merges applied, special tokens found, template kept."""
    source = open_foreign(write(original, tmp_path / "model.gguf", tokens={}))
    converted = convert_tokenizer(
        tmp_path, config=source.config, vocab=96, files=source.tokenizer_files
    )
    found = Tokenizer.from_str(converted.files["tokenizer.json"].decode())
    assert found.encode("ab ab</s>12").tokens == ["ab", "Ġab", "</s>", "1", "2"]
    assert found.decode(found.encode("ab ab").ids) == "ab ab"
    assert converted.record.special.eos == "</s>"
    assert converted.files[converted.record.chat_template] == b"{{ messages[0].content }}"
    assert source.generation == {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}


def test_a_beginning_is_added_where_the_file_says_so(original, tmp_path):
    """add_bos_token, and Llama 3's own rule where the file is silent."""
    for number, tokens in enumerate(({"add_bos_token": True}, {"pre": "llama-bpe"})):
        file = write(original, tmp_path / f"{number}.gguf", tokens=tokens)
        found = Tokenizer.from_str(open_foreign(file).tokenizer_files["tokenizer.json"].decode())
        assert found.encode("ab").tokens == ["<s>", "ab"]


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ({"model": "llama"}, "model 'llama' is not supported, only byte-level BPE"),
        ({"pre": "tekken"}, "pre 'tekken' is not supported, known: gpt-2"),
        ({"pre": None}, "pre None is not supported"),
        ({"add_space_prefix": True}, "add_space_prefix is not supported"),
        ({"surprise": 1}, "surprise is not supported"),
        ({"merges": ["a"]}, "merges are damaged"),
        ({"merges": ["a zz"]}, "merges"),
        ({"tokens": ["a"]}, "token_type has not one number"),
        ({"eos_token_id": 96}, "eos_token_id 96 of 96 tokens"),
        ({"tokens": [*TOKENS[:-1], TOKENS[0]]}, "damaged"),
    ],
)
def test_a_tokenizer_that_would_cut_differently_is_refused(original, tmp_path, tokens, message):
    """Each fault is named, nothing is approximated."""
    with pytest.raises(CheckpointError, match=message):
        open_foreign(write(original, tmp_path / "model.gguf", tokens=tokens))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rope.scaling.type": "yarn"}, r"llama\.rope\.scaling\.type = 'yarn' is not supported"),
        ({"expert_count": 8}, r"llama\.expert_count = 8 is not supported"),
        ({"attention.sliding_window": 64}, "sliding_window = 64 is not supported"),
        ({"rope.dimension_count": 4}, "differs from the heads' 8"),
        ({"block_count": None}, "block_count is None, needs a positive integer"),
        ({"rope.freq_base": -1.0}, r"freq_base is -1\.0"),
        ({"architecture": "gemma"}, "architecture 'gemma' is not supported"),
        ({"block_count": 3}, r"layers\.2\..* is missing"),
        ({"block_count": 1}, r"no place for: .*layers\.1"),
        ({"feed_forward_length": 128}, "the config asks for"),
        ({"vocab_size": 90}, "the config asks for"),
    ],
)
def test_settings_that_do_not_fit_are_refused_by_name(original, tmp_path, changes, message):
    """Unknown features and contradictions with the tensors."""
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(write(original, tmp_path / "model.gguf", **changes))


def test_a_tensor_of_another_model_is_refused(original, tmp_path):
    """Factors for longer texts, for instance, would change the result."""
    file = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(file, "llama")
    settings(writer, original)
    writer.add_tensor("rope_factors_long.weight", np.ones(4, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(UnsupportedError, match=r"rope_factors_long\.weight is not one"):
        open_foreign(file)
