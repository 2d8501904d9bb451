"""Decoding of an OPUS-MT-sized random model: this runtime against CTranslate2 and PyTorch.

Makes the model (6 + 6 layers, width 512, vocabulary 58,101), exports it, converts the same weights
for CTranslate2, and times fixed-length decoding in interleaved rounds, so that a noisy machine
disturbs all alike. Prints tokens per second of each, their ratios, and how many tokens are those
of PyTorch. On a GPU (`--device cuda`) PyTorch also runs compiled, over a cache of fixed size;
CTranslate2 is left out there.

    python benchmarks/decode_speed.py [--folder .cache/benchmark] [--batch 1] [--beams 1]
    python benchmarks/decode_speed.py --device cuda
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import transformers

import seq2edge
from seq2edge.export.pipeline import export_checkpoint

VOCAB, SOURCE, NEW = 58_101, 32, 64

Task = Callable[[], list[list[int]]]  # the new tokens of every input


def make_model(folder: Path) -> Path:
    """A random Marian of the usual size as a Hugging Face folder."""
    config = transformers.MarianConfig(
        vocab_size=VOCAB,
        d_model=512,
        encoder_layers=6,
        decoder_layers=6,
        encoder_attention_heads=8,
        decoder_attention_heads=8,
        encoder_ffn_dim=2048,
        decoder_ffn_dim=2048,
        max_position_embeddings=512,
        activation_function="swish",
        scale_embedding=True,
        pad_token_id=VOCAB - 1,
        eos_token_id=0,
        decoder_start_token_id=VOCAB - 1,
        forced_eos_token_id=None,
    )
    torch.manual_seed(0)
    transformers.MarianMTModel(config).eval().save_pretrained(folder)
    return folder


class _Tokens:
    """Stands in for the tokenizer that a random model does not have."""

    eos_token, unk_token, pad_token, bos_token = "t0", "t1", f"t{VOCAB - 1}", None
    pad_token_id = VOCAB - 1

    def get_vocab(self) -> dict[str, int]:
        return {f"t{i}": i for i in range(VOCAB)}


def convert(checkpoint: Path, folder: Path) -> Path:
    """The same weights for CTranslate2, float32."""
    from ctranslate2.converters import transformers as converters

    loader = converters.MarianMTLoader()
    model = transformers.MarianMTModel.from_pretrained(checkpoint)
    names = [f"t{i}" for i in range(VOCAB - 1)]  # its loader drops the padding token
    loader.get_vocabulary = lambda *_: list(names)
    spec = loader(model, _Tokens())
    spec.validate()
    spec.optimize(quantization=None)
    spec.save(str(folder))
    return folder


def random_prompts(batch: int) -> list[list[int]]:
    """What every engine reads."""
    return np.random.default_rng(0).integers(1, VOCAB - 1, (batch, SOURCE)).tolist()


def runtime_task(bundle: Path, batch: int, beams: int, threads: int, device: str) -> Task:
    """Decode with this runtime."""
    model = seq2edge.load(bundle, device=device, threads=threads)
    options = model.options.replace(
        num_beams=beams, max_new_tokens=NEW, min_new_tokens=NEW, max_length=None
    )
    prompts = random_prompts(batch)

    def run() -> list[list[int]]:
        return [list(best[0].ids) for best in model.generate_ids(prompts, options)]

    return run


def ctranslate2_task(folder: Path, batch: int, beams: int, threads: int) -> Task:
    """The same with CTranslate2."""
    import ctranslate2

    translator = ctranslate2.Translator(
        str(folder), device="cpu", compute_type="float32", intra_threads=threads, inter_threads=1
    )
    tokens = [[f"t{i}" for i in prompt] for prompt in random_prompts(batch)]

    def run() -> list[list[int]]:
        results = translator.translate_batch(
            tokens, beam_size=beams, max_decoding_length=NEW, min_decoding_length=NEW
        )
        return [[int(token[1:]) for token in result.hypotheses[0]] for result in results]

    return run


def torch_task(
    checkpoint: Path, batch: int, beams: int, threads: int, device: str, **options: str
) -> Task:
    """The same with transformers: eager PyTorch, or as `options` of generate say."""
    torch.set_num_threads(threads)
    model = transformers.MarianMTModel.from_pretrained(checkpoint).eval().to(device)
    prompts = torch.tensor(random_prompts(batch), device=device)

    def run() -> list[list[int]]:
        with torch.no_grad():
            result = model.generate(
                prompts,
                num_beams=beams,
                max_new_tokens=NEW,
                min_new_tokens=NEW,
                do_sample=False,
                **options,
            )
        return result[:, 1:].tolist()  # which waits for the device

    return run


def make_tasks(folder: Path, batch: int, beams: int, threads: int, device: str) -> dict[str, Task]:
    """The engines that are compared on the device, after making what is missing."""
    checkpoint, bundle, foreign = (folder / n for n in ("marian", "bundle", "ctranslate2"))
    if not checkpoint.exists():
        make_model(checkpoint)
    if not bundle.exists():
        export_checkpoint(checkpoint, bundle)
    sizes = (batch, beams, threads)
    tasks = {
        "seq2edge": runtime_task(bundle, *sizes, device),
        "transformers": torch_task(checkpoint, *sizes, device),
    }
    if device == "cuda":
        static = torch_task(checkpoint, *sizes, device, cache_implementation="static")
        return {**tasks, "compiled": static}
    if not foreign.exists():
        foreign.mkdir(parents=True)
        convert(checkpoint, foreign)
    return {**tasks, "ctranslate2": ctranslate2_task(foreign, *sizes)}


def share_equal(ours: list[list[int]], theirs: list[list[int]]) -> float:
    """Of the tokens, those that stand where the other's do."""
    pairs = [pair for rows in zip(ours, theirs, strict=True) for pair in zip(*rows, strict=True)]
    return sum(a == b for a, b in pairs) / len(pairs)


def main() -> None:
    """Prepare what is missing, then time."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path(".cache/benchmark"))
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--beams", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    arguments = parser.parse_args()
    tasks = make_tasks(
        arguments.folder,
        arguments.batch,
        arguments.beams,
        arguments.threads,
        arguments.device,
    )
    rates: dict[str, list[float]] = {name: [] for name in tasks}
    tokens = {name: task() for name, task in tasks.items()}
    tokens = {name: task() for name, task in tasks.items()}  # what is compiled has settled now
    for _ in range(arguments.rounds):
        for name, task in tasks.items():
            begin = time.perf_counter()
            made = sum(map(len, task()))
            rates[name].append(made / (time.perf_counter() - begin))
    for name, values in rates.items():
        ratio = statistics.median(a / b for a, b in zip(rates["seq2edge"], values, strict=True))
        equal = share_equal(tokens[name], tokens["transformers"])
        print(
            f"{name:<14}{statistics.median(values):8.1f} tokens/s (best {max(values):.1f}), "
            f"seq2edge is {ratio:.2f}x; {equal:.1%} of the tokens are PyTorch's"
        )


if __name__ == "__main__":
    main()
