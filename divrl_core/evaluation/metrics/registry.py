"""Which metrics there are, which are taken by default, and whether what they need is there, before a picture is made.

A choice is written NAME or NAME=PATH: `clip`, `dino=models/dinov2-base`, `mtg=models/mtg`. By default those are taken
whose networks are packaged: the backbone of the settings, the truth where the world is known, and where pictures have
masks si-IoU and artefacts.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast, get_args

from ...config import BackboneConfig
from ...config_reward import PACKAGED_BACKBONES, BackboneName
from ...models.features.base import backbone_grid
from ...training.backbone_checks import backbone_problems
from ...training.references import known_world
from .base import Metric, Scorer

if TYPE_CHECKING:
    from ...training.references import ReferenceSet

BACKBONE = "backbone"
INSIDE_MASKS = ("si_iou", "artefacts")
"""Those that say nothing of pictures without masks."""
FURTHER_BACKBONES: tuple[str, ...] = get_args(BackboneName)


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One scorer by name. gives: its metrics, in words. module, scorer: this folder's file and class.

    weights: the hub id that is taken where no path is named, or where they are looked for; None = it has none.
    version: of its values: raise it when they change, so that no table mixes old and new ones.
    """

    gives: str
    module: str
    scorer: str
    weights: str | None = None
    version: int = 1


KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        BACKBONE: Kind(
            gives="VSM, nSSM and all else of the backbone of the settings, within the set and copies too",
            module="backbone",
            scorer="BackboneScorer",
        ),
        "si_iou": Kind(gives="scale-invariant IoU of the masks", module="si_iou", scorer="SiIouScorer"),
        "artefacts": Kind(
            gives="detail, saturation, clipping and size inside the mask",
            module="artefacts",
            scorer="ArtefactScorer",
        ),
        "truth": Kind(
            gives="what is true of the pocket world's pictures", module="truth", scorer="TruthScorer"
        ),
        "clip": Kind(
            gives="CLIP-T, CLIP-I",
            module="clip",
            scorer="ClipScorer",
            weights="openai/clip-vit-large-patch14",
        ),
        "dino": Kind(
            gives="DINO, copy-paste by DINO",
            module="dino",
            scorer="DinoScorer",
            weights="facebook/dinov2-base",
        ),
        "dino_dense": Kind(
            gives="DINO-nSSM, sDINO",
            module="dino_dense",
            scorer="DenseDinoScorer",
            weights="facebook/dinov2-small",
        ),
        "lpips": Kind(
            gives="LPIPS, LPIPS within the set",
            module="lpips",
            scorer="LpipsScorer",
            weights="torch's cache",
        ),
        "hps": Kind(gives="HPS", module="hps", scorer="HpsScorer", weights="RE-N-Y/hpsv21"),
    }
)
"""Beside these every backbone's name is a choice too: a further backbone, its columns under NAME_."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One scorer that was asked for. path: a folder, file or hub id with its weights; None = the scorer's own."""

    name: str
    path: str | None = None

    @property
    def is_backbone(self) -> bool:
        """Whether it is a further backbone."""
        return self.name not in KINDS


def read_choice(text: str) -> Choice:
    """NAME or NAME=PATH. Raises ValueError, with the nearest name, for what is no metric."""
    name, separator, path = text.strip().partition("=")
    known = (*KINDS, *(one for one in FURTHER_BACKBONES if one not in KINDS))
    name = name.strip()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}? There are" if near else "there are"
        raise ValueError(f"there is no metric {name!r}; {hint} {', '.join(known)}")
    if separator and not path.strip():
        raise ValueError(f"metric {name}: a path is missing after {name}=")
    if separator and name in KINDS and KINDS[name].weights is None:
        raise ValueError(f"metric {name}: takes no path, got {path.strip()}; it needs no weights of its own")
    return Choice(name=name, path=path.strip() or None)


def default_choices(references: ReferenceSet, *, has_masks: bool) -> tuple[Choice, ...]:
    """Those whose networks are packaged; the truth where it is known. has_masks: of the pictures, which some need."""
    names = [BACKBONE, *(INSIDE_MASKS if has_masks else ())]
    if known_world(references) is not None:
        names.append("truth")
    return tuple(Choice(name=name) for name in names)


def check(
    choices: Sequence[Choice],
    *,
    backbone: BackboneConfig,
    references: ReferenceSet,
    has_masks: bool = True,
    downloads: bool = False,
) -> list[str]:
    """What keeps the metrics from being had, a line each, before any picture is made.

    Folders are checked file by file, weights by their headers (AlexNet's, which are pickled, are read): a model of
    the wrong kind is refused by its name. backbone: the main one. has_masks: whether pictures will have masks. Of a hub
    id nothing is known yet, unless `downloads`: then it is fetched now, and what cannot be fetched is a problem.
    """
    problems = []
    names = [choice.name for choice in choices]
    for name in dict.fromkeys(names):
        if names.count(name) > 1:
            problems.append(f"metric {name}: asked for {names.count(name)} times; once is enough")
    for choice in choices:
        if choice.name in INSIDE_MASKS and not has_masks:
            problems.append(
                f"metric {choice.name}: looks inside the pictures' masks; give --segmenter, or leave it out"
            )
        try:
            problems += _problems(choice, backbone, references, downloads)
        except (FileNotFoundError, ValueError) as error:
            problems.append(str(error))
    return problems


def load_scorer(
    choice: Choice, *, backbone: BackboneConfig, references: ReferenceSet, device: str = "cpu"
) -> Scorer:
    """The scorer, loaded onto a device.

    Raises FileNotFoundError or ValueError, in one line, where it cannot be had.
    """
    if choice.is_backbone:
        from .backbone import BackboneScorer

        return BackboneScorer.load(_further(choice, backbone), prefix=f"{choice.name}_", device=device)
    if choice.name == BACKBONE:
        return cast(Scorer, _scorer(choice).load(backbone, device=device))
    if choice.name == "truth":
        return cast(Scorer, _scorer(choice).of(references))
    if KINDS[choice.name].weights is None:
        return cast(Scorer, _scorer(choice)())
    return cast(Scorer, _scorer(choice).load(choice.path, device=device))


def version_of(choice: Choice) -> int:
    """The version of a choice's values."""
    return KINDS[BACKBONE if choice.is_backbone else choice.name].version


def metrics_of(choice: Choice, *, backbone: BackboneConfig) -> tuple[Metric, ...]:
    """The columns of a choice that could be loaded; nothing is. backbone: the main one."""
    from .backbone import backbone_metrics

    if choice.is_backbone:
        return backbone_metrics(choice.name, f"{choice.name}_")
    if choice.name == BACKBONE:
        return backbone_metrics(backbone.name)
    return cast("tuple[Metric, ...]", _scorer(choice).metrics)


def mask_grid(
    choice: Choice, *, backbone: BackboneConfig, size_px: int
) -> tuple[tuple[int, int], int] | None:
    """The cells that a choice looks at masks on, and the side of the blocks of them that nSSM pools.

    None of a choice that looks at none, or of whose network nothing is known before it is loaded. backbone: the main
    one. size_px: of the pictures.
    """
    from ...models.features.dino_class import DENSE_DEFAULT
    from .dino_dense import IMAGE_SIZE_PX

    if choice.name == BACKBONE:
        config = backbone
    elif choice.is_backbone:
        config = _further(choice, backbone)
    elif choice.name == "dino_dense":
        config = BackboneConfig(name="dinov2", path=choice.path or DENSE_DEFAULT, image_size_px=IMAGE_SIZE_PX)
    else:
        return None
    try:
        return backbone_grid(config, size_px), config.nssm_pool or 1
    except (FileNotFoundError, ValueError):  # a hub id that is not in the cache
        return None


def _problems(
    choice: Choice, backbone: BackboneConfig, references: ReferenceSet, downloads: bool
) -> list[str]:
    if choice.is_backbone:
        return backbone_problems(_further(choice, backbone), downloads=downloads)
    if choice.name == BACKBONE:
        return backbone_problems(backbone, downloads=downloads)
    if choice.name == "truth":
        _scorer(choice).of(references)
    elif KINDS[choice.name].weights is not None:
        _scorer(choice).check(choice.path, downloads=downloads)
    return []


def _scorer(choice: Choice) -> Any:
    """The class of a choice, imported when it is wanted."""
    kind = KINDS[choice.name]
    return getattr(importlib.import_module(f".{kind.module}", __package__), kind.scorer)


def _further(choice: Choice, main: BackboneConfig) -> BackboneConfig:
    """The settings of a further backbone. Raises ValueError for one that says nothing new."""
    if choice.name == main.name:
        raise ValueError(f"metric {choice.name}: it is the main backbone already; leave it out")
    if choice.path is not None and choice.name in PACKAGED_BACKBONES:
        raise ValueError(f"metric {choice.name}: takes no path, got {choice.path}; its weights are packaged")
    if choice.name == "transformers" and choice.path is None:
        raise ValueError(f"metric {choice.name}: name a folder or hub id: {choice.name}=FOLDER")
    return replace(BackboneConfig(), name=cast(BackboneName, choice.name), path=choice.path)
