"""Adapters of diffusers pipelines: equal to the pipelines in samples, single steps and the autoencoder."""

import pytest
import torch
from helpers.views import make_view
from torch import Tensor

from skyfall_ns.refiners.batches import stack_images
from skyfall_ns.refiners.diffusion_models import ADAPTERS, FlowAdapter
from skyfall_ns.refiners.diffusion_models.flux import pack_latents, unpack_latents
from skyfall_ns.refiners.flowedit import FlowEditRefinerConfig
from skyfall_ns.refiners.flowedit_algorithm import sample_to_end
from skyfall_ns.refiners.prompts import encode_prompts
from skyfall_ns.refiners.weights import find_weights

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
    adapter_class = ADAPTERS[type(pipe).__name__]
    with torch.no_grad():
        prompts = {text: adapter_class.embed_prompt(pipe, text, CPU) for text in (PROMPT, NEGATIVE)}
    return request.param, adapter_class(pipe, prompts, NEGATIVE), pipe


def pipeline_latents(family: str, model: FlowAdapter, z: Tensor) -> Tensor:
    """Latents in the layout of the pipeline."""
    return pack_latents(z) if family in ("flux", "schnell") else z


def draw_latents(model: FlowAdapter, n: int = 1, size: tuple[int, int] = (64, 48)) -> Tensor:
    patches = model.pipe.transformer.config.in_channels
    channels = patches // 4 if type(model).__name__ == "Flux1" else patches
    stride = 16 if type(model).__name__ == "Flux2Klein" else 8
    return torch.randn((n, channels, size[0] // stride, size[1] // stride), generator=torch.Generator().manual_seed(3))


def pipeline_arguments(family: str, model: FlowAdapter, n: int = 1) -> dict:
    return model.pipeline_arguments(model.make_condition(PROMPT, GUIDANCE[family]), n)


@torch.no_grad()
def test_euler_sampling_through_the_adapter_equals_the_pipeline(adapted):
    family, model, pipe = adapted
    steps, start = 5, draw_latents(adapted[1])
    levels = model.noise_levels((64, 48), steps)
    z = sample_to_end(model, start * float(levels[0]), model.make_condition(PROMPT, GUIDANCE[family]), levels, 0)
    expected = pipe(
        latents=pipeline_latents(family, model, start), num_inference_steps=steps, height=64, width=48,
        output_type="pt", **pipeline_arguments(family, model),
    ).images  # fmt: skip
    assert levels[-1] == 0 and len(levels) == steps + 1 and levels.dtype == torch.float32
    assert (model.decode_latents(z).clamp(0, 1) - expected).abs().max() < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("sigma", [0.9, 0.35])
def test_velocity_equals_one_step_of_the_pipeline(adapted, sigma):
    """With an unshifted schedule of one step, v = (z - out) / sigma."""
    family, model, pipe = adapted
    before = pipe.scheduler
    pipe.scheduler = type(before).from_config(before.config, use_dynamic_shifting=False, shift=1.0)
    try:
        z = draw_latents(model)
        out = pipe(
            latents=pipeline_latents(family, model, z), sigmas=[sigma], num_inference_steps=1, height=64, width=48,
            output_type="latent", **pipeline_arguments(family, model),
        ).images  # fmt: skip
    finally:
        pipe.scheduler = before
    if family in ("flux", "schnell"):
        out = unpack_latents(out, *z.shape[2:])
    if family.startswith("klein"):  # its output is not normalized
        mean, std = model._batch_norm_statistics()
        out = (pipe._patchify_latents(out) - mean) / std
    v = model.velocity(z, sigma, model.make_condition(PROMPT, GUIDANCE[family]))
    assert ((z - out) / sigma - v).abs().max() < 2e-5


@torch.no_grad()
def test_a_batch_equals_its_single_samples(adapted):
    family, model, _ = adapted
    z = draw_latents(model, 2)
    condition = model.make_condition(PROMPT, GUIDANCE[family])
    together = model.velocity(z, 0.5, condition)
    apart = torch.cat([model.velocity(one[None], 0.5, condition) for one in z])
    assert together.shape == z.shape and together.dtype == torch.float32
    assert (together - apart).abs().max() < 1e-5


@torch.no_grad()
def test_encoding_and_decoding_equal_the_autoencoder(adapted):
    _, model, pipe = adapted
    image = stack_images([make_view(1), make_view(2)])
    z = model.encode_images(image)
    assert z.shape == draw_latents(model, 2, (64, 64)).shape and z.dtype == torch.float32
    direct = pipe.vae.decode(pipe.vae.encode(image * 2 - 1).latent_dist.mode()).sample / 2 + 0.5
    assert (model.decode_latents(z) - direct).abs().max() < 1e-5


@torch.no_grad()
def test_prompt_and_guidance_change_the_velocity(adapted):
    family, model, _ = adapted
    z = draw_latents(model)
    velocity = lambda prompt, guidance: model.velocity(z, 0.5, model.make_condition(prompt, guidance))  # noqa: E731
    base = velocity(PROMPT, GUIDANCE[family])
    assert not torch.allclose(base, velocity(NEGATIVE, GUIDANCE[family]))
    if GUIDANCE[family] is not None:
        assert not torch.allclose(base, velocity(PROMPT, 1.5 * GUIDANCE[family]))
    with pytest.raises(KeyError):
        model.make_condition("never encoded", None)


@torch.no_grad()
@pytest.mark.parametrize("family", ["flux", "klein_base", "zimage"])
def test_group_offloading_changes_nothing(tiny, family):
    """Group offloading hooks every layer; adapters call parts of the autoencoder without its `forward`."""
    import diffusers

    images = []
    for offload in (False, True):
        pipe = diffusers.DiffusionPipeline.from_pretrained(str(tiny(family)), dtype=torch.float32)
        adapter_class = ADAPTERS[type(pipe).__name__]
        prompts = {text: adapter_class.embed_prompt(pipe, text, CPU) for text in (PROMPT, NEGATIVE)}
        if offload:
            pipe.enable_group_offload(onload_device=CPU, offload_type="leaf_level")
        model = adapter_class(pipe, prompts)
        z = model.encode_images(stack_images([make_view(1)]))
        images.append(model.decode_latents(z + model.velocity(z, 0.5, model.make_condition(PROMPT, GUIDANCE[family]))))
    assert torch.equal(*images)


def test_unpacking_inverts_packing():
    z = torch.randn(2, 4, 6, 8)
    assert torch.equal(unpack_latents(pack_latents(z), 6, 8), z) and pack_latents(z).shape == (2, 12, 16)


def test_noise_levels_at_1024_pixels(tiny):
    """FLUX.1 in 28 steps and FLUX.2-klein in 28 and 4: noise level by number of steps left."""
    import diffusers

    known = {
        ("flux", 28): {1: 0.105, 4: 0.345, 10: 0.637, 24: 0.950},
        ("klein_base", 28): {1: 0.242, 4: 0.589, 10: 0.827, 24: 0.981},
        ("klein", 4): {1: 0.767, 2: 0.908, 3: 0.967, 4: 1.0},
    }
    for (family, steps), levels in known.items():
        pipe = diffusers.DiffusionPipeline.from_pretrained(str(tiny(family)), dtype=torch.float32)
        sigmas = ADAPTERS[type(pipe).__name__](pipe, {}).noise_levels((1024, 1024), steps)
        assert [sigmas[steps - left].item() for left in levels] == pytest.approx(list(levels.values()), abs=6e-4)


@pytest.mark.parametrize(("family", "tokens"), [("schnell", 256), ("flux", 512)])
def test_prompts_have_the_length_with_which_a_flux_model_was_trained(family, tokens, tiny):
    options = FlowEditRefinerConfig(model=str(tiny(family)), dtype="float32")
    weights = find_weights(options, ADAPTERS)
    (embedding,) = encode_prompts(weights, ADAPTERS[weights.pipeline_class], options, [PROMPT], CPU).values()
    assert embedding["prompt_embeds"].shape[1] == tokens
