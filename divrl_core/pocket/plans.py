"""Body plans: from an identity and a structure to the solids of a figure.

World axes: x is where the figure looks, y is up, z its right; the floor is y = 0 and figures stand about 2 high.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from .figures import Identity, Structure
from .solids import Array, Solid, rotation


@dataclass(frozen=True)
class Joint:
    """A rigid frame: where a part hangs and how it is turned."""

    frame: Array = field(default_factory=lambda: np.eye(3, dtype=np.float32))
    origin: Array = field(default_factory=lambda: np.zeros(3, dtype=np.float32))

    def at(self, x: float, y: float, z: float, *turns: tuple[str, float]) -> Joint:
        """A child joint at an offset in this frame, turned about its own axes in order."""
        frame = self.frame
        for axis, degrees in turns:
            frame = frame @ rotation(axis, degrees)
        return Joint(
            frame.astype(np.float32), self.origin + self.frame @ np.array([x, y, z], dtype=np.float32)
        )


class Rig:
    """Collects the solids of one figure."""

    def __init__(self, identity: Identity, structure: Structure) -> None:
        self.identity, self.structure = identity, structure
        self.solids: list[Solid] = []

    def ball(self, part: str, joint: Joint, radii: tuple[float, float, float], colour: str) -> None:
        """An ellipsoid centred on the joint."""
        half_axes = np.array(radii, dtype=np.float32)
        self.solids.append(
            Solid(part=part, colour=colour, origin=joint.origin, frame=joint.frame, radii=half_axes)
        )

    def limb(self, part: str, joint: Joint, length: float, start: float, end: float, colour: str) -> Joint:
        """A round cone from the joint along its -y axis; returns the joint at its end."""
        frame = joint.frame @ rotation("z", -90)
        radii = np.array([start, end, length], dtype=np.float32)
        self.solids.append(
            Solid(part=part, colour=colour, origin=joint.origin, frame=frame, radii=radii, kind="cone")
        )
        return joint.at(0, -length, 0)

    def eyes(self, head: Joint, x: float, y: float, spread: float, size: float) -> None:
        """Two white balls with dark pupils looking along x."""
        for side, sign in (("left", -1), ("right", 1)):
            eye = head.at(x, y, sign * spread)
            self.ball(f"eye.{side}", eye, (size, size, size), "white")
            pupil = eye.at(size * 0.62, 0, sign * size * 0.15)
            self.ball(f"pupil.{side}", pupil, (size * 0.58, size * 0.58, size * 0.58), "dark")

    def dress(self, head: Joint, top: float, neck: Joint, neck_radius: float) -> None:
        """The identity's accessory: a hat on the head or a scarf round the neck."""
        if self.identity.accessory == "hat":
            brim = head.at(-0.02, top, 0)
            self.ball("hat.brim", brim, (0.36, 0.06, 0.36), "accent")
            self.limb("hat.crown", brim.at(0, 0.34, 0), 0.32, 0.12, 0.20, "accent")
        elif self.identity.accessory == "scarf":
            self.ball("scarf", neck, (neck_radius, 0.11, neck_radius), "accent")
            self.limb("scarf.end", neck.at(neck_radius * 0.85, -0.02, 0.12), 0.34, 0.09, 0.11, "accent")


def _quadruped(rig: Rig, *, hip: float, length: float, girth: float, leg: float) -> Joint:
    """Trunk and four swinging legs; returns the trunk's joint. `hip` is the trunk's height above the floor."""
    swing = rig.structure.swing
    trunk = Joint().at(0, hip, 0)
    rig.ball("body", trunk, (length, girth, girth * 0.92), "pattern")
    for name, x, sign, angle in (
        ("front.left", 0.62, -1, swing),
        ("front.right", 0.62, 1, -swing),
        ("hind.left", -0.62, -1, -swing),
        ("hind.right", -0.62, 1, swing),
    ):
        joint = trunk.at(x * length, -girth * 0.35, sign * girth * 0.55, ("z", angle))
        foot = rig.limb(f"leg.{name}", joint, hip - girth * 0.35 - leg, leg * 1.15, leg, "primary")
        rig.ball(f"foot.{name}", foot.at(0.03, 0, 0), (leg * 1.25, leg, leg * 1.15), "secondary")
    return trunk


def _biped(rig: Rig, *, hip: float, girth: float, height: float, leg: float, arm: float) -> Joint:
    """Upright trunk, two stepping legs, two arms that can be raised; returns the trunk's joint."""
    structure = rig.structure
    trunk = Joint().at(0, hip + height * 0.75, 0)
    rig.ball("body", trunk, (girth * 0.88, height, girth), "pattern")
    for name, sign, swing in (("left", -1, structure.swing), ("right", 1, -structure.swing)):
        joint = Joint().at(0, hip, sign * girth * 0.52, ("z", swing))
        foot = rig.limb(f"leg.{name}", joint, hip - leg, leg * 1.15, leg, "primary")
        rig.ball(f"foot.{name}", foot.at(0.09, 0, 0), (leg * 1.6, leg, leg * 1.15), "secondary")
    for name, sign, lift in (("left", -1, structure.raise_left), ("right", 1, structure.raise_right)):
        joint = trunk.at(0, height * 0.55, sign * girth * 0.78, ("x", -sign * (20 + lift)))
        hand = rig.limb(f"arm.{name}", joint, arm, leg * 0.95, leg * 0.80, "primary")
        rig.ball(f"hand.{name}", hand, (leg * 1.0, leg * 1.0, leg * 1.0), "secondary")
    return trunk


def _head(rig: Rig, trunk: Joint, offset: tuple[float, float], size: float) -> Joint:
    """The head's joint, turned by the structure's yaw and pitch, with its ball."""
    yaw, pitch = rig.structure.head_yaw, rig.structure.head_pitch
    head = trunk.at(offset[0], offset[1], 0, ("y", yaw), ("z", -pitch))
    rig.ball("head", head, (size, size * 0.94, size * 0.98), "primary")
    return head


def _fox(rig: Rig) -> None:
    who, how = rig.identity, rig.structure
    hip = 0.62 * who.legs + 0.14
    trunk = _quadruped(rig, hip=hip, length=0.66 * who.body, girth=0.34 * who.body, leg=0.115)
    size = 0.37 * who.head
    head = _head(rig, trunk, (0.66 * who.body, 0.42), size)
    rig.limb("snout", head.at(size * 0.5, -0.08, 0, ("z", 82)), 0.36, 0.19, 0.075, "white")
    rig.ball("nose", head.at(size * 0.5 + 0.42, -0.03, 0), (0.075, 0.07, 0.075), "dark")
    rig.eyes(head, size * 0.72, 0.13, 0.17, 0.085)
    for side, sign in (("left", -1), ("right", 1)):
        ear = head.at(-0.02, size * 0.55, sign * size * 0.6, ("x", sign * 14))
        rig.limb(f"ear.{side}", ear.at(0, 0.40 * who.ears, 0), 0.36 * who.ears, 0.03, 0.15, "secondary")
    tail = trunk.at(-0.58 * who.body, 0.12, 0, ("y", how.tail), ("z", -118))
    tip = rig.limb("tail", tail, 0.50, 0.10, 0.19, "primary")
    rig.limb("tail.tip", tip, 0.22, 0.185, 0.06, "white")
    rig.dress(head, size * 0.88, trunk.at(0.52 * who.body, 0.20, 0, ("z", -48)), 0.30)


def _bear(rig: Rig) -> None:
    who = rig.identity
    hip = 0.46 * who.legs
    trunk = _biped(rig, hip=hip, girth=0.47 * who.body, height=0.52, leg=0.165, arm=0.46)
    size = 0.41 * who.head
    head = _head(rig, trunk, (0.03, 0.80), size)
    rig.ball("snout", head.at(size * 0.82, -0.09, 0), (0.19, 0.15, 0.19), "white")
    rig.ball("nose", head.at(size * 0.82 + 0.16, -0.04, 0), (0.07, 0.06, 0.08), "dark")
    rig.eyes(head, size * 0.80, 0.12, 0.18, 0.085)
    for side, sign in (("left", -1), ("right", 1)):
        ear = 0.17 * who.ears
        rig.ball(
            f"ear.{side}", head.at(-0.02, size * 0.78, sign * size * 0.72), (ear * 0.6, ear, ear), "secondary"
        )
    rig.dress(head, size * 0.86, trunk.at(0.02, 0.46, 0), 0.38)


def _rabbit(rig: Rig) -> None:
    who, how = rig.identity, rig.structure
    hip = 0.42 * who.legs
    trunk = _biped(rig, hip=hip, girth=0.38 * who.body, height=0.48, leg=0.135, arm=0.40)
    size = 0.36 * who.head
    head = _head(rig, trunk, (0.04, 0.74), size)
    rig.ball("cheeks", head.at(size * 0.75, -0.10, 0), (0.15, 0.13, 0.20), "white")
    rig.ball("nose", head.at(size * 0.75 + 0.14, -0.04, 0), (0.05, 0.05, 0.06), "accent")
    rig.eyes(head, size * 0.78, 0.10, 0.17, 0.085)
    for side, sign, lean in (("left", -1, how.raise_left), ("right", 1, how.raise_right)):
        ear = head.at(-0.04, size * 0.75, sign * 0.15, ("x", sign * (180 - 8 - 0.45 * max(lean, 0))))
        end = rig.limb(f"ear.{side}", ear, 0.62 * who.ears, 0.10, 0.13, "primary")
        rig.ball(f"ear.{side}.tip", end, (0.15, 0.15, 0.15), "secondary")
    rig.ball("tail", trunk.at(-0.36, -0.28, 0), (0.16, 0.16, 0.16), "white")
    rig.dress(head, size * 0.86, trunk.at(0.02, 0.44, 0), 0.31)


def _elephant(rig: Rig) -> None:
    who, how = rig.identity, rig.structure
    hip = 0.62 * who.legs + 0.22
    trunk = _quadruped(rig, hip=hip, length=0.70 * who.body, girth=0.50 * who.body, leg=0.185)
    size = 0.42 * who.head
    head = _head(rig, trunk, (0.74 * who.body, 0.36), size)
    first = head.at(size * 0.75, -0.10, 0, ("z", 42 + 0.25 * how.raise_left))
    second = rig.limb("trunk.upper", first, 0.42, 0.17, 0.125, "primary").at(0, 0, 0, ("z", 22))
    rig.limb("trunk.lower", second, 0.34, 0.125, 0.095, "secondary")
    rig.eyes(head, size * 0.78, 0.16, 0.24, 0.08)
    for side, sign in (("left", -1), ("right", 1)):
        ear = head.at(-0.10, 0.06, sign * size * 0.95, ("y", -sign * 28))
        rig.ball(
            f"ear.{side}", ear.at(0, 0, sign * 0.20), (0.07, 0.40 * who.ears, 0.33 * who.ears), "secondary"
        )
        rig.limb(
            f"tusk.{side}", head.at(size * 0.72, -0.22, sign * 0.19, ("z", 62)), 0.26, 0.06, 0.03, "white"
        )
    rig.limb(
        "tail", trunk.at(-0.66 * who.body, 0.20, 0, ("y", how.tail), ("z", -32)), 0.44, 0.06, 0.08, "accent"
    )
    rig.dress(head, size * 0.90, trunk.at(0.58 * who.body, 0.16, 0, ("z", -62)), 0.44)


def _giraffe(rig: Rig) -> None:
    who, how = rig.identity, rig.structure
    hip = 0.72 * who.legs + 0.16
    trunk = _quadruped(rig, hip=hip, length=0.52 * who.body, girth=0.31 * who.body, leg=0.105)
    base = trunk.at(
        0.40 * who.body, 0.12, 0, ("y", 0.4 * how.head_yaw), ("z", 180 - 22 - 0.6 * how.head_pitch)
    )
    top = rig.limb("neck", base, 0.80 * who.legs, 0.19, 0.125, "pattern")
    head = Joint(trunk.frame, top.origin).at(0.08, 0.06, 0, ("y", how.head_yaw), ("z", -how.head_pitch - 8))
    size = 0.22 * who.head
    rig.ball("head", head, (size * 1.15, size, size), "primary")
    rig.limb("snout", head.at(size * 0.7, -0.04, 0, ("z", 78)), 0.20, 0.14, 0.115, "white")
    rig.eyes(head, size * 0.70, 0.11, 0.14, 0.07)
    for side, sign in (("left", -1), ("right", 1)):
        horn = head.at(-0.04, size * 0.7, sign * 0.10, ("z", 172))
        end = rig.limb(f"horn.{side}", horn, 0.20 * who.ears, 0.045, 0.045, "secondary")
        rig.ball(f"horn.{side}.tip", end, (0.075, 0.075, 0.075), "accent")
        ear = head.at(-0.08, 0.08, sign * size * 1.05)
        rig.ball(f"ear.{side}", ear, (0.05, 0.08 * who.ears, 0.15 * who.ears), "secondary")
    rig.limb(
        "tail", trunk.at(-0.48 * who.body, 0.10, 0, ("y", how.tail), ("z", -28)), 0.44, 0.05, 0.09, "accent"
    )
    rig.dress(head, size * 0.9 + 0.02, trunk.at(0.50, 0.42, 0, ("z", -24)), 0.24)


def _duck(rig: Rig) -> None:
    who, how = rig.identity, rig.structure
    hip = 0.40 * who.legs
    trunk = Joint().at(-0.02, hip + 0.34, 0, ("z", 12))
    rig.ball("body", trunk, (0.62 * who.body, 0.42 * who.body, 0.45 * who.body), "pattern")
    for name, sign, swing in (("left", -1, how.swing), ("right", 1, -how.swing)):
        foot = rig.limb(
            f"leg.{name}", Joint().at(0, hip, sign * 0.20, ("z", swing)), hip - 0.05, 0.08, 0.07, "accent"
        )
        rig.ball(f"foot.{name}", foot.at(0.10, 0, 0), (0.22, 0.06, 0.15), "accent")
    for name, sign, lift in (("left", -1, how.raise_left), ("right", 1, how.raise_right)):
        shoulder = trunk.at(0.06, 0.18, sign * 0.40 * who.body, ("x", -sign * (12 + max(lift, 0) * 0.85)))
        rig.ball(f"wing.{name}", shoulder.at(-0.10, -0.24, 0), (0.36, 0.28 * who.ears, 0.085), "secondary")
    size = 0.34 * who.head
    rig.limb("neck", trunk.at(0.42, 0.14, 0, ("z", 156)), 0.36, 0.20, 0.17, "primary")
    head = _head(rig, Joint(rotation("y", 0), trunk.origin), (0.58, 0.66), size)
    rig.ball("beak.upper", head.at(size + 0.10, -0.02, 0), (0.22, 0.065, 0.16), "accent")
    rig.ball("beak.lower", head.at(size + 0.06, -0.10, 0), (0.17, 0.05, 0.12), "accent")
    rig.eyes(head, size * 0.74, 0.11, 0.17, 0.085)
    rig.limb(
        "tail",
        trunk.at(-0.52 * who.body, 0.14, 0, ("y", how.tail), ("z", -118)),
        0.34,
        0.17,
        0.05,
        "secondary",
    )
    rig.dress(head, size * 0.86, Joint(trunk.frame, trunk.origin).at(0.50, 0.32, 0, ("z", -32)), 0.25)


def _robot(rig: Rig) -> None:
    who, how = rig.identity, rig.structure
    hip = 0.54 * who.legs
    trunk = Joint().at(0, hip + 0.34, 0)
    rig.ball("body", trunk, (0.40 * who.body, 0.50, 0.46 * who.body), "pattern")
    rig.ball("chest.light", trunk.at(0.38 * who.body, 0.14, 0), (0.10, 0.12, 0.12), "accent")
    for name, sign, swing in (("left", -1, how.swing), ("right", 1, -how.swing)):
        foot = rig.limb(
            f"leg.{name}", Joint().at(0, hip, sign * 0.24, ("z", swing)), hip - 0.10, 0.10, 0.10, "secondary"
        )
        rig.ball(f"foot.{name}", foot.at(0.07, 0, 0), (0.25, 0.11, 0.18), "primary")
    for name, sign, lift in (("left", -1, how.raise_left), ("right", 1, how.raise_right)):
        shoulder = trunk.at(0, 0.30, sign * 0.44 * who.body, ("x", -sign * (14 + lift)))
        rig.ball(f"shoulder.{name}", shoulder, (0.15, 0.15, 0.15), "primary")
        hand = rig.limb(f"arm.{name}", shoulder, 0.48, 0.085, 0.085, "secondary")
        rig.ball(f"hand.{name}", hand, (0.15, 0.15, 0.15), "accent")
    head = trunk.at(0, 0.80, 0, ("y", how.head_yaw), ("z", -how.head_pitch))
    size = 0.36 * who.head
    rig.limb("head", head.at(0, 0, -0.17, ("x", -90)), 0.34, size * 0.82, size * 0.82, "primary")
    rig.ball("visor", head.at(size * 0.62, 0.03, 0), (0.14, 0.13, 0.34), "dark")
    for side, sign in (("left", -1), ("right", 1)):
        rig.ball(f"eye.{side}", head.at(size * 0.62 + 0.10, 0.04, sign * 0.14), (0.07, 0.075, 0.075), "white")
        end = rig.limb(
            f"antenna.{side}",
            head.at(0, size * 0.7, sign * 0.20, ("z", 180)),
            0.24 * who.ears,
            0.035,
            0.035,
            "secondary",
        )
        rig.ball(f"antenna.{side}.tip", end, (0.085, 0.085, 0.085), "accent")
    rig.dress(head, size * 0.80, trunk.at(0, 0.47, 0), 0.32)


def _dinosaur(rig: Rig) -> None:
    who, how = rig.identity, rig.structure
    hip = 0.62 * who.legs
    trunk = Joint().at(0, hip + 0.26, 0, ("z", 26))
    rig.ball("body", trunk, (0.56 * who.body, 0.40 * who.body, 0.38 * who.body), "pattern")
    for name, sign, swing in (("left", -1, how.swing), ("right", 1, -how.swing)):
        thigh = Joint().at(-0.08, hip + 0.06, sign * 0.28, ("z", swing))
        foot = rig.limb(f"leg.{name}", thigh, hip - 0.04, 0.20, 0.12, "primary")
        rig.ball(f"foot.{name}", foot.at(0.10, 0, 0), (0.24, 0.10, 0.16), "secondary")
    for name, sign, lift in (("left", -1, how.raise_left), ("right", 1, how.raise_right)):
        joint = trunk.at(0.34, 0.02, sign * 0.32, ("x", -sign * 10), ("z", 10 + 0.6 * lift))
        rig.limb(f"arm.{name}", joint, 0.30, 0.085, 0.075, "secondary")
    base = trunk.at(-0.34 * who.body, -0.04, 0, ("y", how.tail), ("z", -94))
    middle = rig.limb("tail", base, 0.52, 0.27, 0.16, "primary").at(0, 0, 0, ("x", how.tail * 0.6))
    rig.limb("tail.tip", middle, 0.44, 0.155, 0.05, "secondary")
    rig.limb("neck", trunk.at(0.36, 0.12, 0, ("z", 128)), 0.40, 0.24, 0.19, "primary")
    size = 0.36 * who.head
    head = _head(rig, Joint(rotation("y", 0), trunk.origin), (0.56, 0.66), size)
    rig.limb("jaw", head.at(size * 0.35, -0.08, 0, ("z", 86)), 0.36, 0.235, 0.17, "primary")
    rig.eyes(head, size * 0.55, 0.20, 0.20, 0.09)
    for step, (x, y) in enumerate(((0.16, 0.36), (-0.08, 0.40), (-0.30, 0.34))):
        spike = trunk.at(x, y * who.body, 0, ("z", 180 - 6 * step))
        rig.limb(f"spike.{step}", spike, 0.20 * who.ears, 0.13, 0.035, "accent")
    rig.dress(head, size * 0.86, trunk.at(0.48, 0.26, 0, ("z", -40)), 0.29)


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


def build_figure(identity: Identity, structure: Structure) -> list[Solid]:
    """The figure's solids in world coordinates, in an order that depends on the identity alone."""
    rig = Rig(identity, structure)
    _BUILDERS[identity.plan](rig)
    return rig.solids
