"""Body plans: from an identity and poses to the solids of a figure, all poses at a time.

World axes: x is where the figure looks, y is up, z its right; the floor is y = 0 and figures stand about 2 high.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from .figures import Identity, Poses
from .solids import Array, Solid, rotation


@dataclass(frozen=True)
class Joint:
    """A rigid frame: where a part hangs and how it is turned; (3, 3) and (3,), or (P, 3, 3) and (P, 3)."""

    frame: Array = field(default_factory=lambda: np.eye(3))
    origin: Array = field(default_factory=lambda: np.zeros(3))

    def at(self, x: float, y: float, z: float, *turns: tuple[str, float | Array]) -> Joint:
        """A child joint at an offset in this frame, turned about its own axes in order; angles may be (P,)."""
        frame = self.frame
        for axis, degrees in turns:
            frame = frame @ rotation(axis, degrees)
        return Joint(frame, self.origin + self.frame @ np.array([x, y, z]))


class Rig:
    """Collects the solids of one figure, each in every pose."""

    def __init__(self, identity: Identity, poses: Poses) -> None:
        self.identity, self.poses = identity, poses
        self.solids: list[Solid] = []

    def ball(self, part: str, joint: Joint, radii: tuple[float, float, float], colour: str) -> None:
        """An ellipsoid centred on the joint."""
        self._add(part, colour, joint, joint.frame, radii, "ellipsoid")

    def limb(self, part: str, joint: Joint, length: float, start: float, end: float, colour: str) -> Joint:
        """A round cone from the joint along its -y axis; returns the joint at its end."""
        self._add(part, colour, joint, joint.frame @ rotation("z", -90), (start, end, length), "cone")
        return joint.at(0, -length, 0)

    def _add(
        self, part: str, colour: str, joint: Joint, frame: Array, radii: tuple[float, ...], kind: str
    ) -> None:
        poses = len(self.poses)
        solid = Solid(
            part=part,
            colour=colour,
            origin=np.broadcast_to(joint.origin, (poses, 3)).astype(np.float32),
            frame=np.broadcast_to(frame, (poses, 3, 3)).astype(np.float32),
            radii=np.array(radii, dtype=np.float32),
            kind=kind,
        )
        self.solids.append(solid)

    def eyes(self, head: Joint, x: float, y: float, spread: float) -> None:
        """Two dark buttons."""
        for side, sign in (("left", -1), ("right", 1)):
            self.ball(f"eye.{side}", head.at(x, y, sign * spread), (0.085, 0.105, 0.095), "dark")

    def dress(self, head: Joint, top: float, neck: Joint, neck_radius: float) -> None:
        """The identity's accessory: a hat on the head or a scarf round the neck."""
        if self.identity.accessory == "hat":
            brim = head.at(-0.02, top, 0)
            self.ball("hat.brim", brim, (0.40, 0.085, 0.40), "accent")
            self.ball("hat.crown", brim.at(0, 0.06, 0), (0.27, 0.25, 0.27), "accent")
        elif self.identity.accessory == "scarf":
            self.ball("scarf", neck, (neck_radius, 0.14, neck_radius), "accent")
            self.limb("scarf.end", neck.at(neck_radius * 0.85, -0.04, 0.14), 0.30, 0.12, 0.14, "accent")


def _legs(rig: Rig, *, hip: float, apart: float, leg: float, colours: tuple[str, str]) -> None:
    """Two stepping legs with feet; `colours` of leg and foot."""
    for name, sign, swing in (("left", -1, rig.poses.swing), ("right", 1, -rig.poses.swing)):
        joint = Joint().at(0, hip, sign * apart, ("z", swing))
        foot = rig.limb(f"leg.{name}", joint, hip - leg * 0.9, leg * 1.05, leg, colours[0])
        rig.ball(f"foot.{name}", foot.at(0.10, 0, 0), (leg * 1.55, leg * 0.9, leg * 1.15), colours[1])


def _arms(
    rig: Rig, trunk: Joint, *, height: float, apart: float, arm: float, colours: tuple[str, str]
) -> None:
    """Two arms that hang or are raised sideways; `colours` of arm and hand."""
    how = rig.poses
    for name, sign, lift in (("left", -1, how.raise_left), ("right", 1, how.raise_right)):
        joint = trunk.at(0.02, height, sign * apart, ("x", -sign * (22 + lift)))
        hand = rig.limb(f"arm.{name}", joint, arm, 0.135, 0.125, colours[0])
        rig.ball(f"hand.{name}", hand, (0.17, 0.17, 0.17), colours[1])


def _toy(rig: Rig, *, girth: float, height: float, leg: float = 0.17, arm: float = 0.40) -> Joint:
    """Upright trunk with legs and arms; returns the trunk's joint. All measures in world units."""
    hip = 0.37 * rig.identity.legs
    girth *= rig.identity.body
    trunk = Joint().at(0, hip + height * 0.72, 0)
    rig.ball("body", trunk, (girth * 0.92, height, girth), "pattern")
    _legs(rig, hip=hip, apart=girth * 0.52, leg=leg, colours=("primary", "secondary"))
    _arms(rig, trunk, height=height * 0.48, apart=girth * 0.80, arm=arm, colours=("primary", "secondary"))
    return trunk


def _head(rig: Rig, trunk: Joint, offset: tuple[float, float], size: float) -> Joint:
    """The head's joint, turned by the structure's yaw, with its ball."""
    head = trunk.at(offset[0], offset[1], 0, ("y", rig.poses.head_yaw))
    rig.ball("head", head, (size * 0.96, size * 0.92, size), "primary")
    return head


def _fox(rig: Rig) -> None:
    who = rig.identity
    trunk = _toy(rig, girth=0.38, height=0.44)
    size = 0.48 * who.head
    head = _head(rig, trunk, (0.02, 0.40 + size * 0.62), size)
    rig.limb("snout", head.at(size * 0.55, -0.12, 0, ("z", 84)), 0.40, 0.24, 0.10, "white")
    rig.ball("nose", head.at(size * 0.55 + 0.46, -0.07, 0), (0.09, 0.085, 0.09), "dark")
    rig.eyes(head, size * 0.84, 0.10, 0.23)
    for side, sign in (("left", -1), ("right", 1)):
        ear = head.at(-0.04, size * 0.60, sign * size * 0.58, ("x", sign * 16))
        rig.limb(f"ear.{side}", ear.at(0, 0.44 * who.ears, 0), 0.38 * who.ears, 0.05, 0.21, "secondary")
    base = trunk.at(-0.26, -0.22, 0, ("y", rig.poses.tail), ("z", -112))
    tip = rig.limb("tail", base, 0.42, 0.14, 0.24, "primary")
    rig.limb("tail.tip", tip, 0.22, 0.225, 0.11, "white")
    rig.dress(head, size * 0.76, trunk.at(0, 0.38, 0), 0.34)


def _bear(rig: Rig) -> None:
    who = rig.identity
    trunk = _toy(rig, girth=0.47, height=0.46, leg=0.20)
    size = 0.50 * who.head
    head = _head(rig, trunk, (0.02, 0.40 + size * 0.62), size)
    rig.ball("snout", head.at(size * 0.84, -0.13, 0), (0.22, 0.19, 0.24), "white")
    rig.ball("nose", head.at(size * 0.84 + 0.19, -0.06, 0), (0.08, 0.08, 0.11), "dark")
    rig.eyes(head, size * 0.84, 0.12, 0.24)
    for side, sign in (("left", -1), ("right", 1)):
        ear = 0.22 * who.ears
        place = head.at(-0.04, size * 0.72, sign * size * 0.74)
        rig.ball(f"ear.{side}", place, (ear * 0.6, ear, ear), "secondary")
    rig.dress(head, size * 0.76, trunk.at(0, 0.39, 0), 0.42)


def _rabbit(rig: Rig) -> None:
    who = rig.identity
    trunk = _toy(rig, girth=0.38, height=0.44)
    size = 0.44 * who.head
    head = _head(rig, trunk, (0.02, 0.40 + size * 0.62), size)
    rig.ball("cheeks", head.at(size * 0.80, -0.13, 0), (0.18, 0.16, 0.26), "white")
    rig.ball("nose", head.at(size * 0.80 + 0.16, -0.05, 0), (0.07, 0.07, 0.09), "dark")
    rig.eyes(head, size * 0.84, 0.11, 0.22)
    for side, sign in (("left", -1), ("right", 1)):
        ear = head.at(-0.04, size * 0.70, sign * 0.18, ("x", sign * 168))
        end = rig.limb(f"ear.{side}", ear, 0.40 * who.ears, 0.13, 0.155, "primary")
        rig.ball(f"ear.{side}.tip", end, (0.17, 0.20, 0.18), "secondary")
    rig.ball("tail", trunk.at(-0.36, -0.24, 0), (0.20, 0.20, 0.20), "white")
    rig.dress(head, size * 0.76, trunk.at(0, 0.38, 0), 0.34)


def _elephant(rig: Rig) -> None:
    who = rig.identity
    trunk = _toy(rig, girth=0.48, height=0.46, leg=0.22)
    size = 0.47 * who.head
    head = _head(rig, trunk, (0.02, 0.42 + size * 0.62), size)
    first = head.at(size * 0.72, -0.10, 0, ("z", 40))
    second = rig.limb("trunk.upper", first, 0.34, 0.20, 0.16, "primary").at(0, 0, 0, ("z", 26))
    rig.limb("trunk.lower", second, 0.26, 0.16, 0.135, "secondary")
    rig.eyes(head, size * 0.84, 0.14, 0.27)
    for side, sign in (("left", -1), ("right", 1)):
        ear = head.at(-0.08, 0.06, sign * size * 0.92, ("y", -sign * 24))
        radii = (0.09, 0.40 * who.ears, 0.33 * who.ears)
        rig.ball(f"ear.{side}", ear.at(0, 0, sign * 0.22), radii, "secondary")
    rig.dress(head, size * 0.76, trunk.at(0, 0.39, 0), 0.43)


def _giraffe(rig: Rig) -> None:
    who = rig.identity
    trunk = _toy(rig, girth=0.38, height=0.40)
    top = rig.limb("neck", trunk.at(0.02, 0.24, 0, ("z", 176)), 0.52 * who.head, 0.23, 0.19, "pattern")
    head = _head(rig, Joint(trunk.frame, top.origin), (0.04, 0.16), 0.32)
    rig.ball("snout", head.at(0.27, -0.09, 0), (0.24, 0.16, 0.21), "white")
    rig.ball("nose", head.at(0.48, -0.06, 0), (0.06, 0.06, 0.12), "dark")
    rig.eyes(head, 0.235, 0.12, 0.18)
    for side, sign in (("left", -1), ("right", 1)):
        horn = head.at(-0.02, 0.22, sign * 0.14, ("z", 174))
        end = rig.limb(f"horn.{side}", horn, 0.22 * who.ears, 0.075, 0.075, "secondary")
        rig.ball(f"horn.{side}.tip", end, (0.12, 0.12, 0.12), "accent")
        ear = head.at(-0.06, 0.06, sign * 0.36)
        rig.ball(f"ear.{side}", ear, (0.08, 0.11 * who.ears, 0.19 * who.ears), "secondary")
    rig.dress(head, 0.24, trunk.at(0.02, 0.34, 0), 0.33)


def _duck(rig: Rig) -> None:
    who, how = rig.identity, rig.poses
    hip = 0.30 * who.legs
    girth = 0.47 * who.body
    trunk = Joint().at(-0.02, hip + 0.34, 0, ("z", 8))
    rig.ball("body", trunk, (0.54 * who.body, 0.42, girth), "pattern")
    _legs(rig, hip=hip, apart=0.22, leg=0.14, colours=("accent", "accent"))
    for name, sign, lift in (("left", -1, how.raise_left), ("right", 1, how.raise_right)):
        shoulder = trunk.at(0, 0.20, sign * girth * 0.80, ("x", -sign * (14 + lift)))
        rig.ball(f"wing.{name}", shoulder.at(-0.06, -0.27, 0), (0.32, 0.34 * who.ears, 0.11), "secondary")
    size = 0.45 * who.head
    head = _head(rig, Joint(origin=trunk.origin), (0.16, 0.40 + size * 0.66), size)
    rig.ball("beak", head.at(size + 0.08, -0.10, 0), (0.27, 0.10, 0.23), "accent")
    rig.eyes(head, size * 0.82, 0.12, 0.23)
    base = trunk.at(-0.40 * who.body, 0.10, 0, ("y", how.tail), ("z", -118))
    rig.limb("tail", base, 0.32, 0.22, 0.08, "secondary")
    rig.dress(head, size * 0.76, Joint(origin=trunk.origin).at(0.10, 0.36, 0), 0.38)


def _robot(rig: Rig) -> None:
    who, how = rig.identity, rig.poses
    hip = 0.40 * who.legs
    trunk = Joint().at(0, hip + 0.32, 0)
    girth = 0.42 * who.body
    rig.limb("body", trunk.at(0, 0.18, 0), 0.36, girth, girth * 1.05, "pattern")
    rig.ball("chest.light", trunk.at(girth * 0.98, 0.08, 0), (0.08, 0.14, 0.14), "accent")
    _legs(rig, hip=hip, apart=0.24, leg=0.15, colours=("secondary", "primary"))
    _arms(rig, trunk, height=0.26, apart=girth * 0.98, arm=0.40, colours=("secondary", "accent"))
    head = trunk.at(0, 0.86, 0, ("y", how.head_yaw))
    size = 0.40 * who.head
    rig.limb("head", head.at(0, 0, -0.16, ("x", -90)), 0.32, size * 0.92, size * 0.92, "primary")
    rig.ball("visor", head.at(size * 0.62, 0.02, 0), (0.20, 0.18, 0.40), "dark")
    for side, sign in (("left", -1), ("right", 1)):
        rig.ball(f"eye.{side}", head.at(size * 0.62 + 0.17, 0.02, sign * 0.16), (0.07, 0.10, 0.10), "white")
    end = rig.limb("antenna", head.at(0, size * 0.8, 0, ("z", 180)), 0.18 * who.ears, 0.07, 0.07, "secondary")
    rig.ball("antenna.tip", end, (0.14, 0.14, 0.14), "accent")
    rig.dress(head, size * 0.76, trunk.at(0, 0.46, 0), 0.38)


def _dinosaur(rig: Rig) -> None:
    who, how = rig.identity, rig.poses
    trunk = _toy(rig, girth=0.42, height=0.46, leg=0.20, arm=0.30)
    base = trunk.at(-0.24, -0.24, 0, ("y", how.tail), ("z", -82))
    middle = rig.limb("tail", base, 0.40, 0.27, 0.18, "primary")
    rig.limb("tail.tip", middle, 0.34, 0.17, 0.08, "secondary")
    size = 0.43 * who.head
    head = _head(rig, trunk, (0.04, 0.40 + size * 0.66), size)
    rig.limb("jaw", head.at(size * 0.35, -0.10, 0, ("z", 88)), 0.36, 0.32, 0.25, "primary")
    rig.ball("nose", head.at(size * 0.35 + 0.56, -0.02, 0), (0.07, 0.07, 0.17), "dark")
    rig.eyes(head, size * 0.62, 0.24, 0.28)
    for step, (x, y) in enumerate(((0.10, 0.86), (-0.24, 0.74), (-0.42, 0.36))):
        spike = head.at(x, size * y, 0, ("z", 180 + 28 * step))
        rig.limb(f"spike.{step}", spike, 0.26 * who.ears, 0.17, 0.06, "accent")
    rig.dress(head, size * 0.76, trunk.at(0, 0.39, 0), 0.37)


_BUILDERS: dict[str, Callable[[Rig], None]] = {
    "fox": _fox,
    "bear": _bear,
    "rabbit": _rabbit,
    "elephant": _elephant,
    "giraffe": _giraffe,
    "duck": _duck,
    "robot": _robot,
    "dinosaur": _dinosaur,
}


def build_figure(identity: Identity, poses: Poses) -> list[Solid]:
    """The figure's solids in world coordinates, in an order that depends on the identity alone."""
    rig = Rig(identity, poses)
    _BUILDERS[identity.plan](rig)
    return rig.solids
