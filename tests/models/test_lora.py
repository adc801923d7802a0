"""LoRA inside the transformer: which layers, how it starts, which adapter answers."""

from __future__ import annotations

import pytest
import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor

from divrl_core.config_inputs import LORA_TARGETS, LoraConfig
from divrl_core.models.lora import (
    POLICY,
    REFERENCE,
    TARGETS,
    add_lora,
    disabled_lora,
    freeze_reference,
    load_lora_state,
    lora_parameters,
    lora_state,
    target_modules,
    using_adapter,
)
from divrl_core.models.lora_numbers import lora_numbers
from divrl_core.models.traced_model import config_key
from divrl_core.training.optimizer_bytes import optimizer_bytes


def flux(layers: int = 1, single: int = 1, heads: int = 1, seed: int = 0) -> FluxTransformer2DModel:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return FluxTransformer2DModel(
            in_channels=64,
            num_layers=layers,
            num_single_layers=single,
            attention_head_dim=128,
            num_attention_heads=heads,
            joint_attention_dim=32,
            pooled_projection_dim=16,
            guidance_embeds=True,
            axes_dims_rope=(16, 56, 56),
        ).eval()


def output(transformer: FluxTransformer2DModel, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return transformer(
        hidden_states=torch.randn(2, 6, 64, generator=generator).to(dtype),
        encoder_hidden_states=torch.randn(2, 4, 32, generator=generator).to(dtype),
        pooled_projections=torch.randn(2, 16, generator=generator).to(dtype),
        timestep=torch.tensor([0.3, 0.8], dtype=dtype),
        img_ids=torch.randn(6, 3, generator=generator).round(),
        txt_ids=torch.zeros(4, 3),
        guidance=torch.full((2,), 2.5),
    ).sample


def stir(transformer: FluxTransformer2DModel, seed: int = 1) -> None:
    """Weights as after training: neither A nor B is at its start any more."""
    generator = torch.Generator().manual_seed(seed)
    state = lora_state(transformer)
    load_lora_state(
        transformer, {k: 0.05 * torch.randn(w.shape, generator=generator) for k, w in state.items()}
    )


def test_attention_and_feed_forward_of_flux_1_are_418_linear_layers() -> None:
    with torch.device("meta"):
        flux_1 = FluxTransformer2DModel(guidance_embeds=True)  # the defaults are FLUX.1-dev's dimensions
    assert (len(flux_1.transformer_blocks), len(flux_1.single_transformer_blocks)) == (19, 38)

    everything = target_modules(flux_1, "attention+ffn")
    assert len(everything) == 418  # 19 x (8 attention + 4 feed-forward) + 38 x (3 + 2)
    assert len(target_modules(flux_1, "attention")) == 266  # 19 x 8 + 38 x 3

    # An independent count: every linear layer inside a block, but for the modulations.
    inside = {
        name
        for name, module in flux_1.named_modules()
        if isinstance(module, torch.nn.Linear) and "blocks." in name and "norm" not in name
    }
    assert set(everything) == inside
    assert set(target_modules(flux_1, "attention")) < inside

    # With modulation: 2 adaptive norms a double block, 1 a single one; the final layer stays as it is.
    modulated = set(target_modules(flux_1, "attention+ffn+modulation"))
    assert len(modulated) == 418 + 19 * 2 + 38
    assert modulated - inside == {
        name
        for name, module in flux_1.named_modules()
        if isinstance(module, torch.nn.Linear) and "blocks." in name and "norm" in name
    }
    assert not any(name.startswith(("proj_out", "norm_out")) for name in modulated)

    # Rank 512: 2.09 billion parameters; 4.18 GB as a bfloat16 file, 33.5 GB as weights, gradients and Adam.
    numbers = lora_numbers(config_key(flux_1.config), "attention+ffn", 512)
    assert len(numbers) == 2 * 418
    assert sum(numbers) == 512 * sum(sum(flux_1.get_submodule(name).weight.shape) for name in everything)
    assert round(2 * sum(numbers) / 1e9, 2) == 4.18
    assert round((8 * sum(numbers) + optimizer_bytes("adamw", numbers)) / 1e9, 1) == 33.5


def test_targets_may_be_a_pattern_that_matches_whole_names() -> None:
    transformer = flux()
    assert target_modules(transformer, r"transformer_blocks\.\d+\.attn\.to_v") == (
        "transformer_blocks.0.attn.to_v",
    )
    assert target_modules(transformer, r".*\.to_v") == (
        "transformer_blocks.0.attn.to_v",
        "single_transformer_blocks.0.attn.to_v",
    )
    with pytest.raises(ValueError, match="matches no linear layer"):
        add_lora(transformer, 4, 8, r"to_v\.", seed=0)
    # norms that a pattern matches too are passed over: peft would refuse them
    with_norms = r"transformer_blocks\.\d+\.attn\..*"
    assert add_lora(transformer, 4, 8, with_norms, seed=0) == target_modules(flux(), with_norms)


@pytest.mark.parametrize(
    ("targets", "words"),
    [
        ("atention+ffn", "did you mean attention\\+ffn"),
        ("to_v", "or a regular expression"),
        ("a.(b", "unterminated"),
    ],
)
def test_targets_that_are_no_name_and_no_pattern_are_refused_in_the_settings(
    targets: str, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        LoraConfig(targets=targets)


def test_the_names_of_targets_in_the_settings_are_those_of_the_models() -> None:
    assert tuple(TARGETS) == LORA_TARGETS


def test_adapters_sit_on_the_matched_layers_and_nowhere_else() -> None:
    transformer = flux()
    modules = add_lora(transformer, 4, 8, "attention+ffn", seed=0)
    assert len(modules) == 12 + 5
    assert "proj_out" not in modules and "single_transformer_blocks.0.proj_out" in modules
    assert {name.rsplit(".lora_", 1)[0] for name in lora_parameters(transformer)} == set(modules)
    trained = {id(p) for p in transformer.parameters() if p.requires_grad}
    assert trained == {id(p) for p in lora_parameters(transformer).values()}


def test_a_fresh_adapter_leaves_the_output_bit_for_bit() -> None:
    transformer = flux()
    with torch.no_grad():
        before = output(transformer)
        add_lora(transformer, 4, 8, "attention+ffn", seed=0)
        assert torch.equal(output(transformer), before)


def test_the_start_depends_on_the_seed_and_leaves_the_global_random_state_alone() -> None:
    states = []
    for seed in (3, 3, 4):
        transformer = flux()
        before = torch.get_rng_state()
        add_lora(transformer, 4, 8, "attention", seed=seed)
        assert torch.equal(torch.get_rng_state(), before)
        states.append(lora_state(transformer))
        torch.rand(7)
    name = "transformer_blocks.0.attn.to_q.lora_A.weight"
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert not torch.equal(states[0][name], states[2][name])
    assert 0.9 / 128**0.5 < states[0][name].abs().max() <= 1 / 128**0.5
    assert states[0][name.replace("lora_A", "lora_B")].abs().max() == 0


def test_weights_are_float32_and_rounded_once_on_a_bfloat16_base() -> None:
    transformer = flux().to(torch.bfloat16)
    modules = add_lora(transformer, 4, 8, "attention+ffn", seed=0)
    stir(transformer)
    assert all(p.dtype == torch.float32 for p in lora_parameters(transformer).values())

    name = "transformer_blocks.0.attn.to_q"
    assert name in modules
    layer = transformer.get_submodule(name)
    x = torch.randn(3, 128, generator=torch.Generator().manual_seed(0)).bfloat16()
    a, b = (lora_state(transformer)[f"{name}.lora_{side}.weight"] for side in "AB")
    expected = (layer.base_layer(x).float() + 2 * (x.float() @ a.T @ b.T)).bfloat16()
    assert torch.equal(layer(x), expected)
    assert output(transformer, torch.bfloat16).dtype == torch.bfloat16


def test_gradients_reach_every_adapter_weight() -> None:
    transformer = flux()
    add_lora(transformer, 4, 8, "attention+ffn", seed=0)
    stir(transformer)
    output(transformer).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in lora_parameters(transformer).values())
    assert transformer.proj_out.weight.grad is None


def test_disabled_lora_is_the_base_model_and_afterwards_training_goes_on() -> None:
    transformer = flux()
    base = output(transformer).detach()
    add_lora(transformer, 4, 8, "attention+ffn", seed=0)
    stir(transformer)
    adapted = output(transformer)
    assert (adapted - base).abs().max() > 1e-3
    with disabled_lora(transformer):
        assert torch.equal(output(transformer), base)
    assert torch.equal(output(transformer), adapted)
    assert all(p.requires_grad for p in lora_parameters(transformer).values())
    adapted.sum().backward()  # a graph built before the block still trains
    assert all(p.grad is not None for p in lora_parameters(transformer).values())


def test_disabled_lora_is_undone_when_the_block_raises() -> None:
    transformer = flux()
    add_lora(transformer, 4, 8, "attention", seed=0)
    stir(transformer)
    adapted = output(transformer)
    with pytest.raises(RuntimeError, match="stop"), disabled_lora(transformer):
        raise RuntimeError("stop")
    assert torch.equal(output(transformer), adapted)


def test_the_reference_keeps_the_policy_of_the_moment_it_was_frozen() -> None:
    transformer = flux()
    add_lora(transformer, 4, 8, "attention+ffn", seed=0)
    stir(transformer, seed=1)
    before = output(transformer).detach()
    freeze_reference(transformer)
    assert torch.equal(output(transformer), before)
    stir(transformer, seed=2)
    after = output(transformer).detach()
    assert (after - before).abs().max() > 1e-3

    with using_adapter(transformer, REFERENCE):
        assert torch.equal(output(transformer), before)
        assert not any(p.requires_grad for p in lora_parameters(transformer).values())
    assert torch.equal(output(transformer), after)
    assert all(p.requires_grad for p in lora_parameters(transformer, adapter=POLICY).values())
    assert not any(p.requires_grad for p in lora_parameters(transformer, adapter=REFERENCE).values())


def test_switches_nest() -> None:
    transformer = flux()
    base = output(transformer).detach()
    add_lora(transformer, 4, 8, "attention", seed=0)
    stir(transformer)
    adapted = output(transformer).detach()
    freeze_reference(transformer)
    with disabled_lora(transformer):
        with using_adapter(transformer, REFERENCE):
            assert torch.equal(output(transformer), adapted)
        assert torch.equal(output(transformer), base)


def test_state_is_a_copy_and_comes_back_exactly() -> None:
    transformer = flux()
    add_lora(transformer, 4, 8, "attention+ffn", seed=0)
    stir(transformer, seed=1)
    kept = lora_state(transformer)
    first = output(transformer).detach()
    stir(transformer, seed=2)
    assert not torch.equal(output(transformer), first)
    load_lora_state(transformer, kept)
    assert torch.equal(output(transformer), first)
    assert not any(weight.requires_grad for weight in kept.values())


def test_a_state_that_does_not_fit_is_refused_before_anything_changes() -> None:
    transformer = flux()
    add_lora(transformer, 4, 8, "attention", seed=0)
    before = lora_state(transformer)
    ones = {name: torch.ones_like(weight) for name, weight in before.items()}
    last = list(ones)[-1]
    for wrong, words in (
        ({name: w for name, w in ones.items() if name != last}, "missing in the LoRA state"),
        (ones | {"proj_out.lora_A.weight": torch.ones(4, 128)}, "missing in the adapter"),
        (ones | {last: torch.ones(1, 1)}, r"got \(1, 1\)"),
    ):
        with pytest.raises(ValueError, match=words):
            load_lora_state(transformer, wrong)
        assert all(torch.equal(weight, before[name]) for name, weight in lora_state(transformer).items())


def test_wrong_settings_and_wrong_models_are_refused_with_a_clear_word() -> None:
    with pytest.raises(ValueError, match=r"lora\.targets must be one of 'attention', 'attention"):
        add_lora(flux(), 4, 8, "atention", seed=0)
    with pytest.raises(ValueError, match=r"lora\.rank must be at least 1, got 0"):
        add_lora(flux(), 0, 8, "attention", seed=0)
    with pytest.raises(ValueError, match=r"lora\.alpha must be a positive number"):
        add_lora(flux(), 4, float("nan"), "attention", seed=0)
    with pytest.raises(ValueError, match="matches no linear layer of Sequential"):
        add_lora(torch.nn.Sequential(torch.nn.Linear(2, 2)), 4, 8, "attention", seed=0)
    with pytest.raises(ValueError, match="holds no LoRA adapter named 'policy'"):
        lora_state(flux())
    transformer = flux()
    add_lora(transformer, 4, 8, "attention", seed=0)
    with pytest.raises(ValueError, match="already holds a LoRA adapter named 'policy'"):
        add_lora(transformer, 4, 8, "attention", seed=0)
