"""Bytes that an optimizer holds of a LoRA's float32 parameters, exactly."""

from __future__ import annotations

from collections.abc import Sequence

STEP_BYTES = 4  # AdamW counts its steps in a tensor for each parameter
BNB_BLOCK, BNB_LEAST, BNB_MAPS_BYTES = 256, 4096, 2 * 256 * 4


def optimizer_bytes(name: str, numbers: Sequence[int], *, is_fresh: bool = True) -> int:
    """Bytes of the state for parameters of so many numbers each, lora_A and lora_B in turn.

    adamw: two moments in float32. adamw8bit (bitsandbytes): two moments of one byte with a float32 scale for 256
    numbers, small parameters in float32, two tables of 256 values. prodigy: two moments, a sum, and the starting
    weights, of which a lora_B that starts at zero (`is_fresh`) keeps one number.
    """
    if name == "adamw":
        return sum(8 * count + STEP_BYTES for count in numbers)
    if name == "prodigy":
        starts = (4 if is_fresh and place % 2 else 4 * count for place, count in enumerate(numbers))
        return sum(12 * count for count in numbers) + sum(starts)
    packed = [count for count in numbers if count >= BNB_LEAST]
    plain = sum(8 * count for count in numbers if count < BNB_LEAST)
    scales = sum(8 * -(-count // BNB_BLOCK) for count in packed)
    return plain + 2 * sum(packed) + scales + (BNB_MAPS_BYTES if packed else 0)
