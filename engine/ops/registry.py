"""The table of operators: what is in which module, which is imported when a graph has such an operator."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ..graph import Node
from ..values import Value

if TYPE_CHECKING:
    from ..lowering import Lowering

__all__ = ["MODULES", "OPS", "Op", "register"]

Array = np.ndarray


class Op:
    """An operator. Inputs left out are None; results are a tuple, one per output of the node."""

    #: Only moves elements about, so that an index can be followed through it.
    moves: ClassVar[bool] = False
    #: Computed by `evaluate` where every input is known. Otherwise `lower` decides, and inputs may be sequences.
    folds: ClassVar[bool] = True
    #: Positions of inputs whose values (not only shapes) the program is built around.
    known: ClassVar[Sequence[int]] = ()

    @staticmethod
    def evaluate(node: Node, *inputs: Array | None) -> tuple[Array, ...]:
        raise NotImplementedError

    @staticmethod
    def lower(ctx: Lowering, node: Node, *inputs: Value | None) -> tuple[Value, ...]:
        """Emit kernel calls. The default asks for every input to be known."""
        raise ctx.unknown(node, range(len(inputs)))


#: The operators of each module.
MODULES = {
    "control": "If",
    "einsum": "Einsum",
    "indexing": "ArgMax ArgMin TopK CumSum ReverseSequence GatherElements ScatterElements GatherND ScatterND",
    "logic": "Where Equal Greater Less GreaterOrEqual LessOrEqual And Or Xor Not IsNaN IsInf OneHot Trilu",
    "loop": "Loop",
    "math": "Sigmoid Tanh Relu LeakyRelu ThresholdedRelu HardSigmoid Elu Softsign Softplus Selu HardSwish Gelu Exp Log "
    "Sqrt Abs Neg Reciprocal Erf Floor Ceil Sign Sin Cos Round Clip Add Sub Mul Div Pow Min Max PRelu Mod Fmod MatMul "
    "Gemm ReduceSum ReduceMean ReduceMax ReduceMin ReduceProd ReduceL2 ReduceSumSquare Softmax LogSoftmax "
    "LayerNormalization",
    "memory": "Memory Begin Running",
    "normalizations": "GroupNormalization RMSNormalization",
    "plumbing": "Transpose Squeeze Unsqueeze Reshape Flatten Concat Slice Split Gather Expand Tile Cast Shape Size "
    "ConstantOfShape Range",
    "quantised": "QuantizeLinear DequantizeLinear DynamicQuantizeLinear MatMulInteger ConvInteger",
    "quantised_lstm": "DynamicQuantizeLSTM",
    "recurrent": "LSTM GRU RNN",
    "resizing": "ConvTranspose CenterCropPad",
    "scan": "Scan",
    "sequences": "SequenceEmpty SequenceConstruct SequenceInsert SequenceErase SequenceAt SequenceLength "
    "SplitToSequence ConcatFromSequence",
    "windows": "Conv Pad MaxPool AveragePool GlobalAveragePool GlobalMaxPool BatchNormalization InstanceNormalization",
}
_MODULE_OF = {name: module for module, names in MODULES.items() for name in names.split()}
_LOADED: dict[str, type[Op]] = {}


class _Operators(Mapping[str, type[Op]]):
    """All operators by name."""

    def __getitem__(self, name: str) -> type[Op]:
        found = _LOADED.get(name)
        if found is None:
            import_module(f".{_MODULE_OF[name]}", __package__)
            found = _LOADED[name]
        return found

    def __contains__(self, name: object) -> bool:
        return name in _MODULE_OF

    def __iter__(self) -> Iterator[str]:
        return iter(_MODULE_OF)

    def __len__(self) -> int:
        return len(_MODULE_OF)


OPS: Mapping[str, type[Op]] = _Operators()


def register(*names: str) -> Callable[[type[Op]], type[Op]]:
    """Enter an operator class under one name or several, which `MODULES` has for its module."""

    def enter(cls: type[Op]) -> type[Op]:
        for name in names:
            if _MODULE_OF.get(name) != cls.__module__.rpartition(".")[2]:
                raise TypeError(f"MODULES of {__name__} does not have {name} for {cls.__module__}")
            _LOADED[name] = cls
        return cls

    return enter
