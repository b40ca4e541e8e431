"""Data sets in the hub's layout: from a folder, and from a server that answers as the hub does."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pandas
import pytest
from hub_server import REVISION, hub

from alibi_lm.data.sources.hub import HubConfig, load_hub
from alibi_lm.data.tokenizers import BytesConfig
from alibi_lm.data.tokens import prepare
from alibi_lm.errors import UserError

TEXTS = {
    "train": [f"row {n} of the training text\nwith two lines\n" for n in range(40)],
    "validation": ["held out\n", "row 3 of the training text\nwith two lines\n", "é\n"],
}


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    (folder / "data").mkdir(parents=True)
    for split, texts in TEXTS.items():
        rows = pandas.DataFrame({"id": range(len(texts)), "text": texts})
        rows.to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
    return folder


def splits(config: HubConfig) -> dict[str, list[str]]:
    return {split: list(opened()) for split, opened in load_hub(config).splits.items()}


def test_rows_are_documents(repository: Path) -> None:
    config = HubConfig(name="owner/name", path=str(repository))
    assert splits(config) == TEXTS
    config.documents = 7
    assert splits(config)["train"] == TEXTS["train"][:7]


def test_held_out_rows_are_drawn_by_what_they_say(repository: Path) -> None:
    config = HubConfig(name="owner/name", path=str(repository), held_out=0.3)
    with pytest.raises(UserError, match="has a validation split"):
        splits(config)
    config.validation = None
    found = splits(config)
    assert sorted(found["train"] + found["validation"]) == sorted(TEXTS["train"])
    assert 5 < len(found["validation"]) < 20
    config.documents = 20
    assert set(splits(config)["validation"]) < set(found["validation"])


def test_text_that_is_in_training_too_is_told(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = HubConfig(name="owner/name", path=str(repository))
    data = prepare(config, BytesConfig(), tmp_path / "cache")
    twin = len(TEXTS["validation"][1].encode()) / sum(len(t.encode()) for t in TEXTS["validation"])
    assert f"documents with {twin:.1%} of the validation split" in capsys.readouterr().out
    assert data.folder.name.startswith("owner-name-bytes-")
    kept = json.loads((data.folder / "manifest.json").read_text())
    assert kept["name"] == "owner/name"
    assert kept["splits"]["validation"]["in_train"] == pytest.approx(twin)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"column": "content"}, "data.column: given content, but a row's content does not exist"),
        ({"column": "id"}, "data.column: given id, but a row's id holds 0"),
        ({"train": "training", "held_out": 0.1}, "data.train: given training, but"),
        ({"path": "nowhere"}, "data.path: nowhere is not a folder"),
        ({"subset": "big"}, "cannot load the data set owner/name: "),
    ],
)
def test_what_cannot_be_had(repository: Path, settings: dict[str, object], said: str) -> None:
    values: dict[str, object] = {"name": "owner/name", "path": str(repository)}
    with pytest.raises(UserError) as caught:
        splits(HubConfig(**(values | settings)))  # type: ignore[arg-type]
    assert said in str(caught.value)


def test_streamed_from_a_hub(
    repository: Path,
    tmp_path: Path,
    cold_script: Callable[..., CompletedProcess[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A real process, with the library's own requests; the second time nothing is asked for."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    for key in [key for key in os.environ if key.lower().endswith("_proxy")]:
        monkeypatch.delenv(key)
    arguments = ["prepare", "data=hub", "data.name=owner/name", "tokenizer=bytes"]
    with hub("owner/name", repository) as (address, asked):
        monkeypatch.setenv("HF_ENDPOINT", address)
        done = cold_script(*arguments)
        assert done.returncode == 0, done.stderr
        assert any("train-00000-of-00001.parquet" in path for path in asked)
    (kept,) = (tmp_path / "outputs" / "cache").glob("owner-name-bytes-*/manifest.json")
    manifest = json.loads(kept.read_text())
    assert manifest["revision"] == REVISION
    assert manifest["splits"]["train"]["bytes"] == sum(map(len, TEXTS["train"]))
    again = cold_script(*arguments, f"data.revision={REVISION}")
    assert again.returncode == 0, again.stderr
    assert again.stdout.splitlines()[-3:] == done.stdout.splitlines()[-3:]
    gone = cold_script(*arguments)
    assert gone.returncode == 2
    assert "give a local copy, data.revision=COMMIT" in gone.stderr
