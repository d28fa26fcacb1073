# The calling convention of kernels (abi.h), for those that call them: the machine, and what the suite measures with.

cdef extern from "abi.h":
    enum:
        GS_P
        GS_N
        GS_F
        GS_OK
        GS_JUMP
        GS_AGAIN
        GS_BESIDE
    ctypedef struct gs_args:
        void *p[12]
        Py_ssize_t n[24]
        double f[8]
    ctypedef int (*gs_kernel)(gs_args *) noexcept nogil
    ctypedef void (*gs_part)(void *context, Py_ssize_t part) noexcept nogil
    ctypedef struct gs_team:
        void (*run)(gs_team *team, gs_part part, void *context, Py_ssize_t parts) noexcept nogil
        Py_ssize_t wake

cdef extern from "simd.h":
    unsigned long long gs_ftz_on() noexcept nogil
    void gs_ftz_restore(unsigned long long) noexcept nogil
