"""Well-known checkpoints beside one of each family: their configs are read whole, too."""

from __future__ import annotations

import operator

import pytest
from published_configs import CONFIGS
from published_variants import FACTS, VARIANTS

from seq2edge.checkpoints.families import find_family
from seq2edge.checkpoints.families.family import Config
from seq2edge.checkpoints.load import _check_architecture
from seq2edge.errors import UnsupportedError

# Tensors whose presence says what a config does not.
NAMES = {
    "bert": "bert.embeddings.token_type_embeddings.weight",
    "roberta": "roberta.embeddings.token_type_embeddings.weight",
    "t5": "lm_head.weight",
}


def read(values, names=()):
    """Dims of a config, as `load_checkpoint` reads them."""
    config = Config(values, default_task="embed")
    family = find_family(str(config.get("model_type")))
    _check_architecture(family, config)
    dims = family.dims(config, frozenset(names))
    config.check_all_read()
    return dims


@pytest.mark.parametrize("name", VARIANTS)
def test_their_configs_are_read_whole(name):
    """No setting is unknown; sizes and one fact that a wrong reading would change."""
    values = VARIANTS[name]
    untied = values["model_type"] != "t5" or values.get("tie_word_embeddings") is False
    names = [NAMES[values["model_type"]]] if untied and values["model_type"] in NAMES else []
    dims = read(values, names)
    *stacks, width, facts = FACTS[name]
    assert [s and (s.layers, s.heads) for s in (dims.encoder, dims.decoder)] == stacks
    assert dims.width == width
    assert dims.vocab == values["vocab_size"]
    for path, wanted in facts.items():
        assert operator.attrgetter(path)(dims) == wanted, path


def test_there_are_many_of_them():
    """So that an accident with one setting is seen."""
    assert len(VARIANTS) + len(CONFIGS) >= 40
    assert set(FACTS) == set(VARIANTS)
    assert not set(VARIANTS) & set(CONFIGS)


def test_rerankers_with_code_of_their_own_are_refused_by_name():
    """bge-reranker-v2-minicpm-layerwise, jina-reranker-v1-turbo-en and v3."""
    layerwise = {"model_type": "minicpm", "architectures": ["LayerWiseMiniCPMForCausalLM"]}
    with pytest.raises(UnsupportedError, match="'minicpm' is not supported"):
        read({**layerwise, "start_layer": 8, "head_multi": True, "head_type": "simple"})
    alibi = {"position_embedding_type": "alibi", "feed_forward_type": "geglu"}
    with pytest.raises(UnsupportedError, match="position_embedding_type 'alibi'"):
        read({**CONFIGS["bert-base-uncased"], **alibi, "architectures": ["BertModel"]})
    with pytest.raises(UnsupportedError, match="JinaForRanking is not supported, qwen3 knows"):
        read({**CONFIGS["Qwen3-0.6B"], "architectures": ["JinaForRanking"]})


@pytest.mark.parametrize(
    ("name", "architecture"),
    [
        ("bart-large-cnn", "BartForSequenceClassification"),  # bart-large-mnli
        ("t5-small", "T5EncoderModel"),  # sentence-t5-base
        ("whisper-tiny", "WhisperForAudioClassification"),
        ("ERNIE-4.5-0.3B-PT", "Ernie4_5ForTokenClassification"),
        ("bert-base-uncased", "BertForNextSentencePrediction"),
    ],
)
def test_other_classes_of_known_families_are_refused_by_name(name, architecture):
    """With those that the family knows."""
    with pytest.raises(UnsupportedError, match=rf"{architecture} is not supported, .* knows "):
        read({**CONFIGS[name], "architectures": [architecture]})
