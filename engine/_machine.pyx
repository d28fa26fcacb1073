# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The executor: a flat list of kernel calls over fixed memory, and the hot path of a stream through it.

A `Machine` is one program bound to memory: running it patches the caller's pointers into the calls and makes them one
after the other, without the GIL. A `Stepper` holds the machines of a stream (one frame, and chunks of frames) and
checks what comes from Python at C speed.
"""

cimport cython
cimport numpy as cnp
from cpython.object cimport PyObject
from libc.stdint cimport uintptr_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

import numpy as np

from .arrays import exact
from .errors import ShapeError, StateError

cnp.import_array()

include "calls.pxi"

cdef extern from "Python.h":
    Py_ssize_t Py_REFCNT(PyObject *held) noexcept

cdef extern from *:
    """
    #define gs_has_weak_references(array) (((PyArrayObject_fields *)(array))->weakreflist != NULL)
    """
    bint gs_has_weak_references(PyObject *array) noexcept

cdef extern from "team.h":
    enum:
        GS_MOST_THREADS
    void gs_run_parts(gs_team *team, gs_part part, void *context, Py_ssize_t parts) noexcept nogil

cdef enum:
    MAX_DIMS = 65
    # Iterations of loops that may have no end; seconds at the least.
    MAX_AGAIN = 1 << 24

MOST_ITERATIONS = <int>MAX_AGAIN
MOST_THREADS = <int>GS_MOST_THREADS


ctypedef struct Call:
    gs_kernel kernel
    gs_args args

ctypedef struct Patch:
    void **slot
    Py_ssize_t port
    Py_ssize_t offset


# To share the work of a call with: where calls follow closely, and where a call takes long.
cdef gs_team brisk = [gs_run_parts, 0], patient = [gs_run_parts, 1]
TEAMS = (<uintptr_t>&brisk, <uintptr_t>&patient)


cdef void one_beside(void *calls, Py_ssize_t part) noexcept nogil:
    """One of some calls that do not depend on each other."""
    cdef Call *call = <Call *>calls + part
    call.kernel(&call.args)


@cython.final
cdef class Machine:
    """A program bound to its memory.

    Parameters
    ----------
    calls : list of (address, pointers, n, f)
        `pointers` is a list of ``(slot, port, address)``: an absolute address where port is -1, else a byte offset into
        the array that the caller gives for that port.
    keep : object
        Whatever owns the memory that the addresses point to.
    """

    cdef Call *calls
    cdef Patch *patches
    cdef char **ports
    cdef Py_ssize_t count, patched, reach
    cdef object keep

    def __cinit__(self, list calls, object keep):
        cdef Py_ssize_t i, k
        cdef Call *call
        self.keep = keep
        self.count = len(calls)
        self.patched = sum(port >= 0 for _, pointers, _, _ in calls for _, port, _ in pointers)
        self.calls = <Call *>calloc(max(self.count, 1), sizeof(Call))
        self.patches = <Patch *>calloc(max(self.patched, 1), sizeof(Patch))
        if self.calls == NULL or self.patches == NULL:
            raise MemoryError
        k = 0
        for i, (address, pointers, n, f) in enumerate(calls):
            call = &self.calls[i]
            call.kernel = <gs_kernel><uintptr_t>address
            if len(n) > GS_N or len(f) > GS_F:
                raise ValueError(f"a kernel call with {len(n)} sizes and {len(f)} scalars")
            for j, value in enumerate(n):
                call.args.n[<Py_ssize_t>j] = value
            for j, value in enumerate(f):
                call.args.f[<Py_ssize_t>j] = value
            for slot, port, value in pointers:
                if not 0 <= slot < GS_P:
                    raise ValueError(f"a kernel call with pointer slot {slot}")
                if port < 0:
                    call.args.p[<Py_ssize_t>slot] = <void *><uintptr_t>value
                else:
                    self.patches[k].slot = &call.args.p[<Py_ssize_t>slot]
                    self.patches[k].port = port
                    self.patches[k].offset = value
                    self.reach = max(self.reach, port + 1)
                    k += 1
        self.ports = <char **>calloc(max(self.reach, 1), sizeof(char *))
        if self.ports == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.calls)
        free(self.patches)
        free(self.ports)

    cdef Py_ssize_t execute(self, char **ports) noexcept nogil:
        """Make the calls, one after the other or where they jump to. Returns the number of the one that failed, or -1."""
        cdef Py_ssize_t i, left = MAX_AGAIN
        cdef int status
        cdef gs_team *team
        cdef Patch *patch
        for i in range(self.patched):
            patch = &self.patches[i]
            patch.slot[0] = ports[patch.port] + patch.offset
        i = 0
        while i < self.count:
            status = self.calls[i].kernel(&self.calls[i].args)
            if status == GS_OK:
                i += 1
            elif status == GS_JUMP:
                i = self.calls[i].args.n[0]
            elif status == GS_AGAIN and left:
                left -= 1
                i = self.calls[i].args.n[0]
            elif status == GS_BESIDE:
                team = <gs_team *>self.calls[i].args.p[11]
                team.run(team, one_beside, &self.calls[i + 1], self.calls[i].args.n[0])
                i += 1 + self.calls[i].args.n[0]
            else:
                return i
        return -1

    def run(self, list arrays not None):
        """Make the calls over these arrays, one per port, which must have the types and shapes of the ports.

        Returns
        -------
        int
            The number of the call that failed, or -1.
        """
        cdef Py_ssize_t i, failed
        cdef unsigned long long mode
        if len(arrays) < self.reach:
            raise ValueError(f"{len(arrays)} arrays for a program of {self.reach} ports")
        for i in range(self.reach):
            self.ports[i] = <char *>cnp.PyArray_DATA(<cnp.ndarray?>arrays[i])
        with nogil:
            mode = gs_ftz_on()
            failed = self.execute(self.ports)
            gs_ftz_restore(mode)
        return failed


@cython.final
cdef class Frame:
    """The layout of one frame at one port of a stream.

    Parameters
    ----------
    name : str
    shape : tuple of int
        Of one frame, rows included.
    dtype : numpy.dtype
    constant : bool
        The same array serves all frames of a chunk.
    hop : int
        Frames of the file in one of the stream's; where that is more than one, axis 0 of `shape`.
    """

    cdef readonly str name
    cdef readonly tuple shape
    cdef readonly object dtype
    cdef readonly bint constant
    cdef readonly Py_ssize_t hop
    cdef int ndim, type_num
    cdef cnp.npy_intp dims[MAX_DIMS]
    cdef Py_ssize_t nbytes
    cdef cnp.ndarray staging

    def __init__(self, str name, tuple shape, object dtype, bint constant, Py_ssize_t hop=1):
        self.hop = hop
        if len(shape) >= MAX_DIMS:
            raise ValueError(f"a frame of {len(shape)} axes")
        self.name, self.shape, self.dtype, self.constant = name, shape, np.dtype(dtype), constant
        self.ndim = len(shape)
        self.type_num = self.dtype.num
        self.staging = np.zeros(shape, self.dtype)
        self.nbytes = self.staging.nbytes
        for k in range(self.ndim):
            self.dims[k] = shape[k]

    cdef inline bint fits(self, object array) noexcept:
        """Whether `array` can be read in place as one frame."""
        return type(array) is cnp.ndarray and self.matches(<cnp.ndarray>array)

    cdef inline bint matches(self, cnp.ndarray array) noexcept:
        """Whether `array` is dense, aligned, and of this shape and type."""
        cdef int k
        if cnp.PyArray_NDIM(array) != self.ndim or cnp.PyArray_TYPE(array) != self.type_num:
            return False
        if not cnp.PyArray_ISCARRAY_RO(array):
            return False
        for k in range(self.ndim):
            if cnp.PyArray_DIM(array, k) != self.dims[k]:
                return False
        return True

    def describe(self, str what, object array):
        """What is wrong with `array` as `what` at this port."""
        cdef str expected = f"{'' if what in ('frame', 'out') else '(T, *frame) with frame '}{self.shape}"
        if self.hop > 1 and what not in ('frame', 'out'):
            expected = f"(T, {', '.join(map(str, self.shape[1:]))}) with T a multiple of {self.hop}"
        return f"{what} {self.name!r} has shape {array.shape} and dtype {array.dtype}, expected {expected} and {self.dtype}"

    cdef cnp.ndarray staged(self, object value):
        """`value` copied to the staging buffer, whatever its strides and order of bytes."""
        cdef object array = exact("frame", self.name, value, self.dtype)
        if array.shape != self.shape:
            raise ShapeError(self.describe("frame", array))
        np.copyto(self.staging, array)
        return self.staging

    cdef object chunk(self, object value):
        """`value` as a dense array of frames (or one frame, where this port is constant over a chunk)."""
        cdef object array = exact("frames", self.name, value, self.dtype)
        if self.hop > 1 and array.ndim == self.ndim and array.shape[0] % self.hop == 0:
            array = array.reshape(array.shape[0] // self.hop, self.hop, *array.shape[1:])
        if self.constant and array.shape == self.shape:
            pass
        elif array.ndim != self.ndim + 1 or array.shape[1:] != self.shape:
            raise ShapeError(self.describe("frames", array))
        return np.require(array, self.dtype, ["C", "A"])

    cdef tuple whole(self, Py_ssize_t count):
        """The shape of `count` steps, time first."""
        return (count * self.hop, *self.shape[1:]) if self.hop > 1 else (count, *self.shape)


cdef class Stepper:
    """Machines, state and ports of one stream. See `gatestep.engine.stream.Stream`.

    Where a recording takes some steps to reach every node, `beginning` makes these steps: as long as the count of steps
    that lies at byte `clock` of `memory` is less than `until`.
    """

    cdef Machine machine, beginning
    cdef long long *clock
    cdef long long until
    cdef list chunks
    cdef readonly tuple inputs, outputs
    # The only input and output, where there is one of each.
    cdef Frame source, target
    # The last two results that `step` has made.
    cdef cnp.ndarray older, newer
    cdef Py_ssize_t n_in, n_out
    cdef bint single, busy, release, fallible
    cdef cnp.ndarray memory, shadow, table
    # One each per port, in `table`, for whoever is inside: where its frame is; for a chunk, where the first is and how far
    # apart they are.
    cdef char **ports
    cdef char **first
    cdef Py_ssize_t *strides

    def __init__(
        self, Machine machine, tuple inputs, tuple outputs, cnp.ndarray memory, bint release, bint fallible,
        Machine beginning=None, Py_ssize_t clock=0, Py_ssize_t until=0,
    ):
        self.beginning, self.until = beginning, until
        self.clock = NULL if beginning is None else <long long *>(<char *>cnp.PyArray_DATA(memory) + clock)
        self.machine, self.inputs, self.outputs = machine, inputs, outputs
        self.chunks = None
        self.n_in, self.n_out = len(inputs), len(outputs)
        self.table = np.zeros((3, self.n_in + self.n_out), np.intp)
        self.ports = <char **>cnp.PyArray_DATA(self.table)
        self.first = self.ports + self.n_in + self.n_out
        self.strides = <Py_ssize_t *>(self.first + self.n_in + self.n_out)
        self.bounded(machine)
        if beginning is not None:
            self.bounded(beginning)
        self.single = self.n_in == 1 and self.n_out == 1
        if self.single:
            self.source, self.target = inputs[0], outputs[0]
        self.release, self.fallible = release, fallible
        self.memory = memory
        self.shadow = np.empty_like(memory) if fallible else None

    cdef int bounded(self, Machine machine) except -1:
        """Refuse a machine that would read the pointer of a port that this stream does not have."""
        if machine.reach > self.n_in + self.n_out:
            raise ValueError(f"a program of {machine.reach} ports for a stream of {self.n_in + self.n_out}")
        return 0

    def step(self, frame, out=None):
        """Advance by one frame.

        Parameters
        ----------
        frame : array, or mapping or tuple of arrays
            One frame ``(F,)``, with a batch ``(B, F)``; a mapping by name, or a tuple in declared order, where the
            model has several inputs. Read in place if it is dense, aligned and of the port's dtype; copied otherwise.
        out : array, or mapping or tuple of arrays, optional
            Where to put the result: dense, aligned, writable, of the port's shape and dtype. With `out` a step allocates
            nothing; without it nothing new, where results are let go of before the next but one. May be the same memory
            as `frame`.

        Returns
        -------
        array, mapping or tuple
            `out`, or new arrays: a mapping where `frame` was one, otherwise an array or a tuple.

        Raises
        ------
        ShapeError
            An array does not fit its port. The state is what it was.
        StateError
            Another thread is inside this stream.
        """
        cdef char *ports[2]
        cdef Py_ssize_t failed
        cdef object y = out
        if not self.single or not self.source.fits(frame):
            return self.step_many(frame, out)
        ports[0] = <char *>cnp.PyArray_DATA(<cnp.ndarray>frame)
        if out is None:
            y = self.result()
        elif not self.target.fits(out) or not cnp.PyArray_ISWRITEABLE(<cnp.ndarray>out):
            return self.step_many(frame, out)
        ports[1] = <char *>cnp.PyArray_DATA(<cnp.ndarray>y)
        if ports[0] < ports[1] + self.target.nbytes and ports[1] < ports[0] + self.source.nbytes:
            return self.step_many(frame, y)
        if self.busy:
            raise occupied()
        self.busy = self.release
        failed = self.advance(ports)
        self.busy = False
        if failed >= 0:
            raise self.failure(failed, -1, self.begins())
        return y

    @cython.final
    cdef inline cnp.ndarray result(self):
        """A new array for a result: the memory of the last but one, where the caller has let go of it.

        In a loop that is so from the third step on, and making an array takes as long as a small layer.
        """
        if (
            Py_REFCNT(<PyObject *>self.older) != 1 or gs_has_weak_references(<PyObject *>self.older)
            or not self.target.matches(self.older) or not cnp.PyArray_ISWRITEABLE(self.older)
        ):
            self.older = cnp.PyArray_EMPTY(self.target.ndim, self.target.dims, self.target.type_num, 0)
        self.older, self.newer = self.newer, self.older
        return self.newer

    @cython.final
    cdef inline bint begins(self) noexcept nogil:
        """Whether the next step is one of the first."""
        return self.clock != NULL and self.clock[0] < self.until

    @cython.final
    cdef inline Py_ssize_t advance(self, char **ports) noexcept:
        """Run the one-frame machine. Returns the number of the call that failed, with the state put back, or -1."""
        cdef unsigned long long mode
        cdef Py_ssize_t failed
        cdef Machine machine = self.beginning if self.begins() else self.machine
        if self.fallible:
            memcpy(cnp.PyArray_DATA(self.shadow), cnp.PyArray_DATA(self.memory), cnp.PyArray_NBYTES(self.memory))
        if self.release:
            with nogil:
                mode = gs_ftz_on()
                failed = machine.execute(ports)
                gs_ftz_restore(mode)
        else:
            mode = gs_ftz_on()
            failed = machine.execute(ports)
            gs_ftz_restore(mode)
        if failed >= 0:
            memcpy(cnp.PyArray_DATA(self.memory), cnp.PyArray_DATA(self.shadow), cnp.PyArray_NBYTES(self.memory))
        return failed

    cdef object step_many(self, object frame, object out):
        """A step with whatever the caller gave: several ports, arrays that need copying, errors."""
        if self.busy:
            raise occupied()
        self.busy = True  # from here on: the staging buffers are this caller's, too
        try:
            return self.step_held(frame, out)
        finally:
            self.busy = False

    cdef object step_held(self, object frame, object out):
        cdef list arrays = [], results = []
        cdef Frame port
        cdef cnp.ndarray array
        cdef Py_ssize_t failed
        for port, value in zip(self.inputs, gathered(self.inputs, frame, "frame")):
            arrays.append(value if port.fits(value) else port.staged(value))
        for port, value in zip(self.outputs, gathered(self.outputs, out, "out")):
            if value is None:
                value = cnp.PyArray_EMPTY(port.ndim, port.dims, port.type_num, 0)
            elif not port.fits(value) or not cnp.PyArray_ISWRITEABLE(<cnp.ndarray>value):
                raise bad_out(port, value)
            results.append(value)
        apart(results)
        for i, (port, array) in enumerate(zip(self.inputs, arrays)):
            for value in results:
                if overlap(array, <cnp.ndarray>value):
                    arrays[i] = port.staged(array)
        for i, value in enumerate(arrays + results):
            self.ports[<Py_ssize_t>i] = <char *>cnp.PyArray_DATA(<cnp.ndarray>value)
        failed = self.advance(self.ports)
        if failed >= 0:
            raise self.failure(failed, -1, self.begins())
        return self.given(frame, results)

    cdef object given(self, object frame, list results):
        """Results in the form that the inputs had."""
        cdef Frame port
        if isinstance(frame, dict):
            return {port.name: value for port, value in zip(self.outputs, results)}
        return results[0] if len(results) == 1 else tuple(results)

    def run(self, frames, out=None):
        """Advance by a chunk of frames, continuing from the present state. The arithmetic runs without the GIL.

        Parameters
        ----------
        frames : array, or mapping or tuple of arrays
            ``(T, F)``, with a batch ``(T, B, F)``. Inputs that have no time axis may be given once for all frames.
        out : array, or mapping or tuple of arrays, optional
            Where to put the result, dense; must not overlap the input.

        Returns
        -------
        array, mapping or tuple
            Bit for bit what `step` gives frame by frame, stacked along a leading axis.

        Raises
        ------
        ShapeError, StateError
            As `step`. The state is what it was before the call.
        """
        cdef list arrays = [], results = []
        cdef Frame port
        cdef Py_ssize_t i, count = -1
        cdef object array
        for port, value in zip(self.inputs, gathered(self.inputs, frames, "frames")):
            array = port.chunk(value)
            if array.ndim == port.ndim + 1:
                if count >= 0 and count != array.shape[0]:
                    raise ShapeError(f"frames {port.name!r} has {array.shape[0]} frames, another input {count}")
                count = array.shape[0]
            arrays.append(array)
        if count < 0:
            raise ShapeError("frames have no leading axis of time; use step for one frame")
        for port, value in zip(self.outputs, gathered(self.outputs, out, "out")):
            if value is None:
                value = np.empty(port.whole(count), port.dtype)
            elif (
                type(value) is not np.ndarray or value.shape != port.whole(count) or value.dtype != port.dtype
                or not value.flags.carray
            ):
                raise bad_out(port, value)
            results.append(value)
        apart(results)
        for i in range(self.n_in):
            if any(overlap(<cnp.ndarray>arrays[i], <cnp.ndarray>value) for value in results):
                arrays[i] = arrays[i].copy()
        self.advance_by(arrays, results, count)
        return self.given(frames, results)

    cdef int advance_by(self, list arrays, list results, Py_ssize_t count) except -1:
        """Run `count` frames: chunks as long as there are whole ones, then one by one."""
        cdef Py_ssize_t sizes[4]
        cdef void *machines[4]
        cdef char **ports = self.ports
        cdef char **first = self.first
        cdef Py_ssize_t *strides = self.strides
        cdef Frame port
        cdef Py_ssize_t kinds = 0, kind, done = 0, failed = -1, k, total = self.n_in + self.n_out
        cdef bint begins = False
        cdef unsigned long long mode
        if self.busy:
            raise occupied()
        if self.chunks is None:
            self.busy = True  # Python code runs in there, and other threads with it
            try:
                self.chunks = self.build_chunks()
                for _, machine in self.chunks:
                    self.bounded(machine)
            finally:
                self.busy = False
        for size, machine in self.chunks:
            sizes[kinds] = size
            machines[kinds] = <void *>machine
            kinds += 1
        sizes[kinds], machines[kinds] = 1, <void *>self.machine
        if self.fallible:
            memcpy(cnp.PyArray_DATA(self.shadow), cnp.PyArray_DATA(self.memory), cnp.PyArray_NBYTES(self.memory))
        self.busy = True
        for k, (port, array) in enumerate(zip(self.inputs + self.outputs, arrays + results)):
            first[k] = ports[k] = <char *>cnp.PyArray_DATA(<cnp.ndarray>array)
            strides[k] = 0 if array.ndim == port.ndim and k < self.n_in else port.nbytes
        with nogil:
            mode = gs_ftz_on()
            while done < count and failed < 0 and self.begins():
                failed = self.beginning.execute(ports)
                for k in range(total):
                    ports[k] += strides[k]
                done += 1
            for kind in range(kinds + 1):
                while count - done >= sizes[kind] and failed < 0:
                    failed = (<Machine>machines[kind]).execute(ports)
                    for k in range(total):
                        ports[k] += strides[k] * sizes[kind]
                    done += sizes[kind]
            gs_ftz_restore(mode)
        if failed >= 0:
            # Once more frame by frame, to say which one it was.
            memcpy(cnp.PyArray_DATA(self.memory), cnp.PyArray_DATA(self.shadow), cnp.PyArray_NBYTES(self.memory))
            with nogil:
                mode = gs_ftz_on()
                failed = -1
                for done in range(count):
                    begins = self.begins()
                    failed = self.beginning.execute(first) if begins else self.machine.execute(first)
                    if failed >= 0:
                        break
                    for k in range(total):
                        first[k] += strides[k]
                gs_ftz_restore(mode)
            memcpy(cnp.PyArray_DATA(self.memory), cnp.PyArray_DATA(self.shadow), cnp.PyArray_NBYTES(self.memory))
            self.busy = False
            raise self.failure(failed, done, begins)
        self.busy = False
        return 0

    def check_idle(self):
        """Raise StateError where another thread is inside this stream."""
        if self.busy:
            raise occupied()

    def build_chunks(self):
        """Machines for chunks of frames, ``[(frames, machine), ...]``, longest first; made when first needed."""
        return []

    def failure(self, call, frame, begins):
        """The error for a call that failed, of `beginning` where `begins`."""
        return ShapeError(f"call {call} failed at frame {frame}")


cdef object occupied():
    return StateError("another thread is inside this stream; give each thread a stream of its own")


cdef int apart(list results) except -1:
    """Refuse to write two outputs to one memory."""
    cdef Py_ssize_t i, k
    for i in range(1, len(results)):
        for k in range(i):
            if overlap(<cnp.ndarray>results[i], <cnp.ndarray>results[k]):
                raise ShapeError(f"out {k} and out {i} share memory")
    return 0


cdef list gathered(tuple ports, object value, str what):
    """One value per port, from what the caller gave: an array, a mapping by name, or a tuple in order."""
    cdef Frame port
    if value is None and what == "out":
        return [None] * len(ports)
    if isinstance(value, dict):
        names = [port.name for port in ports]
        wrong = set(value) ^ set(names)
        if wrong:
            raise ShapeError(f"{what} has {sorted(value)}, expected {sorted(names)}")
        return [value[name] for name in names]
    if len(ports) == 1 and not (isinstance(value, tuple) and len(value) == 1):
        return [value]
    if not isinstance(value, (tuple, list)) or len(value) != len(ports):
        raise ShapeError(f"{what} must be a mapping or a tuple of {len(ports)}: {[p.name for p in ports]}")
    return list(value)


cdef object bad_out(Frame port, object out):
    if not isinstance(out, np.ndarray):
        return ShapeError(f"out {port.name!r} is a {type(out).__name__}, not an array")
    if out.dtype == port.dtype and out.shape[out.ndim - port.ndim:] == port.shape:
        return ShapeError(f"out {port.name!r} must be dense, aligned and writable, with one result per frame")
    return ShapeError(port.describe("out", out))


cdef inline bint overlap(cnp.ndarray a, cnp.ndarray b) noexcept:
    """Whether two dense arrays share memory."""
    cdef char *pa = <char *>cnp.PyArray_DATA(a)
    cdef char *pb = <char *>cnp.PyArray_DATA(b)
    return pa < pb + cnp.PyArray_NBYTES(b) and pb < pa + cnp.PyArray_NBYTES(a)
