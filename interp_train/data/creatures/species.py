"""The species: which kind of each part they have, and in which proportions.

All species share one vocabulary of parts and one range of colours, textures, sizes and poses;
only the shapes of the parts tell them apart.
"""

from typing import NamedTuple

PART_NAMES = (
    "crest", "muzzle", "eye", "head", "neck", "body", "wing", "front_leg", "back_leg", "tail",
)  # fmt: skip

PART_GROUPS = {
    "head": (0, 1, 2, 3),
    "trunk": (4, 5),
    "wing": (6,),
    "legs": (7, 8),
    "tail": (9,),
}

# Head, body, tail: the counterparts of the three CUB landmarks (forehead, back, tail) that the
# interpretable-CNN papers use.
INSTABILITY_PARTS = (3, 5, 9)


class Leg(NamedTuple):
    """Kind of limb outline, of foot, length and width (body length = 1)."""

    limb: str
    foot: str
    length: float
    width: float


class Species(NamedTuple):
    """Anatomy of one species; lengths in units of the body's length.

    Attributes:
        name: singular noun.
        body: key of `outlines.BODIES`.
        body_height: full height of the body.
        neck: length and width.
        head: key of `outlines.HEADS`, its length and height.
        muzzle: key of `outlines.MUZZLES`, length and width.
        crest: key of `outlines.CRESTS`, length, width and angle from the head's axis in degrees.
        wing: key of `outlines.WINGS`, length and width; None without wings.
        front_leg: None if the species has none.
        back_leg: see `front_leg`.
        tail: key of `outlines.TAIL_TIPS`, length of the stalk, its width, length of the tip and
            its width.
    """

    name: str
    body: str
    body_height: float
    neck: tuple[float, float]
    head: tuple[str, float, float]
    muzzle: tuple[str, float, float]
    crest: tuple[str, float, float, float]
    wing: tuple[str, float, float] | None
    front_leg: Leg | None
    back_leg: Leg | None
    tail: tuple[str, float, float, float, float]


SPECIES = (
    Species(
        "dragon", "slender", 0.52, (0.48, 0.22), ("wedge", 0.4, 0.3), ("snout", 0.34, 0.23),
        ("horn", 0.34, 0.13, 150), ("membrane", 0.98, 0.68), Leg("taper", "claw", 0.6, 0.18),
        Leg("haunch", "claw", 0.62, 0.23), ("arrow", 0.72, 0.14, 0.2, 0.24),
    ),
    Species(
        "stag", "barrel", 0.48, (0.46, 0.2), ("oval", 0.36, 0.26), ("blunt", 0.24, 0.18),
        ("antler", 0.58, 0.42, 105), None, Leg("slim", "hoof", 0.8, 0.11),
        Leg("taper", "hoof", 0.8, 0.15), ("stub", 0.06, 0.08, 0.2, 0.14),
    ),
    Species(
        "elephant", "round", 0.72, (0.16, 0.34), ("round", 0.46, 0.44), ("trunk", 0.42, 0.26),
        ("big_ear", 0.42, 0.4, 190), None, Leg("slim", "pillar", 0.5, 0.22),
        Leg("slim", "pillar", 0.5, 0.24), ("tuft", 0.42, 0.06, 0.14, 0.1),
    ),
    Species(
        "phoenix", "egg", 0.6, (0.24, 0.28), ("round", 0.37, 0.36), ("cone_beak", 0.24, 0.2),
        ("plume", 0.34, 0.24, 115), ("feathered", 0.98, 0.6), None, Leg("slim", "toes", 0.5, 0.09),
        ("fan", 0.18, 0.12, 0.62, 0.5),
    ),
    Species(
        "griffin", "egg", 0.56, (0.36, 0.27), ("round", 0.42, 0.37), ("hooked_beak", 0.26, 0.26),
        ("pointed_ear", 0.25, 0.16, 125), ("feathered", 0.95, 0.62),
        Leg("taper", "claw", 0.66, 0.17), Leg("haunch", "paw", 0.66, 0.22),
        ("tuft", 0.55, 0.08, 0.28, 0.2),
    ),
    Species(
        "fox", "slender", 0.46, (0.24, 0.24), ("wedge", 0.38, 0.33), ("pointed", 0.26, 0.2),
        ("pointed_ear", 0.26, 0.2, 110), None, Leg("taper", "paw", 0.55, 0.14),
        Leg("haunch", "paw", 0.56, 0.18), ("brush", 0.14, 0.1, 0.72, 0.28),
    ),
    Species(
        "heron", "egg", 0.44, (0.62, 0.14), ("wedge", 0.32, 0.24), ("dagger_beak", 0.42, 0.14),
        ("plume", 0.36, 0.14, 165), ("feathered", 0.72, 0.46), None,
        Leg("slim", "toes", 0.86, 0.07), ("stub", 0.06, 0.12, 0.3, 0.24),
    ),
    Species(
        "pegasus", "barrel", 0.5, (0.5, 0.24), ("oval", 0.4, 0.29), ("blunt", 0.28, 0.22),
        ("mane", 0.42, 0.2, 165), ("feathered", 0.92, 0.58), Leg("slim", "hoof", 0.78, 0.13),
        Leg("taper", "hoof", 0.78, 0.16), ("flow", 0.2, 0.1, 0.58, 0.34),
    ),
    Species(
        "hare", "round", 0.6, (0.12, 0.28), ("round", 0.4, 0.35), ("button", 0.22, 0.2),
        ("long_ear", 0.56, 0.16, 115), None, Leg("slim", "paw", 0.38, 0.12),
        Leg("haunch", "paw", 0.46, 0.26), ("puff", 0.04, 0.08, 0.26, 0.22),
    ),
    Species(
        "wyvern", "slender", 0.46, (0.54, 0.2), ("oval", 0.36, 0.28), ("pointed", 0.26, 0.2),
        ("horn", 0.26, 0.12, 115), ("membrane", 1.05, 0.74), None, Leg("haunch", "claw", 0.62, 0.2),
        ("fork", 0.7, 0.13, 0.3, 0.26),
    ),
)  # fmt: skip

SPECIES_NAMES = tuple(species.name for species in SPECIES)
