"""The rotations of a model of transformers: as it was loaded, or rescaled for a reading.

They are modules with frequencies that follow from its configuration's `rope_parameters`. Some keep
what they computed for one text until the next, so each text begins with fresh ones.
"""

import copy
from typing import Any

import torch

from alibi_lm.errors import UserError
from alibi_lm.machine.hub import explaining
from alibi_lm.positions import SCHEMES, PositionConfig, Sizes
from alibi_lm.positions.rope_parameters import depends_on_length, rope_parameters
from alibi_lm.settings import changed_settings, words


class Rotations:
    """Of one model; `put` puts them into it."""

    def __init__(self, model: Any, name: str) -> None:
        self.model, self.name = model, name
        self._as_loaded = rotations_of(model)
        self._now = copy.deepcopy(self._as_loaded)

    def __bool__(self) -> bool:
        """Whether it has any."""
        return bool(self._as_loaded)

    @property
    def depend_on_length(self) -> bool:
        """Whether a token's rotation depends on how the text goes on."""
        return any(depends_on_length(t) for m in self._now.values() for t in _kinds(m).values())

    def put(self) -> None:
        """Put them into the model, as if it had read nothing yet."""
        device = next(self.model.parameters()).device
        for name, module in self._now.items():
            self.model.set_submodule(name, copy.deepcopy(module).to(device))

    def read_as(self, position: PositionConfig, trained: PositionConfig, sizes: Sizes) -> None:
        """From now on rotate by these settings.

        trained: those that the model came with. Where layers rotate differently, those are changed
        that rotate so. A UserError if transformers would not compute what the settings say.
        """
        self._now = copy.deepcopy(self._as_loaded)
        if position == trained:
            return
        rotating = self._rotating_as(trained, sizes)
        if not rotating:
            raise UserError(
                f"evaluation.position: no layer of {self.name} rotates as its run says, so none "
                "can be read otherwise"
            )
        wanted, lengths = SCHEMES.build(position, sizes), (1, 2 * sizes.train_length)
        for name, kinds in rotating.items():
            made = _rescaled(self._as_loaded[name], kinds, position, sizes)
            with explaining(self.name):
                same = all(
                    _rotates_as(made, k, wanted, length) for k in kinds for length in lengths
                )
            if not same:
                raise UserError(
                    f"evaluation.position: transformers computes other frequencies of "
                    f"{type(self.model).__name__} than {words(changed_settings(position))}"
                )
            self._now[name] = made

    def rotate_as(self, position: PositionConfig, sizes: Sizes) -> bool:
        """Whether some layers rotate by these settings, as the model was loaded."""
        return bool(self._rotating_as(position, sizes))

    def _rotating_as(self, position: PositionConfig, sizes: Sizes) -> dict[str, list[str]]:
        """The modules that do, with the kinds of layers for which they do."""
        scheme = SCHEMES.build(position, sizes)
        found = {
            name: [kind for kind in _kinds(module) if _rotates_as(module, kind, scheme)]
            for name, module in self._as_loaded.items()
        }
        return {name: kinds for name, kinds in found.items() if kinds}


def rotations_of(model: Any) -> dict[str, Any]:
    """The modules that rotate by rope_parameters, by name."""
    everything = model.named_modules(remove_duplicate=False)
    return {name: module for name, module in everything if hasattr(module, "rope_type")}


def _kinds(module: Any) -> dict[str, str]:
    """The kinds of layers that a module rotates, with the type of each; "" for all alike."""
    types = module.rope_type
    return dict(types) if isinstance(types, dict) else {"": str(types)}


def _rotates_as(module: Any, kind: str, position: Any, length: int = 1) -> bool:
    """Whether a module's frequencies for texts of a length, and its factor, are our scheme's."""
    prefix = f"{kind}_" if kind else ""
    if length > 1:  # some modules choose them when they are called
        module = copy.deepcopy(module)
        module(torch.zeros(1), torch.tensor([[length - 1]]), *([kind] if kind else []))
    found = getattr(module, f"{prefix}inv_freq").float().cpu()
    factor = float(getattr(module, f"{prefix}attention_scaling"))
    ours = position.frequencies(length)
    return (
        found.shape == ours.shape
        and torch.allclose(found, ours, rtol=1e-4, atol=0)
        and abs(factor - position.attention_factor) < 1e-4
    )


def _rescaled(module: Any, kinds: list[str], position: PositionConfig, sizes: Sizes) -> Any:
    """A module like this one, which rotates layers of these kinds by other settings."""
    config = copy.deepcopy(module.config)
    parameters, max_length = rope_parameters(position, sizes)
    config.max_position_embeddings = max_length
    if kinds == [""]:
        config.rope_parameters = parameters
    else:
        by_kind = dict(config.rope_parameters)
        config.rope_parameters = by_kind | {kind: by_kind[kind] | parameters for kind in kinds}
    return type(module)(config)
