"""A setting: a dataclass field that carries its meaning and its bounds; and kinds of settings.

Every configuration dataclass of the project declares its fields with `setting`, so that one
declaration gives the type (checked when the configuration is composed), the bounds (checked by
`out_of_bounds` before any work), the line that `--help` prints, and whether the setting belongs to
the identity of a run. A part of the configuration that comes in kinds (schemes, data sources,
tokenizers, optimizers) has a `Registry`, which tells Hydra what can be chosen.
"""

import dataclasses
import difflib
import math
import re
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")
# OmegaConf's types in a user's words.
TYPES = {"Integer": "a whole number", "Float": "a number", "Boolean": "true or false"}


def setting(
    default: Any,
    meaning: str,
    *,
    at_least: float | None = None,
    at_most: float | None = None,
    above: float | None = None,
    below: float | None = None,
    choices: tuple[str, ...] | None = None,
    identity: bool = True,
) -> Any:
    """A dataclass field with its meaning and bounds; for lists the bounds hold for each element.

    identity: whether it can change the trained weights, and so is part of a run's identity; False
    for a part of the configuration holds for all its settings.
    """
    metadata = {
        "meaning": meaning,
        "at_least": at_least,
        "at_most": at_most,
        "above": above,
        "below": below,
        "choices": choices,
        "identity": identity,
    }
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: list(default), metadata=metadata)
    if dataclasses.is_dataclass(default) and isinstance(default, type):
        return dataclasses.field(default_factory=default, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


class Registry:
    """The kinds that one part of the configuration comes in, by name, in order of registration.

    `@REGISTRY.add("name", Settings)` stands over the class or function that takes the settings;
    `@REGISTRY.register("name")` over settings that need none. Both make `group=name` a choice on
    the command line. Settings know their kind: `settings.kind`.
    """

    def __init__(self, group: str) -> None:
        self.group = group
        self.settings: dict[str, type[Any]] = {}
        self.made: dict[str, Any] = {}
        REGISTRIES[group] = self

    def add(self, name: str, settings: type[Any]) -> Callable[[T], T]:
        """Register a class or function and the dataclass of its settings under a name."""

        def keep(made: T) -> T:
            self.register(name)(settings)
            self.made[name] = made
            return made

        return keep

    def register(self, name: str) -> Callable[[type[T]], type[T]]:
        """Register a dataclass of settings under a name."""

        def keep(settings: Any) -> Any:
            if name in self.settings:
                raise ValueError(f"{self.group} '{name}' is registered already")
            if not re.fullmatch(r"\w+", name):
                raise ValueError(f"{self.group} '{name}' must be letters, digits and _")
            if "__dataclass_fields__" not in vars(settings):
                raise TypeError(f"the settings of {self.group} '{name}' must be a @dataclass")
            for field in dataclasses.fields(settings):
                if "meaning" not in field.metadata:
                    raise TypeError(f"{field.name} of {self.group} '{name}' needs setting(...)")
            if problems := out_of_bounds(settings()):
                raise ValueError(f"the default of {self.group} '{name}': {problems[0]}")
            settings.kind = name
            self.settings[name] = settings
            return settings

        return keep

    @property
    def nodes(self) -> dict[str, Any]:
        """All that can be chosen by name, with the settings or the class of settings of each."""
        return dict(self.settings)

    @property
    def choices(self) -> list[str]:
        """The names of all that can be chosen."""
        return list(self.nodes)

    def build(self, settings: Any, *arguments: Any) -> Any:
        """Call what is registered for the settings' kind with them."""
        return self.made[settings.kind](settings, *arguments)


REGISTRIES: dict[str, Registry] = {}


def walk(
    config: Any, prefix: str = "", identity_only: bool = False
) -> list[tuple[str, Any, dataclasses.Field[Any]]]:
    """(dotted key, value, field) of every leaf setting, or of those that belong to the identity."""
    leaves = []
    for field in dataclasses.fields(config):
        if identity_only and not field.metadata["identity"]:
            continue
        value = getattr(config, field.name)
        key = prefix + field.name
        if dataclasses.is_dataclass(value):
            leaves += walk(value, key + ".", identity_only)
        else:
            leaves.append((key, value, field))
    return leaves


def default_of(field: "dataclasses.Field[Any]") -> Any:
    """What a setting is if nothing is given."""
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def changed_settings(config: Any, identity_only: bool = False) -> dict[str, Any]:
    """The settings that differ from their defaults, or of those what belongs to the identity."""
    return {
        key: value
        for key, value, field in walk(config, identity_only=identity_only)
        if value != default_of(field)
    }


def words(values: dict[str, Any]) -> str:
    """Settings as they are given on the command line, without spaces: `key=value key=[a,b]`."""
    return " ".join(f"{key}={_word(value)}" for key, value in values.items())


def _word(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_word, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}:{_word(v)}' for key, v in value.items())}}}"
    return "null" if value is None else str(value).replace(" ", "")


def explain_value(key: str, message: str) -> str:
    """OmegaConf's message on a value that a setting cannot have, in a user's words."""
    first_line = message.strip().splitlines()[0]
    if "is not a ListConfig" in first_line:
        return f"{key}: given one value, but it must be a list, '{key}=[a,b]'"
    if found := re.match(r"Value '(.*)' of type .* could not be converted to (\w+)", first_line):
        return f"{key}: given {found[1]}, but it must be {TYPES.get(found[2], found[2])}"
    return f"{key}: {first_line}"


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
    if bounds["at_most"] is not None and value > bounds["at_most"]:
        return f"at most {bounds['at_most']}"
    if bounds["above"] is not None and value <= bounds["above"]:
        return f"above {bounds['above']}"
    if bounds["below"] is not None and value >= bounds["below"]:
        return f"below {bounds['below']}"
    return None


def missing(config: Any, examples: dict[str, str], prefix: str = "") -> list[str]:
    """A line for each empty list among these settings, with an example of what to give."""
    return [
        f"{prefix}{key}: given none; name at least one, e.g. {example}"
        for key, example in examples.items()
        if not getattr(config, key)
    ]


def unknown(kind: str, given: str, allowed: list[str]) -> str:
    """The line for a name that does not exist: what was given, the nearest name, all names."""
    near = difflib.get_close_matches(given, allowed, n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    names = f"; allowed: {', '.join(allowed)}" if allowed else ""
    return f"{kind} '{given}' does not exist{hint}{names}"
