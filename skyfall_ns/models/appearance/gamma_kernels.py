"""Display gamma of contiguous values, sixteen at a time: the powers of `lighting.gamma_encode` and `gamma_decode`.

The powers are 2^(p log2 x) by the polynomials of `lanes`: relative error below 1e-6. Scalar calls of the C library take
longer than everything else in the kernels that use them.
"""

# Numba types these calls, not Python.
# pyright: reportCallIssue=false

import numpy as np

from skyfall_ns.geo.compilation import njit
from skyfall_ns.models.appearance.lighting import LINEAR_BELOW
from skyfall_ns.models.rasterizers.lanes import LANE_COUNT, exp2_minus, log2, maximum, minimum, quotient, select_lanes
from skyfall_ns.models.rasterizers.lanes_memory import load_lanes, store_lanes
from skyfall_ns.scene.scene import DISPLAY_GAMMA

_INVERSE_GAMMA = np.float32(1 / DISPLAY_GAMMA)
_GAMMA = np.float32(DISPLAY_GAMMA)
_LINEAR_BELOW = np.float32(LINEAR_BELOW)
_SLOPE = np.float32(LINEAR_BELOW ** (1 / DISPLAY_GAMMA - 1) / DISPLAY_GAMMA)  # of the linear part
_SMALLEST = np.float32(1e-9)  # colors below this are decoded to black
_ZERO = np.float32(0.0)
_FAST = {
    "contract",
    "nsz",
}  # explicit, because callers' flags are inherited: `reassoc` breaks the rounding of exp2_minus


def padded_length(count: int) -> int:
    """Length of a buffer for `count` values: a multiple of the number of lanes."""
    return -(-count // LANE_COUNT) * LANE_COUNT


@njit(cache=True, fastmath=_FAST)
def encode_values(light, encoded):
    """Encode linear light for display; lengths are multiples of the number of lanes."""
    for i in range(0, len(light), LANE_COUNT):
        value = load_lanes(light, i)
        above = exp2_minus(log2(maximum(value, _LINEAR_BELOW)) * -_INVERSE_GAMMA)
        store_lanes(encoded, i, above + minimum(value - _LINEAR_BELOW, _ZERO) * _SLOPE)


@njit(cache=True, fastmath=_FAST)
def encode_values_with_slopes(light, encoded, slopes):
    """As `encode_values`, with the derivatives of the encoding."""
    for i in range(0, len(light), LANE_COUNT):
        value = load_lanes(light, i)
        clamped = maximum(value, _LINEAR_BELOW)
        above = exp2_minus(log2(clamped) * -_INVERSE_GAMMA)
        store_lanes(encoded, i, above + minimum(value - _LINEAR_BELOW, _ZERO) * _SLOPE)
        store_lanes(slopes, i, select_lanes(value >= _LINEAR_BELOW, quotient(above * _INVERSE_GAMMA, clamped), _SLOPE))


@njit(cache=True, fastmath=_FAST)
def decode_values(colors, light):
    """Decode display colors to linear light; colors that are not positive are black."""
    for i in range(0, len(colors), LANE_COUNT):
        value = load_lanes(colors, i)
        power = exp2_minus(log2(maximum(value, _SMALLEST)) * -_GAMMA)
        store_lanes(light, i, select_lanes(value > _SMALLEST, power, _ZERO))
