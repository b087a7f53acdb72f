"""Options of depth priors."""

from typing import Literal, Protocol

from skyfall_ns.priors.base import PredictionKind

DtypeName = Literal["float32", "float16", "bfloat16"]
MogeVersion = Literal["v1", "v2", "v3"]


class PriorOptions(Protocol):
    """Options from which priors are built, a part of `DepthSupervisionConfig`; each prior reads those that apply."""

    weights: str | None
    """Hub name, file or directory of a learned prior's weights; None: the default model of the prior."""
    kind: PredictionKind | None
    """Kind of prediction of a model of `transformers`; None: the kind known for its model type."""
    moge_version: MogeVersion
    """Version of MoGe."""
    dtype: DtypeName
    """Number format of a learned prior."""
