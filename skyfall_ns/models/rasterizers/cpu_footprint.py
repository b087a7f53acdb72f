"""What a Gaussian leaves on the image: one row of sixteen float32, a line of the cache.

Column and row of the centre (px); (k1, k2, k3) so that the weight at an offset is 2^-(u² + v²) with u = k1 dx + k2 dy
and v = k3 dy; the compensated opacity; the depth; the largest u² + v² that still reaches an alpha of 1/255; three
colours; the first and last column and row of 4x4 px blocks it may touch (none: last < first); and a fourth colour.
"""

CENTRE_X, CENTRE_Y, K1, K2, K3, OPACITY, DEPTH, REACH, RED, GREEN, BLUE = range(11)
FIRST_X, FIRST_Y, LAST_X, LAST_Y, FOURTH = range(11, 16)
FOOTPRINT = 16
