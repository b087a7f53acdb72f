"""The model of the synthetic city before training."""

import copy

import pytest
import torch
from helpers.models import make_pipeline


@pytest.fixture(scope="module")
def pipeline(city_scene):
    """Pipeline of stage 1 with the default options."""
    return make_pipeline(city_scene)


@pytest.fixture
def model(pipeline):
    """The model before training, in training mode; tests may change it."""
    torch.manual_seed(0)
    return copy.deepcopy(pipeline.model).train()
