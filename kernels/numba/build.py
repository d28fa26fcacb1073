"""Machine code from a shape: the one place where Numba compiles."""

from __future__ import annotations

import llvmlite.binding as llvm
from numba import cfunc, config, types

from .cells import kernel
from .code import SYMBOL, Target
from .shape import Shape

__all__ = ["build"]


def build(shape: Shape, target: Target) -> bytes:
    """Compile the kernel of a shape to an object file.

    Raises
    ------
    RuntimeError
        Numba is told not to compile.
    """
    if config.DISABLE_JIT:
        raise RuntimeError("backend 'numba' cannot compile with NUMBA_DISABLE_JIT set")
    compiled = cfunc(types.int32(types.intp), error_model="numpy", forceinline=True)(kernel(shape))
    module = llvm.parse_assembly(compiled.inspect_llvm())
    for value in [*module.functions, *module.global_variables]:
        if value.name == compiled.native_name:
            value.name, value.linkage = SYMBOL, "external"
        elif not value.is_declaration:
            value.linkage = "internal"
    code: bytes = target.machine().emit_object(module)
    return code
