"""List of all overrides and patches of Nerfstudio: the overridden parts exist, and the patched defects still exist."""

import inspect
import os
import shutil
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch
import viser._scene_api
from nerfstudio.configs.base_config import ViewerConfig
from nerfstudio.data.datamanagers.full_images_datamanager import FullImageDatamanager
from nerfstudio.engine.schedulers import ExponentialDecayScheduler, ExponentialDecaySchedulerConfig
from nerfstudio.engine.trainer import Trainer
from nerfstudio.models.splatfacto import SplatfactoModel
from nerfstudio.pipelines.base_pipeline import VanillaPipeline
from nerfstudio.utils import writer
from nerfstudio.viewer.render_state_machine import RenderStateMachine
from nerfstudio.viewer.viewer import Viewer

from skyfall_ns import nerfstudio_patches
from skyfall_ns.dataparsers.skyfall_datamanager import SkyfallDatamanager
from skyfall_ns.errors import TrainingError
from skyfall_ns.method_configs import skyfall
from skyfall_ns.models.skyfall import SkyfallModel
from skyfall_ns.pipelines.skyfall_pipeline import SkyfallPipeline

OVERRIDDEN = {
    SkyfallModel: (
        SplatfactoModel,
        [
            "populate_modules",  # Nerfstudio's calls .cuda() and downloads LPIPS
            "get_outputs",  # Nerfstudio's calls .cuda() and compiles a float32 view matrix
            "get_loss_dict",
            "get_metrics_dict",
            "get_image_metrics_and_images",
            "get_gaussian_param_groups",
            "get_param_groups",
            "load_state_dict",  # Nerfstudio's replaces parameters without updating the optimizers
            "step_post_backward",
            "scales",  # exporters read these; they include the 3D filter
            "opacities",
            "colors",
            "shs_0",
            "shs_rest",
            "features_rest",  # Nerfstudio's does not exist without view-dependent colors
            "set_crop",
        ],
    ),
    SkyfallPipeline: (
        VanillaPipeline,
        ["get_train_loss_dict", "get_training_callbacks", "load_pipeline", "get_extra_state", "set_extra_state"],
    ),
    SkyfallDatamanager: (FullImageDatamanager, []),
}


@pytest.mark.parametrize("our_class", OVERRIDDEN)
def test_overridden_methods_exist_in_nerfstudio(our_class):
    nerfstudio_class, names = OVERRIDDEN[our_class]
    assert issubclass(our_class, nerfstudio_class)
    for name in names:
        assert name in vars(our_class), name
        overridden = inspect.getattr_static(nerfstudio_class, name)
        if callable(overridden):
            parameters = set(inspect.signature(overridden).parameters) - {"self", "kwargs"}
            assert parameters <= set(inspect.signature(vars(our_class)[name]).parameters), name


def test_nerfstudio_still_has_the_defects():
    """If one of these fails, the defect is fixed in Nerfstudio: remove our patch."""
    splatfacto = inspect.getsource(SplatfactoModel)
    assert splatfacto.count(".cuda()") == 2
    assert "LearnedPerceptualImagePatchSimilarity(" in splatfacto
    assert "torch.nn.Parameter(torch.zeros(new_shape" in splatfacto
    trainer = inspect.getsource(Trainer)
    assert "torch.load(load_path, map_location" in trainer  # torch >= 2.6 loads no pickled code by default
    assert "self._start_step + num_iterations" in trainer  # counts from the resumed step
    assert "ckpt_path,\n        )" in trainer  # written in place
    assert trainer.count("while True:") == 1  # waits for ctrl+c after training
    assert "in os.listdir(load_dir))[-1]" in trainer  # IndexError after a kill before the first checkpoint
    assert "rng_state" not in trainer  # checkpoints have no state of random numbers
    assert "iio.imwrite" in inspect.getsource(viser._scene_api)  # imports image codecs in any thread
    render_thread = inspect.getsource(RenderStateMachine)
    assert "while self.running" in render_thread and "self.daemon = True" in render_thread  # is not joined at the end
    datamanager = inspect.getsource(FullImageDatamanager)
    for name in ("train_unseen_cameras", "eval_unseen_cameras", "random_generator"):  # nor of the order of images
        assert f"self.{name}" in datamanager and name not in trainer


def test_checkpoints_of_other_methods_load_without_pickled_code(tmp_path):
    nerfstudio_patches.allow_numpy_scalars()
    torch.save({"lr": np.float64(0.1)}, tmp_path / "a.ckpt")
    assert torch.load(tmp_path / "a.ckpt", weights_only=True)["lr"] == 0.1


def test_decay_is_that_of_nerfstudio_with_python_floats():
    def learning_rates(scheduler_class, config_class):
        optimizer = torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=1e-2)
        config = config_class(lr_final=1e-4, max_steps=50)
        scheduler = scheduler_class(config).get_scheduler(optimizer, 1e-2)
        values = []
        for _ in range(60):
            optimizer.step()
            scheduler.step()
            values.append(scheduler.get_last_lr()[0])
        return values

    our_class = learning_rates(nerfstudio_patches.PlainExponentialDecay, nerfstudio_patches.PlainExponentialDecayConfig)
    nerfstudio_class = learning_rates(ExponentialDecayScheduler, ExponentialDecaySchedulerConfig)
    np.testing.assert_allclose(our_class, nerfstudio_class, rtol=1e-9)
    assert all(type(v) is float for v in our_class)


def test_ffmpeg_is_added_where_the_system_has_none(monkeypatch):
    pytest.importorskip("imageio_ffmpeg", reason="the extra `video` is not installed")
    monkeypatch.setenv("PATH", os.path.dirname(sys.executable) + "/nowhere")
    assert shutil.which("ffmpeg") is None
    nerfstudio_patches.add_ffmpeg_to_path()
    assert subprocess.run([shutil.which("ffmpeg"), "-version"], capture_output=True).returncode == 0


def test_an_interrupted_save_keeps_the_previous_checkpoint(tmp_path):
    class Stub:
        checkpoint_dir = tmp_path / "models"
        config = type("C", (), {"save_only_latest_checkpoint": True})

        def save_checkpoint(self, step):
            if step == 2:
                (self.checkpoint_dir / "step-000000002.ckpt").write_text("incomplete")
                raise KeyboardInterrupt
            (self.checkpoint_dir / f"step-{step:09d}.ckpt").write_text("complete")

    trainer = Stub()
    nerfstudio_patches.save_checkpoints_atomically(trainer)
    trainer.save_checkpoint(1)
    with pytest.raises(KeyboardInterrupt):
        trainer.save_checkpoint(2)
    assert [p.name for p in (tmp_path / "models").iterdir()] == ["step-000000001.ckpt"]
    (tmp_path / ".checkpoint.partial").mkdir()  # left by a run that was killed
    (tmp_path / ".checkpoint.partial/step-000000002.ckpt").write_text("incomplete")
    trainer.save_checkpoint(3)
    assert [p.name for p in tmp_path.iterdir()] == ["models"]
    assert [p.name for p in (tmp_path / "models").iterdir()] == ["step-000000003.ckpt"]
    assert trainer.checkpoint_dir == tmp_path / "models"


def test_iterations_are_the_total_after_a_resume(monkeypatch):
    class Stub:
        _start_step = 30
        config = type("C", (), {"max_num_iterations": 100})()

        def train(self):
            self.seen_total = writer.GLOBAL_BUFFER["max_iter"]

    trainer = Stub()
    nerfstudio_patches.count_total_steps(trainer, "--more")
    assert trainer.config.max_num_iterations == 70
    monkeypatch.setitem(writer.GLOBAL_BUFFER, "max_iter", 70)  # set by Nerfstudio before it trains
    trainer.train()
    assert trainer.seen_total == 100
    trainer._start_step = 100
    with pytest.raises(TrainingError, match=r"already done 100 of 70.*\. Set a larger total"):
        nerfstudio_patches.count_total_steps(trainer, "--more")


@pytest.mark.slow
def test_errors_that_users_can_fix_have_no_traceback():
    code = (
        "from skyfall_ns import nerfstudio_patches; from skyfall_ns.errors import SceneError;"
        "nerfstudio_patches.install_excepthook();"
        "raise SceneError('A is wrong. Do B.')"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr.strip().endswith("Error: A is wrong. Do B.") and "Traceback" not in result.stderr


VIEWER = """
import sys, threading, time
from types import SimpleNamespace
import numpy as np
from skyfall_ns.viewer.initial_camera import InitialCamera

class RenderThread(threading.Thread):
    running = True
    def run(self):
        while self.running:
            time.sleep(0.01)
        print("stopped rendering")

viewer = SimpleNamespace(config=SimpleNamespace(camera_frustum_scale=1),
                         render_statemachines={0: RenderThread(daemon=True)},
                         viser_server=SimpleNamespace(on_client_connect=lambda begin: None))
assert "PIL.MpoImagePlugin" not in sys.modules
InitialCamera(np.eye(2, 3))._setup(viewer)
import PIL.Image
assert PIL.Image._initialized == 2 and "imageio.plugins.pillow" in sys.modules
viewer.render_statemachines[0].start()
"""


@pytest.mark.slow
def test_viewer_threads_import_no_codecs_and_stop_with_the_process():
    result = subprocess.run([sys.executable, "-c", VIEWER], capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, "stopped rendering\n"), result.stderr[-2000:]


def test_the_method_uses_the_available_device_and_serves_only_this_machine():
    config = skyfall.config
    assert config.method_name == "skyfall"
    assert config.machine.device_type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert config.viewer.websocket_host == "127.0.0.1"
    assert config.viewer.quit_on_train_completion
    assert not config.mixed_precision


def test_exports_of_nerfstudio_have_no_hook_but_write_through_one_function():
    """`ns-export gaussian-splat` writes its file by a static method that it looks up after the pipeline is set up."""
    from nerfstudio.scripts.exporter import ExportGaussianSplat

    source = inspect.getsource(ExportGaussianSplat.main)
    assert source.index("eval_setup(") < source.index("ExportGaussianSplat.write_ply(")
    assert next(iter(inspect.signature(ExportGaussianSplat.write_ply).parameters)) == "filename"


class LocalPipeline:
    VIEWER_ADDRESS = "127.0.0.1"


def start_viewer(monkeypatch, pipeline, arguments=(), **options):
    """Address at which Nerfstudio's viewer would start."""
    addresses = []
    monkeypatch.setattr(sys, "argv", ["ns-viewer", *arguments])
    monkeypatch.setattr(Viewer, "__init__", lambda viewer, config, **_: addresses.append(config))
    nerfstudio_patches.serve_viewers_locally()
    Viewer(ViewerConfig(**options), pipeline=pipeline)
    return addresses[0].websocket_host, addresses[0].websocket_port


def test_viewers_of_our_runs_serve_only_this_machine_unless_an_address_is_given(monkeypatch):
    """Nerfstudio's ns-viewer has its own configuration, with the address 0.0.0.0."""
    assert ViewerConfig().websocket_host == "0.0.0.0"
    address, port = start_viewer(monkeypatch, LocalPipeline())
    assert address == "127.0.0.1" and port >= 7007
    arguments = ("--viewer.websocket-host", "0.0.0.0")
    assert start_viewer(monkeypatch, LocalPipeline(), arguments)[0] == "0.0.0.0"
    assert start_viewer(monkeypatch, object()) == ("0.0.0.0", None)  # another method
    assert SkyfallPipeline.VIEWER_ADDRESS == "127.0.0.1"


def test_a_busy_port_is_refused_if_it_was_requested_and_else_replaced_with_a_note(monkeypatch, capsys):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        busy = server.getsockname()[1]
        with pytest.raises(TrainingError, match=rf"Port {busy} is in use.*\. Pass another --viewer\.websocket-port"):
            start_viewer(monkeypatch, LocalPipeline(), websocket_port=busy)
        with pytest.raises(TrainingError, match=r"70000 is not a port\. Pass a number"):
            start_viewer(monkeypatch, LocalPipeline(), websocket_port=70000)
        _, port = start_viewer(monkeypatch, LocalPipeline(), websocket_port_default=busy)
    assert port > busy and f"Port {busy} is in use; the viewer is at port {port}." in capsys.readouterr().err
