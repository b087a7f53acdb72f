"""Layout of a footprint, the projection of one Gaussian: a row of sixteen float32, one cache line.

Column and row of the center (px); (k1, k2, k3) so that the weight at an offset is 2^-(u² + v²) with u = k1 dx + k2 dy
and v = k3 dy; the compensated opacity; the depth; the cutoff, which is the largest u² + v² with an alpha of at least
1/255; three colors; the first and last column and row of 4x4 px blocks it may touch (none: last < first); and a fourth
color.
"""

CENTER_X, CENTER_Y, K1, K2, K3, OPACITY, DEPTH, CUTOFF, RED, GREEN, BLUE = range(11)
FIRST_X, FIRST_Y, LAST_X, LAST_Y, FOURTH = range(11, 16)
FOOTPRINT_SIZE = 16
