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
from skyfall_ns.models.rasterizers.cpu_footprint import FOOTPRINT_SIZE
from skyfall_ns.models.rasterizers.lanes import LANE_COUNT
from skyfall_ns.models.rasterizers.types import EPS_2D, FAR, NEAR, Gaussians, Rendering
from skyfall_ns.view import View

# Kernels run one at a time: the viewer's thread may render while training renders, and Numba's fallback threading layer
# aborts on concurrent calls. A forked child process must not call them; use spawn.
_KERNEL_LOCK = threading.Lock()
_MAX_CHANNELS = 4  # per kernel call


class CpuRasterizer:
    """Rasterizes on the CPU as gsplat does on CUDA (antialiased, eps2d 0.1), to float32 rounding."""

    def __call__(
        self, gaussians: Gaussians, colors: Float[Tensor, "n c"], view: View, *, absgrad: bool = False
    ) -> Rendering:
        if len(colors) != len(gaussians.means):
            raise ValueError(
                f"colors has {len(colors)} rows for {len(gaussians.means)} Gaussians. Pass one row for each."
            )
        if absgrad and colors.shape[1] > _MAX_CHANNELS:
            raise ValueError(
                f"absgrad with {colors.shape[1]} channels: absolute gradients are summed per pixel over all channels. "
                "Rasterize at most four channels with absgrad."
            )
        probe = torch.empty(1, gaussians.means.shape[0], 2, requires_grad=torch.is_grad_enabled())
        kernel_view = _KernelView(view)
        parameters = gaussians.means, gaussians.quats, gaussians.scales, gaussians.opacities
        channel_groups = colors.split(_MAX_CHANNELS, 1) if colors.shape[1] > _MAX_CHANNELS else [colors]
        results = [
            _Rasterize.apply(*parameters, channels, probe, kernel_view, absgrad)  # type: ignore[misc]
            for channels in channel_groups
        ]
        color, depth, alpha, radii, transmittance_depths = results[0]
        if len(results) > 1:
            color = torch.cat([result[0] for result in results], -1)
        info = {
            "means2d": probe,
            "radii": radii[None],
            "width": view.width,
            "height": view.height,
            "n_cameras": 1,
            "gaussian_ids": None,
        }
        return Rendering(color, depth, alpha, info, transmittance_depths if transmittance_depths.numel() else None)


class _KernelView:
    """A view in the form of the kernels: rows [3, 4] float64, (fx, fy, cx, cy, four slope limits), sizes."""

    def __init__(self, view: View) -> None:
        self.rows = np.ascontiguousarray(view.camera_from_model.detach().cpu().double().numpy()[:3])
        k = view.intrinsics.detach().cpu().double().numpy()
        fx, fy, cx, cy = k[0, 0], k[1, 1], k[0, 2], k[1, 2]
        self.width, self.height = int(view.width), int(view.height)
        self.pinhole = view.projection == "pinhole"
        margin_x, margin_y = 0.15 * self.width / fx, 0.15 * self.height / fy
        limits = [
            cx / fx + margin_x,
            (self.width - cx) / fx + margin_x,
            cy / fy + margin_y,
            (self.height - cy) / fy + margin_y,
        ]
        self.intrinsics = np.array([fx, fy, cx, cy, *limits])
        self.columns = -(-self.width // cpu_blend.TILE_PX)
        self.tiles = self.columns * -(-self.height // cpu_blend.TILE_PX)


def _float32_array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().to(device="cpu", dtype=torch.float32).contiguous().numpy()


def _empty_float32(*shape: int) -> np.ndarray:
    """Uninitialized float32 memory that begins at a cache line."""
    return torch.empty(*shape, dtype=torch.float32).numpy()


def _padded_rows(tensor: Tensor, columns: int | None = None) -> np.ndarray:
    """A tensor in the form of the kernels: at least sixteen rows, `columns` values each, padded with zeros."""
    array = _float32_array(tensor)
    rows = max(len(array), LANE_COUNT)
    shape = (rows, *array.shape[1:]) if columns is None else (rows, columns)
    if array.shape == shape:
        return array
    padded = np.zeros(shape, np.float32)
    padded[tuple(slice(size) for size in array.shape)] = array
    return padded


def _kernel_channels(colors: Tensor) -> int:
    """Number of channels in the kernels: three or four."""
    return max(colors.shape[1], 3)


class _TileLists:
    """Footprints and tile lists of one view."""

    def __init__(self, view: _KernelView, arrays: tuple[np.ndarray, ...], colors: np.ndarray) -> None:
        n = len(colors)
        self.footprints = _empty_float32(n, FOOTPRINT_SIZE)
        self.radii, self.centers = np.empty(n, np.int32), np.empty((n, 2), np.float32)
        histogram = np.empty((cpu_tiles.NUM_CHUNKS, view.tiles), np.int64)
        cpu_project.project_forward(
            get_num_threads(), *arrays, colors, view.rows, view.intrinsics, view.pinhole, view.width,
            view.height, EPS_2D, NEAR, FAR, view.columns, self.footprints, self.radii, self.centers, histogram,
        )  # fmt: skip
        self.first_entry, self.first_pair, first_of_chunk = cpu_tiles.tile_starts(histogram)
        self.gaussian_of_entry = np.empty(self.first_entry[-1], np.int32)
        self.first_record = np.empty(n + 1, np.int32)
        cpu_tiles.fill_tile_lists(
            get_num_threads(), self.footprints, view.columns, first_of_chunk, histogram, self.gaussian_of_entry,
            self.first_record,
        )  # fmt: skip


class _BlendResult:
    """Blended images, and with `for_backward` the inputs of the backward pass; otherwise transmittance depths."""

    def __init__(self, view: _KernelView, lists: _TileLists, channels: int, for_backward: bool) -> None:
        shape = view.height, view.width
        self.color = np.empty((*shape, channels), np.float32)
        self.depth, self.alpha, self.transmittance = (np.empty(shape, np.float32) for _ in range(3))
        self.transmittance_depths = np.empty((2, 0, 0) if for_backward else (2, *shape), np.float32)
        self.record_of_entry = np.empty(len(lists.gaussian_of_entry) if for_backward else 0, np.int32)
        self.contributing_blocks = np.empty(len(lists.gaussian_of_entry) if for_backward else 0, np.uint64)
        self.pair_bits = np.empty(lists.first_pair[-1] if for_backward else 0, np.uint16)
        self.pairs_used = np.empty(view.tiles, np.int64)
        cpu_blend.blend_forward(
            get_num_threads(), lists.footprints, view.columns, lists.first_entry, lists.first_pair,
            lists.gaussian_of_entry, lists.first_record, self.record_of_entry, self.contributing_blocks,
            self.pair_bits, self.pairs_used, self.color, self.depth, self.alpha, self.transmittance,
            self.transmittance_depths,
        )  # fmt: skip


class _Rasterize(torch.autograd.Function):
    """(means, quats, scales, opacities, up to four colors, probe) -> colors [h, w, c], expected depth, alpha, radii
    and, without gradients, transmittance depths.

    The probe receives the projected centers, and their gradients in the backward pass, as gsplat's means2d does."""

    @staticmethod
    def forward(
        ctx: Any,
        means: Tensor,
        quats: Tensor,
        scales: Tensor,
        opacities: Tensor,
        colors: Tensor,
        probe: Tensor,
        view: _KernelView,
        absgrad: bool,
    ) -> tuple[Tensor, ...]:
        arrays, n = tuple(_padded_rows(t) for t in (means, quats, scales, opacities)), means.shape[0]
        for_backward = (
            probe.requires_grad
        )  # whether gradients are enabled; parameters require them even where they are not
        with _KERNEL_LOCK:
            lists = _TileLists(view, arrays, _padded_rows(colors, _kernel_channels(colors)))
            result = _BlendResult(view, lists, colors.shape[1], for_backward)
        probe.data[0] = torch.from_numpy(lists.centers[:n])
        if for_backward:
            ctx.kept = (arrays, view, lists, result)
            ctx.probe, ctx.absgrad, ctx.inputs = probe, absgrad, (means, quats, scales, opacities, colors)
        ctx.set_materialize_grads(False)
        radii, transmittance_depths = torch.from_numpy(lists.radii[:n]), torch.from_numpy(result.transmittance_depths)
        ctx.mark_non_differentiable(radii, transmittance_depths)
        # a copy: the backward pass reads the depth again, and the caller may overwrite his
        depth = result.depth.copy() if for_backward else result.depth
        images = (torch.from_numpy(a).to(means.dtype) for a in (result.color, depth, result.alpha))
        return (*images, radii, transmittance_depths)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        arrays, view, lists, result = ctx.kept
        d_color, d_depth, d_alpha = (
            np.empty((0,) * dimensions, np.float32) if grad is None else _float32_array(grad)
            for grad, dimensions in zip(grads, (3, 2, 2), strict=False)
        )
        n, rows = ctx.inputs[0].shape[0], len(arrays[0])
        records = _empty_float32(lists.first_record[-1], cpu_blend_back.RECORD_SIZE)
        gradients = [np.empty_like(a) for a in arrays] + [np.empty((rows, _kernel_channels(ctx.inputs[4])), np.float32)]
        centers = np.empty((rows, 2), np.float32)
        absolute = np.empty((rows if ctx.absgrad else 0, 2), np.float32)
        with _KERNEL_LOCK:
            cpu_blend_back.blend_backward(
                get_num_threads(), lists.footprints, view.columns, lists.first_entry, lists.first_pair,
                lists.gaussian_of_entry, result.record_of_entry, result.contributing_blocks, result.pair_bits,
                result.pairs_used, result.depth, result.transmittance, d_color, d_depth, d_alpha, ctx.absgrad, records,
            )  # fmt: skip
            cpu_project_back.project_backward(
                get_num_threads(), *arrays, view.rows, view.intrinsics, view.pinhole, EPS_2D, lists.footprints,
                lists.first_record, records, *gradients, centers, absolute,
            )  # fmt: skip
        if ctx.absgrad:
            previous = getattr(ctx.probe, "absgrad", None)
            absgrad = torch.from_numpy(absolute)[None, :n]
            ctx.probe.absgrad = absgrad if previous is None else previous + absgrad
        gradients[4] = gradients[4][:, : ctx.inputs[4].shape[1]]
        tensors = [torch.from_numpy(o[:n]).to(t.dtype) for o, t in zip(gradients, ctx.inputs, strict=True)]
        return (*tensors, torch.from_numpy(centers)[None, :n], None, None)
