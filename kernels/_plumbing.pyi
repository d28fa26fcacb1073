"""Kernels that move and convert elements: the same for every instruction set and floating-point type."""

#: The address of each kernel, an ``int (*)(gs_args *)`` (see abi.h).
KERNELS: dict[str, int]
