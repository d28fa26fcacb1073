# Walking strided arrays of up to six dimensions: `copy` and `binary` share it.

cdef enum:
    MAX_DIMS = 6

cdef struct Walk:
    Py_ssize_t ndim                  # at least 1; the last dimension is the row that a caller's inner loop runs over
    Py_ssize_t shape[MAX_DIMS]
    Py_ssize_t first[MAX_DIMS]       # strides of the two arrays, in elements
    Py_ssize_t second[MAX_DIMS]
    Py_ssize_t index[MAX_DIMS]
    Py_ssize_t at_first              # where the current row starts
    Py_ssize_t at_second


cdef inline bint start_walk(
    Walk *walk, Py_ssize_t ndim, const Py_ssize_t *shape, const Py_ssize_t *first, const Py_ssize_t *second
) noexcept nogil:
    """Drop dimensions of one element and merge those that either array sees as one; False if there is nothing to do.

    Rows become as long as they can: what an inner loop costs to enter matters more at a frame's sizes than its speed.
    """
    cdef Py_ssize_t source, last = 0
    walk.shape[0] = 1
    walk.first[0] = walk.second[0] = 0
    for source in range(ndim):
        if shape[source] <= 0:
            return False
        if shape[source] == 1:
            continue
        if walk.shape[last] == 1:
            walk.shape[last] = shape[source]
        elif (walk.first[last] == first[source] * shape[source]
              and walk.second[last] == second[source] * shape[source]):
            walk.shape[last] *= shape[source]
        else:
            last += 1
            walk.shape[last] = shape[source]
        walk.first[last] = first[source]
        walk.second[last] = second[source]
    walk.ndim = last + 1
    for source in range(walk.ndim):
        walk.index[source] = 0
    walk.at_first = walk.at_second = 0
    return True


cdef inline bint next_row(Walk *walk) noexcept nogil:
    """Step to the next row, in C order; False after the last one."""
    cdef Py_ssize_t dim = walk.ndim - 2
    while dim >= 0:
        walk.index[dim] += 1
        walk.at_first += walk.first[dim]
        walk.at_second += walk.second[dim]
        if walk.index[dim] < walk.shape[dim]:
            return True
        walk.at_first -= walk.first[dim] * walk.shape[dim]
        walk.at_second -= walk.second[dim] * walk.shape[dim]
        walk.index[dim] = 0
        dim -= 1
    return False
