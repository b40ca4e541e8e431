from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from alibi_lm.config import Config, EvaluationConfig
from alibi_lm.data.text import TextConfig
from alibi_lm.data.tokens import TokenizedCorpus, prepare
from alibi_lm.errors import UserError
from alibi_lm.positions.t5 import T5Config
from alibi_lm.runs.folder import check_data, load_run, open_run
from alibi_lm.runs.identity import recipe, run_name, settings, variant
from alibi_lm.runs.train import train_run


def prepared(config: Config) -> TokenizedCorpus:
    return prepare(config.data, config.tokenizer, Path(config.cache))


def test_the_name_follows_what_decides_the_weights(small_config: Callable[..., Config]) -> None:
    config = small_config()
    data = prepared(config)
    name = run_name(config, data)
    assert name.startswith("text-alibi-L16-s0-")
    for same in (
        replace(config, evaluation=EvaluationConfig(lengths=[3])),
        replace(config, device="auto", output="elsewhere", cache="there"),
    ):
        assert run_name(same, data) == name
    for other in (
        replace(config, seed=1),
        replace(config, dtype="bfloat16"),
        replace(config, model=replace(config.model, dropout=0.1)),
        replace(config, optim=replace(config.optim, lr=1e-4)),
    ):
        assert run_name(other, data) != name


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
        names.append(run_name(other, prepared(other)))
    assert names[0] == names[1] != names[2]


def test_a_recipe_is_shared_by_schemes_lengths_and_seeds(
    small_config: Callable[..., Config],
) -> None:
    config = small_config()
    data = prepared(config)
    shared = recipe(config, data)
    assert recipe(small_config("rotary", seed=3, train_length=32), data) == shared
    assert recipe(replace(config, optim=replace(config.optim, lr=1e-4)), data) != shared
    assert recipe(small_config("t5"), data) == shared
    # A scheme's own settings make another curve in the same comparison.
    other = replace(config, position=T5Config(max_distance=64))
    assert recipe(other, data) == shared
    assert variant(other) == "max_distance=64"
    assert variant(config) == ""
    assert "optim.lr=0.005" in settings(config).split()
    assert not any(word.startswith(("position", "seed")) for word in settings(config).split())


def test_another_run_in_the_folder_is_refused(small_config: Callable[..., Config]) -> None:
    config = small_config(run="mine")
    open_run(config, prepared(config))
    open_run(config, prepared(config))
    other = small_config("rotary", run="mine")
    with pytest.raises(UserError) as caught:
        open_run(other, prepared(other))
    message = str(caught.value)
    assert "position.name is 'alibi' there and 'rotary' here" in message
    assert "\n" not in message


def test_load_gives_the_configuration_back(small_config: Callable[..., Config]) -> None:
    config = small_config("t5")
    run = train_run(config, prepared(config))
    loaded = load_run(run.path)
    assert loaded.config == config
    check_data(loaded, prepared(loaded.config))


def test_folders_that_are_no_trained_run(
    small_config: Callable[..., Config], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="is no run folder"):
        load_run(tmp_path)
    config = small_config()
    run = open_run(config, prepared(config))
    with pytest.raises(UserError, match="is not trained to the end"):
        load_run(run.path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("d_model: 16", "d_model: 32", "model.d_model is 16 there and 32 here"),
        ("d_model: 16", "d_modle: 16", "d_modle"),
        ("name: alibi", "name: alibaba", "alibaba"),
        ("seed: 0", "seed: [", "is damaged"),
    ],
)
def test_a_changed_configuration_is_refused(
    small_config: Callable[..., Config], old: str, new: str, message: str
) -> None:
    config = small_config()
    run = train_run(config, prepared(config))
    file = run.path / "config.yaml"
    file.write_text(file.read_text().replace(old, new))
    with pytest.raises(UserError) as caught:
        loaded = load_run(run.path)
        check_data(loaded, prepared(loaded.config))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_changed_text_is_refused(small_config: Callable[..., Config], tmp_path: Path) -> None:
    config = small_config()
    assert isinstance(config.data, TextConfig)
    text = tmp_path / "text.txt"
    text.write_text(Path(config.data.train[0]).read_text())
    config = replace(config, data=replace(config.data, train=[str(text)]))
    run = train_run(config, prepared(config))
    text.write_text(text.read_text() + "one more line\n")
    loaded = load_run(run.path)
    with pytest.raises(UserError, match="data_hash is"):
        check_data(loaded, prepared(loaded.config))
