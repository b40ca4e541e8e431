"""A scheme written inside a setting: its name, or a mapping with its kind and its settings.

rotary        {kind: rotary, theta: 1e6, window: 64}
"""

import dataclasses
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from alibi_lm.errors import SettingsError
from alibi_lm.positions.base import SCHEMES, PositionConfig
from alibi_lm.settings import out_of_bounds, unknown


def read_spec(spec: Any, where: str, base: PositionConfig | None = None) -> PositionConfig:
    """The settings that a spec stands for; a SettingsError if it is none.

    where: the setting that holds it, for the error. base: settings that a mapping without another
    kind changes; None: the kind must be named.
    """
    if isinstance(spec, str):
        spec = {"kind": spec}
    if not isinstance(spec, dict) or not all(isinstance(key, str) for key in spec):
        raise SettingsError(
            [f"{where}: given {spec}, but it must be a scheme or {{kind:rotary,theta:1e6}}"]
        )
    values = dict(spec)
    kind = values.pop("kind", base.kind if base else None)
    if kind not in SCHEMES.settings:
        raise SettingsError([f"{where}: {unknown('position', str(kind), list(SCHEMES.settings))}"])
    settings = SCHEMES.settings[kind]
    names = [field.name for field in dataclasses.fields(settings)]
    if surplus := [key for key in values if key not in names]:
        raise SettingsError([f"{where}: {unknown('setting', key, names)}" for key in surplus])
    start = base if base is not None and base.kind == kind else settings
    typed = OmegaConf.structured(start)
    try:
        for key, value in values.items():
            OmegaConf.update(typed, key, value, merge=False)  # a list or mapping as a whole
        config = OmegaConf.to_object(typed)
    except OmegaConfBaseException as error:
        raise SettingsError([f"{where}: {str(error).splitlines()[0]}"]) from error
    assert isinstance(config, PositionConfig)
    if problems := out_of_bounds(config):
        raise SettingsError([f"{where}: {problem}" for problem in problems])
    return config
