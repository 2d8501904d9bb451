"""Every recipe for TensorRT, seen in real engines: which products, attentions and cache updates."""

from __future__ import annotations

import importlib.util
from collections import Counter

import pytest
from speaking import loud_t5, sentences

from seq2edge.export.tensorrt.engine import Profile, build_engine, decoder_profiles
from seq2edge.quantize.pipeline import quantize_bundle
from seq2edge.quantize.recipes import RECIPES

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None,
    reason="tensorrt_rtx is not installed: pip install seq2edge[rtx]",
)

BATCH, SOURCE, CAPACITY = (1, 2, 4), (1, 16, 64), 64
ENCODER = [Profile(name="encoder", sizes={"batch": BATCH, "source": SOURCE})]
DECODER = decoder_profiles(batch=BATCH, beams=4, source=SOURCE, new=(1, 8, 32))
LAYERS = 2  # T5's encoder has one more
# Heads of 64, which fused kernels exist for, and several blocks in every weight. The last
# feed-forwards of the T5 exceed float16; the Llama has an odd vocabulary and no tied table.
MODELS = {
    "bart": {"d_model": 256, "encoder_ffn_dim": 512, "decoder_ffn_dim": 512},
    "t5": {"d_model": 256, "d_kv": 64, "d_ff": 512, "edit": loud_t5},
    "llama": {"hidden_size": 256, "head_dim": 64, "intermediate_size": 512, "vocab_size": 97},
    "bert": {"hidden_size": 256, "intermediate_size": 512},
}
NARROW = dict.fromkeys(RECIPES, "Half") | {"bf16": "BFloat16"}
INNER = {  # the products of layers, of queries, keys and values, and of the head
    "int8-weight": ("Half x Int8",) * 3,
    "int4-weight": ("Half x Int4", "Half x Int8", "Half x Int8"),
    "int8-static": ("Int8 x Int8", "Int8 x Int8", "Half x Int8"),
    "fp16": ("Half x Half",) * 3,
    "bf16": ("BFloat16 x BFloat16",) * 3,
}
ISLAND = {
    "int8-weight": "Float x Int8",
    "int4-weight": "Float x Int4",
    "int8-static": "Int8 x Int8",
    "fp16": "Float x Float",
    "bf16": "BFloat16 x BFloat16",
}
FOR_TENSORRT = [recipe.name for recipe in RECIPES.values() if "tensorrt" in recipe.targets]


@pytest.fixture
def sources(speaking):
    """Float bundles by name."""
    return lambda name: speaking(name, **MODELS[name])


def graphs(sources, folder, name, recipe):
    """The recipe's graphs of that model: path by role."""
    examples = sentences() if RECIPES[recipe].takes_examples("tensorrt") else ()
    report = quantize_bundle(
        sources(name), folder / recipe, recipe, target="tensorrt", calibration=examples, threads=1
    )
    bundle = report.bundle
    return {graph.role: bundle.file(graph.file) for graph in bundle.manifest.graphs}


def decoder_reports(path):
    """Its prefill and step, in an engine for one GPU generation, which builds fast."""
    engine = build_engine(path, DECODER, static={"capacity": CAPACITY}, capabilities=("SM86",))
    return engine.report.profile(0), engine.report.profile(1)


def products(recipe, layers, attention, head):
    """The counts of products by type, for so many of each kind."""
    counts = Counter()
    for kind, count in zip(INNER[recipe], (layers, attention, head), strict=True):
        counts[kind] += count
    return +counts


def unquantized(recipe):
    """The type of a product with a weight that stays float."""
    return f"{NARROW[recipe]} x {NARROW[recipe]}"


def check_decoder(path, wanted, attentions):
    """Of an engine's prefill and step."""
    for report in decoder_reports(path):
        assert report.products == wanted
        assert report.fused_attentions == attentions
        assert report.cache_updates == 2 * LAYERS
        assert report.cache_copies == 0
        assert report.dequantized_weights == 0


def check_encoder(path, wanted, attentions):
    """The same of an encoder."""
    report = build_engine(path, ENCODER, capabilities=("SM86",)).report
    assert report.products == wanted
    assert report.fused_attentions == attentions
    assert report.dequantized_weights == 0


@pytest.mark.parametrize("recipe", FOR_TENSORRT)
@pytest.mark.parametrize("name", ["bart", "t5"])
def test_encoder_decoders_are_built_as_the_recipe_says(sources, tmp_path, name, recipe):
    """All products in its types, those of islands in float32; attention fused, caches in place."""
    paths = graphs(sources, tmp_path, name, recipe)
    wide = 2 if name == "t5" else 0  # the last feed-forward
    island = +Counter({ISLAND[recipe]: wide})
    # A layer of the decoder: two outputs of attention, two of the feed-forward; queries, keys and
    # values as one, and the queries of cross-attention.
    wanted = products(recipe, 4 * LAYERS - wide, 2 * LAYERS, 1) + island
    check_decoder(paths["decoder"], wanted, 2 * LAYERS)
    layers = LAYERS + (name == "t5")
    # The keys and values for each layer of the decoder, which the builder merges but for integer
    # weights with float inputs.
    cross = LAYERS if recipe.endswith("weight") else 1
    wanted = products(recipe, 3 * layers - wide, layers + cross, 0) + island
    check_encoder(paths["encoder"], wanted, layers)


@pytest.mark.parametrize("recipe", FOR_TENSORRT)
def test_decoders_are_built_as_the_recipe_says(sources, tmp_path, recipe):
    """But for the head of an odd vocabulary: no product reads integer weights of an odd width."""
    paths = graphs(sources, tmp_path, "llama", recipe)
    wanted = products(recipe, 3 * LAYERS, LAYERS, 0) + Counter({unquantized(recipe): 1})
    check_decoder(paths["decoder"], wanted, LAYERS)


@pytest.mark.parametrize("recipe", FOR_TENSORRT)
def test_encoders_are_built_as_the_recipe_says(sources, tmp_path, recipe):
    """But for the classifier's three labels, which are an odd width too."""
    paths = graphs(sources, tmp_path, "bert", recipe)
    dense = 1  # the classifier's first layer
    wanted = products(recipe, 3 * LAYERS + dense, LAYERS, 0) + Counter({unquantized(recipe): 1})
    check_encoder(paths["encoder"], wanted, LAYERS)
