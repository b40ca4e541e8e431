import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch

from alibi_lm.errors import UserError
from alibi_lm.model.config import ModelConfig
from alibi_lm.model.decoder import Decoder
from alibi_lm.positions import SCHEMES
from alibi_lm.training.checkpoint import (
    Checkpoints,
    State,
    load_weights,
    pack_weights,
    restore,
    state_of,
)

SIZES = ModelConfig(n_layers=1, n_heads=2, d_model=8, d_ff=16)


def decoder(position: str = "t5", seed: int = 0, vocab: int = 20) -> Decoder:
    return Decoder(SIZES, SCHEMES.settings[position](), vocab, 64, seed)


def test_round_trip(tmp_path: Path) -> None:
    saved, loaded = decoder(seed=0), decoder(seed=1)
    (tmp_path / "model.safetensors").write_bytes(pack_weights(saved))
    load_weights(loaded, tmp_path / "model.safetensors")
    for name, value in saved.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name])
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_a_part_alone(tmp_path: Path) -> None:
    saved, loaded = decoder(seed=0), decoder(seed=1)
    (tmp_path / "model.safetensors").write_bytes(pack_weights(saved))
    load_weights(loaded.position, tmp_path / "model.safetensors", part="position.")
    for name, value in saved.position.state_dict().items():
        assert torch.equal(value, loaded.position.state_dict()[name])
    assert not torch.equal(saved.embedding.weight, loaded.embedding.weight)


def test_what_does_not_fit_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(pack_weights(decoder("t5")))
    for other in (decoder("alibi"), decoder("t5", vocab=21)):
        with pytest.raises(UserError, match="does not fit the run's configuration") as caught:
            load_weights(other, path)
        assert "\n" not in str(caught.value)


def test_damaged_or_missing(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(pack_weights(decoder()))
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(UserError, match="is damaged"):
        load_weights(decoder(), path)
    with pytest.raises(UserError, match="cannot read"):
        load_weights(decoder(), tmp_path / "gone.safetensors")


def trained(position: str, updates: int) -> tuple[Decoder, torch.optim.Optimizer]:
    model = decoder(position)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    for _ in range(updates):
        update(model, optimizer)
    return model, optimizer


def update(model: Decoder, optimizer: torch.optim.Optimizer) -> None:
    model(torch.arange(6)[None], torch.arange(1, 7)[None]).sum().backward()
    optimizer.step()
    optimizer.zero_grad()


@pytest.mark.parametrize("position", ["none", "t5"])
def test_a_state_taken_up_goes_on_bit_for_bit(tmp_path: Path, position: str) -> None:
    model, optimizer = trained(position, 3)
    notes = {"recent": [0.1, 1 / 3], "seconds": 1.5, "first_step_seconds": None}
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    tensors, values = state_of(model, optimizer)
    checkpoints.save(State(3, tensors, notes | {"optimizer": values}))
    state = checkpoints.newest()
    assert state is not None
    assert state.step == 3
    assert {key: state.notes[key] for key in notes} == notes
    again, its_optimizer = trained(position, 0)
    restore(again, its_optimizer, state.tensors, state.notes["optimizer"])
    update(model, optimizer)
    update(again, its_optimizer)
    (wanted, groups), (found, its_groups) = (
        state_of(model, optimizer),
        state_of(again, its_optimizer),
    )
    assert wanted.keys() == found.keys()
    for name, tensor in found.items():
        assert torch.equal(tensor, wanted[name]), name
    for mine, theirs in zip(its_groups, groups, strict=True):
        assert mine | {"betas": ()} == theirs | {"betas": ()}  # a list, once JSON has held it


class Counting(torch.optim.SGD):
    """Keeps a counter in its parameter group, as schedule-free optimizers do."""

    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            group["k"] = group.get("k", 0) + 1
            group["lr"] = 0.1 / group["k"]
        return super().step(closure)


def test_what_an_optimizer_keeps_in_its_groups_is_restored() -> None:
    model, again = decoder(), decoder()
    models = (model, again)
    optimizer, its_optimizer = (Counting(m.parameters(), 0.1, 0.9) for m in models)
    for _ in range(3):
        update(model, optimizer)
    tensors, groups = state_of(model, optimizer)
    restore(again, its_optimizer, {k: v.clone() for k, v in tensors.items()}, groups)
    update(model, optimizer)
    update(again, its_optimizer)
    assert its_optimizer.param_groups[0]["k"] == 4
    assert all(map(torch.equal, model.parameters(), again.parameters()))


def test_the_last_two_are_kept_and_the_newest_whole_one_is_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    assert checkpoints.newest() is None
    for step in (1, 2, 30):
        checkpoints.save(State(step, {"x": torch.full((100,), float(step))}, {}))
    files = sorted((tmp_path / "checkpoints").iterdir())
    assert [file.name.split("-")[1] for file in files] == ["00000002", "00000030"]
    for damage in (lambda old: old[:-1], lambda old: b"\0" + old[1:], lambda old: b""):
        newest = files[-1].read_bytes()
        files[-1].write_bytes(damage(newest))
        state = checkpoints.newest()
        assert state is not None
        assert state.step == 2
        assert torch.equal(state.tensors["x"], torch.full((100,), 2.0))
        assert f"warning: {files[-1]} is damaged" in capsys.readouterr().out
        files[-1].write_bytes(newest)
    # Going on from 2, the damaged one of step 30 goes, and 2 stays until 3 is followed.
    files[-1].write_bytes(b"")
    checkpoints.save(State(3, {"x": torch.zeros(100)}, {}))
    steps = [file.name.split("-")[1] for file in sorted((tmp_path / "checkpoints").iterdir())]
    assert steps == ["00000002", "00000003"]
    for file in (tmp_path / "checkpoints").iterdir():
        file.write_bytes(b"")
    assert checkpoints.newest() is None
    checkpoints.clear()
    assert not (tmp_path / "checkpoints").exists()


def test_weights_that_are_not_those_that_were_trained_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    content = pack_weights(decoder())
    path.write_bytes(content)
    load_weights(decoder(), path, sha256=hashlib.sha256(content).hexdigest())
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    load_weights(decoder(), path)
    with pytest.raises(
        UserError, match="its checksum is another; remove it to train the run again"
    ):
        load_weights(decoder(), path, sha256=hashlib.sha256(content).hexdigest())
