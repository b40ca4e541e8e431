"""A setting: a dataclass field that carries its meaning and its bounds.

Every configuration dataclass of the project declares its fields with `setting`, so that one
declaration gives the type (checked when the configuration is composed), the bounds (checked by
`out_of_bounds` before any work) and the line that `--help` prints.
"""

import dataclasses
import difflib
import math
from collections.abc import Iterator
from typing import Any


def setting(
    default: Any,
    meaning: str,
    *,
    at_least: float | None = None,
    above: float | None = None,
    below: float | None = None,
    choices: tuple[str, ...] | None = None,
) -> Any:
    """A dataclass field with its meaning and bounds; for lists the bounds hold for each element."""
    metadata = {
        "meaning": meaning,
        "at_least": at_least,
        "above": above,
        "below": below,
        "choices": choices,
    }
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: list(default), metadata=metadata)
    if dataclasses.is_dataclass(default) and isinstance(default, type):
        return dataclasses.field(default_factory=default, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def walk(config: Any, prefix: str = "") -> Iterator[tuple[str, Any, dataclasses.Field[Any]]]:
    """Yield (dotted key, value, field) of every leaf setting of a configuration object."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        key = prefix + field.name
        if dataclasses.is_dataclass(value):
            yield from walk(value, key + ".")
        else:
            yield key, value, field


def out_of_bounds(config: Any) -> list[str]:
    """One line for each setting whose value is outside its declared bounds."""
    problems = []
    for key, value, field in walk(config):
        for element in value if isinstance(value, list) else [value]:
            problem = _out_of_bounds(element, field.metadata)
            if problem:
                problems.append(f"{key}: given {element!r}, but it must be {problem}")
    return problems


def _out_of_bounds(value: Any, bounds: Any) -> str | None:
    if value is None:
        return None
    if bounds["choices"] is not None and value not in bounds["choices"]:
        return "one of " + ", ".join(bounds["choices"])
    if isinstance(value, float) and not math.isfinite(value):
        return "a finite number"
    if bounds["at_least"] is not None and value < bounds["at_least"]:
        return f"at least {bounds['at_least']}"
    if bounds["above"] is not None and value <= bounds["above"]:
        return f"above {bounds['above']}"
    if bounds["below"] is not None and value >= bounds["below"]:
        return f"below {bounds['below']}"
    return None


def missing(config: Any, examples: dict[str, str], prefix: str = "") -> list[str]:
    """A line for each list in which nothing is given, with what could be."""
    return [
        f"{prefix}{key}: given none; name at least one, e.g. {example}"
        for key, example in examples.items()
        if not getattr(config, key)
    ]


def unknown(kind: str, given: str, allowed: list[str]) -> str:
    """The line for a name that does not exist: what was given, the nearest name, all names."""
    near = difflib.get_close_matches(given, allowed, n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    return f"{kind} '{given}' does not exist{hint}; allowed: {', '.join(allowed)}"
