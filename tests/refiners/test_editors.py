"""The refiners `img2img` and `instruct` on tiny pipelines."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from helpers.views import make_view

from skyfall_ns.errors import TrainingError
from skyfall_ns.refiners import instruct
from skyfall_ns.refiners.img2img import Img2ImgRefinerConfig, strength_for_steps
from skyfall_ns.refiners.instruct import InstructRefinerConfig, ReferenceImage, to_pil_image

CPU = torch.device("cpu")


@pytest.mark.parametrize("family", ["flux", "sd3", "zimage"])
def test_image_to_image_refines_deterministically(tiny, family, tmp_path):
    config = Img2ImgRefinerConfig(model=str(tiny(family)), dtype="float32", steps=6, n_max=3)
    views = [make_view(1, 50, 70), make_view(2, 50, 70)]
    with config.load(CPU, tmp_path) as refiner:
        together, again, apart = refiner(views), refiner(views), [refiner([view])[0] for view in views]
    for view, a, b, c in zip(views, together, again, apart, strict=True):
        assert a.shape == view.image.shape and torch.equal(a, b) and (a - c).abs().max() < 2e-5
        assert torch.isfinite(a).all() and not torch.allclose(a, view.image, atol=0.02)
    with replace(config, n_max=0).load(CPU, tmp_path) as refiner:
        assert torch.equal(refiner(views)[0], views[0].image)


def test_strength_runs_exactly_the_requested_steps(tiny):
    from diffusers import AutoPipelineForImage2Image

    for family in ("flux", "sd3", "zimage"):
        pipe = AutoPipelineForImage2Image.from_pretrained(str(tiny(family)), dtype=torch.float32)
        for steps in (1, 7, 28, 50):
            pipe.scheduler.set_timesteps(steps, mu=1.0)
            for n_max in range(1, steps + 1):
                assert pipe.get_timesteps(steps, strength_for_steps(n_max, steps), CPU)[1] == n_max


def test_identity_of_image_to_image_omits_unused_options(tiny):
    identity = Img2ImgRefinerConfig(model=str(tiny("sd3"))).identity()
    assert identity["name"] == "img2img" and "target_prompt" in identity
    assert not {"source_prompt", "n_min", "instruction"} & identity.keys()


@pytest.mark.parametrize("family", ["klein", "klein_base", "kontext"])
def test_instruction_editors_refine_and_resume(tiny, family, tmp_path):
    config = InstructRefinerConfig(model=str(tiny(family)), dtype="float32", steps=2)
    views = [make_view(1, 50, 70), make_view(2, 50, 70)]
    episode = tmp_path / "episode_00"
    with config.load(CPU, episode) as refiner:
        refined = refiner(views)
    assert [image.shape for image in refined] == [view.image.shape for view in views]
    assert (episode / "reference_view.png").is_file() == family.startswith("klein")
    with config.load(CPU, episode) as refiner:  # a resumed episode: the reference is not used for its own view
        assert all(torch.equal(a, b) for a, b in zip(refined, refiner(views), strict=True))
    with replace(config, instruction="paint it blue").load(CPU, tmp_path / "other") as refiner:
        assert not torch.equal(refiner(views[:1])[0], refined[0])


def test_the_reference_changes_the_images(tiny, tmp_path):
    config = InstructRefinerConfig(model=str(tiny("klein")), dtype="float32", steps=2)
    view, images = make_view(1), []
    for name in ("none", "red", "blue"):
        episode = tmp_path / name
        episode.mkdir()
        if name != "none":
            color = torch.zeros(32, 48, 3)
            color[..., 0 if name == "red" else 2] = 1
            to_pil_image(color).save(episode / "reference.png")
        with config.load(CPU, episode) as refiner:
            images += refiner([view])
    assert not any(torch.allclose(images[i], images[j], atol=1e-4) for i, j in ((0, 1), (1, 2), (0, 2)))
    (tmp_path / "red/reference.png").write_text("not an image")
    with pytest.raises(TrainingError, match=r"reference\.png is not a readable image\. Delete or replace it"):
        config.load(CPU, tmp_path / "red").__enter__()


def test_the_first_finite_view_becomes_the_reference(tmp_path):
    reference = ReferenceImage(tmp_path / "episode", {"name": "instruct"})
    reference.set_if_missing("bad", torch.full((4, 4, 3), torch.nan))
    assert reference.image_for_view("any") is None
    reference.set_if_missing("first", torch.full((4, 4, 3), 0.5))
    reference.set_if_missing("second", torch.ones(4, 4, 3))
    assert reference.image_for_view("first") is None
    assert reference.image_for_view("second").getpixel((0, 0)) == (128, 128, 128)
    again = ReferenceImage(tmp_path / "episode", {"name": "instruct"})
    assert again.image_for_view("first") is None and again.image_for_view("third") is not None
    assert [file.name for file in (tmp_path / "episode").iterdir()] == ["reference_view.png"]


def test_the_first_view_of_other_options_is_not_used(tmp_path):
    ReferenceImage(tmp_path, {"instruction": "red"}).set_if_missing("first", torch.zeros(64, 64, 3))
    other = ReferenceImage(tmp_path, {"instruction": "blue"})
    assert other.image_for_view("second") is None
    other.set_if_missing("second", torch.ones(64, 64, 3))
    assert other.image_for_view("first").getpixel((0, 0)) == (255, 255, 255)
    (tmp_path / "reference_view.png").rename(tmp_path / "reference.png")  # now a file of the user: used for all views
    assert ReferenceImage(tmp_path, {"instruction": "red"}).image_for_view("second").getpixel((0, 0)) == (255, 255, 255)


def test_the_reference_is_part_of_the_identity(tiny, tmp_path):
    """A reference image of the user is, by content; the first refined view, which follows from it, is not."""
    config = InstructRefinerConfig(model=str(tiny("klein")), dtype="float32", steps=2)
    with config.load(CPU, tmp_path) as refiner:
        refiner([make_view(1)])
    assert (tmp_path / "reference_view.png").is_file()
    identities = [config.identity(tmp_path)]
    assert identities[0] == config.identity() and identities[0]["reference"] is None
    for level in (0.0, 1.0):
        to_pil_image(torch.full((64, 64, 3), level)).save(tmp_path / "reference.png")
        identities.append(config.identity(tmp_path))
        (tmp_path / "copy").mkdir(exist_ok=True)
        (tmp_path / "copy/reference.png").write_bytes((tmp_path / "reference.png").read_bytes())
        assert config.identity(tmp_path / "copy") == identities[-1]
    assert len({identity["reference"] for identity in identities}) == 3
    without_reference = InstructRefinerConfig(model=str(tiny("kontext")))  # takes no second image
    assert without_reference.identity(tmp_path) == without_reference.identity()


def test_an_editor_whose_text_encoder_reads_the_image(tiny, tmp_path, monkeypatch):
    """Prompts are not encoded ahead, and the text encoder stays loaded."""
    import diffusers.pipelines.qwenimage.pipeline_qwenimage_edit_plus as real

    config = InstructRefinerConfig(model=str(tiny("qwen_edit")), dtype="float32", steps=2)
    monkeypatch.setattr(real, "CONDITION_IMAGE_SIZE", 64 * 64)  # images are resized to a megapixel otherwise
    monkeypatch.setattr(real, "VAE_IMAGE_SIZE", 64 * 64)
    views = [make_view(1, 50, 70), make_view(2, 50, 70)]
    with config.load(CPU, tmp_path) as refiner:
        refined = refiner(views)
    assert all(a.shape == view.image.shape and torch.isfinite(a).all() for a, view in zip(refined, views, strict=True))
    with config.load(CPU, tmp_path) as refiner:
        assert torch.equal(refiner(views[1:])[0], refined[1])
    with replace(config, instruction="paint it blue").load(CPU, tmp_path) as refiner:
        assert not torch.equal(refiner(views[1:])[0], refined[1])


@pytest.mark.parametrize(
    ("family", "takes_reference"), [("QwenImageEditPlusPipeline", True), ("QwenImageEditPipeline", False)]
)
def test_arguments_of_the_qwen_pipelines(tmp_path, family, takes_reference):
    """Both pipelines, with a stub that records its calls."""
    calls: list[dict] = []

    def pipe(**arguments):
        calls.append(arguments)
        return SimpleNamespace(images=torch.full((1, 3, arguments["height"], arguments["width"]), 0.5))

    resolved = SimpleNamespace(instruction="sharpen", negative_prompt="", target_guidance=4.0)
    arguments = instruct._prompt_arguments(SimpleNamespace(pipeline_class=family), resolved, None)
    reference = ReferenceImage(tmp_path, {"name": "instruct"}) if instruct.EDITORS[family].takes_reference else None
    refine = instruct.InstructRefiner(pipe, 8, arguments, reference)
    for seed in (1, 2):
        assert refine([make_view(seed, 50, 70)])[0].shape == (50, 70, 3)
    assert calls[1]["prompt"] == "sharpen" and calls[1]["negative_prompt"] == " " and calls[1]["true_cfg_scale"] == 4.0
    assert calls[0]["image"].size == (80, 64) and isinstance(calls[1]["image"], list) == takes_reference
    assert set(calls[0]) <= qwen_parameters(family)


def qwen_parameters(family: str) -> set[str]:
    """Parameter names of the real pipeline."""
    import inspect

    diffusers = pytest.importorskip("diffusers")
    return set(inspect.signature(getattr(diffusers, family).__call__).parameters)
