# cython: language_level=3, cdivision=True, boundscheck=False, wraparound=False, embedsignature=False
"""The cells and the dense layer for one instruction set and one precision tier; setup.py says which."""

include "activations.pxi"
include "fused.pxi"

KERNELS = FUSED_KERNELS
