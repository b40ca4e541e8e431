from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from samples import trained

from alibi_lm.config import Config
from alibi_lm.data.sources.text import TextConfig
from alibi_lm.errors import UserError
from alibi_lm.evaluation.protocols import EvaluationConfig
from alibi_lm.positions.t5 import T5Config
from alibi_lm.runs.folder import load_run
from alibi_lm.runs.identity import Identity
from alibi_lm.runs.plan import plan_run


def name_of(config: Config) -> str:
    return plan_run(config).path.name


def identity_of(config: Config) -> Identity:
    return plan_run(config).identity


def test_the_name_follows_what_decides_the_weights(small_config: Callable[..., Config]) -> None:
    config = small_config()
    name = name_of(config)
    assert name.startswith("text-alibi-L16-s0-")
    for same in (
        replace(config, evaluation=EvaluationConfig(lengths=[3])),
        replace(config, device="auto", output=config.output + "/elsewhere", backend="reference"),
    ):
        assert name_of(same) == name
    for other in (
        replace(config, seed=1),
        replace(config, dtype="bfloat16"),
        replace(config, model=replace(config.model, dropout=0.1)),
        replace(config, optim=replace(config.optim, lr=1e-4)),
    ):
        assert name_of(other) != name


def test_the_name_follows_the_text_not_its_place(
    small_config: Callable[..., Config], tmp_path: Path
) -> None:
    config = small_config()
    assert isinstance(config.data, TextConfig)
    text = Path(config.data.train[0]).read_text()
    moved, changed = tmp_path / "moved.txt", tmp_path / "changed.txt"
    moved.write_text(text)
    changed.write_text(text + "one more line\n")
    names = []
    for path in (*config.data.train, moved, changed):
        other = replace(config, data=replace(config.data, train=[str(path)]))
        names.append(name_of(other))
    assert names[0] == names[1] != names[2]


def test_a_recipe_is_shared_by_schemes_lengths_and_seeds(
    small_config: Callable[..., Config],
) -> None:
    config = small_config()
    shared = identity_of(config).recipe
    assert identity_of(small_config("rotary", seed=3, train_length=32)).recipe == shared
    assert identity_of(replace(config, optim=replace(config.optim, lr=1e-4))).recipe != shared
    assert identity_of(small_config("t5")).recipe == shared
    # A scheme's own settings make another curve in the same comparison.
    other = identity_of(replace(config, position=T5Config(max_distance=64)))
    assert other.recipe == shared
    assert other.variant == "max_distance=64"
    assert identity_of(config).variant == ""
    slower = identity_of(replace(config, optim=replace(config.optim, lr=1e-4)))
    assert "optim.lr=0.0001" in slower.settings.split()
    assert not any(word.startswith(("position", "seed")) for word in slower.settings.split())


def test_another_run_in_the_folder_is_refused(small_config: Callable[..., Config]) -> None:
    config = small_config(run="mine")
    plan_run(config).create()
    plan_run(config).create()
    other = small_config("rotary", run="mine")
    with pytest.raises(UserError) as caught:
        plan_run(other)
    message = str(caught.value)
    assert "position is 'alibi' there and 'rotary' here" in message
    assert "\n" not in message


def test_load_gives_the_configuration_back(small_config: Callable[..., Config]) -> None:
    config = small_config("t5")
    run = trained(config)
    loaded = load_run(run.path)
    assert loaded.config == config
    assert loaded.identity == run.identity


def test_folders_that_are_no_trained_run(
    small_config: Callable[..., Config], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="is not a run folder"):
        load_run(tmp_path)
    config = small_config()
    run = plan_run(config)
    run.create()
    with pytest.raises(UserError, match="is not completely trained"):
        load_run(run.path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("d_model: 16", "d_model: 32", "model.d_model is 16 there and 32 here"),
        ("d_model: 16", "d_modle: 16", "d_modle"),
        ("kind: alibi", "kind: alibaba", "alibaba"),
        ("seed: 0", "seed: [", "cannot be read"),
    ],
)
def test_a_changed_configuration_is_refused(
    small_config: Callable[..., Config], old: str, new: str, message: str
) -> None:
    config = small_config()
    run = trained(config)
    file = run.path / "config.yaml"
    file.write_text(file.read_text().replace(old, new))
    with pytest.raises(UserError) as caught:
        load_run(run.path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_changed_text_is_refused(small_config: Callable[..., Config], tmp_path: Path) -> None:
    config = small_config()
    assert isinstance(config.data, TextConfig)
    text = tmp_path / "text.txt"
    text.write_text(Path(config.data.train[0]).read_text())
    config = replace(config, data=replace(config.data, train=[str(text)]))
    run = trained(config)
    text.write_text(text.read_text() + "one more line\n")
    with pytest.raises(UserError, match="data_hash is"):
        load_run(run.path)


def test_a_setting_that_is_added_renames_no_run(
    small_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trained before the setting was there, a run is found, read and evaluated after."""
    config = small_config("t5")
    run = trained(config)
    text = (run.path / "config.yaml").read_text()
    assert "grad_clip: 1.0\n" in text  # say that it was added after the run was trained
    (run.path / "config.yaml").write_text(text.replace("  grad_clip: 1.0\n", ""))
    manifest = (run.path / "manifest.json").read_text()
    assert "grad_clip" not in manifest
    assert load_run(run.path).config == config
    assert plan_run(config).check()
    # Changed from its default, it makes another run.
    other = plan_run(replace(config, optim=replace(config.optim, grad_clip=0.5)))
    assert other.path != run.path
    assert not other.check()
