"""Who takes part: the base model, LoRAs at a strength, rivals that train nothing, pictures of any other system.

base                             the model as it is
runs/suppress  runs/x@0.5        a run folder (its best LoRA) or a LoRA file, at a strength
best-of-8  best-of-8+runs/x      of each picture N candidates, of which the gate and the structure choose one
text-noise-0.2                   noise on what the prompt says (text_noise.py)
pictures/other                   a folder of finished pictures
NAME=...                         any of these under a name of one's own
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..sample import lora_file_of

KNOWN = (
    "base, a run folder or LoRA file (with @STRENGTH), best-of-N or text-noise-SHARE (with +LORA), or a folder of "
    "finished pictures, each perhaps as NAME=..."
)
LONGEST_NAME = 100

_NAME = r"[A-Za-z0-9][A-Za-z0-9._+@ -]*"
_NAMED = re.compile(rf"(?P<name>{_NAME})=(?P<what>.+)")
_BEST_OF = re.compile(r"best-of-(?P<number>[^+]*)(?:\+(?P<of>.+))?")
_TEXT_NOISE = re.compile(r"text-noise-(?P<number>[^+]*)(?:\+(?P<of>.+))?")
_BASE = "base"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One model of the contest.

    name: in tables and files. lora: the file; None = the base model. candidates: of best-of-N. text_noise: share of the
    embeddings' standard deviation. finished: the folder of another system's pictures, of which nothing is made.
    """

    name: str
    lora: Path | None = None
    strength: float = 1.0
    candidates: int | None = None
    text_noise: float | None = None
    finished: Path | None = None

    def evaluations(self, steps: int) -> float | None:
        """Forwards of the transformer for one finished picture; None for pictures of other systems."""
        return None if self.finished is not None else float(steps * (self.candidates or 1))

    def about(self, base: str) -> str:
        """What it is, in words; `base`: the name of the model that all stand on."""
        if self.finished is not None:
            return f"finished pictures in {self.finished.name}/"
        model = (
            base if self.lora is None else f"{base} with {_shown(self.lora)} at strength {self.strength:g}"
        )
        if self.candidates is not None:
            return f"best of {self.candidates} of {model}"
        if self.text_noise is not None:
            return f"{model}, noise of {self.text_noise:g} of their deviation on the prompt's embeddings"
        return model if self.lora is not None else f"{base} as it is"


def parse_entries(specs: Sequence[str]) -> tuple[Entry, ...]:
    """The entries of several `--model` words, in their order.

    Raises ValueError or FileNotFoundError, in one line, for a word that is none, and for names that meet in one file.
    """
    if not specs:
        raise ValueError(f"--model: nothing to compare; give {KNOWN}")
    entries = tuple(parse_entry(spec) for spec in specs)
    seen: dict[str, str] = {}
    for entry, spec in zip(entries, specs, strict=True):
        if (key := entry.name.casefold()) in seen:
            raise ValueError(
                f"--model: {seen[key]} and {spec} are both called {entry.name!r}; name one: NAME={spec.split('=')[-1]}"
            )
        seen[key] = spec
    return entries


def parse_entry(spec: str) -> Entry:
    """The entry that one `--model` word means. Raises ValueError or FileNotFoundError, in one line."""
    named = None if _is_there(Path(spec)) else _NAMED.fullmatch(spec)
    what = named["what"] if named else spec
    rival = _rival(what)
    entry = rival or _plain(what)
    return _renamed(entry, named["name"] if named else entry.name, spec)


def _rival(what: str) -> Entry | None:
    """best-of-N and text-noise-SHARE, alone or of a LoRA."""
    if found := _BEST_OF.fullmatch(what):
        number = found["number"]
        if not re.fullmatch(r"0*[1-9][0-9]{0,5}", number):
            raise ValueError(
                f"--model {what}: best-of-N needs a whole number from 1 to 999999, got {number!r}"
            )
        of = _model_of_rival(what, found["of"])
        name = f"best-of-{int(number)}{_behind(of)}"
        return Entry(name=name, candidates=int(number), lora=of.lora, strength=of.strength)
    if found := _TEXT_NOISE.fullmatch(what):
        share = _number(found["number"])
        if share is None or share < 0:
            raise ValueError(
                f"--model {what}: text-noise-SHARE needs a number from 0 up, got {found['number']!r}"
            )
        of = _model_of_rival(what, found["of"])
        return Entry(
            name=f"text-noise-{share:g}{_behind(of)}", text_noise=share, lora=of.lora, strength=of.strength
        )
    return None


def _model_of_rival(what: str, of: str | None) -> Entry:
    entry = _plain(of or _BASE)
    if entry.finished is not None:
        raise ValueError(f"--model {what}: {of} holds finished pictures; a rival needs base or a LoRA")
    return entry


def _behind(entry: Entry) -> str:
    return "" if entry.lora is None else f"+{entry.name}"


def _plain(what: str) -> Entry:
    """The base, a LoRA at a strength, or a folder of finished pictures."""
    if what == _BASE:  # a folder of that name is ./base
        return Entry(name=_BASE)
    if not what.strip():
        raise ValueError(f"--model: got nothing; give {KNOWN}")
    path, strength = Path(what).expanduser(), None
    before, at, number = what.rpartition("@")
    if at and before and not _is_there(path):
        path, strength = Path(before).expanduser(), _number(number)
        if strength is None:
            raise ValueError(f"--model {what}: the strength behind @ must be a number, got {number!r}")
    if not _is_there(path):
        raise FileNotFoundError(
            f"--model {what}: there is no file or folder {path}; known are {KNOWN}{_of_name(what)}"
        )
    return _of_path(what, path, strength)


def _of_name(what: str) -> str:
    """A hint where a name may have been meant that is none."""
    return "; a NAME has letters from a to z, digits, spaces and . _ + @ -" if "=" in what else ""


def _of_path(what: str, path: Path, strength: float | None) -> Entry:
    suffix = "" if strength is None else f"@{strength:g}"
    if path.is_file():
        if path.suffix.lower() != ".safetensors":
            raise ValueError(f"--model {what}: {path.name} is no LoRA file (.safetensors); known are {KNOWN}")
        return Entry(name=path.stem + suffix, lora=path, strength=1.0 if strength is None else strength)
    if (path / "adapter_config.json").is_file():
        raise ValueError(
            f"--model {what}: a raw PEFT folder; first: divrl-train convert {path} NAME.safetensors"
        )
    if (path / "lora").is_dir():
        name = path.resolve().name + suffix
        return Entry(name=name, lora=lora_file_of(path), strength=1.0 if strength is None else strength)
    if strength is not None:
        raise ValueError(f"--model {what}: {path} is no run folder, and finished pictures have no strength")
    return Entry(name=path.resolve().name, finished=path)


def _renamed(entry: Entry, name: str, spec: str) -> Entry:
    """The entry under a name that can be a file's on any system. Raises ValueError for another."""
    if not re.fullmatch(_NAME, name) or name[-1] in ". " or len(name) > LONGEST_NAME:
        raise ValueError(
            f"--model {spec}: {name!r} cannot be a file's name; give one of letters, digits and . _ + @ - : NAME=..."
        )
    return Entry(**{**vars(entry), "name": name})


def _is_there(path: Path) -> bool:
    """Whether there is such a file or folder; not, where its name is longer than any can be."""
    try:
        return path.exists()
    except OSError:
        return False


def _shown(lora: Path) -> str:
    """A LoRA file in words, one of a run with the run's folder before it, and no folders beyond."""
    resolved = lora.resolve()
    return "/".join(resolved.parts[-3:]) if resolved.parent.name == "lora" else lora.name


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
