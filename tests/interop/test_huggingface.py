"""Models of Hugging Face as run folders: converted, evaluated and reported like our own."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT
from hub_server import refusing_hub
from samples import trained
from tiny_models import LONGEST, VOCAB, save_model, save_tokenizer

from alibi_lm.config import PretrainedConfig
from alibi_lm.data.sources.text import TextConfig
from alibi_lm.errors import SettingsError, UserError
from alibi_lm.evaluation.protocols import EvaluationConfig
from alibi_lm.evaluation.rows import Result
from alibi_lm.interop.config import ConvertConfig
from alibi_lm.interop.export import export
from alibi_lm.interop.huggingface import _label, convert
from alibi_lm.positions.alibi import AlibiConfig
from alibi_lm.positions.none import NoneConfig
from alibi_lm.runs.evaluate import evaluate_run
from alibi_lm.runs.folder import Run, load_run
from alibi_lm.runs.plan import plan_evaluation, plan_run
from alibi_lm.runs.reproduce import ReproduceConfig, reproduce

transformers = pytest.importorskip("transformers")
Script = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a few models; tests must not change them."""
    folder = tmp_path_factory.mktemp("models")
    save_model(folder / "llama", "LlamaConfig")
    save_model(folder / "adds_bos", "LlamaConfig", adds_bos=True)
    save_model(folder / "gpt2", "GPT2Config")
    save_model(folder / "bloom", "BloomConfig")
    save_model(folder / "mamba", "MambaConfig")
    return folder


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("the cat sat on the mat and saw twenty birds fly\n" * 6)
    return path


@pytest.fixture
def converted(tmp_path: Path, text: Path) -> Callable[..., Run]:
    def call(model: Path, **settings: Any) -> Run:
        config = ConvertConfig(
            source="huggingface",
            model=str(model),
            data=TextConfig(validation=[str(text)]),
            output=str(tmp_path / "out"),
            cache=str(tmp_path / "cache"),
            **settings,
        )
        assert config.problems() == []
        return convert(config)

    return call


def measured(run: Run, **settings: Any) -> list[Result]:
    member = plan_evaluation(run, EvaluationConfig(**settings), "cpu")
    return evaluate_run(member.run, member.wanted)


def reference(folder: Path, inputs: list[int], targets: list[int]) -> np.ndarray:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.inference_mode():
        logits = model(torch.tensor([inputs]), use_cache=False).logits[0].float()
    losses = F.cross_entropy(logits, torch.tensor(targets), reduction="none")
    return losses.numpy()


def test_a_run_without_weights_of_its_own(models: Path, converted: Callable[..., Run]) -> None:
    run = converted(models / "llama")
    assert sorted(p.name for p in run.path.iterdir() if p.name != ".lock") == [
        *("config.yaml", "manifest.json", "tokenizer.json"),
    ]
    assert run.path.name.startswith("llama-text-rotary-L48-")
    assert load_run(run.path).identity == run.identity
    assert converted(models / "llama").path == run.path  # again: the same run
    results = measured(run, lengths=[16, LONGEST, 2 * LONGEST])
    row = results[0].row
    assert (row.position, row.train_length, row.train_tokens) == ("rotary", LONGEST, None)
    assert (row.variant, row.settings) == ("model=llama", "model=pretrained")
    assert (row.backend, row.bos, row.lost) == ("sdpa", "start", 0)
    assert {r.row.tokens for r in results} == {run.data.split("validation").tokens}
    # To the token, at the start of the text: BOS, then bytes.
    stream = run.data.split("validation").stream.astype(int).tolist()
    expected = reference(models / "llama", [1, *stream[1:16]], stream[1:17])
    losses = results[0].losses()
    assert losses is not None
    np.testing.assert_allclose(losses[:16], expected, atol=1e-5)


def test_converting_again_takes_what_is_given(
    models: Path, converted: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another BOS, a folder that has moved, a first time that was killed; another run if the end
    token is another. A name may be relative."""
    folder = shutil.copytree(models / "llama", tmp_path / "a" / "llama")
    monkeypatch.chdir(tmp_path / "a")
    run = converted(Path("llama"))
    monkeypatch.chdir(tmp_path)
    assert load_run(run.path).config.pretrained.name == str(folder)  # type: ignore[attr-defined]
    assert converted(folder, bos="none").path == run.path
    assert load_run(run.path).config.evaluation.bos == "none"
    (tmp_path / "b").mkdir()
    moved = folder.rename(tmp_path / "b" / "llama")
    assert converted(moved).path == run.path
    assert measured(load_run(run.path), lengths=[16])[0].row.status == "complete"
    manifest = run.manifest()
    del manifest["weights_of"], manifest["n_parameters"]
    (run.path / "manifest.json").write_text(json.dumps(manifest))
    assert converted(moved).is_trained
    assert converted(moved, end="<s>").path != run.path


def test_what_rows_call_it() -> None:
    def label(**settings: Any) -> str:
        wanted = ConvertConfig(source="huggingface", **settings)
        return _label(wanted, wanted.model or "")

    assert label(model="owner/name") == "owner/name"
    assert label(model="owner/name", revision="step1000") == "owner/name@step1000"
    assert label(model="owner/name", run="mine") == "mine"


def test_ours_come_back(converted: Callable[..., Run], small_config: Any, tmp_path: Path) -> None:
    """An exported run, converted: the same losses, and its own code only when asked for."""
    own = trained(small_config("alibi"))
    folder = export(own, tmp_path / "exported").path
    run = converted(folder, trust_remote_code=True, train_length=16)
    assert run.config.position == own.config.position
    theirs = measured(run, lengths=[40], bos="none")[0].losses()
    text = run.config.data
    same = load_run(own.path, text=text)
    ours = measured(same, lengths=[40])[0].losses()
    assert theirs is not None and ours is not None
    np.testing.assert_allclose(theirs, ours, atol=1e-5)


def test_beginning_of_text(models: Path, converted: Callable[..., Run]) -> None:
    """By itself in every window only where the tokenizer puts it before each text."""
    run = converted(models / "adds_bos")
    assert run.config.evaluation.bos == "window"
    stream = run.data.split("validation").stream.astype(int).tolist()
    found = {
        bos: measured(run, lengths=[16], bos=bos)[0] for bos in ("none", "start", "window", None)
    }
    assert found[None].row.bos == "window"
    losses = {bos: result.losses() for bos, result in found.items()}
    folder = models / "adds_bos"
    second = {
        "none": reference(folder, stream[16:32], stream[17:33]),
        "start": reference(folder, stream[16:32], stream[17:33]),
        "window": reference(folder, [1, *stream[17:32]], stream[17:33]),
    }
    first = {
        "none": reference(folder, stream[:16], stream[1:17]),
        "start": reference(folder, [1, *stream[1:16]], stream[1:17]),
    }
    first["window"] = first["start"]
    for bos in second:
        got = losses[bos]
        assert got is not None and len(got) == len(stream) - 1
        np.testing.assert_allclose(got[:16], first[bos], atol=1e-5)
        np.testing.assert_allclose(got[16:32], second[bos], atol=1e-5)
    labels = {result.row.measurement.label for result in found.values()}
    assert len(labels) == 3


@pytest.mark.parametrize("protocol", ["sliding", "same_targets"])
def test_beginning_of_text_in_windows_that_overlap(
    protocol: str, models: Path, converted: Callable[..., Run]
) -> None:
    """A target's context is BOS and the tokens before it, as many in all as the protocol says."""
    run = converted(models / "adds_bos")
    stream = run.data.split("validation").stream.astype(int).tolist()
    (result,) = measured(run, protocols=[protocol], lengths=[16], stride=4, targets=20)
    losses, n_targets = result.losses(), len(stream) - 1
    spans = result.row.measurement.protocol.spans(n_targets)
    assert losses is not None and len(losses) == (n_targets if protocol == "sliding" else 20)
    start, scored_from, stop = spans[7].tolist()
    inputs = [1, *stream[start + 1 : stop]]
    expected = reference(models / "adds_bos", inputs, stream[start + 1 : stop + 1])
    before = int((spans[:7, 2] - spans[:7, 1]).sum())
    scored = stop - scored_from
    np.testing.assert_allclose(losses[before : before + scored], expected[-scored:], atol=1e-5)


def test_readings_are_rows_of_their_own(models: Path, converted: Callable[..., Run]) -> None:
    run = converted(models / "llama")
    wanted = [{}, {"scaling": "linear", "factor": 2.0}, {"scaling": "dynamic", "factor": 2.0}]
    results = measured(run, lengths=[96, 16], position=wanted)
    by_changes = {(r.row.changes, r.row.eval_length): r.row for r in results}
    assert len(by_changes) == 6
    linear = "position.scaling=linear position.factor=2.0"
    dynamic = linear.replace("linear", "dynamic")
    assert by_changes["", 96].loss != by_changes[linear, 96].loss != by_changes[dynamic, 96].loss
    assert not by_changes[dynamic, 96].prefix_consistent
    # After 96 tokens dynamic frequencies are those of 16 again: nothing is kept.
    assert by_changes[dynamic, 16].loss == pytest.approx(by_changes["", 16].loss, abs=1e-6)


LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5000.0,
    "factor": 8.0,
    "low_freq_factor": 0.5,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 12,
}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1.0, 1.1, 1.2, 1.3],
    "long_factor": [1.0, 2.0, 3.0, 4.0],
    "original_max_position_embeddings": 24,
}


@pytest.mark.parametrize(
    ("name", "parameters", "variant"),
    [
        (
            "LlamaConfig",
            LLAMA3,
            "theta=5000.0 scaling=llama3 factor=8.0 original_length=12 low_freq_factor=0.5",
        ),
        (
            "Phi3Config",
            LONGROPE,
            "scaling=longrope factor=2.0 original_length=24 short_factors=[1.0,1.1,1.2,1.3] "
            "long_factors=[1.0,2.0,3.0,4.0]",
        ),
    ],
)
def test_a_model_with_a_scaling_of_its_own(
    name: str,
    parameters: dict[str, Any],
    variant: str,
    converted: Callable[..., Run],
    tmp_path: Path,
) -> None:
    """It is told, kept as it is, and replaced as a whole by another."""
    # Phi-3 has the original length as a setting of its own, too.
    length = {"original_max_position_embeddings": parameters["original_max_position_embeddings"]}
    own = length if name == "Phi3Config" else {}
    folder = save_model(tmp_path / "scaled", name, rope_parameters=parameters, **own)
    run = converted(folder)
    assert run.identity.variant == f"model=scaled {variant}"
    stream = run.data.split("validation").stream.astype(int).tolist()
    for length in (16, 60):
        (result,) = measured(run, lengths=[length], bos="none")
        losses = result.losses()
        assert losses is not None
        expected = reference(folder, stream[:length], stream[1 : length + 1])
        np.testing.assert_allclose(losses[:length], expected, atol=1e-5)
    (result,) = measured(run, lengths=[60], position={"scaling": "linear", "factor": 2})
    assert "position.scaling=linear" in result.row.changes.split()
    assert "position.original_length=null" in result.row.changes.split()
    if name == "Phi3Config":  # the class refuses other types in files
        return
    plain = {"rope_type": "linear", "rope_theta": parameters["rope_theta"], "factor": 2.0}
    other = shutil.copytree(folder, tmp_path / "linear")
    config = json.loads((other / "config.json").read_text()) | {"rope_parameters": plain}
    (other / "config.json").write_text(json.dumps(config))
    (again,) = measured(converted(other), lengths=[60])
    assert again.row.loss == pytest.approx(result.row.loss, abs=1e-6)


@pytest.mark.parametrize(
    ("position", "line"),
    [
        ({"kind": "none"}, "can only be read by other frequencies: theta, scaling"),
        ({"window": 8}, "given position.window=8, but a pretrained model can only"),
        ({"scaling": "yran", "factor": 2}, "given 'yran', but it must be one of none, linear"),
        ({"scaling": "longrope_dynamic", "factor": 2, "long_factors": [1, 1, 1, 2]}, "compute"),
        ({"scaling": "linear"}, "position.factor: given 1, which leaves"),
        ({"kind": "rope"}, "position 'rope' does not exist"),
    ],
)
def test_readings_that_it_does_not_know(
    position: dict[str, Any], line: str, models: Path, converted: Callable[..., Run]
) -> None:
    with pytest.raises(SettingsError, match=line):
        measured(converted(models / "llama"), position=position)


def test_only_rotations_are_read_otherwise(models: Path, converted: Callable[..., Run]) -> None:
    run = converted(models / "bloom", train_length=32)
    with pytest.raises(SettingsError, match=r"bloom \(position=alibi\) has no rope_parameters"):
        measured(run, position={"scale": 2.0})


def test_a_table_ends_and_the_rest_goes_on(models: Path, converted: Callable[..., Run]) -> None:
    run = converted(models / "gpt2")
    rows = [r.row for r in measured(run, lengths=[LONGEST, LONGEST + 1])]
    assert [row.status for row in rows] == ["complete", "refused"]
    assert rows[1].reason == f"it has {LONGEST} positions"


def test_alibi_in_16_bits_is_warned_of(
    models: Path, converted: Callable[..., Run], capsys: pytest.CaptureFixture[str]
) -> None:
    run = converted(models / "bloom", train_length=32)
    measured(run, lengths=[16])
    assert "warning" not in capsys.readouterr().out
    rows = measured(run, lengths=[16], dtype="bfloat16")
    assert "in bfloat16 transformers rounds ALiBi's biases" in capsys.readouterr().out
    assert rows[0].row.dtype == "bfloat16"


def test_falcon_divides_alibi_and_rounds_it(
    tmp_path: Path, converted: Callable[..., Run], capsys: pytest.CaptureFixture[str]
) -> None:
    run = converted(save_model(tmp_path / "falcon", "FalconConfig", alibi=True), train_length=32)
    assert run.config.position == AlibiConfig(inside=True)
    measured(run, lengths=[16])
    assert "in float32 transformers rounds ALiBi's biases" in capsys.readouterr().out


def with_code(folder: Path, models: Path, base: str, body: str) -> Path:
    """A model of a class that comes with it."""
    shutil.copytree(models / base, folder)
    config = folder / "config.json"
    values = json.loads(config.read_text())
    kind = values["architectures"][0]
    values["auto_map"] = {"AutoModelForCausalLM": "mine.Mine"}
    config.write_text(json.dumps(values))
    call = "def forward(self, input_ids=None, use_cache=None, attention_mask=None, **others):"
    lines = [f"from transformers import {kind}", f"class Mine({kind}):", f"    {call}"]
    (folder / "mine.py").write_text("\n".join([*lines, f"        {body}", ""]))
    return folder


WHOLE = "return super().forward(input_ids, attention_mask=attention_mask, use_cache=use_cache)"


def test_code_that_computes_all_logits_whatever_is_asked_for(
    tmp_path: Path, models: Path, converted: Callable[..., Run], capsys: pytest.CaptureFixture[str]
) -> None:
    run = converted(with_code(tmp_path / "own", models, "llama", WHOLE), trust_remote_code=True)
    assert "its logits can only be computed whole" in capsys.readouterr().out
    losses = measured(run, lengths=[16])[0].losses()
    stream = run.data.split("validation").stream.astype(int).tolist()
    assert losses is not None
    expected = reference(models / "llama", [1, *stream[1:16]], stream[1:17])
    np.testing.assert_allclose(losses[:16], expected, atol=1e-5)


def test_code_that_fails_is_one_line(
    tmp_path: Path, models: Path, converted: Callable[..., Run]
) -> None:
    folder = with_code(tmp_path / "own", models, "llama", "return others['past'].get_max_length()")
    with pytest.raises(UserError, match="cannot be read: KeyError: 'past'") as error:
        converted(folder, trust_remote_code=True)
    assert len(str(error.value).splitlines()) == 1


def test_the_scheme_of_unknown_code_is_asked_for(
    tmp_path: Path, models: Path, converted: Callable[..., Run]
) -> None:
    whole = WHOLE.replace("attention_mask=attention_mask, ", "")
    folder = with_code(tmp_path / "own", models, "mamba", whole)
    with pytest.raises(SettingsError, match=r"position: not given, and Mine .* position=NAME"):
        converted(folder, trust_remote_code=True, train_length=32)
    run = converted(folder, trust_remote_code=True, train_length=32, position=NoneConfig())
    assert run.config.position == NoneConfig()


def test_tokens_that_no_text_gives_do_not_count(
    tmp_path: Path, converted: Callable[..., Run]
) -> None:
    """A tokenizer may have more tokens than the model, as long as the text has none of them."""
    folder = save_model(tmp_path / "less", "LlamaConfig", vocab_size=258)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    tokenizer.save_pretrained(folder)
    run = converted(folder)
    assert run.data.vocab_size == 259
    assert measured(run, lengths=[16])[0].row.status == "complete"
    with pytest.raises(UserError, match="knows 100 tokens, and its tokenizer makes number"):
        converted(save_model(tmp_path / "few", "LlamaConfig", vocab_size=100))


def test_a_dtype_is_of_its_rows(models: Path, converted: Callable[..., Run]) -> None:
    run = converted(models / "llama")
    again = converted(models / "llama", dtype="bfloat16")
    assert (again.path, again.identity) == (run.path, run.identity)
    assert measured(again, lengths=[16])[0].row.dtype == "bfloat16"


def test_layers_with_heads_of_different_sizes(
    tmp_path: Path, converted: Callable[..., Run]
) -> None:
    folder = save_model(tmp_path / "gemma4", "Gemma4TextConfig")
    run = converted(folder)
    losses = measured(run, lengths=[16])[0].losses()
    stream = run.data.split("validation").stream.astype(int).tolist()
    assert losses is not None
    expected = reference(folder, [1, *stream[1:16]], stream[1:17])
    np.testing.assert_allclose(losses[:16], expected, atol=1e-5)


def test_a_model_of_the_hub_stays_the_commit_that_it_was(
    models: Path, text: Path, tmp_path: Path
) -> None:
    """A name of which the hub's cache has two commits; `main` moves to the other one."""
    commits = ["0123456789abcdef" * 2 + "01234567", "fedcba9876543210" * 2 + "fedcba98"]
    repository = tmp_path / "hf" / "hub" / "models--owner--name"
    main = repository / "refs" / "main"
    main.parent.mkdir(parents=True)
    shutil.copytree(models / "llama", repository / "snapshots" / commits[0])
    shutil.copytree(models / "adds_bos", repository / "snapshots" / commits[1])
    other = repository / "snapshots" / commits[1] / "model.safetensors"
    weights = transformers.AutoModelForCausalLM.from_pretrained(models / "llama")
    weights.lm_head.weight.data.mul_(2)
    weights.save_pretrained(other.parent)

    def called(name: str, *words: str) -> str:
        done = subprocess.run(
            [sys.executable, str(ROOT / "scripts" / f"{name}.py"), *words],
            cwd=tmp_path,
            env=os.environ | {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    main.write_text(commits[0])
    called(
        *("convert", "source=huggingface", "model=owner/name", "run=first", "bos=none"),
        *("data=text", f"data.validation=[{text}]"),
    )
    main.write_text(commits[1])
    called("evaluate", "run=outputs/runs/first", "evaluation.lengths=[16]", "tracking=off")
    run = load_run(tmp_path / "outputs" / "runs" / "first", str(tmp_path / "outputs" / "cache"))
    assert isinstance(run.config, PretrainedConfig)
    assert run.config.pretrained.revision == commits[0]
    stream = run.data.split("validation").stream.astype(int).tolist()
    (result,) = run.results().values()
    losses = result.losses()
    assert losses is not None
    expected = reference(models / "llama", stream[:16], stream[1:17])
    np.testing.assert_allclose(losses[:16], expected, atol=1e-5)


def test_windows(models: Path, converted: Callable[..., Run]) -> None:
    rows = [
        r.row
        for name in ("llama", "bloom")
        for r in measured(
            converted(models / name, train_length=32), lengths=[40], attention=["window"], window=4
        )
    ]
    assert [row.status for row in rows] == ["complete", "refused"]
    assert rows[1].reason == "BloomForCausalLM takes no window"


def test_changed_weights_are_refused(
    models: Path, converted: Callable[..., Run], tmp_path: Path
) -> None:
    folder = shutil.copytree(models / "llama", tmp_path / "llama")
    run = converted(folder)
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    with pytest.raises(UserError, match="does not hold the model that"):
        measured(run, lengths=[16])


def test_it_is_not_trained(models: Path, converted: Callable[..., Run], small_config: Any) -> None:
    run = converted(models / "llama")
    with pytest.raises(UserError, match="pretrained model, which can only be evaluated"):
        _ = run.training
    with pytest.raises(UserError, match="pretrained model, which can only be evaluated"):
        reproduce(ReproduceConfig(run=str(run.path)))
    with pytest.raises(UserError, match=r"start: .* only our own"):
        plan_run(small_config(start=str(run.path)))
    with pytest.raises(UserError, match="backend: given row, but a pretrained model has its own"):
        plan_evaluation(run, EvaluationConfig(lengths=[16]), "cpu", "row")


def test_our_own_have_no_beginning_of_text(small_config: Any) -> None:
    with pytest.raises(SettingsError, match="the run has no beginning-of-text token"):
        plan_evaluation(
            trained(small_config()), EvaluationConfig(lengths=[16], bos="window"), "cpu"
        )


def test_scripts_take_it_like_any_run(models: Path, text: Path, script: Script) -> None:
    """Converted, evaluated with W&B offline, on another text, and reported."""
    done = script(
        *("convert", "source=huggingface", f"model={models / 'llama'}", "run=llama"),
        *("data=text", f"data.validation=[{text}]"),
    )
    assert done.returncode == 0, done.stderr
    assert "34,720 parameters, 258 tokens, position=rotary, trained at 48" in done.stdout
    other = text.with_name("other.txt")
    other.write_text("birds fly and cats do not\n" * 9)
    readings = "evaluation.position=[{},{scaling:yarn,factor:4}]"
    for more in ([], ["data=text", f"data.validation=[{other}]"]):
        done = script(
            *("evaluate", "run=outputs/runs/llama", "evaluation.lengths=[24,48,96]", readings),
            *more,
        )
        assert done.returncode == 0, done.stderr
    folder = text.parent / "outputs" / "runs" / "llama"
    rows = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    assert len(rows) == 12 and len({row["data_hash"] for row in rows}) == 2
    assert (folder / "wandb").is_dir()
    done = script("report", "results=[outputs]", "output=report")
    assert done.returncode == 0, done.stderr
    assert "read scaling=yarn factor=4.0" in (text.parent / "report" / "report.html").read_text()


def broken(folder: Path, models: Path) -> dict[str, str]:
    """Folders that hold no model, by what is said of them."""
    lines = {
        "nothere": "is neither a folder nor the name of a model",
        "no_config": "holds no model: it has no config.json",
        "no_tokenizer": "has no tokenizer",
        "bad_tokenizer": "has no tokenizer that can be read",
        "no_weights": "is not whole: Error no file named model.safetensors",
        "truncated": "is not whole: Error while deserializing header",
        "sharded": "is not whole: No such file or directory: .*model-00001-of",
        "less": "does not hold all weights of LlamaForCausalLM: model.norm.weight",
        "bert": "is no causal language model: BertLMHeadModel sees",
        "t5": "is no causal language model: its configuration is a T5Config",
        "vit": "is no causal language model: its configuration is a ViTConfig",
        "clip": "its configuration is a CLIPConfig",
        "gated_code": "comes with code of its own; to run it: trust_remote_code=true",
    }
    for name in [*list(lines)[1:8], "gated_code"]:
        shutil.copytree(models / "llama", folder / name)
    for file in (folder / "no_tokenizer").glob("tokenizer*"):
        file.unlink()
    (folder / "no_config" / "config.json").unlink()
    (folder / "bad_tokenizer" / "tokenizer.json").write_text('{"a": 1')
    weights = folder / "truncated" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:9000])
    (folder / "no_weights" / "model.safetensors").unlink()
    model = transformers.AutoModelForCausalLM.from_pretrained(models / "llama")
    (folder / "sharded" / "model.safetensors").unlink()
    model.save_pretrained(folder / "sharded", max_shard_size="20KB")
    next((folder / "sharded").glob("model-00001-of-*")).unlink()
    state = model.state_dict()
    del state["model.norm.weight"]
    model.save_pretrained(folder / "less", state_dict=state)
    config = folder / "gated_code" / "config.json"
    values = json.loads(config.read_text()) | {"model_type": "mine"}
    values["auto_map"] = {"AutoConfig": "mine.Config", "AutoModelForCausalLM": "mine.Model"}
    config.write_text(json.dumps(values))
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    bert = transformers.BertConfig(vocab_size=VOCAB, intermediate_size=48, **sizes)
    transformers.BertForMaskedLM(bert).save_pretrained(folder / "bert")
    save_tokenizer(folder / "bert")
    t5 = transformers.T5Config(vocab_size=VOCAB, d_model=32, d_ff=48, num_layers=1, num_heads=4)
    transformers.T5ForConditionalGeneration(t5).save_pretrained(folder / "t5")
    save_tokenizer(folder / "t5")
    transformers.ViTConfig(intermediate_size=48, **sizes).save_pretrained(folder / "vit")
    transformers.CLIPConfig().save_pretrained(folder / "clip")
    return lines


def test_what_is_no_model_is_one_line(
    models: Path, converted: Callable[..., Run], tmp_path: Path
) -> None:
    for name, line in broken(tmp_path / "broken", models).items():
        with pytest.raises(UserError, match=line) as error:
            converted(tmp_path / "broken" / name)
        assert len(str(error.value).splitlines()) == 1, name
    assert not list((tmp_path / "out").glob("runs/*"))
    with pytest.raises(UserError, match=r"holds no model: it has no a.gguf"):
        converted(models / "llama", gguf="a.gguf")
    with pytest.raises(SettingsError, match="end: given </s>, but"):
        converted(models / "llama", end="</s>")
    with pytest.raises(SettingsError, match=r"revision: given abc, but .* is a folder"):
        converted(models / "llama", revision="abc")


@pytest.mark.parametrize(
    ("model", "line"),
    [
        ("owner/gated", "is gated: accept its terms"),
        ("owner/absent", "it does not exist or is private"),
        ("owner/absent revision=x", "it does not exist or is private"),
        ("owner/old", "has no such revision"),
        (None, "and the Hugging Face hub cannot be reached"),
    ],
)
def test_what_the_hub_says_is_one_line(model: str | None, line: str, tmp_path: Path) -> None:
    """By the requests of huggingface_hub itself, to a server that answers as the hub does."""
    with refusing_hub() as address:
        environment = os.environ | {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "hf")}
        if model is None:
            environment |= {"HF_HUB_OFFLINE": "1"}
        script = ROOT / "scripts" / "convert.py"
        words = [f"model={model or 'owner/name'}".replace(" ", "\n").split("\n")]
        done = subprocess.run(
            [sys.executable, str(script), "source=huggingface", *words[0]],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert done.returncode == 2
    assert line in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"source": "huggingface"}, "model: not given"),
        ({}, "checkpoint: not given"),
        ({"source": "huggingface", "model": "m", "checkpoint": "x"}, "set source=fairseq"),
        ({"model": "m"}, "model: given m, but source=fairseq has no such"),
        ({"source": "huggingface", "model": "m", "bos": "middle"}, "bos: given 'middle'"),
    ],
)
def test_settings_of_one_source(settings: dict[str, Any], line: str) -> None:
    assert any(line in problem for problem in ConvertConfig(**settings).problems())
