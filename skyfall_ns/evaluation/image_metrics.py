"""Metrics of images against true ones, as published with Skyfall-GS: PSNR, SSIM of luma, LPIPS, CLIP-FID and CMMD.

CLIP-FID is the Frechet distance (Heusel et al. 2017) between CLIP embeddings of image patches, CMMD their maximum mean
discrepancy with a Gaussian kernel of sigma 10, times 1000, on embeddings of unit length (Jayasumana et al. 2024).
"""

import numpy as np
import torch
from jaxtyping import Float, Float64
from numpy import ndarray
from scipy.linalg import sqrtm
from torch import Tensor
from torch.nn.functional import conv2d

LUMA = (0.299, 0.587, 0.114)
SSIM_WINDOW, SSIM_SIGMA = 11, 1.5
MSE_FLOOR = 1e-8
CMMD_SIGMA, CMMD_SCALE = 10.0, 1000.0
ROWS_PER_BATCH = 2048  # of kernel matrices, which bounds memory


def psnr_db(pred: Float[Tensor, "h w 3"], target: Float[Tensor, "h w 3"]) -> float:
    """Peak signal-to-noise ratio of colors in 0..1, dB."""
    return float(-10 * torch.log10((pred - target).double().square().mean() + MSE_FLOOR))


def luma_ssim(pred: Float[Tensor, "h w 3"], target: Float[Tensor, "h w 3"]) -> float:
    """Structural similarity (Wang et al. 2004) of luma: Gaussian windows of 11 px inside the image, the contrast term
    not below 0."""
    weights = torch.tensor(LUMA, dtype=torch.float64)
    x, y = ((255 * image.double()) @ weights for image in (pred, target))
    offsets = torch.arange(SSIM_WINDOW, dtype=torch.float64) - SSIM_WINDOW // 2
    line = torch.exp(-offsets.square() / (2 * SSIM_SIGMA**2))
    window = torch.outer(line, line)[None, None] / line.sum() ** 2

    def average(values: Tensor) -> Tensor:
        return conv2d(values[None, None], window)[0, 0]

    mean_x, mean_y = average(x), average(y)
    var_x, var_y = average(x * x) - mean_x**2, average(y * y) - mean_y**2
    covariance = average(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    contrast = ((2 * covariance + c2) / (var_x + var_y + c2)).clamp_min(0)
    return float((contrast * (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)).mean())


def frechet_distance(first: Float64[ndarray, "n d"], second: Float64[ndarray, "m d"]) -> float:
    """Squared Frechet distance between normal distributions with the means and covariances of two sets."""
    difference = first.mean(0) - second.mean(0)
    cov_a, cov_b = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    product = sqrtm(cov_a @ cov_b)
    if not np.isfinite(product).all():
        offset = 1e-6 * np.eye(len(cov_a))  # as usual for singular covariances
        product = sqrtm((cov_a + offset) @ (cov_b + offset))
    return float(difference @ difference + np.trace(cov_a) + np.trace(cov_b) - 2 * np.trace(np.real(product)))


def maximum_mean_discrepancy(first: Float64[ndarray, "n d"], second: Float64[ndarray, "m d"]) -> float:
    """CMMD of two sets of embeddings, which are scaled to unit length; the biased estimator, block by block."""
    a, b = (values / np.linalg.norm(values, axis=1, keepdims=True) for values in (first, second))
    return CMMD_SCALE * (_mean_kernel(a, a) + _mean_kernel(b, b) - 2 * _mean_kernel(a, b))


def _mean_kernel(a: Float64[ndarray, "n d"], b: Float64[ndarray, "m d"]) -> float:
    total = 0.0
    for start in range(0, len(a), ROWS_PER_BATCH):
        squared = np.maximum(2.0 - 2.0 * a[start : start + ROWS_PER_BATCH] @ b.T, 0.0)  # of unit vectors
        total += float(np.exp(-squared / (2 * CMMD_SIGMA**2)).sum())
    return total / (len(a) * len(b))


def patch_corners(height: int, width: int, patch_px: int, overlapping: bool) -> list[tuple[int, int]]:
    """Rows and columns of the first pixels of patches.

    Overlapping patches are those of Skyfall-GS: the stride is the smaller one of an eighth of the rows and a fifteenth
    of the columns that remain beside a patch. Others lie side by side."""
    if min(height, width) < patch_px:
        return []
    published = min(max(1, (height - patch_px) // 8), max(1, (width - patch_px) // 15))
    stride = published if overlapping else patch_px
    rows, columns = range(0, height - patch_px + 1, stride), range(0, width - patch_px + 1, stride)
    return [(row, column) for row in rows for column in columns]
