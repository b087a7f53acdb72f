"""A closed triangle mesh of rendered heights, with vertical walls, decimated.

Satellite images show facades too obliquely for a relief of their own, so that walls connect the heights of neighboring
cells, and nothing between roof and street stays open.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray
from scipy.ndimage import distance_transform_edt

from skyfall_ns.errors import SkyfallError
from skyfall_ns.geo.grid import Grid


@dataclass(frozen=True)
class TriangleMesh:
    """Vertices in meters and triangles, counterclockwise as seen from outside."""

    vertices: Float[ndarray, "v 3"]
    faces: Int[ndarray, "f 3"]


def mesh_of_heights(height_m: Float[ndarray, "h w"], grid: Grid) -> TriangleMesh:
    """Connect the centers of the cells of a grid at their heights (local meters); cells without a height get that of
    the nearest cell. Raises SkyfallError if there is no height or only one row or column.

    Each square of four centers is split along the diagonal whose ends differ less in height, which keeps straight the
    edges of roofs."""
    known = np.isfinite(height_m)
    if not known.any() or min(height_m.shape) < 2:
        raise SkyfallError(
            "The run renders no heights in its box. Train it for more steps, or choose a finer cell size."
        )
    nearest = np.asarray(distance_transform_edt(~known, return_distances=False, return_indices=True))
    heights = height_m[tuple(nearest)].astype(np.float64)
    x, y = np.meshgrid(grid.x_m(), grid.y_m())
    vertices = np.stack([x, y, heights], -1).reshape(-1, 3)
    index = np.arange(heights.size).reshape(heights.shape)
    nw, ne, sw, se = (corner.ravel() for corner in (index[:-1, :-1], index[:-1, 1:], index[1:, :-1], index[1:, 1:]))
    z = vertices[:, 2]
    falling = np.abs(z[nw] - z[se]) <= np.abs(z[ne] - z[sw])  # split from north-west to south-east
    first = np.where(falling[:, None], np.stack([nw, sw, se], 1), np.stack([nw, sw, ne], 1))
    second = np.where(falling[:, None], np.stack([nw, se, ne], 1), np.stack([ne, sw, se], 1))
    return TriangleMesh(vertices, np.concatenate([first, second]))


def decimate_mesh(mesh: TriangleMesh, triangle_count: int) -> TriangleMesh:
    """Reduce a mesh to about this number of triangles by quadric error metrics (open3d); the outline is kept."""
    if triangle_count >= len(mesh.faces):
        return mesh
    import open3d as o3d

    full = o3d.geometry.TriangleMesh(
        o3d.utility.Vector3dVector(mesh.vertices), o3d.utility.Vector3iVector(mesh.faces.astype(np.int32))
    )
    small = full.simplify_quadric_decimation(triangle_count, boundary_weight=10.0)
    small.remove_degenerate_triangles()
    small.remove_unreferenced_vertices()
    return TriangleMesh(np.asarray(small.vertices), np.asarray(small.triangles).astype(np.int64))
