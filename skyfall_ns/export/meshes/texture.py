"""Textures of meshes from Gaussians: charts by xatlas, and at each texel the colors of the nearest Gaussians."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, UInt8
from numpy import ndarray
from scipy.ndimage import distance_transform_edt
from scipy.spatial import KDTree

from skyfall_ns.export.gaussians.cloud import GaussianCloud
from skyfall_ns.export.meshes.height_mesh import TriangleMesh
from skyfall_ns.geo.compilation import njit

NEAREST = 8  # Gaussians per texel
MIN_SIGMA_M = 0.1  # lower bound of the width of the weights


@dataclass(frozen=True)
class TexturedMesh:
    """A mesh whose vertices are doubled at the borders of charts; `uv` in 0..1 from the left and from the top of the
    texture."""

    mesh: TriangleMesh
    uv: Float[ndarray, "v 2"]
    texture: UInt8[ndarray, "s s 3"]


def texture_mesh(mesh: TriangleMesh, cloud: GaussianCloud, size_px: int) -> TexturedMesh:
    """Texture a mesh with the colors of Gaussians in the same frame."""
    import xatlas

    atlas = xatlas.Atlas()
    atlas.add_mesh(mesh.vertices.astype(np.float32), mesh.faces.astype(np.uint32))
    charts, packing = xatlas.ChartOptions(), xatlas.PackOptions()
    packing.resolution, packing.padding, packing.bilinear, packing.create_image = size_px, 2, True, False
    atlas.generate(charts, packing)
    vertex_index, faces, uv = atlas[0]
    charted = TriangleMesh(mesh.vertices[vertex_index], faces.astype(np.int64))
    uv = uv.astype(np.float64)
    positions = texel_positions(charted.vertices, charted.faces, uv, size_px)
    covered = np.isfinite(positions[..., 0])
    texture = np.zeros((size_px, size_px, 3), np.uint8)
    texture[covered] = np.round(255 * colors_at(cloud, positions[covered])).astype(np.uint8)
    nearest = np.asarray(distance_transform_edt(~covered, return_distances=False, return_indices=True))
    return TexturedMesh(charted, uv, texture[tuple(nearest)])  # texels between charts, which interpolation reaches


def colors_at(cloud: GaussianCloud, xyz: Float[ndarray, "n 3"]) -> Float[ndarray, "n 3"]:
    """Colors in 0..1 at points: means over the nearest Gaussians, weighted by opacity and distance."""
    count = min(NEAREST, len(cloud))
    distance, index = KDTree(cloud.means_m).query(xyz, k=count, workers=-1)
    distance, index = distance.reshape(-1, count), index.reshape(-1, count)
    sigma = np.maximum(np.sort(cloud.scales_m, 1)[:, 1], MIN_SIGMA_M)
    weight = cloud.opacities[index] * np.exp(-0.5 * np.square(distance / sigma[index]).clip(max=60.0))
    total = weight.sum(1, keepdims=True)
    return ((weight[..., None] * cloud.rgb[index]).sum(1) / np.maximum(total, 1e-30)).clip(0, 1)


@njit(cache=True)
def texel_positions(
    vertices: Float[ndarray, "v 3"], faces: Int[ndarray, "f 3"], uv: Float[ndarray, "v 2"], size: int
) -> Float[ndarray, "s s 3"]:
    """Positions on the mesh of the texels' centers; NaN for texels of no triangle."""
    positions = np.full((size, size, 3), np.nan)
    for face in range(len(faces)):
        a, b, c = faces[face, 0], faces[face, 1], faces[face, 2]
        ax, ay, bx, by = uv[a, 0] * size - 0.5, uv[a, 1] * size - 0.5, uv[b, 0] * size - 0.5, uv[b, 1] * size - 0.5
        cx, cy = uv[c, 0] * size - 0.5, uv[c, 1] * size - 0.5
        area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
        if area == 0.0:
            continue
        for row in range(max(0, int(np.floor(min(ay, by, cy)))), min(size, int(np.ceil(max(ay, by, cy))) + 1)):
            for column in range(max(0, int(np.floor(min(ax, bx, cx)))), min(size, int(np.ceil(max(ax, bx, cx))) + 1)):
                weight_b = ((column - ax) * (cy - ay) - (row - ay) * (cx - ax)) / area
                weight_c = ((bx - ax) * (row - ay) - (by - ay) * (column - ax)) / area
                weight_a = 1.0 - weight_b - weight_c
                if min(weight_a, weight_b, weight_c) >= -1e-9:
                    for axis in range(3):
                        positions[row, column, axis] = (
                            weight_a * vertices[a, axis] + weight_b * vertices[b, axis] + weight_c * vertices[c, axis]
                        )
    return positions
