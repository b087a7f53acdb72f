"""Adapters against the pipelines they adapt: the same samples, the same single steps, the same autoencoder."""

import pytest
import torch
from helpers.views import make_view
from torch import Tensor

from skyfall_ns.refiners.batches import stacked
from skyfall_ns.refiners.diffusion_models import ADAPTERS, FlowAdapter
from skyfall_ns.refiners.diffusion_models.flux import packed, unpacked
from skyfall_ns.refiners.flowedit import sample_to_end

pytestmark = pytest.mark.usefixtures("cached_prompts")
CPU = torch.device("cpu")
GUIDANCE = {"flux": 3.5, "schnell": None, "sd3": 4.0, "klein": None, "klein_base": 3.0, "zimage": 2.5}
PROMPT, NEGATIVE = "a sharp city", ""


@pytest.fixture(scope="module", params=GUIDANCE)
def adapted(request, tiny):
    """(family, adapter, pipeline), float32."""
    import diffusers

    pipe = diffusers.DiffusionPipeline.from_pretrained(str(tiny(request.param)), dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    kind = ADAPTERS[type(pipe).__name__]
    with torch.no_grad():
        prompts = {text: kind.embed(pipe, text, CPU) for text in (PROMPT, NEGATIVE)}
    return request.param, kind(pipe, prompts, NEGATIVE), pipe


def native(family: str, model: FlowAdapter, z: Tensor) -> Tensor:
    """Latents as the pipeline wants them."""
    return packed(z) if family in ("flux", "schnell") else z


def noise(model: FlowAdapter, n: int = 1, size: tuple[int, int] = (64, 48)) -> Tensor:
    patches = model.pipe.transformer.config.in_channels
    channels = patches // 4 if type(model).__name__ == "Flux1" else patches
    stride = 16 if type(model).__name__ == "Flux2Klein" else 8
    return torch.randn((n, channels, size[0] // stride, size[1] // stride), generator=torch.Generator().manual_seed(3))


def arguments(family: str, model: FlowAdapter, n: int = 1) -> dict:
    return model.arguments(model.condition(PROMPT, GUIDANCE[family]), n)


@torch.no_grad()
def test_euler_through_the_adapter_is_the_pipeline_s_own_sampler(adapted):
    family, model, pipe = adapted
    steps, start = 5, noise(adapted[1])
    ours = model.sigmas((64, 48), steps)
    z = sample_to_end(model, start * float(ours[0]), model.condition(PROMPT, GUIDANCE[family]), ours, 0)
    theirs = pipe(
        latents=native(family, model, start), num_inference_steps=steps, height=64, width=48, output_type="pt",
        **arguments(family, model),
    ).images  # fmt: skip
    assert ours[-1] == 0 and len(ours) == steps + 1 and ours.dtype == torch.float32
    assert (model.decode(z).clamp(0, 1) - theirs).abs().max() < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("sigma", [0.9, 0.35])
def test_velocity_is_one_step_of_the_pipeline(adapted, sigma):
    """With an unshifted schedule of one step, v = (z - out) / sigma."""
    family, model, pipe = adapted
    before = pipe.scheduler
    pipe.scheduler = type(before).from_config(before.config, use_dynamic_shifting=False, shift=1.0)
    try:
        z = noise(model)
        out = pipe(
            latents=native(family, model, z), sigmas=[sigma], num_inference_steps=1, height=64, width=48,
            output_type="latent", **arguments(family, model),
        ).images  # fmt: skip
    finally:
        pipe.scheduler = before
    if family in ("flux", "schnell"):
        out = unpacked(out, *z.shape[2:])
    if family.startswith("klein"):  # answers without the normalisation
        mean, std = model._statistics()
        out = (pipe._patchify_latents(out) - mean) / std
    v = model.velocity(z, sigma, model.condition(PROMPT, GUIDANCE[family]))
    assert ((z - out) / sigma - v).abs().max() < 2e-5


@torch.no_grad()
def test_a_batch_is_its_samples(adapted):
    family, model, _ = adapted
    z = noise(model, 2)
    condition = model.condition(PROMPT, GUIDANCE[family])
    together = model.velocity(z, 0.5, condition)
    apart = torch.cat([model.velocity(one[None], 0.5, condition) for one in z])
    assert together.shape == z.shape and together.dtype == torch.float32
    assert (together - apart).abs().max() < 1e-5


@torch.no_grad()
def test_encode_and_decode_are_the_autoencoder_s(adapted):
    _, model, pipe = adapted
    image = stacked([make_view(1), make_view(2)])
    z = model.encode(image)
    assert z.shape == noise(model, 2, (64, 64)).shape and z.dtype == torch.float32
    direct = pipe.vae.decode(pipe.vae.encode(image * 2 - 1).latent_dist.mode()).sample / 2 + 0.5
    assert (model.decode(z) - direct).abs().max() < 1e-5


@torch.no_grad()
def test_prompt_and_guidance_reach_the_network(adapted):
    family, model, _ = adapted
    z = noise(model)
    ask = lambda prompt, guidance: model.velocity(z, 0.5, model.condition(prompt, guidance))  # noqa: E731
    base = ask(PROMPT, GUIDANCE[family])
    assert not torch.allclose(base, ask(NEGATIVE, GUIDANCE[family]))
    if GUIDANCE[family] is not None:
        assert not torch.allclose(base, ask(PROMPT, 1.5 * GUIDANCE[family]))
    with pytest.raises(KeyError):
        model.condition("never encoded", None)


@torch.no_grad()
@pytest.mark.parametrize("family", ["flux", "klein_base", "zimage"])
def test_layers_that_wait_elsewhere_change_nothing(tiny, family):
    """Group offload hooks every layer; adapters call parts of the autoencoder without its forward."""
    import diffusers

    answers = []
    for offload in (False, True):
        pipe = diffusers.DiffusionPipeline.from_pretrained(str(tiny(family)), dtype=torch.float32)
        kind = ADAPTERS[type(pipe).__name__]
        prompts = {text: kind.embed(pipe, text, CPU) for text in (PROMPT, NEGATIVE)}
        if offload:
            pipe.enable_group_offload(onload_device=CPU, offload_type="leaf_level")
        model = kind(pipe, prompts)
        z = model.encode(stacked([make_view(1)]))
        answers.append(model.decode(z + model.velocity(z, 0.5, model.condition(PROMPT, GUIDANCE[family]))))
    assert torch.equal(*answers)


def test_packing_has_an_inverse():
    z = torch.randn(2, 4, 6, 8)
    assert torch.equal(unpacked(packed(z), 6, 8), z) and packed(z).shape == (2, 12, 16)


def test_schedules_known_at_1024_pixels(tiny):
    """FLUX.1 in 28 steps and klein in 28 and 4: the table of noise levels by steps left."""
    import diffusers

    known = {
        ("flux", 28): {1: 0.105, 4: 0.345, 10: 0.637, 24: 0.950},
        ("klein_base", 28): {1: 0.242, 4: 0.589, 10: 0.827, 24: 0.981},
        ("klein", 4): {1: 0.767, 2: 0.908, 3: 0.967, 4: 1.0},
    }
    for (family, steps), levels in known.items():
        pipe = diffusers.DiffusionPipeline.from_pretrained(str(tiny(family)), dtype=torch.float32)
        sigmas = ADAPTERS[type(pipe).__name__](pipe, {}).sigmas((1024, 1024), steps)
        assert [sigmas[steps - left].item() for left in levels] == pytest.approx(list(levels.values()), abs=6e-4)
