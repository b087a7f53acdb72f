"""The CPU rasterizer: Numba kernels behind one differentiable call, deterministic for any number of threads."""

import threading
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from skyfall_ns.models.rasterizers import cpu_blend, cpu_project, cpu_tiles
from skyfall_ns.models.rasterizers.types import EPS_2D, FAR, NEAR, Gaussians, Rendering, ViewLike

# Kernels run one at a time: a viewer's thread may ask for a picture while training draws, and Numba's fallback
# threading layer aborts on concurrent calls. A forked child must not call them; use spawn.
_ONE_AT_A_TIME = threading.Lock()
_TILE_PX = cpu_tiles.BLOCKS * cpu_blend.SIDE


class CpuRasterizer:
    """Draws on the CPU what gsplat draws on CUDA (antialiased, eps2d 0.1), to float32 rounding."""

    def __call__(
        self, gaussians: Gaussians, colors: Float[Tensor, "n c"], view: ViewLike, *, absgrad: bool = False
    ) -> Rendering:
        if absgrad and colors.shape[1] > 3:
            raise ValueError(
                "absolute gradients are summed per pixel over all channels: draw at most three with absgrad"
            )
        n = gaussians.means.shape[0]
        probe = torch.zeros(1, n, 2, requires_grad=torch.is_grad_enabled())
        camera = _Camera(view)
        parts, weighted_depth, alpha, radii, median = [], None, None, None, None
        for start in range(0, max(colors.shape[1], 1), 3):
            group = colors[:, start : start + 3]
            image, radii, middle = _Rasterize.apply(
                gaussians.means, gaussians.quats, gaussians.scales, gaussians.opacities, group, probe, camera, absgrad
            )  # type: ignore[misc]
            parts.append(image[..., : group.shape[1]])
            if start == 0:
                weighted_depth, alpha, median = image[..., 3], image[..., 4], middle
        assert weighted_depth is not None and alpha is not None and radii is not None and median is not None
        depth = torch.where(alpha > 0, weighted_depth / alpha.clamp_min(1e-10), torch.zeros_like(alpha))
        info = {
            "means2d": probe,
            "radii": radii[None],
            "width": view.width,
            "height": view.height,
            "n_cameras": 1,
            "gaussian_ids": None,
        }
        return Rendering(torch.cat(parts, -1), depth, alpha, info, median if median.numel() else None)


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
        self.columns, self.rows_of_tiles = -(-self.width // _TILE_PX), -(-self.height // _TILE_PX)


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().to(device="cpu", dtype=torch.float32).contiguous().numpy()


class _Lists:
    """Footprints and tile lists of one view."""

    def __init__(
        self, camera: _Camera, means: np.ndarray, quats: np.ndarray, scales: np.ndarray, opacities: np.ndarray
    ):
        n = means.shape[0]
        self.footprints = np.empty((n, cpu_project.FOOTPRINT), np.float32)
        self.rect, self.radii = np.empty((n, 4), np.int32), np.empty(n, np.int32)
        cpu_project.project(
            means, quats, scales, opacities, camera.rows, camera.intrinsics, camera.pinhole, camera.width,
            camera.height, EPS_2D, NEAR, FAR, self.footprints, self.rect, self.radii,
        )  # fmt: skip
        records, pairs, histogram = cpu_tiles.count(self.rect, camera.columns, camera.rows_of_tiles)
        self.first_record, first_pair = cpu_tiles.starts(records), cpu_tiles.starts(pairs)
        self.first_entry = cpu_tiles.tile_starts(histogram)
        entries = int(self.first_entry[-1])
        self.of_gaussian, self.of_record = np.empty(entries, np.int32), np.empty(entries, np.int32)
        self.of_pair, self.order = np.empty(entries, np.int64), np.empty(entries, np.int32)
        self.pairs = int(first_pair[-1])
        cpu_tiles.fill(
            self.rect, camera.columns, self.first_record, first_pair, histogram, self.of_gaussian, self.of_record,
            self.of_pair,
        )  # fmt: skip


class _Rasterize(torch.autograd.Function):
    """(means, quats, scales, opacities, colours, probe) -> image [h, w, 5] (three colours, weighted depth, alpha), radii
    and, where no gradients are wanted, median depths. The probe carries the centres out and their gradients back, as gsplat's means2d does."""

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
    ) -> tuple[Tensor, Tensor, Tensor]:
        arrays = tuple(_array(t) for t in (means, quats, scales, opacities))
        padded = np.zeros((means.shape[0], 3), np.float32)
        padded[:, : colors.shape[1]] = _array(colors)
        keep = probe.requires_grad  # gradients are enabled: parameters ask for them even where they are not
        image = np.zeros((camera.height, camera.width, 5), np.float32)
        remains = np.ones((camera.height, camera.width), np.float32)
        median = np.zeros((0, 0) if keep else (camera.height, camera.width), np.float32)
        with _ONE_AT_A_TIME:
            lists = _Lists(camera, *arrays)
            bits = np.zeros(lists.pairs if keep else 0, np.uint16)
            cpu_blend.blend(
                lists.footprints, padded, lists.rect, camera.columns, camera.width, camera.height, lists.first_entry,
                lists.of_gaussian, lists.of_pair, lists.order, bits, keep, image, remains, median,
            )  # fmt: skip
        probe.data[0] = torch.from_numpy(lists.footprints[:, :2]).where(torch.from_numpy(lists.radii > 0)[:, None], 0)
        if keep:
            ctx.kept = (arrays, padded, camera, lists, bits, remains)
            ctx.probe, ctx.absgrad, ctx.inputs = probe, absgrad, (means, quats, scales, opacities, colors)
        radii, middle = torch.from_numpy(lists.radii), torch.from_numpy(median)
        ctx.mark_non_differentiable(radii, middle)
        return torch.from_numpy(image).to(means.dtype), radii, middle

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        arrays, colors, camera, lists, bits, remains = ctx.kept
        d_image = _array(grads[0])
        records = np.empty((int(lists.first_record[-1]), cpu_project.RECORD), np.float32)
        n = arrays[0].shape[0]
        out = [np.zeros_like(a) for a in arrays] + [np.zeros((n, 3), np.float32), np.zeros((n, 2), np.float32)]
        absgrad = np.zeros((n if ctx.absgrad else 0, 2), np.float32)
        with _ONE_AT_A_TIME:
            cpu_blend.blend_backward(
                lists.footprints, colors, lists.rect, camera.columns, camera.width, camera.height, lists.first_entry,
                lists.of_gaussian, lists.of_record, lists.of_pair, lists.order, bits, d_image, remains, ctx.absgrad,
                records,
            )  # fmt: skip
            cpu_project.project_backward(
                *arrays, camera.rows, camera.intrinsics, camera.pinhole, EPS_2D, lists.footprints, lists.radii,
                lists.first_record, records, *out, absgrad,
            )  # fmt: skip
        if ctx.absgrad:
            previous = getattr(ctx.probe, "absgrad", None)
            new = torch.from_numpy(absgrad)[None]
            ctx.probe.absgrad = new if previous is None else previous + new
        out[4] = out[4][:, : ctx.inputs[4].shape[1]]
        tensors = [torch.from_numpy(o).to(t.dtype) for o, t in zip(out, ctx.inputs, strict=False)]
        return (*tensors, torch.from_numpy(out[5])[None], None, None)
