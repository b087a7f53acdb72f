"""Memory access of the kernels: loads and stores of lanes, transposition, sums across lanes, prefetch, a counter.

Indices count elements of the array's memory and are not checked.
"""

# Numba types these calls, not Python.
# pyright: reportOptionalCall=false, reportAttributeAccessIssue=false

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils, errors
from numba.extending import intrinsic

from skyfall_ns.geo.compilation import njit
from skyfall_ns.models.rasterizers.lanes import (
    F32,
    FLOAT_VECTOR,
    I32,
    I64,
    INT_VECTOR,
    LANE_COUNT,
    LANES,
    as_lanes,
    lanes_constant,
    shuffle_lanes,
)


def _element_pointer(context, builder, kind, array, index_kind, index, element) -> ir.Value:  # type: ignore[no-untyped-def]
    """Pointer to element `index` of an array, cast to a pointer to type `element`."""
    data = cgutils.create_struct_proxy(kind)(context, builder, value=array).data
    offset = context.cast(builder, index, index_kind, types.int64)
    return builder.bitcast(builder.gep(data, [offset]), element.as_pointer())


@intrinsic
def load_element(typingctx, array, index):  # type: ignore[no-untyped-def]
    """Load one element."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        kind = context.get_data_type(signature.return_type)
        return builder.load(
            _element_pointer(context, builder, signature.args[0], args[0], signature.args[1], args[1], kind)
        )

    return array.dtype(array, index), codegen


def _row_loader(count: int) -> Any:
    """Make a function that loads sixteen rows of `count` values from element `index` on, as `count` vectors."""
    block_type = ir.VectorType(F32, LANE_COUNT * count)

    @intrinsic
    def load_rows(typingctx, array, index):  # type: ignore[no-untyped-def]
        result = LANES if count == 1 else types.UniTuple(LANES, count)

        def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
            pointer = _element_pointer(
                context, builder, signature.args[0], args[0], signature.args[1], args[1], block_type
            )
            block = builder.load(pointer, align=4)
            if count == 1:
                return block
            parts = [
                shuffle_lanes(builder, block, block, list(range(i, LANE_COUNT * count, count))) for i in range(count)
            ]
            return context.make_tuple(builder, result, parts)

        return result(array, index), codegen

    return load_rows


load_lanes, load_rows_of_3, load_rows_of_4 = _row_loader(1), _row_loader(3), _row_loader(4)


def _interleave_vectors(builder: ir.IRBuilder, parts: list[ir.Value]) -> ir.Value:
    """Interleave `count` vectors of 16 lanes to 16 rows of `count` values."""
    count = len(parts)
    if count == 1:
        return parts[0]
    undefined = ir.Constant(FLOAT_VECTOR, ir.Undefined)
    parts = parts + [undefined] * (-count % 2)
    pairs = [
        shuffle_lanes(builder, a, b, list(range(2 * LANE_COUNT))) for a, b in zip(parts[::2], parts[1::2], strict=True)
    ]
    pairs = pairs * (1 if len(pairs) == 2 else 2)
    return shuffle_lanes(
        builder, pairs[0], pairs[1], [i * LANE_COUNT + row for row in range(LANE_COUNT) for i in range(count)]
    )


def _store_rows(context, builder, signature, args) -> Any:  # type: ignore[no-untyped-def]
    vectors = [as_lanes(context, builder, k, v) for k, v in zip(signature.args[2:], args[2:], strict=True)]
    block = _interleave_vectors(builder, vectors)
    builder.store(
        block,
        _element_pointer(context, builder, signature.args[0], args[0], signature.args[1], args[1], block.type),
        align=4,
    )
    return context.get_dummy_value()


@intrinsic
def store_lanes(typingctx, array, index, a):  # type: ignore[no-untyped-def]
    """Store sixteen consecutive elements."""
    return types.void(array, index, a), _store_rows


@intrinsic
def store_rows_of_2(typingctx, array, index, a, b):  # type: ignore[no-untyped-def]
    """Store two vectors as sixteen rows of two values."""
    return types.void(array, index, a, b), _store_rows


@intrinsic
def store_rows_of_3(typingctx, array, index, a, b, c):  # type: ignore[no-untyped-def]
    """Store three vectors as sixteen rows of three values."""
    return types.void(array, index, a, b, c), _store_rows


@intrinsic
def store_rows_of_4(typingctx, array, index, a, b, c, d):  # type: ignore[no-untyped-def]
    """Store four vectors as sixteen rows of four values."""
    return types.void(array, index, a, b, c, d), _store_rows


@intrinsic
def store_integers(typingctx, array, index, a):  # type: ignore[no-untyped-def]
    """Store lanes as integers in an int32 array."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        pointer = _element_pointer(context, builder, signature.args[0], args[0], signature.args[1], args[1], INT_VECTOR)
        builder.store(builder.fptosi(args[2], INT_VECTOR), pointer, align=4)
        return context.get_dummy_value()

    return types.void(array, index, a), codegen


def _swap_lanes(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, step: int) -> tuple[ir.Value, ir.Value]:
    """One step of a transposition: swap the upper halves of a with the lower halves of b in groups of 2 * step."""
    low = [lane if not lane & step else lane - step + LANE_COUNT for lane in range(LANE_COUNT)]
    high = [lane + step if not lane & step else lane + LANE_COUNT for lane in range(LANE_COUNT)]
    return shuffle_lanes(builder, a, b, low), shuffle_lanes(builder, a, b, high)


def _transpose_rows(builder: ir.IRBuilder, rows: list[ir.Value]) -> list[ir.Value]:
    rows = list(rows)
    for step in (8, 4, 2, 1):
        for i in range(LANE_COUNT):
            if not i & step:
                rows[i], rows[i + step] = _swap_lanes(builder, rows[i], rows[i + step], step)
    return rows


@intrinsic
def load_columns(typingctx, array, index):  # type: ignore[no-untyped-def]
    """Load sixteen rows of sixteen values as a tuple of sixteen columns."""
    result = types.UniTuple(LANES, LANE_COUNT)

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        start = _element_pointer(context, builder, signature.args[0], args[0], signature.args[1], args[1], F32)
        rows = []
        for i in range(LANE_COUNT):
            pointer = builder.gep(start, [ir.Constant(I64, i * LANE_COUNT)])
            rows.append(builder.load(builder.bitcast(pointer, FLOAT_VECTOR.as_pointer()), align=4))
        return context.make_tuple(builder, result, _transpose_rows(builder, rows))

    return result(array, index), codegen


@intrinsic
def store_columns(typingctx, array, index, columns):  # type: ignore[no-untyped-def]
    """Store up to sixteen columns (a tuple) as sixteen rows of sixteen values; missing columns are zero."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        start = _element_pointer(context, builder, signature.args[0], args[0], signature.args[1], args[1], F32)
        vectors = cgutils.unpack_tuple(builder, args[2], len(signature.args[2]))
        vectors += [lanes_constant(0.0)] * (LANE_COUNT - len(vectors))
        for i, row in enumerate(_transpose_rows(builder, vectors)):
            pointer = builder.gep(start, [ir.Constant(I64, i * LANE_COUNT)])
            builder.store(row, builder.bitcast(pointer, FLOAT_VECTOR.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(array, index, columns), codegen


@intrinsic
def vector_sums(typingctx, vectors):  # type: ignore[no-untyped-def]
    """Sums of the lanes of up to sixteen vectors (a tuple), one per lane, in a fixed order of additions."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        rows = cgutils.unpack_tuple(builder, args[0], len(signature.args[0]))
        rows += [lanes_constant(0.0)] * (LANE_COUNT - len(rows))
        for step in (8, 4, 2, 1):
            rows = [builder.fadd(*_swap_lanes(builder, rows[i], rows[i + step], step)) for i in range(step)]
        return rows[0]

    return LANES(vectors), codegen


@intrinsic
def prefetch_element(typingctx, array, index, to_write):  # type: ignore[no-untyped-def]
    """Prefetch the cache line of an element; `to_write` is 0 or 1, as a literal."""
    if not isinstance(to_write, types.IntegerLiteral):
        raise errors.RequireLiteralValue("to_write must be a literal")
    hints = [to_write.literal_value, 3, 1]  # highest locality; data cache

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        pointer = _element_pointer(
            context, builder, signature.args[0], args[0], signature.args[1], args[1], ir.IntType(8)
        )
        kind = ir.FunctionType(ir.VoidType(), [pointer.type, I32, I32, I32])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(function, [pointer, *(ir.Constant(I32, value) for value in hints)])
        return context.get_dummy_value()

    return types.void(array, index, to_write), codegen


@intrinsic
def claim_next(typingctx, counter):  # type: ignore[no-untyped-def]
    """Return counter[0] (int64) and increment it, atomically."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        zero = ir.Constant(I64, 0)
        pointer = _element_pointer(context, builder, signature.args[0], args[0], types.int64, zero, I64)
        return builder.atomic_rmw("add", pointer, ir.Constant(I64, 1), "monotonic")

    return types.int64(counter), codegen


@njit(cache=True)
def aligned_empty(size):
    """Uninitialized float32 array that begins at a cache line: vectors across two lines take twice as long."""
    memory = np.empty(size + LANE_COUNT, np.float32)
    start = -(memory.ctypes.data // 4) % LANE_COUNT
    return memory[start : start + size]
