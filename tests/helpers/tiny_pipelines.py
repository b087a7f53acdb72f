"""Tiny random diffusers pipelines of each family, complete enough for the real loading code; one takes a second.

Nothing is downloaded: vocabularies are the 256 bytes or ASCII.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

CHANNELS = [8, 8, 8, 8]  # four levels: eight pixels per latent, as in the real models
BLOCKS = {"down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4}
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def _byte_symbols() -> list[str]:
    return sorted(pre_tokenizers.ByteLevel.alphabet())


def clip_tokenizer(directory: Path) -> Any:
    directory.mkdir(parents=True, exist_ok=True)
    words = [*_byte_symbols(), *(f"{b}</w>" for b in _byte_symbols()), "<|startoftext|>", "<|endoftext|>"]
    (directory / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (directory / "merges.txt").write_text("#version: 0.2\n")
    return transformers.CLIPTokenizer(str(directory / "vocab.json"), str(directory / "merges.txt"), model_max_length=77)


def t5_tokenizer() -> Any:
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *((chr(c), -3.0) for c in range(33, 127))]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return transformers.T5TokenizerFast(tokenizer_object=tokenizer, extra_ids=0, model_max_length=32)


def qwen_tokenizer(directory: Path, extra: tuple[str, ...] = ()) -> Any:
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *extra]
    vocabulary = {word: i for i, word in enumerate([*_byte_symbols(), *special])}
    tokenizer = transformers.Qwen2Tokenizer(
        vocab=vocabulary, merges=[], unk_token="<|endoftext|>", pad_token="<|endoftext|>", eos_token="<|im_end|>",
        additional_special_tokens=special,
    )  # fmt: skip
    tokenizer.chat_template = CHAT
    return tokenizer


def clip_text_encoder(projection: bool, vocabulary: int = 514) -> Any:
    config = transformers.CLIPTextConfig(
        vocab_size=vocabulary, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        projection_dim=16, max_position_embeddings=77, bos_token_id=512, eos_token_id=513, pad_token_id=513,
    )  # fmt: skip
    model_class = transformers.CLIPTextModelWithProjection if projection else transformers.CLIPTextModel
    return model_class(config).eval()


def t5_text_encoder(width: int = 32) -> Any:
    config = transformers.T5Config(
        vocab_size=100, d_model=width, d_kv=8, d_ff=24, num_layers=2, num_heads=2, feed_forward_proj="gated-gelu"
    )
    return transformers.T5EncoderModel(config).eval()


def qwen3_text_encoder(layers: int) -> Any:
    config = transformers.Qwen3Config(
        vocab_size=300, hidden_size=16, intermediate_size=24, num_hidden_layers=layers, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, max_position_embeddings=1024,
    )  # fmt: skip
    return transformers.Qwen3ForCausalLM(config).eval()


def build_autoencoder(channels: int) -> Any:
    return diffusers.AutoencoderKL(
        block_out_channels=CHANNELS, layers_per_block=1, latent_channels=channels, norm_num_groups=4, sample_size=64,
        scaling_factor=0.9, shift_factor=0.1, use_quant_conv=False, use_post_quant_conv=False, **BLOCKS,
    ).eval()  # fmt: skip


def dynamic_scheduler() -> Any:
    return diffusers.FlowMatchEulerDiscreteScheduler(
        shift=3.0, use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15, base_image_seq_len=256,
        max_image_seq_len=4096,
    )  # fmt: skip


def _flux_parts(directory: Path, guidance: bool) -> dict[str, Any]:
    transformer = diffusers.FluxTransformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, pooled_projection_dim=16, guidance_embeds=guidance, axes_dims_rope=(4, 4, 8),
    )  # fmt: skip
    return {
        "scheduler": dynamic_scheduler(), "vae": build_autoencoder(4), "transformer": transformer.eval(),
        "text_encoder": clip_text_encoder(False), "tokenizer": clip_tokenizer(directory / "clip"),
        "text_encoder_2": t5_text_encoder(), "tokenizer_2": t5_tokenizer(),
    }  # fmt: skip


def build_flux(directory: Path, guidance: bool = True) -> Any:
    return diffusers.FluxPipeline(**_flux_parts(directory, guidance))


def build_schnell(directory: Path) -> Any:
    return build_flux(directory, guidance=False)


def build_kontext(directory: Path) -> Any:
    return diffusers.FluxKontextPipeline(**_flux_parts(directory, guidance=True))


def build_sd3(directory: Path) -> Any:
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=16, patch_size=2, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=8,
        num_attention_heads=4, joint_attention_dim=32, caption_projection_dim=32, pooled_projection_dim=32,
        pos_embed_max_size=16,
    )  # fmt: skip
    return diffusers.StableDiffusion3Pipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0), vae=build_autoencoder(4),
        transformer=transformer.eval(), text_encoder=clip_text_encoder(True),
        tokenizer=clip_tokenizer(directory / "clip"), text_encoder_2=clip_text_encoder(True),
        tokenizer_2=clip_tokenizer(directory / "clip"), text_encoder_3=t5_text_encoder(), tokenizer_3=t5_tokenizer(),
    )  # fmt: skip


def build_klein(directory: Path, distilled: bool = True) -> Any:
    vae = diffusers.AutoencoderKLFlux2(
        block_out_channels=CHANNELS, layers_per_block=1, latent_channels=4, norm_num_groups=4, sample_size=64, **BLOCKS
    ).eval()
    vae.bn.running_mean.uniform_(-0.5, 0.5)
    vae.bn.running_var.uniform_(0.5, 2)
    transformer = diffusers.Flux2Transformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=48, timestep_guidance_channels=16, axes_dims_rope=(4, 4, 4, 4), guidance_embeds=False,
    )  # fmt: skip
    return diffusers.Flux2KleinPipeline(
        scheduler=dynamic_scheduler(), vae=vae, transformer=transformer.eval(), text_encoder=qwen3_text_encoder(28),
        tokenizer=qwen_tokenizer(directory / "qwen"), is_distilled=distilled,
    )  # fmt: skip


def build_klein_base(directory: Path) -> Any:
    return build_klein(directory, distilled=False)


def build_zimage(directory: Path) -> Any:
    transformer = diffusers.ZImageTransformer2DModel(
        in_channels=4, dim=32, n_layers=1, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=16,
        axes_dims=[4, 4, 8], axes_lens=[1024, 64, 64],
    )  # fmt: skip
    return diffusers.ZImagePipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0), vae=build_autoencoder(4),
        transformer=transformer.eval(), text_encoder=qwen3_text_encoder(3),
        tokenizer=qwen_tokenizer(directory / "qwen"),
    )  # fmt: skip


def build_qwen_edit(directory: Path) -> Any:
    marks = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
    tokenizer = qwen_tokenizer(directory / "qwen", extra=marks)
    start, end, image, video = (tokenizer.convert_tokens_to_ids(mark) for mark in marks)
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16}
    text = {
        "vocab_size": 300, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 4096,
        "rope_parameters": {"mrope_section": [1, 1, 2], "rope_type": "default", "rope_theta": 1e6},
    }  # fmt: skip
    config = transformers.Qwen2_5_VLConfig(
        text_config=text, vision_config=vision, vision_start_token_id=start, vision_end_token_id=end,
        image_token_id=image, video_token_id=video,
    )  # fmt: skip
    processor = transformers.Qwen2VLProcessor(
        transformers.Qwen2VLImageProcessor(), tokenizer, transformers.Qwen2VLVideoProcessor(), chat_template=CHAT
    )
    transformer = diffusers.QwenImageTransformer2DModel(
        in_channels=16, out_channels=4, num_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=16, axes_dims_rope=(4, 4, 8),
    )  # fmt: skip
    vae = diffusers.AutoencoderKLQwenImage(
        base_dim=8, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, latents_mean=[0.0] * 4, latents_std=[1.0] * 4
    )
    encoder = transformers.Qwen2_5_VLForConditionalGeneration(config).eval()
    return diffusers.QwenImageEditPlusPipeline(
        scheduler=dynamic_scheduler(), vae=vae.eval(), text_encoder=encoder, tokenizer=tokenizer, processor=processor,
        transformer=transformer.eval(),
    )  # fmt: skip


BUILDERS: dict[str, Callable[[Path], Any]] = {
    "flux": build_flux, "schnell": build_schnell, "sd3": build_sd3, "klein": build_klein,
    "klein_base": build_klein_base, "zimage": build_zimage, "kontext": build_kontext, "qwen_edit": build_qwen_edit,
}  # fmt: skip


def build_tiny_pipeline(family: str, directory: Path, seed: int = 0) -> Path:
    """Write a pipeline with random weights to `directory`."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        pipe = BUILDERS[family](directory.parent / f"{directory.name}_vocabularies")
        for part in pipe.components.values():
            if isinstance(part, torch.nn.Module):
                for name, weights in part.named_parameters():
                    if weights.abs().max() == 0 and "bias" not in name:  # gates that are initialized with 0
                        torch.nn.init.normal_(weights, std=0.02)
        with torch.no_grad():
            pipe.save_pretrained(directory)
    return directory
