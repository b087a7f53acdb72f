"""The CPU rasterizer: Numba kernels behind one differentiable call, deterministic for any number of threads."""

# Numba types these calls, not Python.
# pyright: reportCallIssue=false

import threading
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numba import get_num_threads
from torch import Tensor

from skyfall_ns.models.rasterizers import cpu_blend, cpu_blend_back, cpu_project, cpu_project_back, cpu_tiles
from skyfall_ns.models.rasterizers.cpu_footprint import FOOTPRINT
from skyfall_ns.models.rasterizers.lanes import WIDTH
from skyfall_ns.models.rasterizers.types import EPS_2D, FAR, NEAR, Gaussians, Rendering, ViewLike

# Kernels run one at a time: a viewer's thread may ask for a picture while training draws, and Numba's fallback
# threading layer aborts on concurrent calls. A forked child must not call them; use spawn.
_ONE_AT_A_TIME = threading.Lock()
_CHANNELS = 4  # drawn in one go


class CpuRasterizer:
    """Draws on the CPU what gsplat draws on CUDA (antialiased, eps2d 0.1), to float32 rounding."""

    def __call__(
        self, gaussians: Gaussians, colors: Float[Tensor, "n c"], view: ViewLike, *, absgrad: bool = False
    ) -> Rendering:
        if len(colors) != len(gaussians.means):
            raise ValueError(f"colors for {len(colors)} of {len(gaussians.means)} Gaussians: give one row for each")
        if absgrad and colors.shape[1] > _CHANNELS:
            raise ValueError(
                "absolute gradients are summed per pixel over all channels: draw at most four with absgrad"
            )
        probe = torch.empty(1, gaussians.means.shape[0], 2, requires_grad=torch.is_grad_enabled())
        camera = _Camera(view)
        groups = [colors[:, start : start + _CHANNELS] for start in range(0, max(colors.shape[1], 1), _CHANNELS)]
        drawn = [
            _Rasterize.apply(
                gaussians.means, gaussians.quats, gaussians.scales, gaussians.opacities, group, probe, camera, absgrad
            )
            for group in groups
        ]  # type: ignore[misc]
        color, depth, alpha, radii, layers = drawn[0]
        if len(drawn) > 1:
            color = torch.cat([part[0] for part in drawn], -1)
        info = {
            "means2d": probe,
            "radii": radii[None],
            "width": view.width,
            "height": view.height,
            "n_cameras": 1,
            "gaussian_ids": None,
        }
        return Rendering(color, depth, alpha, info, layers if layers.numel() else None)


class _Camera:
    """A view as the kernels read it: rows [3, 4] float64, (fx, fy, cx, cy, four slope limits), sizes."""

    def __init__(self, view: ViewLike) -> None:
        self.rows = np.ascontiguousarray(view.camera_from_model.detach().cpu().double().numpy()[:3])
        k = view.intrinsics.detach().cpu().double().numpy()
        fx, fy, cx, cy = k[0, 0], k[1, 1], k[0, 2], k[1, 2]
        self.width, self.height = int(view.width), int(view.height)
        self.pinhole = view.projection == "pinhole"
        side_x, side_y = 0.15 * self.width / fx, 0.15 * self.height / fy
        limits = [cx / fx + side_x, (self.width - cx) / fx + side_x, cy / fy + side_y, (self.height - cy) / fy + side_y]
        self.intrinsics = np.array([fx, fy, cx, cy, *limits])
        self.columns = -(-self.width // cpu_blend.TILE_PX)
        self.tiles = self.columns * -(-self.height // cpu_blend.TILE_PX)


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().to(device="cpu", dtype=torch.float32).contiguous().numpy()


def _room(*shape: int) -> np.ndarray:
    """Float32 memory that begins at a line of the cache."""
    return torch.empty(*shape, dtype=torch.float32).numpy()


def _rows(tensor: Tensor, columns: int | None = None) -> np.ndarray:
    """A tensor as the kernels read it: at least sixteen rows, of `columns` numbers; what is added is zero."""
    array = _array(tensor)
    shape = (max(len(array), WIDTH), *array.shape[1:]) if columns is None else (max(len(array), WIDTH), columns)
    if array.shape == shape:
        return array
    padded = np.zeros(shape, np.float32)
    padded[tuple(slice(size) for size in array.shape)] = array
    return padded


def _columns(colors: Tensor) -> int:
    """Colours as the kernels count them: three, or four."""
    return max(colors.shape[1], 3)


class _Lists:
    """Footprints and tile lists of one view."""

    def __init__(self, camera: _Camera, arrays: tuple[np.ndarray, ...], colors: np.ndarray) -> None:
        n = len(colors)
        self.footprints = _room(n, FOOTPRINT)
        self.radii, self.centres = np.empty(n, np.int32), np.empty((n, 2), np.float32)
        histogram = np.empty((cpu_tiles.CHUNKS, camera.tiles), np.int64)
        cpu_project.project(
            get_num_threads(), *arrays, colors, camera.rows, camera.intrinsics, camera.pinhole, camera.width,
            camera.height, EPS_2D, NEAR, FAR, camera.columns, self.footprints, self.radii, self.centres, histogram,
        )  # fmt: skip
        self.first_entry, self.first_pair, first_of_chunk = cpu_tiles.tile_starts(histogram)
        self.of_gaussian = np.empty(self.first_entry[-1], np.int32)
        self.first_record = np.empty(n + 1, np.int32)
        cpu_tiles.fill(
            get_num_threads(), self.footprints, camera.columns, first_of_chunk, histogram, self.of_gaussian,
            self.first_record,
        )  # fmt: skip


class _Picture:
    """What is drawn, and with `keep` what the way back needs; otherwise layers."""

    def __init__(self, camera: _Camera, lists: _Lists, channels: int, keep: bool) -> None:
        shape = camera.height, camera.width
        self.color = np.empty((*shape, channels), np.float32)
        self.depth, self.alpha, self.remains = (np.empty(shape, np.float32) for _ in range(3))
        self.layers = np.empty((2, 0, 0) if keep else (2, *shape), np.float32)
        self.of_record = np.empty(len(lists.of_gaussian) if keep else 0, np.int32)
        self.took = np.empty(len(lists.of_gaussian) if keep else 0, np.uint64)
        self.bits = np.empty(lists.first_pair[-1] if keep else 0, np.uint16)
        self.used = np.empty(camera.tiles, np.int64)
        cpu_blend.blend(
            get_num_threads(), lists.footprints, camera.columns, lists.first_entry, lists.first_pair, lists.of_gaussian,
            lists.first_record, self.of_record, self.took, self.bits, self.used, self.color, self.depth, self.alpha,
            self.remains, self.layers,
        )  # fmt: skip


class _Rasterize(torch.autograd.Function):
    """(means, quats, scales, opacities, up to four colours, probe) -> colours [h, w, c], expected depth, alpha, radii
    and, where no gradients are wanted, layers. The probe carries the centres out and their gradients back, as
    gsplat's means2d does."""

    @staticmethod
    def forward(
        ctx: Any,
        means: Tensor,
        quats: Tensor,
        scales: Tensor,
        opacities: Tensor,
        colors: Tensor,
        probe: Tensor,
        camera: _Camera,
        absgrad: bool,
    ) -> tuple[Tensor, ...]:
        arrays, n = tuple(_rows(t) for t in (means, quats, scales, opacities)), means.shape[0]
        keep = probe.requires_grad  # gradients are enabled: parameters ask for them even where they are not
        with _ONE_AT_A_TIME:
            lists = _Lists(camera, arrays, _rows(colors, _columns(colors)))
            picture = _Picture(camera, lists, colors.shape[1], keep)
        probe.data[0] = torch.from_numpy(lists.centres[:n])
        if keep:
            ctx.kept = (arrays, camera, lists, picture)
            ctx.probe, ctx.absgrad, ctx.inputs = probe, absgrad, (means, quats, scales, opacities, colors)
        ctx.set_materialize_grads(False)
        radii, layers = torch.from_numpy(lists.radii[:n]), torch.from_numpy(picture.layers)
        ctx.mark_non_differentiable(radii, layers)
        # a copy: the way back reads the depth again, whatever the caller does to his
        depth = picture.depth.copy() if keep else picture.depth
        drawn = (torch.from_numpy(a).to(means.dtype) for a in (picture.color, depth, picture.alpha))
        return (*drawn, radii, layers)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        arrays, camera, lists, picture = ctx.kept
        d_color, d_depth, d_alpha = (
            np.empty((0,) * dimensions, np.float32) if grad is None else _array(grad)
            for grad, dimensions in zip(grads, (3, 2, 2), strict=False)
        )
        n, rows = ctx.inputs[0].shape[0], len(arrays[0])
        records = _room(lists.first_record[-1], cpu_blend_back.RECORD)
        out = [np.empty_like(a) for a in arrays] + [np.empty((rows, _columns(ctx.inputs[4])), np.float32)]
        centres = np.empty((rows, 2), np.float32)
        absolute = np.empty((rows if ctx.absgrad else 0, 2), np.float32)
        with _ONE_AT_A_TIME:
            cpu_blend_back.blend_backward(
                get_num_threads(), lists.footprints, camera.columns, lists.first_entry, lists.first_pair,
                lists.of_gaussian, picture.of_record, picture.took, picture.bits, picture.used, picture.depth,
                picture.remains, d_color, d_depth, d_alpha, ctx.absgrad, records,
            )  # fmt: skip
            cpu_project_back.project_backward(
                get_num_threads(), *arrays, camera.rows, camera.intrinsics, camera.pinhole, EPS_2D, lists.footprints,
                lists.first_record, records, *out, centres, absolute,
            )  # fmt: skip
        if ctx.absgrad:
            previous = getattr(ctx.probe, "absgrad", None)
            new = torch.from_numpy(absolute)[None, :n]
            ctx.probe.absgrad = new if previous is None else previous + new
        out[4] = out[4][:, : ctx.inputs[4].shape[1]]
        tensors = [torch.from_numpy(o[:n]).to(t.dtype) for o, t in zip(out, ctx.inputs, strict=True)]
        return (*tensors, torch.from_numpy(centres)[None, :n], None, None)
