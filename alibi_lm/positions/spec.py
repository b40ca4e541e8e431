"""A scheme written inside a setting: its name, or a mapping with its kind and its settings.

rotary        {kind: rotary, theta: 1e6, window: 64}
"""

import dataclasses
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from alibi_lm.errors import SettingsError
from alibi_lm.positions.base import SCHEMES, PositionConfig
from alibi_lm.settings import changed_settings, explain_value, out_of_bounds, unknown, words


def read_spec(spec: Any, where: str, base: PositionConfig | None = None) -> PositionConfig:
    """The settings that a spec stands for; a SettingsError if it is none.

    where: the setting that holds it, for the error. base: settings that a mapping changes; another
    kind keeps of them what `shared_settings` says. None: the kind must be named.
    """
    if isinstance(spec, str):
        spec = {"kind": spec}
    if not isinstance(spec, dict) or not all(isinstance(key, str) for key in spec):
        raise SettingsError(
            [f"{where}: given {spec}, but it must be a scheme or {{kind:rotary,theta:1e6}}"]
        )
    values = dict(spec)
    kind = values.pop("kind", base.kind if base else None)
    if kind is None:
        raise SettingsError([f"{where}: given {spec}, but it must name a kind, {{kind:rotary}}"])
    if isinstance(kind, str) and kind in SCHEMES.named:
        named = SCHEMES.named[kind].settings
        kind, values = named.kind, changed_settings(named) | values
    if not isinstance(kind, str) or kind not in SCHEMES.settings:
        raise SettingsError([f"{where}: {unknown('position', str(kind), SCHEMES.choices)}"])
    settings = SCHEMES.settings[kind]
    names = [field.name for field in dataclasses.fields(settings)]
    if surplus := [key for key in values if key not in names]:
        raise SettingsError([f"{where}: {unknown('setting', key, names)}" for key in surplus])
    if base is not None and base.kind != kind:
        kept = shared_settings(type(base), settings)
        values = {name: getattr(base, name) for name in kept} | values
    typed = OmegaConf.structured(base if base is not None and base.kind == kind else settings)
    for key, value in values.items():
        try:
            OmegaConf.update(typed, key, value, merge=False)  # a list or mapping as a whole
        except OmegaConfBaseException as error:
            raise SettingsError([f"{where}.{explain_value(key, str(error))}"]) from error
    config = OmegaConf.to_object(typed)
    assert isinstance(config, PositionConfig)
    if problems := out_of_bounds(config):
        raise SettingsError([f"{where}.{problem}" for problem in problems])
    return config


def shared_settings(one: type[PositionConfig], other: type[PositionConfig]) -> list[str]:
    """The settings that two kinds have in common: those of what both are made from.

    All of a rotary model's for the ways to read one; else those that all schemes have.
    """
    shared = next(made for made in other.__mro__ if issubclass(one, made))
    return [field.name for field in dataclasses.fields(shared)]


def label(config: PositionConfig) -> str:
    """The scheme with its settings that are not the defaults, as `kind key=value ...`."""
    return " ".join(filter(None, (config.kind, words(changed_settings(config)))))


def shortest(spec: Any) -> Any:
    """The shortest spec of the same scheme, so that one scheme has one identity.

    A name if all settings are the defaults, else the kind with those that are not. What is no spec
    is left as it is.
    """
    try:
        config = read_spec(spec, "")
    except SettingsError:
        return spec
    changed = changed_settings(config)
    return {"kind": config.kind} | changed if changed else config.kind
