# cython: language_level=3, boundscheck=False, wraparound=False
"""Timed loops that no interpreter takes part in: reading memory once, multiplying and adding, and calling one kernel."""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport uintptr_t

include "../engine/calls.pxi"

cdef extern from *:
    """
    #include <time.h>

    static double gs_now(void) {
        struct timespec t;
        clock_gettime(CLOCK_MONOTONIC, &t);
        return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
    }

    /* Every cache line once, in order. Eight sums, so that no load waits for the sum before it; integers, so that what
       the memory holds makes no difference. The empty asm keeps the sums, and with them the loads, alive. */
    #define GS_READER(NAME, BYTES, TARGET)                                                          \\
        typedef uint64_t NAME##_v __attribute__((vector_size(BYTES), may_alias));                   \\
        TARGET static void NAME(const char *at, ptrdiff_t nbytes) {                                 \\
            const NAME##_v *v = (const NAME##_v *)at, *end = v + nbytes / BYTES;                    \\
            NAME##_v a = {0}, b = a, c = a, d = a, e = a, f = a, g = a, h = a;                      \\
            for (; end - v >= 8; v += 8) {                                                          \\
                a += v[0]; b += v[1]; c += v[2]; d += v[3];                                         \\
                e += v[4]; f += v[5]; g += v[6]; h += v[7];                                         \\
            }                                                                                       \\
            for (; v < end; v++) a += *v;                                                           \\
            a += b + c + d + e + f + g + h;                                                         \\
            __asm__ volatile("" : : "m"(a) : "memory");                                             \\
        }
    GS_READER(gs_read_16, 16, )
    #if defined(__x86_64__)
    GS_READER(gs_read_32, 32, __attribute__((target("avx2"))))
    GS_READER(gs_read_64, 64, __attribute__((target("avx512f"))))
    #else
    #define gs_read_32 gs_read_16
    #define gs_read_64 gs_read_16
    #endif

    /* Twelve sums: more than any core has multiply-adds on their way. The empty asm keeps each sum a register that has
       to be computed. */
    #define GS_FMA(NAME, BYTES, TARGET, REG, OP)                                                    \
        typedef float NAME##_v __attribute__((vector_size(BYTES)));                                 \
        TARGET static void NAME(ptrdiff_t times) {                                                  \
            NAME##_v x = {0}, y = {0}, a[12] = {{0}};                                               \
            for (ptrdiff_t i = 0; i < times; i++) {                                                 \
                for (int k = 0; k < 12; k++) { a[k] = OP(x, y, a[k]); __asm__ volatile("" : "+" REG(a[k])); } \
            }                                                                                       \
        }
    #define gs_plain_fma(x, y, a) ((a) + (x) * (y))
    #if defined(__x86_64__)
    #include <immintrin.h>
    GS_FMA(gs_fma_16, 16, , "x", gs_plain_fma)
    GS_FMA(gs_fma_32, 32, __attribute__((target("avx2,fma"))), "x", _mm256_fmadd_ps)
    GS_FMA(gs_fma_64, 64, __attribute__((target("avx512f"))), "v", _mm512_fmadd_ps)
    #elif defined(__aarch64__)
    GS_FMA(gs_fma_16, 16, , "w", gs_plain_fma)
    #define gs_fma_32 gs_fma_16
    #define gs_fma_64 gs_fma_16
    #else
    static void gs_fma_16(ptrdiff_t times) { volatile float a = 0; for (ptrdiff_t i = 0; i < 48 * times; i++) a += a * a; }
    #define gs_fma_32 gs_fma_16
    #define gs_fma_64 gs_fma_16
    #endif
    """
    double gs_now() noexcept nogil
    void gs_read_16(const char *, Py_ssize_t) noexcept nogil
    void gs_read_32(const char *, Py_ssize_t) noexcept nogil
    void gs_read_64(const char *, Py_ssize_t) noexcept nogil
    void gs_fma_16(Py_ssize_t) noexcept nogil
    void gs_fma_32(Py_ssize_t) noexcept nogil
    void gs_fma_64(Py_ssize_t) noexcept nogil


cdef class Reader:
    """Reads a contiguous buffer, aligned to 64 bytes, from front to back.

    Parameters
    ----------
    buffer : contiguous buffer
    width : {16, 32, 64}
        Bytes per load. The machine must have the instructions: SSE2 or NEON, AVX2, AVX-512.
    """

    cdef Py_buffer view
    cdef int width

    def __cinit__(self, buffer, int width):
        if width not in (16, 32, 64):
            raise ValueError(f"width={width} is not 16, 32 or 64")
        PyObject_GetBuffer(buffer, &self.view, PyBUF_SIMPLE)
        if self.view.len == 0 or <uintptr_t>self.view.buf % 64:
            raise ValueError("the buffer is empty, or not aligned to 64 bytes")
        self.width = width

    def __dealloc__(self):
        PyBuffer_Release(&self.view)

    def seconds(self, Py_ssize_t count):
        """Time for reading everything `count` times."""
        cdef const char *at = <const char *>self.view.buf
        cdef Py_ssize_t nbytes = self.view.len
        cdef double begin
        cdef Py_ssize_t i
        with nogil:
            begin = gs_now()
            for i in range(count):
                if self.width == 64:
                    gs_read_64(at, nbytes)
                elif self.width == 32:
                    gs_read_32(at, nbytes)
                else:
                    gs_read_16(at, nbytes)
            begin = gs_now() - begin
        return begin


cdef class Multiplier:
    """Multiplies and adds in registers, as fast as the processor can: `PER_CALL` products of float32 at a time.

    Parameters
    ----------
    width : {16, 32, 64}
        Bytes per vector. The machine must have the instructions.
    """

    PER_CALL = 12 * 1024 * 16

    cdef int width

    def __cinit__(self, int width):
        if width not in (16, 32, 64):
            raise ValueError(f"width={width} is not 16, 32 or 64")
        self.width = width

    def seconds(self, Py_ssize_t count):
        """Time for `count` times `PER_CALL` products."""
        cdef double begin
        cdef Py_ssize_t i
        with nogil:
            begin = gs_now()
            for i in range(count):
                if self.width == 64:
                    gs_fma_64(1024)
                elif self.width == 32:
                    gs_fma_32(2048)
                else:
                    gs_fma_16(4096)
            begin = gs_now() - begin
        return begin


cdef class KernelCall:
    """One kernel with its arguments, in the convention of abi.h.

    Parameters
    ----------
    address : int
    addresses : dict
        Slot of `gs_args.p` -> address.
    n, f : sequences
    keep : object
        Whatever owns the memory that the addresses point to.
    """

    cdef gs_kernel kernel
    cdef gs_args args
    cdef object keep

    def __init__(self, uintptr_t address, dict addresses, n, f, object keep):
        cdef Py_ssize_t k
        if len(n) > GS_N or len(f) > GS_F or not all(0 <= slot < GS_P for slot in addresses):
            raise ValueError("arguments that do not fit the calling convention")
        self.kernel = <gs_kernel>address
        self.keep = keep
        for k in range(GS_P):
            self.args.p[k] = <void *><uintptr_t>addresses.get(k, 0)
        for k in range(GS_N):
            self.args.n[k] = n[k] if k < len(n) else 0
        for k in range(GS_F):
            self.args.f[k] = f[k] if k < len(f) else 0.0

    def seconds(self, Py_ssize_t count):
        """Time for `count` calls, one after the other, denormals flushed as in a stream."""
        cdef double begin
        cdef unsigned long long mode
        cdef Py_ssize_t i
        cdef int status = 0
        with nogil:
            mode = gs_ftz_on()
            begin = gs_now()
            for i in range(count):
                status |= self.kernel(&self.args)
            begin = gs_now() - begin
            gs_ftz_restore(mode)
        if status:
            raise RuntimeError(f"the kernel returned {status}")
        return begin
