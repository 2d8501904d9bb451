"""From a folder to the canonical Transformer: the same logits, and every tensor accounted for."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tiny_models
import torch
import transformers
from safetensors.torch import load_file, save_file

from seq2edge.checkpoints.load import load_checkpoint, open_source
from seq2edge.errors import CheckpointError, UnsupportedError
from seq2edge.export.eager import EagerBackend

CLOSE = {"atol": 2e-5, "rtol": 2e-5}


@pytest.fixture
def folder(tmp_path):
    """Saves the tiny model of that name; `folder(name)` gives its path."""

    def save(name, **changes):
        tiny_models.save(name, tmp_path / name, **changes)
        return tmp_path / name

    return save


def edit_tensors(path, change):
    """Rewrite the weights of a checkpoint."""
    tensors = load_file(path / "model.safetensors")
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    change(tensors)
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})


def edit_config(path, **changes):
    """Rewrite some settings of a checkpoint."""
    values = json.loads((path / "config.json").read_text())
    values.update(changes)
    (path / "config.json").write_text(json.dumps(values))


def our_logits(loaded, source, target):
    """Logits after every token of `target`: four at once, then one by one."""
    backend, memory = EagerBackend(loaded.model), None
    if source is not None:
        length = np.full(len(source), loaded.dims.source_positions or source.shape[1])
        memory = backend.encode(source.numpy(), length)
    cache = backend.start(memory, len(target), None)
    answers = []
    for new in (target[:, :4], *target[:, 4:].split(1, dim=1)):
        count = np.full(len(target), new.shape[1])
        answers.append(backend.step(np.ascontiguousarray(new.numpy()), count, cache))
    return np.stack(answers, axis=1)


def named(cases):
    """Parameters of a test: names of tiny models, alone or with changed settings."""
    pairs = [case if isinstance(case, tuple) else (case, {}) for case in cases]
    ids = ["-".join([name, *(f"{k}={v}" for k, v in new.items())]) for name, new in pairs]
    return pytest.mark.parametrize(("name", "changes"), pairs, ids=ids)


@named(
    [
        *tiny_models.GENERATORS,
        *tiny_models.EAGER_GENERATORS,
        ("m2m100", {"pad_token_id": 5}),
        ("bart", {"pad_token_id": 5}),
        ("marian", {"pad_token_id": 5}),
        ("marian-split", {"tie_word_embeddings": False}),
        ("mbart", {"tie_word_embeddings": False}),
        ("opt", {"do_layer_norm_before": False}),
        ("opt", {"_remove_final_layer_norm": True}),
    ]
)
def test_logits_are_those_of_transformers(folder, name, changes):
    """After a prefill and after each step from the cache, for every family."""
    path = folder(name, **changes)
    reference, loaded = tiny_models.make(name, **changes), load_checkpoint(path)
    generator = torch.Generator().manual_seed(5)
    target = torch.randint(6, loaded.dims.vocab, (2, 11), generator=generator)
    if loaded.dims.kind == "decoder":
        inputs, source = {"input_ids": target}, None
    elif loaded.dims.reads_signal:
        shape = loaded.dims.source_shape or (5000,)
        source = torch.randn((2, *shape), generator=generator)
        inputs = {reference.main_input_name: source, "decoder_input_ids": target}
    else:
        source = torch.randint(6, 80, (2, 9), generator=generator)
        mask = torch.ones_like(source)
        inputs = {"input_ids": source, "attention_mask": mask, "decoder_input_ids": target}
    with torch.no_grad():
        wanted = reference(**inputs).logits[:, 3:].numpy()
    np.testing.assert_allclose(our_logits(loaded, source, target), wanted, **CLOSE)


@named(
    [
        *tiny_models.ENCODERS,
        *tiny_models.ALIKE,
        ("roberta", {"pad_token_id": 0}),
        ("deberta-v2", {"share_att_key": False, "norm_rel_ebd": "none"}),
        ("deberta-v2", {"position_biased_input": True, "type_vocab_size": 2}),
        ("deberta-v2", {"pooler_hidden_act": "tanh"}),
        ("deberta-v2", {"position_buckets": -1}),
        ("deberta", {"max_relative_positions": -1, "type_vocab_size": 2}),
        ("roberta-embedding", {"pad_token_id": 5}),
    ]
)
def test_answers_of_encoders_are_those_of_transformers(folder, name, changes):
    """Logits and means of hidden states, of rows of unequal lengths."""
    loaded, reference = load_checkpoint(folder(name, **changes)), tiny_models.make(name, **changes)
    source = torch.randint(6, 80, (3, 9), generator=torch.Generator().manual_seed(5))
    length = torch.tensor([9, 4, 1])
    mask = torch.arange(9) < length[:, None]
    source[~mask] = reference.config.pad_token_id
    with torch.no_grad():
        output = reference(input_ids=source, attention_mask=mask.long())
        if loaded.dims.head == "classifier":
            wanted = output.logits
        else:
            wanted = (output.last_hidden_state * mask[:, :, None]).sum(1) / length[:, None]
        found = loaded.model.pool(source, length)
    torch.testing.assert_close(found, wanted, **CLOSE)


@pytest.mark.parametrize(
    "name", ["llama", "mistral", "gemma", "gemma2", "gpt-neox", "gpt2", "lfm2"]
)
def test_a_decoder_embeds_by_its_last_token(folder, name):
    """The state behind its last norm; a head of words is not used, tied or not."""
    loaded, reference = load_checkpoint(folder(name), task="embed"), tiny_models.make(name)
    source = torch.randint(6, 80, (3, 9), generator=torch.Generator().manual_seed(5))
    length = torch.tensor([9, 4, 1])
    mask = (torch.arange(9) < length[:, None]).long()
    with torch.no_grad():
        hidden = reference.base_model(input_ids=source, attention_mask=mask).last_hidden_state
        found = loaded.model.pool(source, length)
    torch.testing.assert_close(found, hidden[torch.arange(3), length - 1], **CLOSE)
    assert set(loaded.unused_tensors) <= {"lm_head.weight", "embed_out.weight"}


def test_heads_that_a_decoder_lacks_are_refused(folder):
    """By the class of its config."""
    with pytest.raises(UnsupportedError, match="LlamaForCausalLM is made to generate"):
        load_checkpoint(folder("llama"), task="classify")


@pytest.mark.parametrize("name", [*tiny_models.HEADS, *tiny_models.EAGER_HEADS])
def test_heads_of_tokens_are_those_of_transformers(folder, name):
    """Logits of every token that is none of padding; weights of a text, which counts it alone."""
    reference = tiny_models.make(name)
    loaded = load_checkpoint(folder(name), task=tiny_models.task_of(name))
    source, lengths = torch.randint(3, 90, (2, 9)), torch.tensor([9, 4])
    mask = torch.arange(9) < lengths[:, None]
    with torch.no_grad():
        output = reference(input_ids=source, attention_mask=mask.long())
        wanted = output.logits if "span" not in name else None
        if wanted is None:
            wanted = torch.stack((output.start_logits, output.end_logits), dim=-1)
    found = torch.from_numpy(EagerBackend(loaded.model).pool(source.numpy(), lengths.numpy()))
    if "sparse" in name:
        largest = (torch.log1p(torch.relu(wanted)) * mask[:, :, None]).amax(dim=1)
        torch.testing.assert_close(found, largest, **CLOSE)
    else:
        torch.testing.assert_close(found[mask], wanted[mask], **CLOSE)
    assert loaded.labels == (("LABEL_0", "LABEL_1", "LABEL_2") if "tokens" in name else ())


def _scaled(kind, **settings):
    return {"rope_type": kind, "rope_theta": 5000.0, **settings}


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("llama", {"rope_parameters": _scaled("linear", factor=4.0)}),
        ("llama", {"rope_parameters": _scaled("dynamic", factor=4.0)}),
        (
            "qwen3",
            {"rope_parameters": _scaled("yarn", factor=4.0, original_max_position_embeddings=16)},
        ),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}),
        (
            "smollm3",
            {"use_sliding_window": True, "sliding_window": 5, "no_rope_layers": [1, 0]},
        ),
        ("gpt-neox", {"use_parallel_residual": False}),
        ("falcon", {"new_decoder_architecture": False}),
        (
            "falcon",
            {"new_decoder_architecture": False, "multi_query": False, "num_kv_heads": 4},
        ),
        ("falcon", {"new_decoder_architecture": False, "parallel_attn": False}),
        ("falcon", {"num_ln_in_parallel_attn": 1}),
        ("exaone4", {"sliding_window": None, "layer_types": ["full_attention"] * 2}),
        (
            "gemma3",
            {
                "rope_parameters": {
                    "full_attention": _scaled("linear", factor=8.0),
                    "sliding_attention": {"rope_type": "default", "rope_theta": 300.0},
                }
            },
        ),
        (
            "olmo3",
            {
                "rope_parameters": {
                    "full_attention": _scaled(
                        "yarn", factor=4.0, original_max_position_embeddings=16
                    ),
                    "sliding_attention": _scaled("default"),
                }
            },
        ),
    ],
)
def test_variants_give_the_logits_of_transformers(folder, name, changes):
    """What differs in numbers and weights alone: their graphs are those of others."""
    path = folder(name, **changes)
    reference, loaded = tiny_models.make(name, **changes), load_checkpoint(path)
    target = torch.randint(3, 80, (2, 21), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        wanted = reference(input_ids=target).logits[:, 3:].numpy()
    np.testing.assert_allclose(our_logits(loaded, None, target), wanted, **CLOSE)


@pytest.mark.parametrize("name", ["llama", "bart", "bert"])
def test_shards_give_the_same_model(folder, tmp_path, name):
    """A model in several files is that model."""
    one = load_checkpoint(folder(name))
    model = tiny_models.make(name)
    model.save_pretrained(tmp_path / "sharded", max_shard_size="20KB")
    assert not (tmp_path / "sharded" / "model.safetensors").exists()
    several = load_checkpoint(tmp_path / "sharded").model.state_dict()
    assert all(torch.equal(several[key], value) for key, value in one.model.state_dict().items())


def test_bare_encoders_may_lack_their_prefix(folder):
    """`bert.encoder...` in a classifier's file, `encoder...` in a bare model's; gamma and beta."""
    path = folder("bert-embedding")
    wanted = load_checkpoint(path).model.state_dict()

    def as_in_tensorflow(tensors):
        for name in list(tensors):
            old = name.replace("LayerNorm.weight", "LayerNorm.gamma")
            old = old.replace("LayerNorm.bias", "LayerNorm.beta")
            tensors[f"bert.{old}"] = tensors.pop(name)

    edit_tensors(path, as_in_tensorflow)
    found = load_checkpoint(path).model.state_dict()
    assert all(torch.equal(found[key], value) for key, value in wanted.items())


@pytest.mark.parametrize("name", ["t5", "bart", "whisper", "gpt2", "llama", "bert", "deberta-v2"])
def test_a_missing_tensor_is_named(folder, name):
    """Each one of them, not only the first."""
    path = folder(name)
    names = sorted(load_file(path / "model.safetensors"))
    made = ("embed_positions", "final_logits_bias")
    for missing in [n for n in names if not any(part in n for part in made)][::5]:
        kept = load_file(path / "model.safetensors")[missing]
        edit_tensors(path, lambda tensors, key=missing: tensors.pop(key))
        with pytest.raises(CheckpointError, match=f"tensor {missing} is missing"):
            load_checkpoint(path)
        edit_tensors(path, lambda tensors, key=missing, value=kept: tensors.update({key: value}))
    load_checkpoint(path)


@pytest.mark.parametrize("shape", [(6, 32), (8, 16)])
def test_tensors_that_make_no_table_are_named(folder, shape):
    """Too few rows of relative positions, or too narrow ones."""
    path, name = folder("deberta-v2"), "deberta.encoder.rel_embeddings.weight"
    edit_tensors(path, lambda tensors: tensors.update({name: torch.ones(shape)}))
    rows, width = shape
    with pytest.raises(
        CheckpointError, match=rf"position_key \[4, 8, 8\].*{name} \[{rows}, {width}\]"
    ):
        load_checkpoint(path)


@pytest.mark.parametrize("name", ["t5", "marian-split", "gpt2", "qwen3", "distilbert"])
def test_a_tensor_without_a_place_is_named(folder, name):
    """Whatever a checkpoint holds beyond the model was there for a reason."""
    path = folder(name)
    edit_tensors(path, lambda tensors: tensors.update({"model.adapter.weight": torch.ones(2)}))
    with pytest.raises(CheckpointError, match=rf"{name.split('-')[0]} has no place for: model\.ad"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("t5", "shared.weight"),
        ("bart", "model.encoder.layers.0.self_attn.k_proj.weight"),
        ("whisper", "model.encoder.conv1.weight"),
        ("gpt2", "transformer.h.1.mlp.c_fc.weight"),
        ("llama", "model.layers.0.mlp.up_proj.weight"),
        ("llama", "model.norm.weight"),
        ("roberta", "roberta.embeddings.position_embeddings.weight"),
    ],
)
@pytest.mark.parametrize("axis", [0, -1])
def test_a_wrong_shape_is_refused(folder, name, tensor, axis):
    """By name, with both shapes, along any axis."""
    path = folder(name)

    def shorten(tensors):
        tensors[tensor] = tensors[tensor].narrow(axis, 0, tensors[tensor].shape[axis] - 1).clone()

    edit_tensors(path, shorten)
    with pytest.raises(CheckpointError, match=r"shape|rows together") as caught:
        load_checkpoint(path)
    assert tensor in str(caught.value)


def test_second_names_of_a_tied_tensor_must_agree(folder):
    """Equal copies are common and harmless; different ones would be lost."""
    path = folder("llama-biases-tied")
    table = load_file(path / "model.safetensors")["model.embed_tokens.weight"]
    edit_tensors(path, lambda tensors: tensors.update({"lm_head.weight": table.clone()}))
    load_checkpoint(path)
    edit_tensors(path, lambda tensors: tensors.update({"lm_head.weight": table + 1e-3}))
    with pytest.raises(CheckpointError, match=r"lm_head\.weight differs from model\.embed_tokens"):
        load_checkpoint(path)


def test_tensors_the_task_does_not_use_are_listed(folder):
    """They are known by name, and reported."""
    loaded = load_checkpoint(folder("bert-embedding"))
    assert loaded.unused_tensors == ("pooler.dense.bias", "pooler.dense.weight")
    assert load_checkpoint(folder("bert")).unused_tensors == ()


def test_settings_that_nobody_reads_are_refused(folder):
    """A new feature of a known family must not be passed over; null and false are no features."""
    path = folder("gpt2")
    edit_config(path, clever_trick=2, other=None, third=False)
    with pytest.raises(UnsupportedError, match=r"not supported: clever_trick=2; remove them only"):
        load_checkpoint(path)


def test_quantized_checkpoints_are_refused(folder):
    """By their config, before any tensor is read."""
    path = folder("llama")
    edit_config(path, quantization_config={"quant_method": "awq"})
    with pytest.raises(UnsupportedError, match=r"quantization_config .*awq.* is not supported"):
        load_checkpoint(path)


def test_labels_and_what_their_scores_mean(folder):
    """transformers' own rule where the config does not say."""
    three = load_checkpoint(folder("bert"))
    assert (three.labels, three.problem) == (("LABEL_0", "LABEL_1", "LABEL_2"), "single_label")
    one = load_checkpoint(folder("roberta", num_labels=1))
    assert (one.labels, one.problem) == (("LABEL_0",), "regression")
    path = folder("distilbert")
    edit_config(path, id2label={"1": "b", "0": "a", "2": "c"})
    edit_config(path, problem_type="multi_label_classification")
    several = load_checkpoint(path)
    assert (several.labels, several.problem) == (("a", "b", "c"), "multi_label")
    edit_config(path, problem_type="ranking")
    with pytest.raises(UnsupportedError, match="problem_type 'ranking' is not supported"):
        load_checkpoint(path)
    edit_config(path, problem_type=None, id2label={"0": "a", "5": "b"})
    with pytest.raises(CheckpointError, match=r"id2label .* does not count from 0"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    "settings",
    [
        {"num_labels": 3, "id2label": {"0": "a"}},
        {"num_labels": 3, "id2label": None},
        {"id2label": {"0": "a", "1": "b", "2": "c"}},
        {"num_labels": 3, "id2label": {"0": "a", "1": "b", "2": "c"}},
    ],
)
def test_labels_are_as_many_as_transformers_says(folder, settings):
    """Where the config names none, or another number of them than it says."""
    path = folder("bert")
    edit_config(path, **settings)
    theirs = transformers.BertForSequenceClassification.from_pretrained(path).config.id2label
    assert load_checkpoint(path).labels == tuple(theirs.values())


def test_a_config_that_names_its_class_alone_is_enough(folder):
    """Old files have no `model_type`; where the class is unknown too, it is missed by name."""
    path = folder("bert-embedding")
    edit_config(path, model_type=None)
    loaded = load_checkpoint(path)
    assert (loaded.family, loaded.source.config["model_type"]) == ("bert", "bert")
    edit_config(path, architectures=["Perceptron"])
    with pytest.raises(UnsupportedError, match="model_type: '' is not supported"):
        load_checkpoint(path)


def test_marks_of_other_programs_are_no_settings(folder):
    """As published folders have them; a decoder may say that it is one."""
    path = folder("llama")
    marks = {"unsloth_fixed": True, "pruned_heads": {}, "auto_map": {"AutoModel": "x.py--X"}}
    edit_config(path, **marks, is_decoder=True)
    assert load_checkpoint(path).family == "llama"


def test_models_without_classes_have_no_labels(folder):
    """A config's unused labels are not carried along."""
    loaded = load_checkpoint(folder("bert-embedding"))
    assert (loaded.labels, loaded.problem) == ((), "")


def test_what_is_no_checkpoint_is_refused(tmp_path):
    """Nothing there, or some file."""
    with pytest.raises(CheckpointError, match="no such file or folder"):
        open_source(tmp_path / "none")
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(CheckpointError, match="not a GGUF file; other checkpoints are folders"):
        open_source(tmp_path / "notes.txt")


def test_weights_that_do_not_fit_into_memory_are_told(folder, monkeypatch):
    """With their size."""

    def failing(*_, **__):
        raise RuntimeError("DefaultCPUAllocator: not enough memory")

    path = folder("gpt2")
    monkeypatch.setattr(torch.nn.Module, "to_empty", failing)
    with pytest.raises(CheckpointError, match=r"weights need 0\.0 GB as float32"):
        load_checkpoint(path)
