"""Machine vectors while code is being emitted: arithmetic on them, written in Python, becomes LLVM instructions.

A function over these values (activations.py, the tiles of cells.py) runs once per kernel, at compile time; Python's own
loops and conditions are then written out, as constants are. `emitted` makes such a function callable from code that
Numba compiles, which has the loops that remain.

Nothing here fuses or reorders: `muladd` is the only multiply-add, so that a result depends on the source alone, as it
does in the Cython kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .shape import Kind

__all__ = [
    "Index",
    "Reals",
    "Vector",
    "clear",
    "copy",
    "either",
    "emitted",
    "in_double",
    "int32",
    "loop",
    "muladd",
    "set_word",
    "times",
    "when",
    "where_less",
    "where_less_equal",
    "word",
]

_INDEX, _LANE = ir.IntType(64), ir.IntType(32)


def _real(kind: Kind) -> Any:
    return ir.FloatType() if kind.bits == 32 else ir.DoubleType()


def _vector(kind: Kind) -> Any:
    return ir.VectorType(_real(kind), kind.lanes)


def _splat(builder: Any, vector: Any, lane: Any) -> Any:
    one = builder.insert_element(ir.Constant(vector, ir.Undefined), lane, _LANE(0))
    return builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(_LANE, vector.count), None))


def _call(builder: Any, name: str, returns: Any, *args: Any) -> Any:
    type_ = ir.FunctionType(returns, [arg.type for arg in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, type_, name), args)


class Index:
    """A whole number, or an address, that is known only when the kernel runs."""

    def __init__(self, builder: Any, value: Any) -> None:
        self.builder, self.value = builder, value

    def like(self, number: Index | int) -> Index:
        """`number` as an Index."""
        return Index(self.builder, _INDEX(number)) if isinstance(number, int) else number

    def word(self, place: int) -> Index:
        """Number `place` of the 8-byte whole numbers at this address."""
        return Index(self.builder, self.builder.load(_word_at(self.builder, self.value, _INDEX(place))))

    def choose(self, yes: Index | int, no: Index | int) -> Index:
        """`yes` where this is not 0, else `no`."""
        return Index(self.builder, self.builder.select(self.truth(), self.like(yes).value, self.like(no).value))

    def truth(self) -> Any:
        """Whether this is not 0, for a branch."""
        return self.builder.icmp_unsigned("!=", self.value, _INDEX(0))

    def __add__(self, other: Index | int) -> Index:
        return Index(self.builder, self.builder.add(self.value, self.like(other).value))

    def __sub__(self, other: Index | int) -> Index:
        return Index(self.builder, self.builder.sub(self.value, self.like(other).value))

    def __mul__(self, other: Index | int) -> Index:
        return Index(self.builder, self.builder.mul(self.value, self.like(other).value))

    def __rsub__(self, other: int) -> Index:
        return self.like(other) - self

    __radd__, __rmul__ = __add__, __mul__

    def __floordiv__(self, other: int) -> Index:
        return Index(self.builder, self.builder.udiv(self.value, _INDEX(other)))  # never of a negative number

    def __mod__(self, other: int) -> Index:
        return Index(self.builder, self.builder.urem(self.value, _INDEX(other)))


class Vector:
    """One machine vector. `+ - * /` work lane by lane, with another one or with a number."""

    def __init__(self, builder: Any, kind: Kind, value: Any) -> None:
        self.builder, self.kind, self.value = builder, kind, value

    def like(self, value: Any) -> Vector:
        """The vector of an LLVM value of the same type."""
        return Vector(self.builder, self.kind, value)

    def every(self, number: Vector | float) -> Vector:
        """`number` in every lane."""
        if isinstance(number, Vector):
            return number
        return self.like(ir.Constant(_vector(self.kind), [number] * self.kind.lanes))

    def by_llvm(self, name: str, *others: Vector) -> Vector:
        """LLVM's function `name` of this vector and others."""
        values = [self.value, *(other.value for other in others)]
        full_name = f"llvm.{name}.v{self.kind.lanes}f{self.kind.bits}"
        return self.like(_call(self.builder, full_name, _vector(self.kind), *values))

    def by_libm(self, name: str) -> Vector:
        """The C library's function `name` of each lane: for what no layer spends its time on."""
        value = self.value
        for lane in map(_LANE, range(self.kind.lanes)):
            y = _call(self.builder, name, _real(self.kind), self.builder.extract_element(self.value, lane))
            value = self.builder.insert_element(value, y, lane)
        return self.like(value)

    def __add__(self, other: Vector | float) -> Vector:
        return self.like(self.builder.fadd(self.value, self.every(other).value))

    def __sub__(self, other: Vector | float) -> Vector:
        return self.like(self.builder.fsub(self.value, self.every(other).value))

    def __mul__(self, other: Vector | float) -> Vector:
        return self.like(self.builder.fmul(self.value, self.every(other).value))

    def __truediv__(self, other: Vector | float) -> Vector:
        return self.like(self.builder.fdiv(self.value, self.every(other).value))

    def __radd__(self, other: float) -> Vector:
        return self.every(other) + self

    def __rsub__(self, other: float) -> Vector:
        return self.every(other) - self

    def __rmul__(self, other: float) -> Vector:
        return self.every(other) * self

    def __rtruediv__(self, other: float) -> Vector:
        return self.every(other) / self

    def __neg__(self) -> Vector:
        return self.like(self.builder.fneg(self.value))

    def __abs__(self) -> Vector:
        return self.by_llvm("fabs")

    def power_of_two(self) -> Vector:
        """2^n from the bits of n + rounder + bias (activations.py)."""
        wholes = ir.VectorType(ir.IntType(self.kind.bits), self.kind.lanes)
        mantissa = ir.Constant(wholes, [23 if self.kind.bits == 32 else 52] * self.kind.lanes)
        shifted = self.builder.shl(self.builder.bitcast(self.value, wholes), mantissa)
        return self.like(self.builder.bitcast(shifted, _vector(self.kind)))


def _vectors(*operands: Vector | float) -> list[Vector]:
    """All operands as vectors, given that one is."""
    like = next(v for v in operands if isinstance(v, Vector))
    return [like.every(operand) for operand in operands]


def muladd(a: Vector | float, b: Vector | float, c: Vector | float) -> Vector:
    """a * b + c, fused where the machine can."""
    a, b, c = _vectors(a, b, c)
    return a.by_llvm("fma", b, c) if a.kind.fused else a * b + c


def _where(comparison: str, *operands: Vector | float) -> Vector:
    a, b, yes, no = _vectors(*operands)
    condition = a.builder.fcmp_ordered(comparison, a.value, b.value)
    return a.like(a.builder.select(condition, yes.value, no.value))


def where_less(a: Vector | float, b: Vector | float, yes: Vector | float, no: Vector | float) -> Vector:
    """`yes` where a < b, else `no`; a comparison with NaN is false."""
    return _where("<", a, b, yes, no)


def where_less_equal(a: Vector | float, b: Vector | float, yes: Vector | float, no: Vector | float) -> Vector:
    """`yes` where a <= b, else `no`; a comparison with NaN is false."""
    return _where("<=", a, b, yes, no)


def in_double(function: Callable[[Vector], Vector], x: Vector) -> Vector:
    """`function` of `x` in double precision, rounded back."""
    if x.kind.bits == 64:
        return function(x)
    wide = x.kind._replace(bits=64)
    y = function(Vector(x.builder, wide, x.builder.fpext(x.value, _vector(wide))))
    return x.like(x.builder.fptrunc(y.value, _vector(x.kind)))


class Reals:
    """The place of reals in memory."""

    def __init__(self, kind: Kind, builder: Any, pointer: Any) -> None:
        self.kind, self.builder, self.pointer = kind, builder, pointer

    @classmethod
    def at(cls, kind: Kind, address: Index) -> Reals:
        """The reals at an address.

        From there on they are found by pointer: LLVM may not see a whole number for what it is and take the offset for
        the pointer, which is then null where the offset is 0.
        """
        return cls(kind, address.builder, address.builder.inttoptr(address.value, _real(kind).as_pointer()))

    def __add__(self, count: Index | int) -> Reals:
        offset = _INDEX(count) if isinstance(count, int) else count.value
        return Reals(self.kind, self.builder, self.builder.gep(self.pointer, [offset], inbounds=True))

    def _pointer(self, type_: Any) -> Any:
        return self.builder.bitcast(self.pointer, type_.as_pointer())

    def load(self, room: Index | int | None = None, *, aligned: bool = False) -> Vector:
        """A machine vector from here; of reals beyond the first `room`, zero."""
        size = self.kind.bits // 8
        if _fits(self.kind, room):
            pointer = self._pointer(_vector(self.kind))
            value = self.builder.load(pointer, align=size * self.kind.lanes if aligned else size)
        else:
            zero = ir.Constant(_vector(self.kind), None)
            value = self._masked("load", _vector(self.kind), room, (), (zero,))
        return Vector(self.builder, self.kind, value)

    def store(self, x: Vector, room: Index | int | None = None) -> None:
        """Store a machine vector, no more than its first `room` reals."""
        if _fits(self.kind, room):
            self.builder.store(x.value, self._pointer(_vector(self.kind)), align=self.kind.bits // 8)
        else:
            self._masked("store", ir.VoidType(), room, (x.value,), ())

    def _masked(self, name: str, returns: Any, room: Any, before: tuple[Any, ...], behind: tuple[Any, ...]) -> Any:
        wholes = ir.VectorType(_INDEX, self.kind.lanes)
        limit = _splat(self.builder, wholes, _INDEX(room) if isinstance(room, int) else room.value)
        mask = self.builder.icmp_signed("<", ir.Constant(wholes, list(range(self.kind.lanes))), limit)
        full_name = f"llvm.masked.{name}.v{self.kind.lanes}f{self.kind.bits}.p0"
        align = _LANE(self.kind.bits // 8)
        return _call(
            self.builder, full_name, returns, *before, self._pointer(_vector(self.kind)), align, mask, *behind
        )

    def everywhere(self) -> Vector:
        """The real that is here, in every lane."""
        lane = self.builder.load(self.pointer)
        return Vector(self.builder, self.kind, _splat(self.builder, _vector(self.kind), lane))

    def double(self, place: int) -> Vector:
        """Number `place` of the doubles that are here, rounded to a real, in every lane."""
        doubles = self._pointer(ir.DoubleType())
        lane = self.builder.load(self.builder.gep(doubles, [_INDEX(place)], inbounds=True))
        if self.kind.bits == 32:
            lane = self.builder.fptrunc(lane, ir.FloatType())
        return Vector(self.builder, self.kind, _splat(self.builder, _vector(self.kind), lane))


def _fits(kind: Kind, room: Index | int | None) -> bool:
    """Whether a whole machine vector is known to fit."""
    return room is None or (isinstance(room, int) and room >= kind.lanes)


def times(count: Index, body: Callable[[Index], None]) -> None:
    """body(k) for k from 0 to count - 1, as a loop of the compiled code."""
    with cgutils.for_range(count.builder, count.value, intp=_INDEX) as range_:
        body(Index(count.builder, range_.index))


def either(condition: Index, then: Callable[[], None], otherwise: Callable[[], None]) -> None:
    """`then()` where the condition is not 0, else `otherwise()`, as a branch of the compiled code."""
    with condition.builder.if_else(condition.truth()) as (yes, no):
        with yes:
            then()
        with no:
            otherwise()


def when(condition: Index, then: Callable[[], Vector], otherwise: Vector) -> Vector:
    """The vector `then()` where the condition is not 0, else `otherwise`, as a branch of the compiled code."""
    builder = condition.builder
    before = builder.block
    with builder.if_then(condition.truth()):
        result = then()
        inside = builder.block
    phi = builder.phi(result.value.type)
    phi.add_incoming(otherwise.value, before)
    phi.add_incoming(result.value, inside)
    return result.like(phi)


def loop(
    count: int, vectors: Sequence[Vector], body: Callable[[Index, list[Vector]], Sequence[Vector]]
) -> list[Vector]:
    """vectors = body(k, vectors) for k from 0 to count - 1, as a loop of the compiled code."""
    if count == 0:
        return list(vectors)
    builder = vectors[0].builder
    before, inside, behind = builder.block, builder.append_basic_block("k"), builder.append_basic_block("k.end")
    builder.branch(inside)
    builder.position_at_end(inside)
    k = builder.phi(_INDEX)
    k.add_incoming(_INDEX(0), before)
    held = [builder.phi(v.value.type) for v in vectors]
    results = body(Index(builder, k), [v.like(phi) for v, phi in zip(vectors, held, strict=True)])
    following = builder.add(k, _INDEX(1))
    k.add_incoming(following, builder.block)
    for phi, first, result in zip(held, vectors, results, strict=True):
        phi.add_incoming(first.value, before)
        phi.add_incoming(result.value, builder.block)
    builder.cbranch(builder.icmp_unsigned("<", following, _INDEX(count)), inside, behind)
    builder.position_at_end(behind)
    return list(results)


# -------------------------------------------------------------------------------------- for code that Numba compiles


def emitted(function: Callable[[Any, Index], None]) -> Any:
    """`function` of a named tuple of whole numbers and one more, for use in compiled code."""

    @intrinsic  # type: ignore[untyped-decorator]
    def call(typing: Any, numbers: Any, last: Any) -> Any:
        def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            fields = [Index(builder, value) for value in cgutils.unpack_tuple(builder, args[0])]
            function(numbers.instance_class(*fields), Index(builder, args[1]))
            return context.get_dummy_value()

        return types.void(numbers, types.intp), lower

    return call


def _word_at(builder: Any, address: Any, place: Any) -> Any:
    return builder.gep(builder.inttoptr(address, _INDEX.as_pointer()), [place])


@intrinsic  # type: ignore[untyped-decorator]
def word(typing: Any, address: Any, place: Any) -> Any:
    """Number `place` of the 8-byte whole numbers at `address`."""

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.load(_word_at(builder, *args))

    return types.intp(types.intp, types.intp), lower


@intrinsic  # type: ignore[untyped-decorator]
def set_word(typing: Any, address: Any, place: Any, value: Any) -> Any:
    """Set number `place` of the 8-byte whole numbers at `address`."""

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        builder.store(args[2], _word_at(builder, *args[:2]))
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.intp), lower


@intrinsic  # type: ignore[untyped-decorator]
def int32(typing: Any, address: Any, place: Any) -> Any:
    """Number `place` of the 4-byte whole numbers at `address`."""

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        numbers = builder.inttoptr(args[0], _LANE.as_pointer())
        return builder.sext(builder.load(builder.gep(numbers, [args[1]])), _INDEX)

    return types.intp(types.intp, types.intp), lower


@intrinsic  # type: ignore[untyped-decorator]
def copy(typing: Any, target: Any, source: Any, count: Any) -> Any:
    """Copy `count` bytes; target and source may be the same, and do not overlap otherwise."""

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        with builder.if_then(builder.icmp_unsigned("!=", args[0], args[1])):
            pointers = [builder.inttoptr(address, ir.IntType(8).as_pointer()) for address in args[:2]]
            cgutils.raw_memcpy(builder, *pointers, args[2], 1)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.intp), lower


@intrinsic  # type: ignore[untyped-decorator]
def clear(typing: Any, target: Any, count: Any) -> Any:
    """Set `count` bytes to zero."""

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        cgutils.memset(builder, builder.inttoptr(args[0], ir.IntType(8).as_pointer()), args[1], 0)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp), lower
