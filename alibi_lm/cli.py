"""From the command line to a typed configuration, and from an error to one clear line."""

import dataclasses
import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    MissingConfigException,
)
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from alibi_lm.config import KINDS, Config, ConfigT, from_hydra, register_schemas
from alibi_lm.errors import SettingsError, UserError
from alibi_lm.machine import processes
from alibi_lm.machine.interruption import Interrupted, listen
from alibi_lm.machine.memory import is_out_of_memory
from alibi_lm.settings import unknown, walk

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
# Exit statuses; 128 + the signal's number where the process was asked to stop.
FAILED = 1  # some runs of a sweep did, or a reproduction differs; a defect's traceback, too
USAGE_ERROR = 2
LAUNCHERS = (
    "; for joblib: pip install -r requirements-joblib.txt, for slurm: requirements-slurm.txt"
)


def main(doc: str, config_name: str, kind: type[ConfigT], task: Callable[[ConfigT], Any]) -> None:
    """Run a task on the configuration that the command line composes.

    doc: the script's docstring, shown by --help. `-m` runs Hydra's multirun.
    """
    failures: list[Exception] = []

    def composed(values: DictConfig) -> None:
        try:
            task(from_hydra(values, kind))
        except Exception as error:
            if HydraConfig.get().mode == RunMode.MULTIRUN:
                raise
            failures.append(error)  # raised below, where Hydra adds no lines of its own to it

    def run() -> None:
        arguments = get_args_parser().parse_args()
        check_overrides(arguments.overrides, may_sweep=arguments.multirun)
        run_hydra(config_name, composed)
        if failures:
            raise failures[0]

    if wants_help():
        print(help_text(doc, kind))
    else:
        run_cleanly(run, kind)


def wants_help() -> bool:
    """Whether the command line asks what the script does."""
    return bool({"-h", "--help"} & set(sys.argv[1:]))


def check_overrides(overrides: list[str], may_sweep: bool) -> None:
    """Refuse what Hydra would read in another way than its user: see each message."""
    parser = OverridesParser.create()
    problems = []
    for given in overrides:
        try:
            override = parser.parse_override(given)
        except HydraException:
            problems.append(
                f"cannot read '{given}'; write key=value, lists as 'key=[a,b]', and in quotes what "
                "holds more than letters, digits and / - . * ?, as in 'data.train=[\"my books/*\"]'"
            )
            continue
        if override.is_sweep_override() and not may_sweep:
            problems.append(f"'{given}' names several runs; use scripts/sweep.py, or add -m")
            continue
        names = sorted(path.stem for path in (CONFIGS / override.key_or_group).glob("*.yaml"))
        if override.is_delete():
            problems.append(f"'{given}' removes a setting, but every setting needs a value")
        elif names and override.value() is None and override.key_or_group != "experiment":
            problems.append(unknown(override.key_or_group, "null", names))
    if problems:
        raise SettingsError(problems)


def run_hydra(config_name: str, task: Callable[[DictConfig], None]) -> None:
    """Hand the command line to Hydra, which composes and calls the task once or, by -m, often."""
    register_schemas()
    hydra.main(config_path=str(CONFIGS), config_name=config_name, version_base="1.3")(task)()


def run_cleanly(action: Callable[[], None], kind: type[Any] = Config) -> None:
    """Do it; a user's mistake ends in plain lines on stderr and status 2, never a traceback."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises instead of printing and exiting
    listen()
    try:
        action()
    except Interrupted as stop:
        if processes.is_first():
            _tell("interrupted: what is done is kept, and the same command goes on from there")
        sys.exit(stop.status)
    except Exception as error:
        message = explain(error, kind)
        if message is None:
            raise
        # Processes that work together make the same mistakes in their settings.
        if processes.is_first() or not isinstance(error, SettingsError):
            _tell("\n".join(f"error: {line}" for line in message.splitlines()))
        sys.exit(USAGE_ERROR)
    finally:
        processes.leave()


def _tell(message: str) -> None:
    rank = "" if processes.is_first() else f"[process {processes.rank()}] "
    print(rank + message, file=sys.stderr)


def explain(error: Exception, kind: type[Any]) -> str | None:
    """The error in a user's words, or None if it is a defect that deserves its traceback."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, MissingConfigException):
        group, _, name = (error.missing_cfg_file or "").rpartition("/")
        hint = LAUNCHERS if group == "hydra/launcher" else ""
        return unknown(group, name, list(error.options or [])) + hint
    if isinstance(error, HydraException | OmegaConfBaseException):
        cause = error.__cause__ if isinstance(error, ConfigCompositionException) else error
        return _explain_setting(error, cause or error, kind)
    if is_out_of_memory(error):
        return (
            "out of memory; try a smaller optim.micro_batch_size in training, a smaller "
            "evaluation.batch_tokens in evaluation"
        )
    if isinstance(error, RuntimeError) and "deterministic" in str(error):
        return f"deterministic: {str(error).splitlines()[0]}; deterministic=false goes without"
    if isinstance(error, OSError) and error.strerror:
        where = error.filename if error.filename is not None else "a file"
        return f"cannot use {where}: {error.strerror}"
    return None


def _explain_setting(error: Exception, cause: BaseException, kind: type[Any]) -> str:
    """What OmegaConf found wrong with one setting: an unknown key or a value of another type."""
    first_line = str(cause).strip().splitlines()[0]
    key = getattr(cause, "full_key", None)
    if first_line.startswith("Could not append to config"):
        return f"setting {first_line.rpartition(' ')[2].rstrip('.')} exists; set it without the +"
    if first_line.startswith("Could not override '"):  # a group that this script has not
        names, given = [key for key, _, _ in walk(kind())], first_line.split("'")[1]
        if given == "scale":
            return f"scale goes with an experiment that has scales: experiment={_scaled()}"
        return unknown("setting", given, names)
    if not key:
        return " ".join(str(error).split())
    if "is not a ListConfig" in first_line:
        return f"{key}: given one value, but it must be a list, '{key}=[a,b]'"
    if not isinstance(cause, ConfigKeyError | ConfigAttributeError):
        return f"{key}: {first_line}"
    group, dot, name = key.rpartition(".")
    owner = getattr(cause, "object_type", None)
    owner = owner if dataclasses.is_dataclass(owner) else kind
    choices = KINDS[group][1] if group in KINDS else {}
    elsewhere = [c for c, k in choices.items() if name in {f.name for f in dataclasses.fields(k)}]
    if elsewhere:
        return f"setting '{key}' does not exist here; only {group}={' or '.join(elsewhere)} has it"
    return unknown("setting", key, [group + dot + f.name for f in dataclasses.fields(owner)])


def _scaled() -> str:
    """The experiments that have scales."""
    presets = CONFIGS.glob("experiment/*.yaml")
    return ",".join(sorted(path.stem for path in presets if path.with_suffix("").is_dir()))


def help_text(doc: str, kind: type[Any]) -> str:
    """The script's docstring, the choices of each group, and every setting with its meaning."""
    lines = [inspect.cleandoc(doc), ""]
    if kind is Config:
        lines += ["choices (group=choice), defaults in brackets:", *_choices(), ""]
    lines.append("settings (key=value), with the defaults of their types; a choice may set others:")
    # What names the kind of a part is set by its choice.
    chosen = {f"{group}.{name}" for group, (name, _) in KINDS.items()}
    settings = [setting for setting in walk(kind()) if setting[0] not in chosen]
    plain = [(key, value, field, "") for key, value, field in settings if "." not in key]
    nested = [(key, value, field, "") for key, value, field in settings if "." in key]
    for key, value, field, note in plain + nested + (_of_kinds() if kind is Config else []):
        shown = "null" if value is None else str(value).replace(" ", "")
        lines.append(f"  {key + '=' + shown:<44} {field.metadata['meaning']}{note}")
    lines += ["", "Hydra's own options (-m, --cfg job, --info, ...): --hydra-help"]
    return "\n".join(lines)


def _choices() -> list[str]:
    """A line for each folder of configs/, with its files."""
    defaults: dict[str, Any] = {}
    for entry in OmegaConf.load(CONFIGS / "config.yaml").defaults:
        defaults |= entry if OmegaConf.is_dict(entry) else {}
    lines = []
    for folder in sorted({path.parent for path in CONFIGS.glob("*/*.yaml")}):
        names = sorted(path.stem for path in folder.glob("*.yaml"))
        marked = [f"[{name}]" if name == defaults.get(folder.name) else name for name in names]
        lines.append(f"  {folder.name:<12} {', '.join(marked)}")
    return lines


def _of_kinds() -> list[tuple[str, Any, dataclasses.Field[Any], str]]:
    """The settings that only some kinds of position, data and tokenizer have."""
    base = {key for key, _, _ in walk(Config())}
    return [
        (key, value, field, f"  ({group}={name})")
        for group, (_, kinds) in KINDS.items()
        for name, kind in kinds.items()
        for key, value, field in walk(kind(), f"{group}.")
        if key not in base
    ]
