# cython: language_level=3, cdivision=True, boundscheck=False, wraparound=False, embedsignature=False
"""The kernels for one instruction set and one type; setup.py says which."""

include "activations.pxi"
include "fused.pxi"
include "tensor.pxi"
include "windows.pxi"
include "quantised.pxi"

KERNELS = {**FUSED_KERNELS, **TENSOR_KERNELS, **WINDOW_KERNELS, **QUANTISED_KERNELS}
