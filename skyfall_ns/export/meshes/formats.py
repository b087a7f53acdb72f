"""File formats of meshes: GLB with its texture, OBJ with MTL and PNG, and PLY with colors of vertices."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from skyfall_ns.export.gaussians.cloud import GaussianCloud
from skyfall_ns.export.meshes.height_mesh import TriangleMesh
from skyfall_ns.export.meshes.texture import TexturedMesh, colors_at
from skyfall_ns.io.files import atomic_write
from skyfall_ns.io.glb import INDICES, Z_UP_TO_Y_UP, GlbBuffer, encode_glb
from skyfall_ns.io.images import encode_png


def write_mesh_glb(path: Path, textured: TexturedMesh, extras: dict[str, Any]) -> None:
    """Write binary glTF with the texture inside; `extras` are kept in its asset."""
    buffer = GlbBuffer()
    attributes = {
        "POSITION": buffer.add_accessor(textured.mesh.vertices.astype("<f4")),
        "TEXCOORD_0": buffer.add_accessor(textured.uv.astype("<f4")),
    }
    indices = buffer.add_accessor(textured.mesh.faces.astype("<u4").ravel(), target=INDICES)
    image = buffer.add_view(encode_png(textured.texture[..., ::-1]))
    material = {
        "pbrMetallicRoughness": {"baseColorTexture": {"index": 0}, "metallicFactor": 0.0, "roughnessFactor": 1.0},
        "extensions": {"KHR_materials_unlit": {}},  # the colors contain their light
    }
    primitive = {"attributes": attributes, "indices": indices, "material": 0}
    document = {
        "asset": {"version": "2.0", "generator": extras["software"], "extras": extras},
        "extensionsUsed": ["KHR_materials_unlit"],
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "matrix": Z_UP_TO_Y_UP}],
        "meshes": [{"primitives": [primitive]}],
        "materials": [material],
        "textures": [{"source": 0, "sampler": 0}],
        "samplers": [{"magFilter": 9729, "minFilter": 9987, "wrapS": 33071, "wrapT": 33071}],
        "images": [{"bufferView": image, "mimeType": "image/png"}],
    }
    atomic_write(path, encode_glb(document, buffer))


def write_mesh_obj(path: Path, textured: TexturedMesh, comments: Sequence[str]) -> None:
    """Write NAME.obj, and NAME.mtl and NAME.png beside it; OBJ counts vertical texture coordinates from the bottom."""
    material, image = path.with_suffix(".mtl"), path.with_suffix(".png")
    lines = [*(f"# {line}" for line in comments), f"mtllib {material.name}", "usemtl city"]
    lines += [f"v {x:.4f} {y:.4f} {z:.4f}" for x, y, z in textured.mesh.vertices.tolist()]
    lines += [f"vt {u:.6f} {1 - v:.6f}" for u, v in textured.uv.tolist()]
    lines += [f"f {a}/{a} {b}/{b} {c}/{c}" for a, b, c in (textured.mesh.faces + 1).tolist()]
    atomic_write(image, encode_png(textured.texture[..., ::-1]))
    atomic_write(material, f"newmtl city\nKa 0 0 0\nKd 1 1 1\nKs 0 0 0\nillum 1\nmap_Kd {image.name}\n".encode())
    atomic_write(path, ("\n".join(lines) + "\n").encode())


def write_mesh_ply(path: Path, mesh: TriangleMesh, cloud: GaussianCloud, comments: Sequence[str]) -> None:
    """Write a binary PLY whose vertices have the colors of the Gaussians around them."""
    rows = np.zeros(len(mesh.vertices), [("xyz", "<f4", 3), ("rgb", "u1", 3)])
    rows["xyz"], rows["rgb"] = mesh.vertices, np.round(255 * colors_at(cloud, mesh.vertices))
    faces = np.zeros(len(mesh.faces), [("count", "u1"), ("index", "<i4", 3)])
    faces["count"], faces["index"] = 3, mesh.faces
    header = ["ply", "format binary_little_endian 1.0", *(f"comment {line}" for line in comments)]
    header += [f"element vertex {len(rows)}", *(f"property float {axis}" for axis in "xyz")]
    header += [*(f"property uchar {color}" for color in ("red", "green", "blue")), f"element face {len(faces)}"]
    header += ["property list uchar int vertex_indices", "end_header"]
    atomic_write(path, "\n".join(header).encode() + b"\n" + rows.tobytes() + faces.tobytes())
