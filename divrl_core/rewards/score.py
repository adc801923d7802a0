"""Both measures of a group of pictures against their reference, from one pass of a backbone over each.

B generated pictures, N = h w cells of each, M cells of the reference's object. The reference is prepared once by
`reference_features`; `score_images` then gives nSSM and VSM, and `match_cells` the maps behind VSM.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from .correspondence import cell_places
from .cropped import CroppedReference, cropped_reference
from .features import FeatureBatch, VisualFeature
from .measures import matching_cells, more_measures, pictures_at_once
from .nssm import ReferenceStructure, nssm, reference_structure
from .similarity import cosine_matrix, exponential_matrix, resize_mask, to_cells
from .vsm import Agreement, Vsm, vsm

LEAST_CELLS = 3
"""Two cells have one similarity between them: constant, so nSSM could never be defined."""


@dataclass(frozen=True, kw_only=True)
class ScoreSettings:
    """How features become scores. Defaults: the paper's (arXiv:2606.23950); each backbone brings its own.

    tau_s: semantic cosine a match must exceed. tau_v: visual similarity that counts as agreement when exceeded.
    nssm_pool: side in cells of the blocks averaged before nSSM (1 = none). agreement: where visual agreement is
    sought. one_to_one: whether a cell of the reference keeps only its best match.
    """

    tau_s: float = 0.7
    tau_v: float = 0.7
    nssm_pool: int = 1
    agreement: Agreement = "anywhere"
    one_to_one: bool = True

    def __post_init__(self) -> None:
        """Thresholds are similarities, the pool is a number of cells."""
        for name in ("tau_s", "tau_v"):
            value = getattr(self, name)
            if not -1 <= value < 1:
                raise ValueError(f"{name} must be at least -1 and below 1, got {value}")
        if self.nssm_pool < 1:
            raise ValueError(f"nssm_pool must be at least 1 cell, got {self.nssm_pool}")
        if self.agreement not in ("anywhere", "match"):
            raise ValueError(f'agreement must be "anywhere" or "match", got {self.agreement!r}')


@dataclass(frozen=True, kw_only=True)
class ReferenceFeatures:
    """One reference, ready to be compared with: its mask, its structure and the features of its object's cells.

    mask: bool (h, w), the object on the backbone's grid; structure_mask: on the grid that nSSM reads, pooled. places:
    of the object's cells (M, 2). cropped: its structure inside its box, where that is wanted. semantic: (M, Cs).
    visual: each `values` is (M, C). own_extent: cells of the reference's own picture that match the object. image:
    (1, Ci), where the backbone has such a vector.
    """

    mask: Tensor
    structure_mask: Tensor
    structure: ReferenceStructure
    places: Tensor
    cropped: CroppedReference | None
    semantic: Tensor
    visual: tuple[VisualFeature, ...]
    own_extent: float
    image: Tensor | None = None


@dataclass(frozen=True)
class Scores:
    """Measures of B pictures, each (B,). NaN = undefined.

    nssm: in [0, 2], higher = built more differently. vsm: in [0, 1], higher = looks more like the reference.
    kept_count: matches behind VSM (long); 0 where it is undefined for want of any. more: others that were asked for.
    """

    nssm: Tensor
    vsm: Tensor
    kept_count: Tensor
    more: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def by_name(self) -> dict[str, Tensor]:
        """All measures by name."""
        return {"nssm": self.nssm, "vsm": self.vsm, **self.more}

    @staticmethod
    def cat(parts: Sequence[Scores]) -> Scores:
        """The pictures of all parts, one after the other; parts hold the same measures."""
        return Scores(
            nssm=torch.cat([part.nssm for part in parts]),
            vsm=torch.cat([part.vsm for part in parts]),
            kept_count=torch.cat([part.kept_count for part in parts]),
            more={name: torch.cat([part.more[name] for part in parts]) for name in parts[0].more},
        )

    def select(self, rows: Sequence[int]) -> Scores:
        """The pictures at these places."""
        chosen = list(rows)
        return Scores(
            nssm=self.nssm[chosen],
            vsm=self.vsm[chosen],
            kept_count=self.kept_count[chosen],
            more={name: values[chosen] for name, values in self.more.items()},
        )


def reference_features(
    features: FeatureBatch,
    mask: Tensor | None,
    settings: ScoreSettings,
    *,
    name: str = "the reference",
    with_crop: bool = True,
) -> ReferenceFeatures:
    """Prepares one reference, once for all pictures that are compared with it.

    Args:
        features: of the one reference (batch size 1).
        mask: bool (H, W) in pixels, True on the object; None = the whole picture. A cell belongs to the object when
            at least half of it is covered.
        settings: the backbone's.
        name: the reference's name in errors.
        with_crop: whether `nssm_cropped` will be asked for; it takes as much memory again.

    Raises:
        ValueError: more than one picture, or a mask with fewer than `LEAST_CELLS` cells on the grid.
    """
    if len(features) != 1:
        raise ValueError(f"{name}: reference_features takes the features of one picture, got {len(features)}")
    if features.grid[0] % settings.nssm_pool or features.grid[1] % settings.nssm_pool:
        raise ValueError(
            f"nssm_pool (pooling) must divide the backbone's grid of {features.grid[0]} x {features.grid[1]} cells, "
            f"got {settings.nssm_pool}"
        )
    structure_mask = object_cells(mask, features.grid, settings.nssm_pool, name)
    target_mask = object_cells(mask, features.grid, 1, name)
    inside = target_mask.flatten().to(features.semantic.device)
    semantic = to_cells(features.semantic[0])[inside]
    return ReferenceFeatures(
        mask=target_mask,
        structure_mask=structure_mask,
        structure=reference_structure(features.structure[0], structure_mask, pool=settings.nssm_pool),
        places=cell_places(features.grid, device=features.semantic.device)[inside],
        cropped=cropped_reference(features.structure[0], target_mask) if with_crop else None,
        semantic=semantic,
        visual=tuple(
            replace(feature, values=to_cells(feature.values[0])[inside]) for feature in features.visual
        ),
        own_extent=max(1.0, float(matching_cells(features.semantic, semantic, tau_s=settings.tau_s))),
        image=features.image,
    )


def score_images(
    generated: FeatureBatch,
    reference: ReferenceFeatures,
    settings: ScoreSettings,
    *,
    generated_mask: Tensor | None = None,
    more: Collection[str] = (),
) -> Scores:
    """nSSM and VSM of generated pictures against their reference (arXiv:2606.23950, eq. 3-7).

    Args:
        generated: features of B pictures, from the backbone that saw the reference.
        reference: from `reference_features`, made with the same settings.
        settings: the backbone's.
        generated_mask: bool (B, H, W) in pixels, the objects in the generated pictures; only their cells are sources of
            VSM. None (training): all cells are. nSSM reads the reference's mask alone.
        more: names of `MORE_MEASURES` to be measured too.

    Raises:
        ValueError: features of another grid, or another backbone, than the reference's.
    """
    sources = None if generated_mask is None else resize_mask(generated_mask, generated.grid)
    chunk = pictures_at_once(generated.grid, len(reference.semantic))
    parts = []
    for start in range(0, len(generated), chunk):
        rows = slice(start, start + chunk)
        matched = match_cells(
            generated.select(rows), reference, settings, None if sources is None else sources[rows]
        )
        parts.append((matched.score, matched.kept.sum(dim=-1)))
    return Scores(
        nssm=nssm(generated.structure, reference.structure),
        vsm=torch.cat([score for score, _ in parts]),
        kept_count=torch.cat([count for _, count in parts]),
        more=more_measures(generated, reference, settings, more, masks=sources),
    )


def match_cells(
    generated: FeatureBatch,
    reference: ReferenceFeatures,
    settings: ScoreSettings,
    source_mask: Tensor | None = None,
) -> Vsm:
    """VSM with its matches, cell by cell, for maps of them. `source_mask`: bool (B, h, w) on the grid, None = all.

    `Vsm.match` counts the cells of the object only, in the order of `reference.mask.flatten().nonzero()`.
    """
    semantic = cosine_matrix(to_cells(generated.semantic), reference.semantic)
    sources = None if source_mask is None else source_mask.flatten(1).to(semantic.device)
    return vsm(
        semantic,
        visual_similarity(generated.visual, reference.visual),
        source_mask=sources,
        target_mask=None,
        tau_s=settings.tau_s,
        tau_v=settings.tau_v,
        agreement=settings.agreement,
        one_to_one=settings.one_to_one,
    )


def visual_similarity(generated: tuple[VisualFeature, ...], reference: tuple[VisualFeature, ...]) -> Tensor:
    """The mean over visual features, by weight, of each one's own similarity: (B, N, M), 1 = looks the same."""
    names = [[feature.name for feature in features] for features in (generated, reference)]
    if names[0] != names[1]:
        raise ValueError(f"visual features must match the reference's: expected {names[1]}, got {names[0]}")
    total_weight = sum(feature.weight for feature in generated)
    parts = [
        feature.weight / total_weight * _similarity(feature, target.values)
        for feature, target in zip(generated, reference, strict=True)
        if feature.weight > 0
    ]
    return torch.stack(parts).sum(dim=0) if len(parts) > 1 else parts[0]


def _similarity(feature: VisualFeature, target: Tensor) -> Tensor:
    cells = to_cells(feature.values)
    if feature.kernel == "cosine":
        return cosine_matrix(cells, target)
    return exponential_matrix(cells, target, feature.scale)


def object_cells(mask: Tensor | None, grid: tuple[int, int], pool: int, name: str) -> Tensor:
    """The object on the grid (rows, columns), or on the one pooled by `pool`: bool (H, W), of enough cells.

    mask: bool, of pixels; None = the whole picture. name: the reference's, in errors.
    Raises ValueError for one of fewer than `LEAST_CELLS` cells, each of which is half covered at least.
    """
    height, width = grid[0] // pool, grid[1] // pool
    cells = (
        torch.ones(height, width, dtype=torch.bool) if mask is None else resize_mask(mask, (height, width))
    )
    if (count := int(cells.sum())) < LEAST_CELLS:
        raise ValueError(
            f"{name}: the mask covers {count} of the {height} x {width} cells that the backbone sees, at least "
            f"{LEAST_CELLS} are needed; use a larger mask, or crop the picture closer to its subject"
        )
    return cells
