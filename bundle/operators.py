"""The operators, types and lengths that graphs of a bundle have: all that we write, nothing else.

`tests/bundle/test_graph_check.py` compares this with what export and quantize write.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

CONTRIB: Final = "com.microsoft"
OPSETS: Final = {"": range(21, 25), CONTRIB: range(1, 2)}
IR_VERSIONS: Final = range(8, 14)
# The types of tensors that we write, by ONNX's numbers, and the bits of a value.
KINDS: Final[Mapping[int, tuple[str, int]]] = {
    1: ("float32", 32),
    2: ("uint8", 8),
    3: ("int8", 8),
    6: ("int32", 32),
    7: ("int64", 64),
    9: ("bool", 8),
    10: ("float16", 16),
    16: ("bfloat16", 16),
    22: ("int4", 4),
}


def _operators(text: str) -> dict[str, frozenset[str]]:
    """Operators with their attributes, one a line."""
    lines = (line.split() for line in text.strip().splitlines())
    return {name: frozenset(attributes) for name, *attributes in lines}


STANDARD: Final = _operators(
    """
    Add
    And
    Attention scale softcap
    Cast to
    Clip
    Concat axis
    Conv auto_pad dilations group kernel_shape pads strides
    Cos
    DequantizeLinear axis block_size
    Div
    Exp
    Expand
    Flatten axis
    Gather axis
    GatherElements axis
    GatherND batch_dims
    Gelu approximate
    Gemm alpha beta transA transB
    Greater
    GreaterOrEqual
    LayerNormalization axis epsilon stash_type
    Less
    LessOrEqual
    Log
    LogSoftmax axis
    MatMul
    Max
    Min
    Mul
    Neg
    Not
    Pad mode
    QuantizeLinear
    RMSNormalization axis epsilon stash_type
    Range
    ReduceL2 keepdims noop_with_empty_axes
    ReduceMax keepdims
    ReduceSum keepdims noop_with_empty_axes
    Relu
    Reshape allowzero
    RotaryEmbedding interleaved num_heads rotary_embedding_dim
    ScatterND
    Shape end start
    Sigmoid
    Sin
    Slice
    Softmax axis
    Softplus
    Split axis num_outputs
    Sqrt
    Squeeze
    Sub
    Tanh
    TensorScatter axis mode
    TopK axis
    Transpose perm
    Unsqueeze
    Where
    """
)
# These for ONNX Runtime alone.
CONTRIBUTED: Final = _operators(
    """
    DynamicQuantizeMatMul
    GatherBlockQuantized bits block_size gather_axis quantize_axis
    GroupQueryAttention causal k_quant_type kv_cache_bit_width kv_num_heads local_window_size \
        num_heads scale softcap v_quant_type
    MatMulIntegerToFloat
    MatMulNBits K N accuracy_level bits block_size
    MultiHeadAttention num_heads scale
    """
)
# Attributes that kernels divide by, or make as many of.
COUNTS: Final = frozenset(
    "K N bits block_size dilations group kernel_shape kv_cache_bit_width kv_num_heads "
    "local_window_size num_heads num_outputs strides".split()
)
# What kernels read as lengths and places, by operator and input: a way from the graph's inputs, or
# "" where there must be none. Kernels trust them with their memory.
_VALID = "Add(cache_length,new_length)"
LONGEST: Final = f"ReduceMax({_VALID},[0])"
LENGTHS: Final[Mapping[tuple[str, int], str]] = {
    ("Attention", 4): "",
    ("Attention", 5): "",
    ("Attention", 6): "source_length",
    ("TensorScatter", 2): "cache_length",
    ("RotaryEmbedding", 3): "",
    ("MultiHeadAttention", 3): "",
    ("MultiHeadAttention", 4): "Cast6(source_length)",
    ("MultiHeadAttention", 6): "",
    ("MultiHeadAttention", 7): "",
    ("GroupQueryAttention", 5): f"Cast6(Sub({_VALID},[1]))",
    ("GroupQueryAttention", 6): f"Cast6({LONGEST})",
    ("GroupQueryAttention", 7): "",
    ("GroupQueryAttention", 8): "",
    ("GroupQueryAttention", 9): "",
    ("GroupQueryAttention", 11): "",
}
# The same of those that read an encoder memory as a cache; all memories are equally long.
MEMORY_LENGTHS: Final[Mapping[tuple[str, int], str]] = {
    **LENGTHS,
    ("GroupQueryAttention", 5): "Cast6(Max(Sub(source_length,[1]),[0]))",
    ("GroupQueryAttention", 6): "Cast6(Squeeze(Shape2(cross_),[0]))",
}
# Inputs that kernels make room by, by operator.
SIZES: Final[Mapping[str, tuple[int, ...]]] = {
    "Expand": (1,),
    "Pad": (1, 3),
    "Range": (0, 1, 2),
    "ReduceL2": (1,),
    "ReduceMax": (1,),
    "ReduceSum": (1,),
    "Reshape": (1,),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "Squeeze": (1,),
    "TopK": (1,),
    "Unsqueeze": (1,),
}
SLICE_ENDS: Final = ("Slice", 2)
# Slices keep within what they cut, whatever these operators make of sizes for them.
SLICE_PLACES: Final = (1, 2)
SLICE_OPERATORS: Final = ("Add", "Max", "Min", "Mul", "Sub")
# Where ranges begin and how they go on; those down to 1 are of a row's last tokens.
UPWARDS: Final = ["[0]", "[1]"]
DOWNWARDS: Final = ["Squeeze(last_positions)", "[0]", "[-1]"]
