"""The masked flow-matching loss."""

from __future__ import annotations

import pytest
import torch

from divrl_core.flow.loss import masked_flow_loss


def test_loss_worked_by_hand():
    prediction, target = torch.tensor([[[1.0, 2.0], [5.0, 5.0]]]), torch.zeros(1, 2, 2)
    # Only the first token counts: (1 + 4) / 2 channels = 2.5
    assert masked_flow_loss(prediction, target, torch.tensor([True, False])).item() == 2.5


def test_without_a_mask_it_is_the_mean_squared_error():
    generator = torch.Generator().manual_seed(0)
    prediction, target = (torch.randn(2, 6, 4, generator=generator) for _ in range(2))
    expected = torch.nn.functional.mse_loss(prediction, target)
    torch.testing.assert_close(masked_flow_loss(prediction, target, None), expected)
    torch.testing.assert_close(
        masked_flow_loss(prediction, target, torch.ones(6, dtype=torch.bool)), expected
    )


def test_gradient_is_zero_on_reference_columns():
    generator = torch.Generator().manual_seed(1)
    prediction = torch.randn(2, 6, 4, generator=generator, requires_grad=True)
    mask = torch.tensor([True, True, True, False, False, False])
    masked_flow_loss(prediction, torch.zeros(2, 6, 4), mask).backward()
    assert torch.equal(prediction.grad[:, 3:], torch.zeros(2, 3, 4))
    torch.testing.assert_close(prediction.grad[:, :3], 2 * prediction.detach()[:, :3] / 24)


def test_nan_outside_the_mask_reaches_neither_loss_nor_gradient():
    prediction = torch.tensor([[[1.0], [float("nan")]]], requires_grad=True)
    loss = masked_flow_loss(prediction, torch.zeros(1, 2, 1), torch.tensor([True, False]))
    loss.backward()
    assert loss.item() == 1.0
    assert prediction.grad.flatten().tolist() == [2.0, 0.0]


def test_masks_may_differ_by_sample():
    prediction = torch.tensor([[[1.0], [3.0]], [[5.0], [7.0]]])
    mask = torch.tensor([[True, False], [True, True]])
    # (1 + 25 + 49) / 3 tokens
    assert masked_flow_loss(prediction, torch.zeros(2, 2, 1), mask).item() == 25.0


def test_bfloat16_predictions_are_measured_in_float32():
    prediction = torch.full((1, 2, 1), 1.0, dtype=torch.bfloat16)
    target = torch.full((1, 2, 1), 1.001)
    assert masked_flow_loss(prediction, target, None).item() == pytest.approx(1e-6, rel=1e-3)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.zeros(6, dtype=torch.bool), "counts no token at all"),
        (torch.ones(6), "must be bool"),
        (torch.ones(5, dtype=torch.bool), r"expected \(6,\) or \(2, 6\), got \(5,\)"),
    ],
)
def test_masks_that_cannot_be_meant_are_refused(mask: torch.Tensor, message: str):
    with pytest.raises(ValueError, match=message):
        masked_flow_loss(torch.zeros(2, 6, 4), torch.zeros(2, 6, 4), mask)


def test_a_samples_weight_multiplies_its_share_of_the_loss_by_hand() -> None:
    # two samples of one token of two channels: squared errors 1, 1 and 4, 4; weights 3 and .5 -> (6 + 4) / 4
    prediction = torch.tensor([[[1.0, 1.0]], [[2.0, 2.0]]])
    loss = masked_flow_loss(prediction, torch.zeros(2, 1, 2), None, torch.tensor([3.0, 0.5]))
    assert loss.item() == pytest.approx(2.5)
    with pytest.raises(ValueError, match=r"one weight a sample: expected \(2,\), got \(3,\)"):
        masked_flow_loss(prediction, torch.zeros(2, 1, 2), None, torch.ones(3))
