"""Dense statistics are gsplat's own."""

from types import SimpleNamespace

import pytest
import torch
from gsplat.strategy import DefaultStrategy

from skyfall_ns.models.densify import DenseStatistics


@pytest.mark.parametrize("absgrad", [True, False])
@pytest.mark.parametrize("stop", [0, 100])
def test_equals_gsplat(absgrad, stop):
    g = torch.Generator().manual_seed(0)
    params = {"means": torch.zeros(50, 3)}
    states = []
    for kind in (DefaultStrategy, DenseStatistics):
        g.manual_seed(0)
        strategy = kind(absgrad=absgrad, refine_scale2d_stop_iter=stop)
        state = strategy.initialize_state()
        for _ in range(3):
            probe = SimpleNamespace(grad=torch.randn(1, 50, 2, generator=g), absgrad=torch.rand(1, 50, 2, generator=g))
            radii = torch.randint(-2, 9, (1, 50), generator=g, dtype=torch.int32)
            info = {"width": 320, "height": 200, "n_cameras": 1, "radii": radii, "gaussian_ids": None, "means2d": probe}
            strategy._update_state(params, state, info)
        states.append(state)
    for key in ("grad2d", "count", *(("radii",) if stop else ())):
        torch.testing.assert_close(states[1][key], states[0][key])
    assert states[1]["grad2d"].max() > 0
