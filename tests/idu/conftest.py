"""Runs that several tests of a file start from."""

import pytest
from helpers.idu_runs import make_config, train

from skyfall_ns.method_configs import skyfall


@pytest.fixture(scope="module")
def stage1_config(city_scene, tmp_path_factory):
    """Configuration of a run of stage 1 with spherical harmonics and other learning rates than those of stage 2."""
    config = make_config(city_scene, tmp_path_factory.mktemp("stage1"), "first", method=skyfall)
    config.pipeline.model.sh_degree, config.pipeline.model.sh_degree_interval = 1, 2
    config.optimizers["opacities"]["optimizer"].lr = 0.3
    config.optimizers["features_rest"]["optimizer"].lr = 0.02
    config.optimizers["means"]["scheduler"].lr_final = 1e-9
    train(config)
    return config


@pytest.fixture(scope="module")
def one_step_config(city_scene, tmp_path_factory):
    """Configuration of a run that ended after one step of stage 2."""
    config = make_config(city_scene, tmp_path_factory.mktemp("first"), "first", stage1_steps=1)
    config.max_num_iterations = 2
    train(config)
    return config
