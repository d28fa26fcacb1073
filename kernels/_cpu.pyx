# cython: language_level=3
"""Which instruction sets this machine has, its operating system included."""

cdef extern from *:
    """
    #if defined(__x86_64__)
    static int gs_has_avx2(void) { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
    static int gs_has_avx512(void) {
        return gs_has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")
            && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    }
    static int gs_has_vnni(void) { return gs_has_avx512() && __builtin_cpu_supports("avx512vnni"); }
    #else
    static int gs_has_avx2(void) { return 0; }
    static int gs_has_avx512(void) { return 0; }
    static int gs_has_vnni(void) { return 0; }
    #endif
    """
    bint gs_has_avx2()
    bint gs_has_avx512()
    bint gs_has_vnni()


def supported():
    """Names of the instruction sets that this machine can run, the best first."""
    return tuple(
        name for name, has in (("avx512", gs_has_avx512()), ("avx2", gs_has_avx2()), ("baseline", True)) if has
    )


def multiplies_whole_numbers():
    """Whether a 512-bit instruction adds products of 16-bit integers (VNNI)."""
    return bool(gs_has_vnni())
