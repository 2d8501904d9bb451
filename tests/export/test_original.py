"""transformers' own model judges ours: a family that was misread does not pass."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
import transformers
from command_line import call
from requests_of import decode_prompts

from seq2edge.checkpoints.families import find_family
from seq2edge.checkpoints.load import Checkpoint, _restore_tables, load_checkpoint
from seq2edge.errors import ExportError
from seq2edge.export import original, pipeline
from seq2edge.export.eager import EagerBackend
from seq2edge.export.pipeline import record_reference
from seq2edge.model.transformer import Transformer
from seq2edge.runtime import parity
from seq2edge.runtime.options import DecodeOptions


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """The folder of a tiny checkpoint, what we read in it, and what our model answers."""
    made = {}

    def get(name):
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            tiny_models.save(name, folder)
            loaded = load_checkpoint(folder, task=tiny_models.task_of(name))
            made[name] = folder, loaded, record_reference(loaded)
        return made[name]

    return get


def misread(loaded: Checkpoint, side: str, **changes) -> Checkpoint:
    """The checkpoint with other dims over the same weights."""
    dims = loaded.dims
    if side:
        stack = dataclasses.replace(getattr(dims, side), **changes)
        changes = {side: stack}
    dims = dataclasses.replace(dims, **changes)
    model = Transformer(dims).eval().requires_grad_(requires_grad=False)
    model.load_state_dict(loaded.model.state_dict())
    _restore_tables(model, dims)
    return dataclasses.replace(loaded, dims=dims, model=model)


def damaged(loaded: Checkpoint, parameter: str, change) -> Checkpoint:
    """The checkpoint with one parameter changed."""
    model = Transformer(loaded.dims).eval().requires_grad_(requires_grad=False)
    model.load_state_dict(loaded.model.state_dict())
    _restore_tables(model, loaded.dims)
    tensor = model.get_parameter(parameter)
    tensor.copy_(change(tensor))
    return dataclasses.replace(loaded, model=model)


LAYERS = (
    "num_hidden_layers encoder_layers decoder_layers n_layer n_layers num_layers num_decoder_layers"
    " encoder_num_hidden_layers decoder_num_hidden_layers"
).split()
HIDDEN = "intermediate_size encoder_ffn_dim decoder_ffn_dim d_ff hidden_dim ffn_dim".split()
WIDTHS = "hidden_size d_model n_embd dim".split()
# Other settings must have as many entries as there are layers, or values as heads have.
FIXED_LAYERS = {"layer_types", "no_rope_layers"}
FIXED_WIDTHS = {"phi3", "granite-hybrid", "stablelm"}
# Heads of 40 come out.
EVEN = {
    "bert-sparse",
    "bert-tokens",
    "bert-span",
    "bert-masked",
    "bert-masked-untied",
    "modernbert-tokens",
}


def other_shape(name: str) -> dict[str, Any]:
    """Settings that make the tiny model of that name another one."""
    return reshaped(tiny_models.EVERY[name].settings, name)


def reshaped(settings: dict[str, Any], name: str) -> dict[str, Any]:
    """The same of these settings, and of those within them."""
    changes: dict[str, Any] = {"vocab_size": 89} if "vocab_size" in settings else {}
    for key, value in settings.items():
        if key in ("encoder", "decoder"):
            changes[key] = {**value, **reshaped(value, name)}
        elif key == "cross_attention_hidden_size":
            changes[key] = value * 5 // 4
        elif key in LAYERS and not FIXED_LAYERS & set(settings):
            changes[key] = value + 1
        elif key in HIDDEN:
            changes[key] = 36
        elif key in WIDTHS and name not in FIXED_WIDTHS:
            changes[key] = value + 8 if "head_dim" in settings else value * 5 // 4
        elif key in ("head_dim", "d_kv"):
            changes[key] = 20
    return changes


def shifted(table: torch.Tensor) -> torch.Tensor:
    """Every row one place later."""
    return table.roll(1, 0)


MISREADINGS = {
    "rotary base, 5th digit": ("llama", lambda c: misread(c, "decoder", rotary_theta=10001.0)),
    "ten times epsilon": ("qwen2", lambda c: misread(c, "decoder", norm_epsilon=1e-5)),
    "ten times epsilon, encoder": ("bart", lambda c: misread(c, "encoder", norm_epsilon=1e-4)),
    "window one longer": ("mistral", lambda c: misread(c, "decoder", window=7)),
    "a bias dropped": (
        "llama-biases-tied",
        lambda c: damaged(c, "decoder.layers.1.attention.out.bias", torch.zeros_like),
    ),
    "positions one off": ("gpt2", lambda c: damaged(c, "decoder.positions.weight", shifted)),
    "positions from 1 on": ("m2m100", lambda c: damaged(c, "encoder.positions.weight", shifted)),
    "embedding not scaled": ("mbart", lambda c: misread(c, "encoder", embedding_scale=1.0)),
    "another gelu": ("gpt2", lambda c: misread(c, "decoder", activation="gelu")),
    "hidden states not scaled": ("t5", lambda c: misread(c, "", logits_scale=1.0)),
    "buckets of distance": ("t5", lambda c: misread(c, "encoder", relative_distance=9)),
    "attention scaled": ("t5-untied", lambda c: misread(c, "decoder", attention_scale=8**-0.5)),
    "norms before, not behind": ("bert-embedding", lambda c: misread(c, "encoder", pre_norm=True)),
    "the class token dropped": (
        "trocr",
        lambda c: damaged(
            c, "encoder.positions.weight", lambda w: w * (torch.arange(16) > 0)[:, None]
        ),
    ),
    "a norm's weight, 4th digit": (
        "qwen3",
        lambda c: damaged(c, "decoder.layers.0.attention.key_norm.weight", lambda w: 1.0001 * w),
    ),
}


@pytest.mark.parametrize("planted", MISREADINGS)
def test_a_misread_family_is_caught(opened, planted):
    """By transformers, and by the tolerance that graphs are held to."""
    name, plant = MISREADINGS[planted]
    folder, loaded, reference = opened(name)
    wrong = plant(loaded)
    assert not parity.replay(EagerBackend(wrong.model), reference).within()
    assert not original.compare(folder, wrong.dims, record_reference(wrong)).equal


@pytest.mark.parametrize("name", tiny_models.EVERY)
def test_a_family_as_we_read_it_is_its_original(opened, name):
    """And errs from the float64 model by about as much as ours does."""
    folder, loaded, reference = opened(name)
    found = original.compare(folder, loaded.dims, reference)
    assert found.equal
    assert found.place == ""
    assert found.implementation.startswith("transformers 5")
    assert found.parity.max_absolute < 4e-5 or name in ("t5-untied", "mt5")


DECODERS = {
    **{name: (name, {}) for name, of in tiny_models.GENERATORS.items() if of.kind == "decoder"},
    "falcon-7b": ("falcon", {"new_decoder_architecture": False, "multi_query": True}),
    "falcon-rw": ("falcon", {"new_decoder_architecture": False, "parallel_attn": False}),
    "gpt-neox-in-a-row": ("gpt-neox", {"use_parallel_residual": False}),
}


def classes_of_decoders():
    """Every class of a decoder that does not generate, and the tiny model it is made like."""
    for form, (name, _) in DECODERS.items():
        model_type = getattr(transformers, tiny_models.GENERATORS[name].config).model_type
        for architecture in find_family(model_type).architectures:
            if not architecture.endswith(("ForCausalLM", "LMHeadModel")):
                yield form, architecture


@pytest.mark.parametrize(("form", "architecture"), [*classes_of_decoders()])
def test_a_decoder_under_another_head_is_its_original(tmp_path, monkeypatch, form, architecture):
    """It embeds, classifies, tags or answers, wherever transformers has a class for it."""
    name, changes = DECODERS[form]
    labels = 2 if architecture.endswith("ForQuestionAnswering") else 3
    like = dataclasses.replace(tiny_models.GENERATORS[name], model=architecture)
    monkeypatch.setitem(tiny_models.EVERY, name, like)
    tiny_models.save(name, tmp_path, **changes, num_labels=labels)
    loaded = load_checkpoint(tmp_path)
    assert loaded.dims.kind == "encoder"
    assert original.compare(tmp_path, loaded.dims, record_reference(loaded)).equal


@pytest.mark.parametrize("name", tiny_models.EVERY)
def test_a_family_is_its_original_in_another_shape(tmp_path, name):
    """More layers and heads of other sizes, most of them no multiple of 8."""
    tiny_models.save(name, tmp_path, **other_shape(name))
    loaded = load_checkpoint(tmp_path, task=tiny_models.task_of(name))
    stack = loaded.dims.decoder or loaded.dims.encoder
    assert loaded.dims.vocab in (89, tiny_models.VOCAB - 16)
    assert stack.head_dim % 8 or name in (*FIXED_WIDTHS, *EVEN)
    assert original.compare(tmp_path, loaded.dims, record_reference(loaded)).equal


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", ["t5-untied", "bart", "llama", "whisper", "bert"])
def test_no_right_model_is_refused(tmp_path, name, seed):
    """However large its weights are, and with them its logits."""
    model = tiny_models.make(name, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4.0 ** (2 * torch.rand((), generator=generator) - 1))
    model.save_pretrained(tmp_path)
    loaded = load_checkpoint(tmp_path)
    assert original.compare(tmp_path, loaded.dims, record_reference(loaded)).equal


@pytest.mark.parametrize(
    ("name", "parameter", "place"),
    [
        ("bart", "encoder.layers.1.feedforward.down.bias", "the encoder's layer 1"),
        ("llama", "decoder.layers.0.attention.qkv.weight", "the decoder's layer 0"),
        ("gpt2", "decoder.positions.weight", "the decoder's embedding"),
        ("albert-embedding", "encoder.layers.0.feedforward.down.bias", "the encoder's layer 0"),
        ("bert", "classifier_out.bias", "what follows the layers"),
        ("trocr", "patches.bias", "the encoder's embedding"),
        ("trocr", "decoder.layers.0.feedforward.down.bias", "the decoder's layer 0"),
        ("trocr-deit", "encoder.layers.1.feedforward.down.bias", "the encoder's layer 1"),
    ],
)
def test_the_first_difference_is_named(opened, monkeypatch, name, parameter, place):
    """Hidden states side by side."""
    folder, loaded, _ = opened(name)
    wrong = damaged(loaded, parameter, lambda tensor: 1.5 * tensor + 0.01)
    monkeypatch.setattr(original, "load_checkpoint", lambda _, **__: wrong)
    assert original.compare(folder, wrong.dims, record_reference(wrong)).place == place


def test_long_texts_have_the_positions_of_long_texts(tmp_path):
    """LongRoPE's long factors: the original's tokens behind a prompt beyond the original length."""
    reference = tiny_models.save("phi3", tmp_path)
    loaded = load_checkpoint(tmp_path, long_context=True)
    assert loaded.dims.decoder.max_positions == 256
    prompt = torch.randint(3, 90, (1, 70), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        reference.generation_config.eos_token_id = None
        wanted = reference.generate(prompt, max_new_tokens=12, do_sample=False)
    options = DecodeOptions()
    backend = EagerBackend(loaded.model)
    ((found,),) = decode_prompts(backend, prompt.tolist(), options, max_new_tokens=12)
    assert list(found.ids) == wanted[0, 70:].tolist()
    record = record_reference(loaded)
    assert original.compare(tmp_path, loaded.dims, record).equal
    short = load_checkpoint(tmp_path)
    assert not parity.replay(EagerBackend(short.model), record).within()
    assert not original.compare(tmp_path, short.dims, record).equal
    ((other,),) = decode_prompts(
        EagerBackend(short.model), prompt.tolist(), options, max_new_tokens=12
    )
    assert other.ids != found.ids


def test_the_first_difference_of_long_texts_is_named(tmp_path, monkeypatch):
    """The layers are compared with the long factors too."""
    tiny_models.save("phi3", tmp_path)
    wrong = damaged(
        load_checkpoint(tmp_path, long_context=True),
        "decoder.layers.1.attention.qkv.weight",
        lambda tensor: 1.5 * tensor,
    )
    monkeypatch.setattr(original, "load_checkpoint", lambda _, **__: wrong)
    comparison = original.compare(tmp_path, wrong.dims, record_reference(wrong))
    assert comparison.place == "the decoder's layer 1"


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_context_that_is_no_choice_is_refused(tmp_path, name):
    """By the command, of a model with other positions and of one with one kind of rotary ones."""
    tiny_models.save(name, tmp_path / "checkpoint")
    result = call("export", tmp_path / "checkpoint", "-o", tmp_path / "bundle", "--long-context")
    assert result.exit_code == 1
    assert "long_context: the checkpoint has no positions of their own" in result.stderr


def test_what_transformers_cannot_load_is_said(opened, tmp_path):
    """It is no reason to refuse the checkpoint."""
    _, loaded, reference = opened("gpt2")
    with pytest.raises(original.NoOriginalError, match=r"transformers 5\S* does not load it"):
        original.compare(tmp_path, loaded.dims, reference)


def test_weights_that_transformers_would_make_up(opened, tmp_path):
    """They are random: nothing could be compared."""
    _, loaded, reference = opened("gpt2")
    tiny_models.make("gpt2").transformer.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"architectures": ["GPT2ForTokenClassification"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(original.NoOriginalError, match=r"would make up classifier\.bias"):
        original.compare(tmp_path, loaded.dims, reference)


def test_the_program_of_each_row(opened):
    """What `histories` says a row read gives what was recorded, the exchange of beams included."""
    _, loaded, reference = opened("llama")
    backend = EagerBackend(loaded.model)
    for i in (0, 3, parity.STEPS):
        for row, (_, ids) in enumerate(parity.histories(reference)[i]):
            cache = backend.start(None, 1, None)
            logits = backend.step(np.array([ids]), np.array([len(ids)]), cache)
            assert logits.argmax() == reference[f"top_ids_{i}"][row, 0]


def test_the_command_compares_and_says_so(tmp_path, monkeypatch):
    """In the manifest and in `inspect`; a model that was misread is not written."""
    tiny_models.save("bert", tmp_path / "checkpoint")
    result = call("export", tmp_path / "checkpoint", "-o", tmp_path / "bundle")
    assert result.exit_code == 0, result.stderr
    assert "original: transformers 5" in result.stderr
    shown = call("inspect", tmp_path / "bundle").stdout
    assert "original    compared with transformers 5" in shown
    assert "BertForSequenceClassification: within" in shown
    wrong = damaged(load_checkpoint(tmp_path / "checkpoint"), "classifier_out.bias", lambda b: -b)
    monkeypatch.setattr(pipeline, "load_checkpoint", lambda *_, **__: wrong)
    refused = call("export", tmp_path / "checkpoint", "-o", tmp_path / "other")
    assert refused.exit_code == 1
    assert "answers otherwise than our model: largest error" in refused.stderr
    assert "they first differ in what follows the layers" in refused.stderr
    assert not (tmp_path / "other").exists()


def test_without_the_original_the_reason_is_kept(exported):
    """Of what was left out, and of what transformers has no class for."""
    _, folder, _ = exported("t5")
    assert "original    not compared: it was left out" in call("inspect", folder / "bundle").stdout


def test_a_comparison_that_dies_is_no_agreement(opened, tmp_path, monkeypatch):
    """Killed for its memory, say."""
    monkeypatch.setattr(original.sys, "executable", "/bin/false")
    with pytest.raises(ExportError, match=r"ended with 1 \(it said nothing\).*--original no"):
        original._run(tmp_path, opened("gpt2")[1].dims, tmp_path, ())
