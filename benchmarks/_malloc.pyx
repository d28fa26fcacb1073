# cython: language_level=3
"""How often memory was asked for: `malloc` and its relatives, counted.

They are defined here. Where this module is preloaded (``LD_PRELOAD``), every library of the process calls these; where it
is only imported, nobody does, and nothing is counted. It takes the C library of GNU, whose `malloc` has a second name.
"""

cdef extern from *:
    """
    #include <errno.h>
    #include <stdlib.h>

    static size_t gs_count;

    #if defined(__GLIBC__)
    void *__libc_malloc(size_t);
    void *__libc_calloc(size_t, size_t);
    void *__libc_realloc(void *, size_t);
    void *__libc_memalign(size_t, size_t);

    #define GS_COUNTED __attribute__((visibility("default")))
    #define GS_COUNT() __atomic_fetch_add(&gs_count, 1, __ATOMIC_RELAXED)

    GS_COUNTED void *malloc(size_t size) { GS_COUNT(); return __libc_malloc(size); }
    GS_COUNTED void *calloc(size_t count, size_t size) { GS_COUNT(); return __libc_calloc(count, size); }
    GS_COUNTED void *realloc(void *old, size_t size) { GS_COUNT(); return __libc_realloc(old, size); }
    GS_COUNTED void *memalign(size_t alignment, size_t size) { GS_COUNT(); return __libc_memalign(alignment, size); }
    GS_COUNTED void *aligned_alloc(size_t alignment, size_t size) {
        GS_COUNT();
        return __libc_memalign(alignment, size);
    }
    GS_COUNTED int posix_memalign(void **out, size_t alignment, size_t size) {
        GS_COUNT();
        *out = __libc_memalign(alignment, size);
        return *out == NULL && size ? ENOMEM : 0;
    }
    #endif

    static size_t gs_counted(void) { return __atomic_load_n(&gs_count, __ATOMIC_RELAXED); }
    """
    size_t gs_counted()


def counted():
    """Requests for memory since the process began; 0 where this module is not preloaded."""
    return gs_counted()
