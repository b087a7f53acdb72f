"""A SIMD type for Numba: LLVM's `<16 x float>` with arithmetic, masks, exponential and logarithm.

Numba does not vectorize the blend loop by itself; written in terms of this type it runs near the speed of C. LLVM
splits the vector where the machine's registers are shorter. The width is used only here and in lanes_memory.py. A
scalar operand is broadcast to all sixteen lanes.
"""

# Numba types these calls, not Python.
# pyright: reportOptionalCall=false, reportAttributeAccessIssue=false

import operator
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir
from llvmlite.binding import get_host_cpu_features
from numba import config, types
from numba.core import cgutils
from numba.core.imputils import lower_builtin
from numba.core.typing.templates import ConcreteTemplate, infer_global, signature
from numba.extending import intrinsic, models, register_model

LANE_COUNT = 16
F32, _F64, _I1, I32, I64 = ir.FloatType(), ir.DoubleType(), ir.IntType(1), ir.IntType(32), ir.IntType(64)
FLOAT_VECTOR, INT_VECTOR, _MASK_VECTOR = (ir.VectorType(kind, LANE_COUNT) for kind in (F32, I32, _I1))
_FAST_FLAGS = ("contract", "nsz")  # a * b + c may become one instruction


class Lanes(types.Type):
    """Sixteen float32 values in a register."""

    def __init__(self) -> None:
        super().__init__(name="Lanes16f32")


class Mask(types.Type):
    """Sixteen truth values."""

    def __init__(self) -> None:
        super().__init__(name="Mask16")


LANES, MASK = Lanes(), Mask()


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type):  # type: ignore[no-untyped-def]
        super().__init__(dmm, fe_type, FLOAT_VECTOR)


@register_model(Mask)
class _MaskModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type):  # type: ignore[no-untyped-def]
        super().__init__(dmm, fe_type, _MASK_VECTOR)


def lanes_constant(value: float) -> ir.Constant:
    """A constant with the same float32 value in all lanes."""
    return ir.Constant(FLOAT_VECTOR, [ir.Constant(F32, value)] * LANE_COUNT)


def _integer_constant(value: int) -> ir.Constant:
    return ir.Constant(INT_VECTOR, [ir.Constant(I32, value)] * LANE_COUNT)


def shuffle_lanes(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, lanes: list[int]) -> ir.Value:
    """Select lanes from the concatenation of a and b."""
    order = ir.Constant(ir.VectorType(I32, len(lanes)), [ir.Constant(I32, lane) for lane in lanes])
    return builder.shuffle_vector(a, b, order)


def _broadcast_scalar(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    """Broadcast a scalar to all lanes."""
    undefined = ir.Constant(ir.VectorType(value.type, LANE_COUNT), ir.Undefined)
    return shuffle_lanes(
        builder, builder.insert_element(undefined, value, ir.Constant(I32, 0)), undefined, [0] * LANE_COUNT
    )


def as_lanes(context: Any, builder: ir.IRBuilder, kind: types.Type, value: ir.Value) -> ir.Value:
    """The value itself if it has lanes, else the scalar in all lanes."""
    if kind == LANES:
        return value
    return _broadcast_scalar(builder, context.cast(builder, value, kind, types.float32))


def _call_intrinsic(builder: ir.IRBuilder, name: str, *args: ir.Value) -> ir.Value:
    """Call an LLVM intrinsic whose operands and result have one type."""
    kind = args[0].type
    letter = "f64" if kind.element == _F64 else "f32"
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(kind, [kind] * len(args)), f"llvm.{name}.v{LANE_COUNT}{letter}"
    )
    return builder.call(function, args)


def _numba_function(build: Callable[..., ir.Value], parameters: int, result: types.Type = LANES) -> Any:
    """Make a Numba function of lanes (or scalars) from a builder of LLVM code; its docstring is that of the builder."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        vectors = [as_lanes(context, builder, kind, value) for kind, value in zip(signature.args, args, strict=True)]
        return build(builder, *vectors)

    if parameters == 1:

        def typer(typingctx, a):  # type: ignore[no-untyped-def]
            return result(a), codegen
    elif parameters == 2:

        def typer(typingctx, a, b):  # type: ignore[no-untyped-def]
            return result(a, b), codegen
    else:

        def typer(typingctx, a, b, c):  # type: ignore[no-untyped-def]
            return result(a, b, c), codegen

    typer.__name__, typer.__doc__ = build.__name__, build.__doc__
    return intrinsic(typer)


def _add_operator(symbol: Any, build: Callable[..., ir.Value], result: types.Type = LANES) -> None:
    """Define a Python operator in Numba between lanes, or lanes and a scalar."""
    pairs = [(LANES, LANES), (LANES, types.float64), (types.float64, LANES)]

    class Template(ConcreteTemplate):
        cases = [signature(result, *pair) for pair in pairs]  # noqa: RUF012

    infer_global(symbol)(Template)
    for pair in pairs:

        @lower_builtin(symbol, *pair)
        def lower(context, builder, sig, args):  # type: ignore[no-untyped-def]
            return build(builder, *(as_lanes(context, builder, k, v) for k, v in zip(sig.args, args, strict=True)))


_add_operator(operator.add, lambda builder, a, b: builder.fadd(a, b, flags=_FAST_FLAGS))
_add_operator(operator.sub, lambda builder, a, b: builder.fsub(a, b, flags=_FAST_FLAGS))
_add_operator(operator.mul, lambda builder, a, b: builder.fmul(a, b, flags=_FAST_FLAGS))
_add_operator(operator.truediv, lambda builder, a, b: builder.fdiv(a, b))
for _symbol, _name in ((operator.ge, ">="), (operator.gt, ">"), (operator.le, "<="), (operator.lt, "<")):
    _add_operator(_symbol, lambda builder, a, b, _name=_name: builder.fcmp_ordered(_name, a, b), MASK)


@infer_global(operator.and_)
class _MaskAnd(ConcreteTemplate):
    cases = [signature(MASK, MASK, MASK)]  # noqa: RUF012


@lower_builtin(operator.and_, MASK, MASK)
def _lower_mask_and(context, builder, sig, args):  # type: ignore[no-untyped-def]
    return builder.and_(*args)


@infer_global(operator.neg)
class _LanesNegative(ConcreteTemplate):
    cases = [signature(LANES, LANES)]  # noqa: RUF012


@lower_builtin(operator.neg, LANES)
def _lower_negative(context, builder, sig, args):  # type: ignore[no-untyped-def]
    return builder.fneg(args[0])


def _build_broadcast(builder, a):  # type: ignore[no-untyped-def]
    """A scalar in all lanes."""
    return a


def _build_fma(builder, a, b, c):  # type: ignore[no-untyped-def]
    """a * b + c; `fmuladd`, because `fma` calls the C library where the machine has no such instruction."""
    return _call_intrinsic(builder, "fmuladd", a, b, c)


def _build_minimum(builder, a, b):  # type: ignore[no-untyped-def]
    """The smaller of two; b where a is NaN."""
    return builder.select(builder.fcmp_ordered("<", a, b), a, b)


def _build_maximum(builder, a, b):  # type: ignore[no-untyped-def]
    """The larger of two; b where a is NaN."""
    return builder.select(builder.fcmp_ordered(">", a, b), a, b)


@cache
def _has_avx512() -> bool:
    """Whether kernels are compiled for AVX-512: by Numba's CPU options if they are set, else by this CPU."""
    requested = f"{config.CPU_NAME or ''}{config.CPU_FEATURES or ''}"
    return "+avx512f" in requested if requested else bool(get_host_cpu_features().get("avx512f"))


def _build_quotient(builder, a, b):  # type: ignore[no-untyped-def]
    """a / b to float32 rounding, for normal b; a division takes as long as ten multiplications."""
    if not _has_avx512():
        return builder.fdiv(a, b)
    kind = ir.FunctionType(FLOAT_VECTOR, [FLOAT_VECTOR, FLOAT_VECTOR, ir.IntType(LANE_COUNT)])
    estimate = cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.avx512.rcp14.ps.512")
    inverse = builder.call(estimate, [b, b, ir.Constant(ir.IntType(LANE_COUNT), -1)])
    inverse = builder.fmul(inverse, _call_intrinsic(builder, "fmuladd", builder.fneg(b), inverse, lanes_constant(2.0)))
    return builder.fmul(a, inverse)


def _build_negated_magnitude(builder, a):  # type: ignore[no-untyped-def]
    """-|a|."""
    sign = builder.or_(builder.bitcast(a, INT_VECTOR), _integer_constant(0x80000000))
    return builder.bitcast(sign, FLOAT_VECTOR)


def _unary_function(name: str, description: str) -> Any:
    """Make a Numba function that calls a unary LLVM intrinsic."""

    def build(builder, a):  # type: ignore[no-untyped-def]
        return _call_intrinsic(builder, name, a)

    build.__name__, build.__doc__ = name, description
    return _numba_function(build, 1)


broadcast, fma = _numba_function(_build_broadcast, 1), _numba_function(_build_fma, 3)
minimum, maximum = _numba_function(_build_minimum, 2), _numba_function(_build_maximum, 2)
quotient, negated_magnitude = _numba_function(_build_quotient, 2), _numba_function(_build_negated_magnitude, 1)
square_root, magnitude = _unary_function("sqrt", "The square root."), _unary_function("fabs", "|a|.")
floor, ceil = (
    _unary_function("floor", "The largest integer not above."),
    _unary_function("ceil", "The smallest integer not below."),
)


@intrinsic
def select_lanes(typingctx, mask, a, b):  # type: ignore[no-untyped-def]
    """Per lane: a where the mask is true, else b."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        pair = (as_lanes(context, builder, k, v) for k, v in zip(signature.args[1:], args[1:], strict=True))
        return builder.select(args[0], *pair)

    return LANES(mask, a, b), codegen


@intrinsic
def mask_bits(typingctx, mask):  # type: ignore[no-untyped-def]
    """The mask as the low sixteen bits of an int64."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return builder.zext(builder.bitcast(args[0], ir.IntType(LANE_COUNT)), I64)

    return types.int64(mask), codegen


@intrinsic
def mask_from_bits(typingctx, bits):  # type: ignore[no-untyped-def]
    """The low sixteen bits of an integer as a mask."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        low = context.cast(builder, args[0], signature.args[0], types.uint16)
        return builder.bitcast(low, _MASK_VECTOR)

    return MASK(bits), codegen


@intrinsic
def affine_sum(typingctx, a, b, c, d, x, y, z):  # type: ignore[no-untyped-def]
    """a x + b y + c z + d in float64, rounded to float32 once at the end."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        wide = ir.VectorType(_F64, LANE_COUNT)
        factors = [context.cast(builder, args[i], signature.args[i], types.float64) for i in range(4)]
        value = _broadcast_scalar(builder, factors[3])
        for factor, lanes in zip(factors[:3], args[4:], strict=True):
            value = _call_intrinsic(
                builder, "fmuladd", _broadcast_scalar(builder, factor), builder.fpext(lanes, wide), value
            )
        return builder.fptrunc(value, FLOAT_VECTOR)

    return LANES(a, b, c, d, x, y, z), codegen


@intrinsic
def lowest_bit(typingctx, word):  # type: ignore[no-untyped-def]
    """Index of the lowest set bit of a nonzero uint64."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return builder.cttz(args[0], ir.Constant(_I1, 1))

    return types.int64(word), codegen


@intrinsic
def count_bits(typingctx, word):  # type: ignore[no-untyped-def]
    """Number of set bits of a uint64."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return builder.ctpop(args[0])

    return types.int64(word), codegen


def _exp2_coefficients() -> list[float]:
    """2^f on [-1/2, 1/2], degree 5, fitted to relative error at Chebyshev nodes (2e-7); highest power first."""
    f = 0.5 * np.cos(np.pi * (np.arange(200) + 0.5) / 200)
    weight = 2.0**-f
    powers = np.stack([f**k for k in range(5, -1, -1)], 1)
    return [float(v) for v in np.linalg.lstsq(powers * weight[:, None], np.ones(200), rcond=None)[0]]


_EXP2 = _exp2_coefficients()
_ROUND = 12582912.0  # 1.5 * 2^23: the sum has the nearest integer in its low bits


def _build_exp2_minus(builder, a):  # type: ignore[no-untyped-def]
    """2^(-a) for |a| up to 120, relative error 3e-7; undefined elsewhere."""
    shifted = builder.fsub(lanes_constant(_ROUND), a)
    fraction = builder.fadd(a, builder.fsub(shifted, lanes_constant(_ROUND)))  # 2^-a = 2^(-whole) 2^(-fraction)
    power = lanes_constant(-_EXP2[0])
    for i, coefficient in enumerate(_EXP2[1:]):
        power = _call_intrinsic(
            builder, "fmuladd", power, fraction, lanes_constant(coefficient if i % 2 == 0 else -coefficient)
        )
    exponent = builder.shl(builder.bitcast(shifted, INT_VECTOR), _integer_constant(23))
    return builder.bitcast(builder.add(builder.bitcast(power, INT_VECTOR), exponent), FLOAT_VECTOR)


def _build_log2(builder, a):  # type: ignore[no-untyped-def]
    """log2(a) for positive normal a, absolute error 2e-7: exponent + series in (m - 1) / (m + 1), m in 0.7..1.42."""
    shifted = builder.sub(builder.bitcast(a, INT_VECTOR), _integer_constant(0x3F3504F3))  # bits of sqrt(1/2)
    exponent = builder.ashr(shifted, _integer_constant(23))
    mantissa = builder.bitcast(
        builder.sub(builder.bitcast(a, INT_VECTOR), builder.shl(exponent, _integer_constant(23))), FLOAT_VECTOR
    )
    s = builder.fdiv(builder.fsub(mantissa, lanes_constant(1.0)), builder.fadd(mantissa, lanes_constant(1.0)))
    square = builder.fmul(s, s)
    series = lanes_constant(2.0 / (9.0 * np.log(2.0)))
    for odd in (7, 5, 3, 1):
        series = _call_intrinsic(builder, "fmuladd", series, square, lanes_constant(2.0 / (odd * np.log(2.0))))
    return _call_intrinsic(builder, "fmuladd", s, series, builder.sitofp(exponent, FLOAT_VECTOR))


exp2_minus, log2 = _numba_function(_build_exp2_minus, 1), _numba_function(_build_log2, 1)
