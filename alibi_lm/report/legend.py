"""How schemes are named and drawn: families by hue, members by shade, marker and dash.

Name and family come with the scheme, where it is registered (positions/base.py). A scheme that is
not registered here, in rows from elsewhere, bears its own word and is drawn in black.
"""

import functools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from alibi_lm.settings import REGISTRIES, changed_settings, words

# Colours that colour-blind readers tell apart (Okabe and Ito), and each family's first marker.
FAMILIES = {
    "none": ("#777777", "v"),
    "embedding": ("#D55E00", "o"),
    "rotation": ("#E69F00", "s"),
    "rotary, read otherwise": ("#8C564B", "p"),
    "by distance": ("#009E73", "D"),
    "by key": ("#0072B2", "^"),
    "on the logits": ("#CC79A7", "P"),
    "layered": ("#56B4E9", "X"),
}
OTHER = ("#000000", "x")  # of schemes that are not registered, or whose family is not listed
MARKERS = ("v", "o", "s", "D", "^", "P", "X", "x", "<", ">", "p", "h")
SHADES = (0.0, -0.4, 0.3)  # towards black, towards white
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (3, 1, 1, 1)))
Colour = tuple[float, ...]  # red, green, blue


@dataclass(frozen=True)
class Style:
    """How a scheme's curves are drawn."""

    colour: Colour
    marker: str
    dash: Any


def title(position: str) -> str:
    """The scheme's name for readers."""
    return str(getattr(_registered(position), "title", position))


def variant_title(position: str, variant: str) -> str:
    """The scheme with settings that are not its defaults, by its name where it has one."""
    return named_variants().get((position, variant)) or f"{title(position)} {variant}".strip()


def less_shared(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Names of curves without the settings that all of several share, and those settings."""
    split = [name.split() for name in names]
    words_of = [{word.strip(",") for word in name} for name in split]
    common = set.intersection(*words_of) if len(names) > 1 else set()
    shared = {word for word in common if re.match(r"[\w.]+=.", word)}
    return [" ".join(w for w in name if w.strip(",") not in shared) for name in split], sorted(
        shared
    )


@functools.cache
def named_variants() -> dict[tuple[str, str], str]:
    """By scheme and settings that are not its defaults, the title of those that have a name."""
    named = getattr(REGISTRIES.get("position"), "named", {}).values()
    return {
        (settings.kind, words(changed)): title
        for settings, title in named
        if (changed := changed_settings(settings))
    }


def style(position: str) -> Style:
    """The scheme's style: no two registered schemes share one."""
    members = _members(family_of(position))
    return _style(family_of(position), members.index(position) if position in members else 0)


def _members(family: str) -> list[str]:
    """The registered schemes of a family, by rank and name."""
    members = [name for name in _schemes() if family_of(name) == family]
    return sorted(members, key=lambda name: (getattr(_registered(name), "rank", 0), name))


def _style(family: str, place: int) -> Style:
    colour, first = FAMILIES.get(family, OTHER)
    marker = MARKERS[(MARKERS.index(first) + place) % len(MARKERS)]
    shade = SHADES[place % len(SHADES)]
    dash = DASHES[place // len(MARKERS) % len(DASHES)]
    return Style(mix(colour, shade), marker, dash)


def styles(curves: Iterable[tuple[str, str]]) -> dict[tuple[str, str], Style]:
    """A style for each scheme with what is changed of it ("" if nothing), none twice.

    The first of a scheme is drawn as by `style`, which is the one that is not changed if it is
    there; the others follow behind the schemes of the family.
    """
    found: dict[tuple[str, str], Style] = {}
    seen: set[str] = set()
    places: dict[str, int] = {}
    for position, changed in sorted(dict.fromkeys(curves), key=lambda key: bool(key[1])):
        if position not in seen:
            seen.add(position)
            found[position, changed] = style(position)
            continue
        family = family_of(position)
        place = places.setdefault(family, len(_members(family)))
        found[position, changed] = _style(family, place)
        places[family] += 1
    return found


def mix(colour: str | Colour, shade: float) -> Colour:
    """A colour mixed with white (shade above 0) or black (below 0)."""
    if isinstance(colour, str):
        colour = tuple(int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    towards = 1.0 if shade > 0 else 0.0
    return tuple(part + (towards - part) * abs(shade) for part in colour)


def in_legend_order(positions: Sequence[str]) -> list[str]:
    """By family, as listed above; within one by rank and name."""

    def place(position: str) -> tuple[int, int, str]:
        families, family = list(FAMILIES), family_of(position)
        known = families.index(family) if family in families else len(families)
        return known, getattr(_registered(position), "rank", 0), position

    return sorted(positions, key=place)


def _schemes() -> dict[str, Any]:
    return REGISTRIES["position"].made if "position" in REGISTRIES else {}


def _registered(position: str) -> Any:
    return _schemes().get(position)


def family_of(position: str) -> str:
    """The family of a scheme; empty if it is not registered."""
    return str(getattr(_registered(position), "family", ""))
