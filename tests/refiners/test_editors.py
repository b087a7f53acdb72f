"""Image to image and instruction editors on tiny pipelines."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from helpers.views import make_view

from skyfall_ns.errors import TrainingError
from skyfall_ns.refiners import instruct
from skyfall_ns.refiners.img2img import Img2ImgRefinerConfig, strength_of
from skyfall_ns.refiners.instruct import InstructRefinerConfig, Reference, to_pil

CPU = torch.device("cpu")


@pytest.mark.parametrize("family", ["flux", "sd3", "zimage"])
def test_image_to_image(tiny, family, tmp_path):
    config = Img2ImgRefinerConfig(model=str(tiny(family)), dtype="float32", steps=6, n_max=3)
    views = [make_view(1, 50, 70), make_view(2, 50, 70)]
    with config.load(CPU, tmp_path) as refiner:
        together, again, apart = refiner(views), refiner(views), [refiner([view])[0] for view in views]
    for view, a, b, c in zip(views, together, again, apart, strict=True):
        assert a.shape == view.image.shape and torch.equal(a, b) and (a - c).abs().max() < 2e-5
        assert torch.isfinite(a).all() and not torch.allclose(a, view.image, atol=0.02)
    with replace(config, n_max=0).load(CPU, tmp_path) as refiner:
        assert torch.equal(refiner(views)[0], views[0].image)


def test_strength_takes_exactly_the_steps_asked_for(tiny):
    from diffusers import AutoPipelineForImage2Image

    for family in ("flux", "sd3", "zimage"):
        pipe = AutoPipelineForImage2Image.from_pretrained(str(tiny(family)), dtype=torch.float32)
        for steps in (1, 7, 28, 50):
            pipe.scheduler.set_timesteps(steps, mu=1.0)
            for n_max in range(1, steps + 1):
                assert pipe.get_timesteps(steps, strength_of(n_max, steps), CPU)[1] == n_max


def test_identity_of_image_to_image_leaves_out_what_it_does_not_use(tiny):
    identity = Img2ImgRefinerConfig(model=str(tiny("sd3"))).identity()
    assert identity["name"] == "img2img" and "target_prompt" in identity
    assert not {"source_prompt", "n_min", "instruction"} & identity.keys()


@pytest.mark.parametrize("family", ["klein", "klein_base", "kontext"])
def test_instruction_editors(tiny, family, tmp_path):
    config = InstructRefinerConfig(model=str(tiny(family)), dtype="float32", steps=2)
    views = [make_view(1, 50, 70), make_view(2, 50, 70)]
    episode = tmp_path / "episode_00"
    with config.load(CPU, episode) as refiner:
        refined = refiner(views)
    assert [image.shape for image in refined] == [view.image.shape for view in views]
    assert (episode / "reference_view.png").is_file() == family.startswith("klein")
    with config.load(CPU, episode) as refiner:  # a resumed episode: the reference is not shown to its own view
        assert all(torch.equal(a, b) for a, b in zip(refined, refiner(views), strict=True))
    with replace(config, instruction="paint it blue").load(CPU, tmp_path / "other") as refiner:
        assert not torch.equal(refiner(views[:1])[0], refined[0])


def test_the_reference_is_shown(tiny, tmp_path):
    config = InstructRefinerConfig(model=str(tiny("klein")), dtype="float32", steps=2)
    view, pictures = make_view(1), []
    for name in ("none", "red", "blue"):
        episode = tmp_path / name
        episode.mkdir()
        if name != "none":
            colour = torch.zeros(32, 48, 3)
            colour[..., 0 if name == "red" else 2] = 1
            to_pil(colour).save(episode / "reference.png")
        with config.load(CPU, episode) as refiner:
            pictures += refiner([view])
    assert not any(torch.allclose(pictures[i], pictures[j], atol=1e-4) for i, j in ((0, 1), (1, 2), (0, 2)))
    (tmp_path / "red/reference.png").write_text("no picture")
    with pytest.raises(TrainingError, match=r"reference\.png is no readable picture\. Delete it"):
        config.load(CPU, tmp_path / "red").__enter__()


def test_the_first_finite_view_becomes_the_reference(tmp_path):
    reference = Reference(tmp_path / "episode", {"name": "instruct"})
    reference.offer("bad", torch.full((4, 4, 3), torch.nan))
    assert reference.for_view("any") is None
    reference.offer("first", torch.full((4, 4, 3), 0.5))
    reference.offer("second", torch.ones(4, 4, 3))
    assert reference.for_view("first") is None and reference.for_view("second").getpixel((0, 0)) == (128, 128, 128)
    again = Reference(tmp_path / "episode", {"name": "instruct"})
    assert again.for_view("first") is None and again.for_view("third") is not None
    assert [file.name for file in (tmp_path / "episode").iterdir()] == ["reference_view.png"]


def test_the_first_view_of_a_refiner_with_other_options_is_not_shown(tmp_path):
    Reference(tmp_path, {"instruction": "red"}).offer("first", torch.zeros(64, 64, 3))
    other = Reference(tmp_path, {"instruction": "blue"})
    assert other.for_view("second") is None
    other.offer("second", torch.ones(64, 64, 3))
    assert other.for_view("first").getpixel((0, 0)) == (255, 255, 255)
    (tmp_path / "reference_view.png").rename(tmp_path / "reference.png")  # now a person's own: shown to all
    assert Reference(tmp_path, {"instruction": "red"}).for_view("second").getpixel((0, 0)) == (255, 255, 255)


def test_another_reference_makes_other_images(tiny, tmp_path):
    """What a person puts there belongs to the identity, by content; the first view, which follows from it, does not."""
    config = InstructRefinerConfig(model=str(tiny("klein")), dtype="float32", steps=2)
    with config.load(CPU, tmp_path) as refiner:
        refiner([make_view(1)])
    assert (tmp_path / "reference_view.png").is_file()
    seen = [config.identity(tmp_path)]
    assert seen[0] == config.identity() and seen[0]["reference"] is None
    for level in (0.0, 1.0):
        to_pil(torch.full((64, 64, 3), level)).save(tmp_path / "reference.png")
        seen.append(config.identity(tmp_path))
        (tmp_path / "copy").mkdir(exist_ok=True)
        (tmp_path / "copy/reference.png").write_bytes((tmp_path / "reference.png").read_bytes())
        assert config.identity(tmp_path / "copy") == seen[-1]
    assert len({identity["reference"] for identity in seen}) == 3
    unshown = InstructRefinerConfig(model=str(tiny("kontext")))  # takes no second picture
    assert unshown.identity(tmp_path) == unshown.identity()


def test_an_editor_whose_text_encoder_looks_at_pictures(tiny, tmp_path, monkeypatch):
    """Nothing is encoded ahead, and the text encoder stays."""
    import diffusers.pipelines.qwenimage.pipeline_qwenimage_edit_plus as real

    config = InstructRefinerConfig(model=str(tiny("qwen_edit")), dtype="float32", steps=2)
    monkeypatch.setattr(real, "CONDITION_IMAGE_SIZE", 64 * 64)  # pictures are brought to a megapixel otherwise
    monkeypatch.setattr(real, "VAE_IMAGE_SIZE", 64 * 64)
    views = [make_view(1, 50, 70), make_view(2, 50, 70)]
    with config.load(CPU, tmp_path) as refiner:
        refined = refiner(views)
    assert all(a.shape == view.image.shape and torch.isfinite(a).all() for a, view in zip(refined, views, strict=True))
    with config.load(CPU, tmp_path) as refiner:
        assert torch.equal(refiner(views[1:])[0], refined[1])
    with replace(config, instruction="paint it blue").load(CPU, tmp_path) as refiner:
        assert not torch.equal(refiner(views[1:])[0], refined[1])


@pytest.mark.parametrize(("family", "several"), [("QwenImageEditPlusPipeline", True), ("QwenImageEditPipeline", False)])
def test_what_qwen_is_asked(tmp_path, family, several):
    """Both of its pipelines, by a stand-in that takes the call."""
    asked: list[dict] = []

    def pipe(**given):
        asked.append(given)
        return SimpleNamespace(images=torch.full((1, 3, given["height"], given["width"]), 0.5))

    resolved = SimpleNamespace(instruction="sharpen", negative_prompt="", target_guidance=4.0)
    told = instruct._told(pipe, SimpleNamespace(family=family), resolved, None)
    reference = Reference(tmp_path, {"name": "instruct"}) if instruct._EDITORS[family].several else None
    refine = instruct._Instruct(pipe, 8, told, reference)
    for seed in (1, 2):
        assert refine([make_view(seed, 50, 70)])[0].shape == (50, 70, 3)
    assert asked[1]["prompt"] == "sharpen" and asked[1]["negative_prompt"] == " " and asked[1]["true_cfg_scale"] == 4.0
    assert asked[0]["image"].size == (80, 64) and isinstance(asked[1]["image"], list) == several
    assert set(asked[0]) <= qwen_parameters(family)


def qwen_parameters(family: str) -> set[str]:
    """Names that the real pipeline takes."""
    import inspect

    diffusers = pytest.importorskip("diffusers")
    return set(inspect.signature(getattr(diffusers, family).__call__).parameters)
