"""The TensorRT backend on doubles that compute: the same tokens as ONNX Runtime's, and its limits.

The doubles raise for whatever has no defined result (`fake_cuda.py`, `fake_tensorrt.py`).
"""

from __future__ import annotations

import dataclasses
import gc

import fake_engines
import numpy as np
import pytest
from engine_decoding import OPTIONS, decoded, reference_of, sources_of

from seq2edge.errors import BackendError, CapacityError
from seq2edge.runtime.backend import all_logits
from seq2edge.runtime.backends.engine_calls import GRAPHS
from seq2edge.runtime.backends.engine_encoder import SOURCE_STEP
from seq2edge.runtime.options import DecodeOptions
from seq2edge.runtime.parity import ENGINE_TOLERANCES, TOLERANCES

CLOSE = TOLERANCES["float32"].absolute
SIZES = fake_engines.SIZES
GENERATORS = ["bart", "t5", "whisper", "llama"]
MACHINES = {
    "recorded": {"rtx": False},
    "built-in recording": {"rtx": True},
    "nothing recorded": {"rtx": False, "capturable": False},
}


def library_of(machine):
    """How sidecars name it."""
    return machine.trt.__name__


@pytest.mark.parametrize("kind", MACHINES)
@pytest.mark.parametrize("name", GENERATORS)
def test_decoding_gives_the_tokens_of_onnxruntime(make_machine, engines, name, kind):
    """Greedy, beams and filters; batches of unequal lengths and sizes one after the other."""
    machine = make_machine(**MACHINES[kind])
    bundle = engines(name, library=library_of(machine))
    backend, reference = machine.open(bundle), reference_of(bundle)
    for seed, lengths in enumerate([(5, 3), (7,), (4, 6, 2), (5, 3)]):
        for options in OPTIONS.values():
            found = decoded(backend, bundle, lengths, options, seed)
            assert found == decoded(reference, bundle, lengths, options, seed)


@pytest.mark.parametrize("name", GENERATORS)
def test_engines_that_copy_their_cache_give_them_too(machine, engines, name):
    """The lowered form, whose caches swap at every step."""
    bundle = engines(name, form="lowered")
    backend, reference = machine.open(bundle), reference_of(bundle)
    for seed, lengths in enumerate([(5, 3), (4, 6, 2)]):
        for options in OPTIONS.values():
            found = decoded(backend, bundle, lengths, options, seed)
            assert found == decoded(reference, bundle, lengths, options, seed)


@pytest.mark.parametrize("name", ["bert", "bert-embedding", "bert-tokens"])
def test_encoder_only_models_give_the_same_numbers(machine, engines, name):
    """Scores and embeddings of several batches, or the scores of each token."""
    bundle = engines(name)
    backend, reference = machine.open(bundle), reference_of(bundle)

    def same(*arguments):
        found, wanted = (each.pool(*arguments) for each in (backend, reference))
        assert found.shape == wanted.shape
        for row, other, length in zip(found, wanted, arguments[1], strict=True):
            end = length if row.ndim > 1 else None  # behind it there is padding
            np.testing.assert_allclose(row[:end], other[:end], atol=CLOSE)
        return found

    for seed, lengths in enumerate([(5, 3), (9,), (20, 1, 2)]):
        source = sources_of(bundle, lengths, seed)
        plain = same(*source)
        types = (np.arange(source[0].shape[1]) > 1).astype(np.int64) * np.ones_like(source[0])
        assert not np.allclose(same(*source, types), plain, atol=CLOSE)


def both(machine, bundle, lengths, seed=0):
    """Two backends with a fresh cache each over the same sources, one row an input."""
    found = []
    for backend in (machine.open(bundle), reference_of(bundle)):
        memory = None
        if bundle.manifest.dims.encoder is not None:
            memory = backend.encode(*sources_of(bundle, lengths, seed))
        found.append((backend, backend.start(memory, len(lengths), None)))
    return found


class Steps:
    """Feeds the same random tokens to two caches and compares."""

    def __init__(self, pairs):
        self.pairs = pairs
        self.rng = np.random.default_rng(3)

    def step(self, *lengths):
        """So many new tokens for each row."""
        tokens = self.rng.integers(3, 80, (len(lengths), max(lengths)))
        self.feed(tokens, np.array(lengths))

    def feed(self, tokens, lengths):
        """These tokens."""
        found = [all_logits(b.step(tokens, lengths, cache)).copy() for b, cache in self.pairs]
        np.testing.assert_allclose(*found, atol=CLOSE)
        caches = [cache for _, cache in self.pairs]
        np.testing.assert_array_equal(caches[0].length, caches[1].length)

    def reorder(self, *rows):
        """Both."""
        for _, cache in self.pairs:
            cache.reorder(np.array(rows))


@pytest.mark.parametrize("form", ["masked", "lowered"])
@pytest.mark.parametrize("name", ["t5", "bart", "llama", "mistral", "bergamot", "lfm2"])
def test_any_mixture_of_steps_gives_the_same_logits(machine, engines, name, form):
    """Unequal prompts, tokens on a past, prompts in pieces, other orders, more and fewer rows."""
    steps = Steps(both(machine, engines(name, form=form), (5, 3)))
    steps.step(5, 3)
    steps.step(1, 1)
    steps.step(2, 4)
    steps.step(3, 19)  # three pieces; the first row has tokens in one of them alone
    steps.reorder(1, 0)
    steps.step(1, 1)
    steps.reorder(0, 0, 0, 1, 1, 1)
    steps.step(1, 1, 1, 1, 1, 1)
    steps.reorder(2, 0, 1, 5, 5, 3)
    steps.step(1, 1, 1, 1, 1, 1)
    steps.step(2, 1, 2, 2, 1, 2)  # one at a time: no profile has six rows of two tokens
    steps.reorder(0, 4)
    steps.step(1, 1)


@pytest.mark.parametrize("name", ["bart", "llama"])
def test_half_precision_caches_have_half_the_bytes(machine, engines, name):
    """Strides follow the engine's type; what it answers is the model's, rounded."""
    bundle = engines(name, precision="fp16")
    pairs = both(machine, bundle, (5, 3))
    assert pairs[0][0]._decoder.blocks[0].line == 2 * bundle.manifest.dims.decoder.head_dim
    rng = np.random.default_rng(4)
    for lengths, rows in (((5, 3), [0, 0, 1, 1]), ((1,) * 4, [1, 0, 3, 3]), ((1,) * 4, [2, 2])):
        tokens = rng.integers(3, 80, (len(lengths), max(lengths)))
        found, wanted = (all_logits(b.step(tokens, np.array(lengths), c)).copy() for b, c in pairs)
        allowed = ENGINE_TOLERANCES["fp16"].relative * np.abs(wanted).max()
        np.testing.assert_allclose(found, wanted, atol=allowed)
        for _, cache in pairs:
            cache.reorder(np.array(rows))


def test_the_last_places_of_the_capacity_are_used(machine, engines):
    """A call writes all its columns behind every row: where they do not fit, one after the other.

    A row that is full before the others repeats its last token there.
    """
    steps = Steps(both(machine, engines("llama"), (5, 3)))
    for lengths in ((8, 8), (8, 8), (8, 8), (8, 1), (5, 1), (1, 8), (2, 5)):
        steps.step(*lengths)
    (backend, cache), _ = steps.pairs
    assert cache.length.tolist() == [40, 39]
    with pytest.raises(CapacityError, match=r"41 tokens do not fit the 40 .*larger --capacity"):
        backend.step(np.array([[5], [5]]), np.array([0, 1]), cache)
    assert cache.length.tolist() == [40, 39]


def test_a_cache_in_the_same_buffers_reads_its_own_memory(machine, engines):
    """Two memories of one size, whose caches come one after the other: recordings differ."""
    bundle = engines("bart")
    pairs = (machine.open(bundle), reference_of(bundle))
    memories = [
        [backend.encode(*sources_of(bundle, (5, 3), seed)) for backend in pairs] for seed in (0, 1)
    ]
    slots = set()
    for kept in (*memories, *memories):
        caches = [b.start(memory, 2, None) for b, memory in zip(pairs, kept, strict=True)]
        slots.add(id(caches[0]._slot))
        steps = Steps(list(zip(pairs, caches, strict=True)))
        for _ in range(4):
            steps.step(1, 1)
        del steps, caches
    assert len(slots) == 1


def test_two_caches_and_memories_live_beside_each_other(machine, engines):
    """Alternating steps of two requests: each has buffers of its own."""
    bundle = engines("bart")
    backend, reference = machine.open(bundle), reference_of(bundle)
    pairs = []
    for seed, lengths in enumerate([(5, 3), (9, 2)]):
        source = sources_of(bundle, lengths, seed)
        caches = [b.start(b.encode(*source), 2, None) for b in (backend, reference)]
        pairs.append(Steps(list(zip((backend, reference), caches, strict=True))))
    for _ in range(4):
        for steps in pairs:
            steps.step(1, 1)


def test_a_source_is_read_before_the_next_one_is_written(machine, engines):
    """Two batches encoded without waiting, in the buffers of a third that was dropped."""
    bundle = engines("bart")
    backend, reference = machine.open(bundle), reference_of(bundle)
    backend.encode(*sources_of(bundle, (5, 3), 7))
    for seed in range(2):
        source = sources_of(bundle, (5, 3), seed)
        steps = Steps([(b, b.start(b.encode(*source), 2, None)) for b in (backend, reference)])
        backend.encode(*sources_of(bundle, (6, 3), 9))
        steps.step(1, 1)


def test_logits_are_valid_until_the_next_step(machine, engines):
    """They lie in pinned memory that the device writes; another cache does not."""
    bundle = engines("llama")
    backend = machine.open(bundle)
    one, other = backend.start(None, 1, None), backend.start(None, 1, None)
    first = all_logits(backend.step(np.array([[5]]), np.array([1]), one))
    kept = first.copy()
    backend.step(np.array([[9]]), np.array([1]), other)
    np.testing.assert_array_equal(first, kept)


def test_nothing_is_allocated_after_the_first_request(machine, engines):
    """Buffers have the largest sizes, and are leased again."""
    bundle = engines("bart")
    backend = machine.open(bundle)
    decoded(backend, bundle, (5, 3), OPTIONS["filters"])
    before = machine.cuda.calls.count("cudaMalloc")
    for lengths in ((7, 7, 9), (1,), (40, 2)):
        decoded(backend, bundle, lengths, OPTIONS["filters"])
    assert machine.cuda.calls.count("cudaMalloc") == before


def test_everything_is_given_back_with_the_backend(machine, engines):
    """Memory, pinned memory, the stream; while anything leased lives nothing is."""
    bundle = engines("bart")
    backend = machine.open(bundle)
    decoded(backend, bundle, (5, 3), OPTIONS["beams"])
    cache = backend.start(backend.encode(*sources_of(bundle, (5, 3), 0)), 2, None)
    logits = all_logits(backend.step(np.array([[5], [5]]), np.array([1, 1]), cache))
    kept = logits.copy()
    del backend, cache
    gc.collect()
    np.testing.assert_array_equal(logits, kept)
    del logits
    gc.collect()
    assert machine.cuda.living("device") == machine.cuda.living("pinned") == 0
    assert not any(stream.alive for stream in machine.cuda.streams.values())


def test_a_step_copies_three_small_inputs_and_one_row_of_logits(machine, engines):
    """In one copy each way; the cache never leaves the device."""
    bundle = engines("llama")
    backend = machine.open(bundle)
    cache = backend.start(None, 1, None)
    backend.step(np.array([[5]]), np.array([1]), cache)
    machine.cuda.copied.clear()
    backend.step(np.array([[6]]), np.array([1]), cache)
    sent, read = machine.cuda.copied
    assert sent[0] == "pinned to device"
    assert sent[1] <= 3 * 256
    assert read == ("device to pinned", 4 * bundle.manifest.dims.vocab)


def test_reordering_is_one_copy_a_row_and_of_the_used_length_alone(machine, engines):
    """All layers' keys and values at once; none at all where the order is what it was."""
    backend = machine.open(engines("llama"))
    cache = backend.start(None, 2, None)
    backend.step(np.array([[5, 6, 7], [8, 9, 4]]), np.array([3, 2]), cache)
    machine.cuda.calls.clear()
    cache.reorder(np.array([0, 1]))
    assert not machine.cuda.calls.count("cudaMemcpy3DAsync")
    cache.reorder(np.array([1, 1, 0, 0]))
    assert machine.cuda.calls.count("cudaMemcpy3DAsync") == 4
    assert cache.length.tolist() == [2, 2, 3, 3]


def test_a_step_is_recorded_once_for_its_sizes_and_then_replayed(machine, engines):
    """The first is enqueued, the second recorded; sources are padded so that lengths share one."""
    bundle = engines("bart")
    machine.open(bundle)  # the gate's steps are another backend's
    backend = machine.open(bundle)
    steps = backend._decoder.steps
    options = OPTIONS["greedy"].replace(eos_token_id=())
    for lengths in ((5, 3), (SOURCE_STEP, 9), (1, 2)):
        decoded(backend, bundle, lengths, options)
    assert len(steps._recorded) == 1
    assert steps.replays == 3 * 11 - 1
    assert steps.recording


def test_the_oldest_recordings_are_given_up(machine, engines):
    """Each has a context of its own, which is not for free."""
    bundle = engines("llama", sizes=dataclasses.replace(SIZES, batch=(1, 2, 5)))
    backend = machine.open(bundle)
    reference = reference_of(bundle)
    options = OPTIONS["greedy"].replace(eos_token_id=())
    for beams in range(1, 5):
        for batch in range(1, 6):
            wanted = options.replace(num_beams=beams)
            lengths = (2,) * batch
            found = decoded(backend, bundle, lengths, wanted)
            assert found == decoded(reference, bundle, lengths, wanted)
    assert len(backend._decoder.steps._recorded) == GRAPHS
    assert sum(graph.alive for graph in machine.cuda.graphs) <= GRAPHS


def test_steps_are_enqueued_where_nothing_can_be_recorded(make_machine, engines):
    """One failed attempt, then one context for all."""
    machine = make_machine(capturable=False)
    bundle = engines("llama")
    backend = machine.open(bundle)
    decoded(backend, bundle, (5, 3), OPTIONS["beams"])
    assert not backend._decoder.steps.recording
    assert machine.cuda.calls.count("cudaStreamBeginCapture") == 1
    assert not machine.cuda.calls.count("cudaGraphLaunch")


def test_rtx_records_steps_on_its_own(make_machine, engines):
    """Its setting is given to the step alone, and its compiled kernels are shared."""
    machine = make_machine(rtx=True)
    bundle = engines("llama", library="tensorrt_rtx")
    decoded(machine.open(bundle), bundle, (5, 3), OPTIONS["greedy"])
    prefill, step = (context.options for context in machine.trt.contexts)
    assert prefill.cuda_graph_strategy is None
    assert step.cuda_graph_strategy == machine.trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
    assert prefill.cache is step.cache is not None
    assert not machine.cuda.calls.count("cudaStreamBeginCapture")


def test_contexts_share_their_scratch_memory(machine, engines):
    """One block for the encoder and both profiles: they run one after the other."""
    bundle = engines("bart")
    backend = machine.open(bundle)
    decoded(backend, bundle, (5, 3), OPTIONS["beams"])
    assert len({context.scratch for context in machine.trt.contexts}) == 1
    assert len(machine.trt.contexts) > 3


def test_backends_of_one_bundle_share_its_weights(machine, engines):
    """A plan is opened once, as long as someone uses it."""
    bundle = engines("llama")
    first, second = machine.open(bundle), machine.open(bundle)
    assert len(machine.trt.opened) == 1
    options = OPTIONS["greedy"]
    assert decoded(first, bundle, (5,), options) == decoded(second, bundle, (5,), options)
    del first, second
    gc.collect()
    machine.open(bundle)
    assert len(machine.trt.opened) == 2


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        ((3, 3, 3, 3), r"batch: 4 inputs, the engine was built for 1 to 3; .*--batch"),
        ((41, 3), r"source: 41 tokens, the engine was built for up to 40; .*--source"),
    ],
)
def test_more_than_the_engine_was_built_for_is_refused(machine, engines, lengths, message):
    """With the sizes and the option that changes them."""
    bundle = engines("bart")
    with pytest.raises(BackendError, match=message):
        machine.open(bundle).encode(*sources_of(bundle, lengths, 0))


def test_more_rows_than_the_engine_was_built_for_are_refused(machine, engines):
    """Beams, at the start and when rows are spread; and rows that do not belong to inputs."""
    bundle = engines("bart")
    backend = machine.open(bundle)
    memory = backend.encode(*sources_of(bundle, (3, 3), 0))
    with pytest.raises(BackendError, match=r"beams: 14 rows, .* 3 inputs with 4 beams; .*--beams"):
        backend.start(memory, 14, None)
    cache = backend.start(memory, 2, None)
    backend.step(np.array([[5], [6]]), np.array([1, 1]), cache)
    with pytest.raises(BackendError, match=r"beams: 14 rows"):
        cache.reorder(np.repeat([0, 1], 7))
    with pytest.raises(BackendError, match="rows: 3 are no multiple of a batch of 2"):
        cache.reorder(np.array([0, 1, 1]))
    with pytest.raises(BackendError, match="batch: 4 inputs"):
        machine.open(engines("llama")).start(None, 4, None)


@pytest.mark.parametrize("name", ["bart", "llama"])
def test_a_backend_says_how_many_rows_its_engine_takes(machine, engines, name):
    """All beams of the largest batch, also of one input; of an encoder alone none are decoded."""
    bundle = engines(name)
    backend = machine.open(bundle)
    assert backend.rows == SIZES.rows == 12
    drawn = DecodeOptions(do_sample=True, seed=1, num_return_sequences=backend.rows)
    assert len(decoded(backend, bundle, (3,), drawn)) == backend.rows
    with pytest.raises(BackendError, match="13 rows, the engine was built for"):
        decoded(backend, bundle, (3,), drawn.replace(num_return_sequences=backend.rows + 1))
    assert machine.open(engines("bert")).rows is None


def test_a_set_capacity_holds_too(machine, engines):
    """The smaller of it and the engine's; a larger one is refused at once."""
    backend = machine.open(engines("llama"))
    with pytest.raises(CapacityError, match="41 tokens asked for, the engine was built for 40"):
        backend.start(None, 1, 41)
    cache = backend.start(None, 1, 6)
    backend.step(np.array([[5, 6, 7, 8, 9]]), np.array([5]), cache)
    with pytest.raises(CapacityError, match="7 tokens do not fit the 6 that were set"):
        backend.step(np.array([[5, 6]]), np.array([2]), cache)
    backend.step(np.array([[5]]), np.array([1]), cache)
    assert cache.length.tolist() == [6]


def test_short_sources_and_prompts_are_padded_to_what_the_engine_takes(machine, engines):
    """Lengths tell what is padding."""
    sizes = dataclasses.replace(SIZES, source=(20, 24, 40), prompt=(5, 6, 8))
    steps = Steps(both(machine, engines("bart", sizes=sizes), (5, 3)))
    steps.step(2, 3)
    steps.step(1, 1)
    steps.step(9, 7)


def test_memory_that_does_not_fit_names_what_to_make_smaller(make_machine, engines):
    """Not a code of CUDA alone."""
    machine = make_machine(memory=100_000)
    with pytest.raises(BackendError, match=r"Fake GPU: .* MB do not fit .*smaller --batch"):
        machine.open(engines("bart"))
