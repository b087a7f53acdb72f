"""Views in batches: of one size each, smaller when memory runs out; what comes out broken is not used."""

import warnings
from collections.abc import Callable, Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from skyfall_ns.errors import TrainingError
from skyfall_ns.refiners.loading import empty_cache
from skyfall_ns.refiners.options import FLAG
from skyfall_ns.refiners.types import RenderedView

RefineBatch = Callable[[Sequence[RenderedView]], Float[Tensor, "b h w 3"]]


class Batches:
    """A Refiner around a function of views of one size; remembers how many fitted."""

    def __init__(self, refine: RefineBatch, batch: int, device: torch.device) -> None:
        self.refine = refine
        self.batch = batch
        self.device = device

    @torch.no_grad()
    def __call__(self, views: Sequence[RenderedView]) -> list[Float[Tensor, "h w 3"]]:
        """TrainingError if not even one view fits into memory."""
        images: list[Tensor] = []
        while len(images) < len(views):
            group = next(_of_one_size(views[len(images) :], self.batch))
            refined = self._try(group)
            if refined is None:
                self.batch = self._halved(len(group))
                continue
            images += [finite_or_kept(image, view) for image, view in zip(refined, group, strict=True)]
        return images

    def _try(self, views: Sequence[RenderedView]) -> Float[Tensor, "b h w 3"] | None:
        """None if memory ran out; the error is dropped with all that it holds."""
        try:
            return self.refine(views).float().cpu()
        except torch.OutOfMemoryError:
            return None

    def _halved(self, tried: int) -> int:
        empty_cache(self.device)
        if tried == 1:
            raise TrainingError(
                "The GPU has too little memory to refine a single view of this size. "
                f"Pass {FLAG}.offload model or group, {FLAG}.quantize fp8 or nf4, or render smaller views."
            )
        warnings.warn(f"Memory ran out with {tried} views at once; going on with {tried // 2}.", stacklevel=4)
        return tried // 2


def finite_or_kept(image: Float[Tensor, "h w 3"], view: RenderedView) -> Float[Tensor, "h w 3"]:
    """The refined picture in 0..1, or the render if any number is not finite (float16 overflows in some models)."""
    if torch.isfinite(image).all():
        return image.clamp(0, 1)
    warnings.warn(f"The refined picture of {view.name} is not finite; its render is kept.", stacklevel=3)
    return view.image


def stacked(views: Sequence[RenderedView]) -> Float[Tensor, "b 3 h w"]:
    """Pictures of views as networks take them."""
    return torch.stack([view.image for view in views]).permute(0, 3, 1, 2).float()


def _of_one_size(views: Sequence[RenderedView], batch: int) -> Iterator[Sequence[RenderedView]]:
    """Runs of views of one size, at most `batch` long."""
    start = 0
    for i in range(1, len(views) + 1):
        if i == len(views) or i - start == batch or views[i].image.shape != views[start].image.shape:
            yield views[start:i]
            start = i
