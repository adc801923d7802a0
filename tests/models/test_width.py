"""The reference beside the target on one canvas: adapter, diffusers pipeline, and their laws."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import FluxKontextPipeline, FluxPipeline
from PIL import Image
from torch import Tensor

from divrl_core.flow.loss import masked_flow_loss
from divrl_core.models import width_pipeline
from divrl_core.models.flux import FluxAdapter
from divrl_core.models.hub import open_pipeline
from divrl_core.models.panels import letterbox
from divrl_core.models.width_pipeline import FluxWidthPipeline

PROMPTS = ["a toy fox on a blue floor", "a robot in the snow"]
HEIGHT, WIDTH, GUIDANCE = 48, 80, 1.0


@pytest.fixture(scope="module")
def text_to_image(tiny_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny pipeline as a FluxPipeline: text to image."""
    kontext = FluxKontextPipeline.from_pretrained(str(tiny_pipeline))
    folder = tmp_path_factory.mktemp("text") / "pipeline"
    FluxPipeline(
        scheduler=kontext.scheduler,
        vae=kontext.vae,
        text_encoder=kontext.text_encoder,
        tokenizer=kontext.tokenizer,
        text_encoder_2=kontext.text_encoder_2,
        tokenizer_2=kontext.tokenizer_2,
        transformer=kontext.transformer,
    ).save_pretrained(folder)
    (folder / "divrl.json").write_text((tiny_pipeline / "divrl.json").read_text())
    return folder


@pytest.fixture(scope="module")
def adapter(text_to_image: Path) -> FluxAdapter:
    return FluxAdapter.load(str(text_to_image))


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def pictures(count: int, height: int, width: int) -> Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(5))


def pipeline(folder: Path, kind: type = FluxWidthPipeline) -> FluxWidthPipeline:
    made = kind.from_pretrained(str(folder))
    made.set_progress_bar_config(disable=True)
    made.text_encoder.eval(), made.text_encoder_2.eval()
    return made


def test_a_text_to_image_pipeline_lays_its_reference_along_width(
    adapter: FluxAdapter, tiny_pipeline: Path
) -> None:
    assert adapter.layout == "width"
    assert FluxAdapter.load(str(tiny_pipeline)).layout == "kontext"
    assert FluxAdapter.load(str(tiny_pipeline), layout="diagonal").layout == "diagonal"
    pocket = open_pipeline("pocket-text-to-image")
    assert (pocket.layout, pocket.part("transformer").name) == ("width", "transformer_text_to_image")
    assert pocket.part("vae") == open_pipeline("pocket").part("vae")


@pytest.mark.parametrize("reference_size", [(HEIGHT, WIDTH), (64, 32), (100, 333)])
def test_a_sample_equals_the_diffusers_pipelines(
    text_to_image: Path, adapter: FluxAdapter, reference_size: tuple[int, int]
) -> None:
    """The same letterboxed reference, the same ids: our sampler and the pipeline subclass make the same picture."""
    references = pictures(2, *reference_size)
    noise = randn(2, *adapter.latent_shape(HEIGHT, WIDTH))
    panels = torch.stack([letterbox(one, HEIGHT, WIDTH) for one in references])
    ours = adapter.sample(
        adapter.encode(PROMPTS, panels), noise, height=HEIGHT, width=WIDTH, steps=3, guidance=GUIDANCE
    )
    theirs = pipeline(text_to_image)(
        image=references,
        prompt=PROMPTS,
        height=HEIGHT,
        width=WIDTH,
        num_inference_steps=3,
        guidance_scale=GUIDANCE,
        latents=noise,
        output_type="latent",
        max_sequence_length=adapter.max_text_tokens,
    ).images
    assert torch.allclose(ours, theirs, atol=1e-5, rtol=0)


def test_a_canvas_is_one_wide_picture_to_the_transformer(adapter: FluxAdapter) -> None:
    """Literally concatenated latents, packed as one picture by diffusers itself, give the same velocities."""
    from divrl_core.models.layout import pack, unpack

    rows, columns = HEIGHT // 16, WIDTH // 16
    given = adapter.encode(PROMPTS, pictures(2, HEIGHT, WIDTH))
    x_t = randn(2, *adapter.latent_shape(HEIGHT, WIDTH))
    with torch.no_grad():
        canvas, ours = adapter.canvas_velocity(x_t, 0.6, given, adapter.target_ids(HEIGHT, WIDTH), GUIDANCE)
        latents = torch.cat(
            [unpack(x_t, rows, columns), unpack(given.reference_tokens, rows, columns)], dim=3
        )
        wide = adapter.transformer(
            hidden_states=pack(latents),
            timestep=torch.full((2,), 0.6),
            guidance=torch.full((2,), GUIDANCE),
            pooled_projections=given.pooled,
            encoder_hidden_states=given.prompt_embeds,
            txt_ids=given.text_ids,
            img_ids=FluxPipeline._prepare_latent_image_ids(2, rows, 2 * columns, "cpu", torch.float32),
            return_dict=False,
        )[0]
    left, right = unpack(wide, rows, 2 * columns).chunk(2, dim=3)
    assert torch.allclose(ours[:, canvas.is_target], pack(left), atol=2e-5)
    assert torch.allclose(ours[:, ~canvas.is_target], pack(right), atol=2e-5)


def test_gradient_is_zero_on_reference_columns_and_the_loss_ignores_the_prediction_there(
    adapter: FluxAdapter,
) -> None:
    given = adapter.encode(PROMPTS, pictures(2, HEIGHT, WIDTH))
    x_t = randn(2, *adapter.latent_shape(HEIGHT, WIDTH))
    canvas, predicted = adapter.canvas_velocity(x_t, 0.6, given, adapter.target_ids(HEIGHT, WIDTH), GUIDANCE)
    predicted = predicted.detach().requires_grad_(True)
    wanted = randn(*predicted.shape, seed=1)
    loss = masked_flow_loss(predicted, wanted, canvas.is_target)
    loss.backward()
    assert predicted.grad is not None
    assert not predicted.grad[:, ~canvas.is_target].any() and predicted.grad[:, canvas.is_target].all()
    changed = predicted.detach().clone()
    changed[:, ~canvas.is_target] += 100
    assert torch.equal(masked_flow_loss(changed, wanted, canvas.is_target), loss.detach())


def test_the_reference_latent_is_bit_identical_before_and_after_sampling(adapter: FluxAdapter) -> None:
    """In every step the transformer sees the very latent that was encoded."""
    given = adapter.encode(PROMPTS, pictures(2, HEIGHT, WIDTH))
    before = given.reference_tokens.clone()
    seen: list[Tensor] = []

    def look(module: object, arguments: tuple[object, ...], keywords: dict[str, Tensor]) -> None:
        seen.append(keywords["hidden_states"][:, -before.shape[1] :].clone())

    hook = adapter.transformer.register_forward_pre_hook(look, with_kwargs=True)
    adapter.sample(
        given,
        randn(2, *adapter.latent_shape(HEIGHT, WIDTH)),
        height=HEIGHT,
        width=WIDTH,
        steps=4,
        guidance=1.0,
    )
    hook.remove()
    assert len(seen) == 4 and all(torch.equal(latent, before) for latent in seen)
    assert torch.equal(given.reference_tokens, before)


def test_without_a_reference_it_is_diffusers_text_to_image_pipeline(text_to_image: Path) -> None:
    plain = FluxAdapter.load(str(text_to_image), layout="none")
    noise = randn(2, *plain.latent_shape(HEIGHT, WIDTH))
    given = plain.encode(PROMPTS, pictures(2, HEIGHT, WIDTH))
    ours = plain.sample(given, noise, height=HEIGHT, width=WIDTH, steps=3, guidance=GUIDANCE)
    theirs = pipeline(text_to_image, FluxPipeline)(
        prompt=PROMPTS,
        height=HEIGHT,
        width=WIDTH,
        num_inference_steps=3,
        guidance_scale=GUIDANCE,
        latents=noise,
        output_type="latent",
        max_sequence_length=plain.max_text_tokens,
    ).images
    assert torch.allclose(ours, theirs, atol=1e-5, rtol=0)


def test_the_pipeline_takes_pil_pictures_of_any_shape_and_refuses_sides_that_are_no_tokens(
    text_to_image: Path,
) -> None:
    made = pipeline(text_to_image)
    fox = Image.new("RGB", (30, 90), "orange")
    picture = made(
        image=fox, prompt="a fox", height=HEIGHT, width=WIDTH, num_inference_steps=1, max_sequence_length=8
    )
    assert picture.images[0].size == (WIDTH, HEIGHT)
    with pytest.raises(ValueError, match="multiples of 16 px, got 50 x 80"):
        made(image=fox, prompt="a fox", height=50, width=80)


def test_several_references_and_several_pictures_of_each_stay_together(text_to_image: Path) -> None:
    made, references = pipeline(text_to_image), pictures(2, HEIGHT, WIDTH)
    noise = randn(1, 15, 64).expand(4, -1, -1).clone()
    settings = {"height": HEIGHT, "width": WIDTH, "num_inference_steps": 2, "output_type": "latent"}
    settings |= {"max_sequence_length": 8}
    four = made(image=references, prompt=PROMPTS, num_images_per_prompt=2, latents=noise, **settings).images
    for place, (prompt, reference) in enumerate(zip(PROMPTS, references, strict=True)):
        alone = made(image=reference, prompt=prompt, latents=noise[:1], **settings).images
        for copy in (2 * place, 2 * place + 1):
            assert torch.allclose(four[copy], alone[0], atol=1e-4)


def test_a_cut_out_reference_is_laid_on_white_as_in_training() -> None:
    cut_out = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    cut_out.putpixel((0, 0), (0, 0, 255, 255))
    tensor = width_pipeline._tensor(cut_out)
    assert tensor[:, 0, 0].tolist() == [0, 0, 1] and tensor[:, 3, 3].tolist() == [1, 1, 1]
