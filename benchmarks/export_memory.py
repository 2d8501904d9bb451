"""Export a random Llama of any size and print the peak memory beside the size of its weights.

    python benchmarks/export_memory.py --gigabytes 2.4

Everything happens in a temporary folder; the export runs in a process of its own, and the peak is
that of its memory together with that of the process in which the original answers, looked at 20
times a second. The checkpoint is written shard by shard without being whole in memory.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

WIDTH, HIDDEN, HEADS, KEY_HEADS, VOCAB = 1024, 4096, 16, 4, 32000


def shapes(layers: int) -> dict[str, tuple[int, ...]]:
    """Every tensor of the checkpoint."""
    key = WIDTH // HEADS * KEY_HEADS
    tensors: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (VOCAB, WIDTH),
        "lm_head.weight": (VOCAB, WIDTH),
        "model.norm.weight": (WIDTH,),
    }
    for i in range(layers):
        layer = {
            "input_layernorm": (WIDTH,),
            "post_attention_layernorm": (WIDTH,),
            "self_attn.q_proj": (WIDTH, WIDTH),
            "self_attn.k_proj": (key, WIDTH),
            "self_attn.v_proj": (key, WIDTH),
            "self_attn.o_proj": (WIDTH, WIDTH),
            "mlp.gate_proj": (HIDDEN, WIDTH),
            "mlp.up_proj": (HIDDEN, WIDTH),
            "mlp.down_proj": (WIDTH, HIDDEN),
        }
        tensors |= {f"model.layers.{i}.{name}.weight": shape for name, shape in layer.items()}
    return tensors


def write(folder: Path, gigabytes: float) -> int:
    """Write the checkpoint, one tensor a shard; its bytes."""
    from safetensors.numpy import save_file

    one = sum(int(np.prod(s)) for n, s in shapes(1).items() if ".layers." in n)
    ends = sum(int(np.prod(s)) for n, s in shapes(0).items())
    layers = max(1, round((gigabytes * 1e9 / 4 - ends) / one))
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": WIDTH,
        "intermediate_size": HIDDEN,
        "num_hidden_layers": layers,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KEY_HEADS,
        "vocab_size": VOCAB,
        "tie_word_embeddings": False,
        "eos_token_id": 2,
    }
    (folder / "config.json").write_text(json.dumps(config))
    generator = np.random.default_rng(0)
    places, total = {}, 0
    for number, (name, shape) in enumerate(shapes(layers).items()):
        values = generator.standard_normal(shape, dtype=np.float32)
        values *= np.float32(0.3 if len(shape) == 1 else 1 / np.sqrt(shape[-1]))
        file = f"model-{number:05}.safetensors"
        save_file({name: values}, folder / file)
        places[name] = file
        total += values.nbytes
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": total}, "weight_map": places})
    )
    return total


def resident(pid: int) -> int:
    """Bytes of memory of a process and those that it started, what they share counted once."""
    total = 0
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
        total += 1024 * sum(
            int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:")
        )
        for task in Path(f"/proc/{pid}/task").iterdir():
            total += sum(map(resident, map(int, (task / "children").read_text().split())))
    except (OSError, ValueError):  # it ended meanwhile
        return total
    return total


def main() -> None:
    """Make, export, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=2.4, help="size of the float32 weights")
    parser.add_argument("--original", choices=("yes", "no"), default="yes")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        checkpoint = folder / "checkpoint"
        checkpoint.mkdir()
        total = write(checkpoint, arguments.gigabytes)
        command = [sys.executable, "-m", "seq2edge.cli", "export", str(checkpoint)]
        begin = time.perf_counter()
        command += ["-o", str(folder / "bundle"), "--original", arguments.original]
        process, peak = subprocess.Popen(command), 0
        while process.poll() is None:
            peak = max(peak, resident(process.pid))
            time.sleep(0.05)
        seconds = time.perf_counter() - begin
        if process.returncode:
            sys.exit("export_memory: the export failed")
        print(
            f"weights {total / 1e9:.2f} GB, peak memory {peak / 1e9:.2f} GB "
            f"({peak / total:.2f}x), {seconds:.0f} s"
        )


if __name__ == "__main__":
    main()
