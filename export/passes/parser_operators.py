"""Which operators the ONNX parsers of older TensorRT releases read, as data.

Read, not measured, in the operator lists and change logs of NVIDIA's onnx-tensorrt: the list of
9.2, and what the releases since then say they added. No document that was found says which release
first read `Gelu` or `Mish`, so they count as unknown; `Attention` came with 10.14, and
`RotaryEmbedding`, `RMSNormalization` and `TensorScatter` with 10.15. What else is known of 10.3:
`ScatterND` may not have the attribute `reduction`, not even with its default (until 10.9), the
exponent of `Pow` has the type of its base (until 10.8), axes of reductions, `Squeeze` and
`Unsqueeze` are initializers (until 10.7), `Squeeze` must have its axes (until 11.5), and
`ScatterElements` needs the library of plugins.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

# What the data of an operator may be: floats, 32- and 64-bit integers, booleans; q is what only
# DequantizeLinear takes.
_READ = {
    "f": """
        Acos Acosh Asin Asinh Atan Atanh AveragePool BatchNormalization Ceil Celu Clip
        ConstantOfShape Conv ConvTranspose Cos Cosh CumSum DeformConv Dropout Einsum Elu Erf Exp
        Floor GRU Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool GridSample GroupNormalization
        HardSigmoid HardSwish Hardmax InstanceNormalization IsInf LRN LSTM LayerNormalization
        LeakyRelu Log LogSoftmax LpNormalization LpPool MatMul MaxPool MeanVarianceNormalization
        NonMaxSuppression NonZero PRelu Pow QuantizeLinear RNN RandomNormal RandomNormalLike
        RandomUniform RandomUniformLike Reciprocal Resize RoiAlign Round Scan Selu Sigmoid Sin Sinh
        Softmax Softplus Softsign Sqrt Tan Tanh ThresholdedRelu Upsample
    """,
    "fi": """
        Abs Add ArgMax ArgMin DepthToSpace Div Equal Greater GreaterOrEqual IsNaN Less LessOrEqual
        Max Mean Min Mod Mul Neg Pad Range ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax
        ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Scatter ScatterElements
        ScatterND Shrink Sign SpaceToDepth Sub Sum TopK
    """,
    "fib": """
        Cast CastLike Concat Constant Expand EyeLike Flatten Gather GatherElements GatherND Identity
        If Loop OneHot Reshape ReverseSequence Shape Size Slice Split Squeeze Tile Transpose Trilu
        Unsqueeze Where
    """,
    "b": "And Not Or Xor",
    "q": "DequantizeLinear",
}
_SINCE_10_3 = "BlackmanWindow HammingWindow HannWindow STFT"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parser:
    """The parser of a TensorRT release: its newest opset, operators and the kinds of their data."""

    release: str
    opset: int
    operators: Mapping[str, str]


_OPERATORS = {name: kinds for kinds, names in _READ.items() for name in names.split()}

PARSERS = {
    parser.release: parser
    for parser in (
        # Its own list was not found: that of 9.2 says 19, notes of others on 10.0 say 20, and 10.0
        # added 4-bit weights, which ONNX has from 21 on.
        Parser(release="10.3", opset=21, operators=_OPERATORS),
        # It was built with ONNX 1.18, the newest opset of which is 23.
        Parser(
            release="10.13",
            opset=23,
            operators={**_OPERATORS, **dict.fromkeys(_SINCE_10_3.split(), "f")},
        ),
    )
}


def find_parser(release: str) -> Parser:
    """The parser that is known to be in a release of TensorRT 10, or in the newest before it."""
    known = [parser for parser in PARSERS.values() if _order(parser.release) <= _order(release)]
    return known[-1] if known else PARSERS["10.3"]  # 10.0 to 10.2 read the same


def _order(release: str) -> tuple[int, ...]:
    return tuple(int(part) for part in release.split(".") if part.isdigit())
