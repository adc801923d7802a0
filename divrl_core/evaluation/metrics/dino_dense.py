"""DINO-nSSM and sDINO: the out-of-domain measures, on DINOv2-small's patches inside masks.

    sDINO = mean over the generated patches g_i of max_j cos(g_i, r_j)      arXiv:2606.23950, eq. 10 (appendix A.1)

over the patches inside the picture's own mask and those inside the reference's. DINO-nSSM is nSSM (eq. 4-6) of the
patch features. Its two maps must have the same cells, so the reference's mask is laid on both pictures, as in
training; with the picture's own mask there is `dino_nssm_own` too: the picture's features cut to its own mask's box
and brought to the size of the reference's. Masks and cells must fit, so pictures are shown whole, as squares of 224
px (16 x 16 patches, as many as DINOv2's own processor leaves): framed by the rule of shown.py, then resized, and not
cropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...models.features.base import Backbone
from ...models.features.dino_class import DENSE_DEFAULT, DENSE_PURPOSE, load_dense
from ...models.features.vision_files import known_files
from ...rewards.correspondence import Correspondence
from ...rewards.cropped import CroppedReference, cropped_nssm, cropped_reference
from ...rewards.measures import pictures_at_once
from ...rewards.nssm import ReferenceStructure, nssm, reference_structure
from ...rewards.score import LEAST_CELLS
from ...rewards.similarity import cosine_matrix, resize_mask, to_cells
from .base import Metric, Shot, Subject, Values
from .shown import Batch, Columns, Shape, batches, reference_at

IMAGE_SIZE_PX = 224
SDINO = Metric(
    name="sdino",
    label="sDINO",
    meaning="how like some patch of the reference's subject the patches of the subject are",
    better="higher",
    family="identity",
)
DINO_NSSM = Metric(
    name="dino_nssm",
    label="DINO-nSSM",
    meaning="how differently the picture is built than the reference by DINO's patches, over the reference's mask",
    better="higher",
    family="structure",
)
DINO_NSSM_OWN = Metric(
    name="dino_nssm_own",
    label="DINO-nSSM (own masks)",
    meaning="the same, each picture cut to the box of its own mask",
    better="higher",
    family="structure",
)


def sdino(generated: Tensor, reference: Tensor, masks: Tensor | None = None) -> Tensor:
    """sDINO of pictures: (B,) in [-1, 1], float32 or better; higher = its patches are found in the reference.

    Args:
        generated: patch features (B, N, C), not normalised.
        reference: those of the reference's subject (M, C).
        masks: bool (B, N), the patches of the pictures' subjects; None = all.

    Returns NaN where a mask is empty or a feature is undefined.
    """
    best = cosine_matrix(generated, reference).amax(dim=2)
    if masks is None:
        return best.mean(dim=1)
    kept = masks.to(best.device)
    return best.masked_fill(~kept, 0).sum(dim=1) / kept.sum(dim=1)


@dataclass(frozen=True)
class DenseReference:
    """A reference at one shape: the patches of its subject (M, C), its structure, and that inside its box."""

    cells: Tensor
    structure: ReferenceStructure
    cropped: CroppedReference


@dataclass
class PreparedPatches:
    """One reference, its patches made once a shape."""

    subject: Subject
    shapes: dict[Shape, DenseReference] = field(default_factory=dict)


class DenseDinoScorer:
    """sDINO and DINO-nSSM from one pass of a DINOv2. backbone: any with patches; origin: where it is from."""

    name = "dino_dense"
    metrics = (DINO_NSSM, SDINO, DINO_NSSM_OWN)

    def __init__(self, backbone: Backbone, *, origin: str) -> None:
        self._backbone, self._origin = backbone, origin

    @classmethod
    def load(cls, path: str | None = None, *, device: str = "cpu") -> DenseDinoScorer:
        """From a folder or hub id; None = DINOv2-small. Raises as `load_dense` does."""
        backbone, origin = load_dense(path, image_size_px=IMAGE_SIZE_PX, device=device)
        return cls(backbone, origin=origin)

    @staticmethod
    def check(path: str | None = None, *, downloads: bool = False) -> None:
        """Raise, in one line, where the files are known not to be a DINOv2's; a hub id is fetched or passed over."""
        known_files(DENSE_PURPOSE, path or DENSE_DEFAULT, downloads=downloads)

    @property
    def source(self) -> str:
        """The model's origin, what it is shown, and which masks are looked at."""
        return (
            f"DINOv2 patches ({self._origin}), whole pictures as squares of "
            f"{self._backbone.settings.image_size_px} px; DINO-nSSM over the reference's mask in both pictures, sDINO "
            "inside each picture's own mask (all patches of a picture without one)"
        )

    def prepare(self, subject: Subject) -> PreparedPatches:
        """Nothing goes through the network before the pictures' shape is known; then the reference does, once."""
        return PreparedPatches(subject)

    @torch.no_grad()
    def score(self, shots: Sequence[Shot], prepared: object) -> Values:
        """Raises ValueError, naming the reference, where its mask is too small for the grid of patches."""
        assert isinstance(prepared, PreparedPatches)
        columns = Columns(len(shots))
        for batch in batches(shots):
            if batch.shape not in prepared.shapes:
                prepared.shapes[batch.shape] = self._reference(prepared.subject, batch.shape)
            columns.put(batch.rows, self._scored(batch, prepared.shapes[batch.shape]))
        return columns.found

    def _reference(self, subject: Subject, shape: Shape) -> DenseReference:
        reference = reference_at(subject, shape)
        patches = self._backbone.extract(reference.image[None]).structure[0]
        grid = (patches.shape[-2], patches.shape[-1])
        mask = resize_mask(reference.mask, grid)
        if int(mask.sum()) < LEAST_CELLS:
            raise ValueError(
                f"{subject.reference_id}: its mask covers {int(mask.sum())} of DINO's {grid[0]} x {grid[1]} patches, "
                f"at least {LEAST_CELLS} are needed; use a larger mask, or crop the picture closer to its subject"
            )
        cells = to_cells(patches)[mask.flatten().to(patches.device)]
        return DenseReference(cells, reference_structure(patches, mask), cropped_reference(patches, mask))

    def _scored(self, batch: Batch, reference: DenseReference) -> dict[str, Tensor]:
        patches = self._backbone.extract(batch.images).structure
        grid = (patches.shape[-2], patches.shape[-1])
        masks = None if batch.masks is None else resize_mask(batch.masks, grid)
        chunk = pictures_at_once(grid, len(reference.cells))
        alike = [
            sdino(
                to_cells(patches[start : start + chunk]),
                reference.cells,
                None if masks is None else masks[start : start + chunk].flatten(1),
            )
            for start in range(0, len(patches), chunk)
        ]
        values = {SDINO.name: torch.cat(alike), DINO_NSSM.name: nssm(patches, reference.structure)}
        if masks is not None:
            values[DINO_NSSM_OWN.name] = cropped_nssm(
                patches, _nothing_found(len(patches)), reference.cropped, masks=masks
            )
        return values


def _nothing_found(count: int) -> Correspondence:
    """No places: boxes come from the masks."""
    return Correspondence(
        found=torch.zeros(count, 0, dtype=torch.bool), places=torch.zeros(count, 0, 2), own=torch.zeros(0, 2)
    )
