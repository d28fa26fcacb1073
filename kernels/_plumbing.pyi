"""Kernels that move and convert elements: the same for every instruction set and floating-point type."""

#: The address of each kernel, an ``int (*)(gs_args *)`` (see abi.h).
KERNELS: dict[str, int]

def interleave(
    y: int,
    block: int,
    step: int,
    x: int,
    apart: int,
    row: int,
    column: int,
    rows: int,
    width: int,
    blocks: int,
    double_precision: bool,
) -> None: ...
