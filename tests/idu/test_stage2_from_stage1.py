"""Start of stage 2 from a run of stage 1, by --pipeline.stage1 or --load-dir."""

import copy
import shutil
from pathlib import Path

import pytest
import torch
from helpers.checkpoints import assert_identical
from helpers.idu_runs import (
    EACH_IMAGE_ONCE,
    EPISODE_STEPS,
    STAGE1_STEPS,
    VIEWS,
    CountingRefiner,
    SimulatedKill,
    kill_at,
    make_config,
    read_checkpoint,
    read_run_episodes,
    resume_config,
    set_up_trainer,
    train,
    use_refiner,
)

from skyfall_ns.errors import TrainingError

pytestmark = pytest.mark.slow

STARTS = ("stage1", "load_dir")


def make_stage2_config(stage1_config, out: Path, start: str):
    """Configuration of a run of stage 2 that starts from a run of stage 1."""
    config = make_config(stage1_config.pipeline.datamanager.data, out, start)
    config.pipeline.model.sh_degree, config.pipeline.model.sh_degree_interval = 1, 2
    if start == "stage1":
        config.pipeline.stage1 = stage1_config.get_base_dir() / "config.yml"
    else:
        config.load_dir = stage1_config.get_checkpoint_dir()
    return config


@pytest.mark.parametrize("start", STARTS)
def test_stage_2_has_the_gaussians_of_stage_1_and_its_own_learning_rates(stage1_config, tmp_path, start):
    config, records = make_stage2_config(stage1_config, tmp_path, start), []
    trainer = set_up_trainer(config)
    train_iteration = trainer.train_iteration

    def record_iteration(step):
        rates = {name: o.param_groups[0]["lr"] for name, o in trainer.optimizers.optimizers.items()}
        records.append((step, trainer.pipeline.model.gauss_params["means"].detach().clone(), rates))
        return train_iteration(step)

    trainer.train_iteration = record_iteration
    trainer.train()
    assert [step for step, _, _ in records] == list(range(STAGE1_STEPS, STAGE1_STEPS + 2 * EPISODE_STEPS))
    assert read_checkpoint(config)["step"] == STAGE1_STEPS + 2 * EPISODE_STEPS - 1
    assert torch.equal(records[0][1], read_checkpoint(stage1_config)["pipeline"]["_model.gauss_params.means"])
    table = config.optimizers
    for index, (_, _, rates) in enumerate(records):
        for name, rate in rates.items():
            decay = (1 / 3) ** (index % EPISODE_STEPS / EPISODE_STEPS) if name == "means" else 1
            expected = config.pipeline.episode_lr_scale * table[name]["optimizer"].lr * decay
            assert rate == pytest.approx(expected, rel=1e-9), (index, name)


def test_both_starts_render_the_same_images(stage1_config, tmp_path):
    """Including the spherical harmonics that stage 1 has learned."""
    renders = []
    for start in STARTS:
        config = make_stage2_config(stage1_config, tmp_path, start)
        with pytest.raises(SimulatedKill), kill_at("refined", 0):
            train(config)
        renders.append({name: data for name, data in read_run_episodes(config).items() if "render" in name})
    assert len(renders[0]) == VIEWS and renders[0] == renders[1]


@pytest.mark.parametrize("start", STARTS)
def test_run_killed_in_its_first_episode_resumes(stage1_config, tmp_path, start):
    """Refinement may take hours, and no step has been made before it."""
    uninterrupted = make_stage2_config(stage1_config, tmp_path / "uninterrupted", start)
    config, refiner = make_stage2_config(stage1_config, tmp_path, start), CountingRefiner()
    with use_refiner(refiner):
        with pytest.raises(SimulatedKill), kill_at("swap", 0):
            train(config)
        resumed = resume_config(config, "resumed")
        train(resumed, seed=5)
        assert refiner.calls == EACH_IMAGE_ONCE
        train(uninterrupted)
    assert read_run_episodes(resumed) == read_run_episodes(uninterrupted)
    assert_identical(read_checkpoint(resumed), read_checkpoint(uninterrupted))


def test_new_run_refuses_episodes_of_an_earlier_run(one_step_config, stage1_config, tmp_path):
    """In the same directory, perhaps with other options: the episodes show other Gaussians."""
    shutil.copytree(one_step_config.get_base_dir() / "idu", tmp_path / "city/skyfall-idu/again/idu")
    same = copy.deepcopy(one_step_config)
    same.output_dir = tmp_path
    for config in (same, *(make_stage2_config(stage1_config, tmp_path, start) for start in STARTS)):
        config.timestamp = "again"
        with pytest.raises(TrainingError, match=r"again/idu contains episodes of an earlier run\. Choose another"):
            set_up_trainer(config)
