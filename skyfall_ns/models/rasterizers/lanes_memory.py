"""Lanes and memory: loads, stores, rows to columns, sums across lanes; and what else touches memory in the kernels.

Indices count elements of the array's memory and are not checked.
"""

# Numba types these calls, not Python.
# pyright: reportOptionalCall=false, reportAttributeAccessIssue=false

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils, errors
from numba.extending import intrinsic

from skyfall_ns.models.rasterizers.lanes import (
    F32,
    I32,
    I64,
    INTS,
    LANES,
    VECTOR,
    WIDTH,
    as_lanes,
    constant,
    shuffle,
)


def _pointer(context, builder, kind, array, index_kind, index, element) -> ir.Value:  # type: ignore[no-untyped-def]
    """Where element `index` of an array lies, as a pointer to `element`."""
    data = cgutils.create_struct_proxy(kind)(context, builder, value=array).data
    where = context.cast(builder, index, index_kind, types.int64)
    return builder.bitcast(builder.gep(data, [where]), element.as_pointer())


@intrinsic
def at(typingctx, array, index):  # type: ignore[no-untyped-def]
    """One element."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        kind = context.get_data_type(signature.return_type)
        return builder.load(_pointer(context, builder, signature.args[0], args[0], signature.args[1], args[1], kind))

    return array.dtype(array, index), codegen


def _loads(count: int) -> Any:
    """A function that loads `count` interleaved vectors (rows of `count` numbers), from element `index` on."""
    wide = ir.VectorType(F32, WIDTH * count)

    @intrinsic
    def function(typingctx, array, index):  # type: ignore[no-untyped-def]
        result = LANES if count == 1 else types.UniTuple(LANES, count)

        def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
            place = _pointer(context, builder, signature.args[0], args[0], signature.args[1], args[1], wide)
            block = builder.load(place, align=4)
            if count == 1:
                return block
            parts = [shuffle(builder, block, block, list(range(i, WIDTH * count, count))) for i in range(count)]
            return context.make_tuple(builder, result, parts)

        return result(array, index), codegen

    return function


load, load3, load4 = _loads(1), _loads(3), _loads(4)


def _interleaved(builder: ir.IRBuilder, parts: list[ir.Value]) -> ir.Value:
    """Vectors [count][16] as one of 16 rows of `count`."""
    count = len(parts)
    if count == 1:
        return parts[0]
    undefined = ir.Constant(VECTOR, ir.Undefined)
    parts = parts + [undefined] * (-count % 2)
    pairs = [shuffle(builder, a, b, list(range(2 * WIDTH))) for a, b in zip(parts[::2], parts[1::2], strict=True)]
    pairs = pairs * (1 if len(pairs) == 2 else 2)
    return shuffle(builder, pairs[0], pairs[1], [i * WIDTH + row for row in range(WIDTH) for i in range(count)])


def _store_lanes(context, builder, signature, args) -> Any:  # type: ignore[no-untyped-def]
    vectors = [as_lanes(context, builder, k, v) for k, v in zip(signature.args[2:], args[2:], strict=True)]
    block = _interleaved(builder, vectors)
    builder.store(
        block, _pointer(context, builder, signature.args[0], args[0], signature.args[1], args[1], block.type), align=4
    )
    return context.get_dummy_value()


@intrinsic
def store(typingctx, array, index, a):  # type: ignore[no-untyped-def]
    """Write sixteen consecutive elements."""
    return types.void(array, index, a), _store_lanes


@intrinsic
def store2(typingctx, array, index, a, b):  # type: ignore[no-untyped-def]
    """Write sixteen rows of two."""
    return types.void(array, index, a, b), _store_lanes


@intrinsic
def store3(typingctx, array, index, a, b, c):  # type: ignore[no-untyped-def]
    """Write sixteen rows of three."""
    return types.void(array, index, a, b, c), _store_lanes


@intrinsic
def store4(typingctx, array, index, a, b, c, d):  # type: ignore[no-untyped-def]
    """Write sixteen rows of four."""
    return types.void(array, index, a, b, c, d), _store_lanes


@intrinsic
def store_integers(typingctx, array, index, a):  # type: ignore[no-untyped-def]
    """Write sixteen whole numbers to an int32 array."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        place = _pointer(context, builder, signature.args[0], args[0], signature.args[1], args[1], INTS)
        builder.store(builder.fptosi(args[2], INTS), place, align=4)
        return context.get_dummy_value()

    return types.void(array, index, a), codegen


def _swap(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, step: int) -> tuple[ir.Value, ir.Value]:
    """One step of a transposition: exchange a's upper with b's lower halves of every 2 * step lanes."""
    low = [lane if not lane & step else lane - step + WIDTH for lane in range(WIDTH)]
    high = [lane + step if not lane & step else lane + WIDTH for lane in range(WIDTH)]
    return shuffle(builder, a, b, low), shuffle(builder, a, b, high)


def _transposed(builder: ir.IRBuilder, rows: list[ir.Value]) -> list[ir.Value]:
    rows = list(rows)
    for step in (8, 4, 2, 1):
        for i in range(WIDTH):
            if not i & step:
                rows[i], rows[i + step] = _swap(builder, rows[i], rows[i + step], step)
    return rows


@intrinsic
def load_columns(typingctx, array, index):  # type: ignore[no-untyped-def]
    """Sixteen rows of sixteen as a tuple of sixteen columns."""
    result = types.UniTuple(LANES, WIDTH)

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        start = _pointer(context, builder, signature.args[0], args[0], signature.args[1], args[1], F32)
        rows = []
        for i in range(WIDTH):
            place = builder.gep(start, [ir.Constant(I64, i * WIDTH)])
            rows.append(builder.load(builder.bitcast(place, VECTOR.as_pointer()), align=4))
        return context.make_tuple(builder, result, _transposed(builder, rows))

    return result(array, index), codegen


@intrinsic
def store_columns(typingctx, array, index, columns):  # type: ignore[no-untyped-def]
    """Write up to sixteen columns (a tuple) as sixteen rows of sixteen; missing columns become zero."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        start = _pointer(context, builder, signature.args[0], args[0], signature.args[1], args[1], F32)
        vectors = cgutils.unpack_tuple(builder, args[2], len(signature.args[2]))
        vectors += [constant(0.0)] * (WIDTH - len(vectors))
        for i, row in enumerate(_transposed(builder, vectors)):
            place = builder.gep(start, [ir.Constant(I64, i * WIDTH)])
            builder.store(row, builder.bitcast(place, VECTOR.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(array, index, columns), codegen


@intrinsic
def totals(typingctx, vectors):  # type: ignore[no-untyped-def]
    """Lane i: the sum of the lanes of the i-th of up to sixteen vectors (a tuple), by a fixed tree."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        rows = cgutils.unpack_tuple(builder, args[0], len(signature.args[0]))
        rows += [constant(0.0)] * (WIDTH - len(rows))
        for step in (8, 4, 2, 1):
            rows = [builder.fadd(*_swap(builder, rows[i], rows[i + step], step)) for i in range(step)]
        return rows[0]

    return LANES(vectors), codegen


@intrinsic
def prefetch(typingctx, array, index, to_write):  # type: ignore[no-untyped-def]
    """Ask for the line of the cache that holds an element; `to_write` is 0 or 1, as a literal."""
    if not isinstance(to_write, types.IntegerLiteral):
        raise errors.RequireLiteralValue("to_write must be a literal")
    how = [to_write.literal_value, 3, 1]  # keep it close; data, not code

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        place = _pointer(context, builder, signature.args[0], args[0], signature.args[1], args[1], ir.IntType(8))
        kind = ir.FunctionType(ir.VoidType(), [place.type, I32, I32, I32])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(function, [place, *(ir.Constant(I32, value) for value in how)])
        return context.get_dummy_value()

    return types.void(array, index, to_write), codegen


@intrinsic
def claim(typingctx, counter):  # type: ignore[no-untyped-def]
    """The value of counter[0] (int64), counted up for the next thread."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        zero = ir.Constant(I64, 0)
        place = _pointer(context, builder, signature.args[0], args[0], types.int64, zero, I64)
        return builder.atomic_rmw("add", place, ir.Constant(I64, 1), "monotonic")

    return types.int64(counter), codegen


@njit(cache=True)
def room(size):
    """Memory for float32 that begins at a line of the cache: lanes that straddle two lines take twice as long."""
    memory = np.empty(size + WIDTH, np.float32)
    start = -(memory.ctypes.data // 4) % WIDTH
    return memory[start : start + size]
