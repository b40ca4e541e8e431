"""A command: from the command line to typed settings, and from an error to one clear line."""

import dataclasses
import inspect
import io
import os
import re
import runpy
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException
from yaml import YAMLError

from alibi_lm.config import Config, from_hydra, register_schema
from alibi_lm.errors import SettingsError, UserError
from alibi_lm.machine import installation, processes
from alibi_lm.machine.interruption import Interrupted, listen
from alibi_lm.machine.memory import is_out_of_memory
from alibi_lm.machine.plugins import FAILURES
from alibi_lm.settings import REGISTRIES, explain_value, unknown, walk

CONFIGS = installation.folder("configs")
# Exit statuses; 128 + the signal's number if the process was asked to stop.
FAILED = 1  # some runs of a sweep failed, or a reproduction differs; also a traceback
USAGE_ERROR = 2
INSTALL = {
    "hydra/launcher": (
        "; for joblib: pip install -r requirements-joblib.txt, for slurm: requirements-slurm.txt"
    ),
    "hydra/sweeper": "; for optuna: pip install -r requirements-optuna.txt",
}
SWEEPERS = ("hydra/sweeper=optuna", "hydra/sweeper=checked")  # that sweep.py can have
PROGRAM = "alibi-lm"
OF_THE_REPOSITORY = ("index", "schemes")  # scripts that write tables of its pages
_installed = False  # whether that was called, rather than `python scripts/...`
HYDRA_USAGE = ("Only one of --", "The --", "File ")  # how its ValueErrors on options begin
T = TypeVar("T")
# The words that ask for a member of a sweep, and what composes it.
Composed = tuple[list[str], Callable[[], DictConfig]]


def main() -> None:
    """`alibi-lm sweep ...` is `python scripts/sweep.py ...` where the project is installed."""
    global _installed
    _installed = True
    scripts = {path.stem: path for path in sorted(installation.folder("scripts").glob("*.py"))}
    for name in OF_THE_REPOSITORY:
        scripts.pop(name, None)
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        print(f"{PROGRAM} COMMAND [key=value ...]; COMMAND --help says more.")
        print(f"commands: {', '.join(scripts)}")
    elif name not in scripts:
        _print_error(f"error: {unknown('command', name, list(scripts))}")
        sys.exit(USAGE_ERROR)
    else:
        del sys.argv[1]
        runpy.run_path(str(scripts[name]), run_name="__main__")


def start_of(script: str) -> list[str]:
    """The words that start a script, as the user would type them after `python` or a launcher."""
    return [PROGRAM, script] if _installed else [f"scripts/{script}.py"]


class FailedError(Exception):
    """The command did its work, and the result is a failure, as it has printed."""


def command(
    doc: str, kind: type[T], task: Callable[[T], Any] | Any, config_name: str = "config"
) -> None:
    """Run a task on the settings that the command line gives, with --help and plain errors.

    doc: the script's docstring, shown by --help. kind: the class of its settings. config_name: of
    the file in configs/ with its defaults. task: called with the settings; or, for a sweep, an
    object with `check`, `run` and `__call__` (see hydra_plugins/).
    """
    sweeps = hasattr(task, "check")
    if FAILURES:
        _print_error("\n".join(f"error: {line}" for line in FAILURES))
        sys.exit(USAGE_ERROR)
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(help_text(doc, kind))
        return
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what a terminal cannot show ends nothing
            stream.reconfigure(errors="replace")
    failures: list[Exception] = []

    def composed(values: DictConfig) -> None:
        try:
            task(from_hydra(values, kind))
        except Exception as error:
            if HydraConfig.get().mode == RunMode.MULTIRUN:
                raise
            failures.append(error)  # raised below, where Hydra adds no lines of its own to it

    def run() -> None:
        given, sys.argv[1:] = plain_settings(sys.argv[1:], kind)
        register(kind, sweeps, given)
        check_overrides(sys.argv[1:], kind, sweeps)
        if sweeps and not any(re.match("-(?!-config)", word) for word in sys.argv[1:]):
            # Where the settings cannot be composed, Hydra does not find the mode in them.
            sys.argv.append("--multirun")
        main = hydra.main(config_path=str(CONFIGS), config_name=config_name, version_base="1.3")
        main(task if sweeps else composed)()
        if failures:
            raise failures[0]

    _run_cleanly(run, kind)


def register(kind: type[Any], sweeps: bool = False, given: dict[str, Any] | None = None) -> None:
    """Tell Hydra the command's settings, and whether it runs every combination of them.

    given: settings whose values it is told, too.
    """
    register_schema(kind)
    mode = {"hydra": {"mode": "MULTIRUN"}} if sweeps else {}
    ConfigStore.instance().store(name="command", node=mode | (given or {}), package="_global_")


def plain_settings(words: list[str], kind: type[Any]) -> tuple[dict[str, Any], list[str]]:
    """Settings of this command that are groups in others, and the other words.

    `model=` is a choice of configs/model for train.py; for convert.py it is a name, and Hydra would
    look for a file.
    """
    plain = {
        field.name
        for field in dataclasses.fields(kind)
        if isinstance(field.default, str | None) and field.name not in REGISTRIES
    }
    given: dict[str, Any] = {}
    others = []
    for word in words:
        name = word.partition("=")[0]
        if name in plain and (CONFIGS / name).is_dir():
            override = OverridesParser.create().parse_override(word)
            if override.is_sweep_override():
                raise SettingsError([f"'{word}' names several, and this command takes one"])
            given[name] = override.value()
        else:
            others.append(word)
    return given, others


def compose_all(composed: list[Composed], kind: type[T]) -> list[tuple[T, tuple[str, ...]]]:
    """The settings of every member of a sweep; a SettingsError with the problems of all."""
    members, problems = [], dict[str, None]()
    for words, compose in composed:
        try:
            members.append((from_hydra(compose(), kind), tuple(words)))
        except SettingsError as error:
            problems |= dict.fromkeys(error.problems)
        except (HydraException, OmegaConfBaseException) as error:
            problems |= dict.fromkeys((explain(error, kind) or str(error)).splitlines())
    if problems:
        raise SettingsError(list(problems))
    return members


def check_overrides(arguments: list[str], kind: type[Any] = Config, sweeps: bool = False) -> None:
    """Refuse to remove a setting or to choose nothing: every setting needs a value."""
    parser = OverridesParser.create()
    problems = []
    unset = {f.name for f in dataclasses.fields(kind) if f.name in REGISTRIES and f.default is None}
    unset -= {word.partition("=")[0] for word in arguments}
    for given in arguments:
        try:
            override = parser.parse_override(given)
        except HydraException:  # an option, or what Hydra will explain
            continue
        names = choices_of(override.key_or_group)
        group, _, setting = override.key_or_group.partition(".")
        if setting and group in unset:
            problems.append(f"'{given}' sets what is not chosen; choose {group}=NAME with it")
        if override.key_or_group == "hydra.mode":
            problems.append("hydra.mode: cannot be set; each script has its own")
        if override.key_or_group == "hydra/sweeper" and not (sweeps and given in SWEEPERS):
            problems.append(
                "hydra/sweeper: cannot be set; each script has its own, and sweep.py takes optuna"
            )
        if override.is_delete():
            problems.append(f"'{given}' removes a setting, but every setting needs a value")
        elif names and override.value() is None and override.key_or_group != "experiment":
            problems.append(unknown(override.key_or_group, "null", names))
    if problems:
        raise SettingsError(problems)


def choices_of(group: str) -> list[str]:
    """What can be chosen for a group of settings: files in configs/, and registered kinds."""
    files = {path.stem for path in (CONFIGS / group).glob("*.yaml")}
    kinds = REGISTRIES[group].choices if group in REGISTRIES else []
    return sorted(files | set(kinds) | ({"tiny"} if group == "model" else set()))


def _run_cleanly(action: Callable[[], None], kind: type[Any]) -> None:
    """Do it; a user's mistake ends in plain lines on stderr and status 2, never a traceback."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises instead of printing and exiting
    listen()
    try:
        processes.check()
        action()
    except FailedError:
        sys.exit(FAILED)
    except Interrupted as stop:
        if processes.is_rank_zero():
            _print_error("interrupted: finished work is kept; the same command continues from it")
        sys.exit(stop.status)
    except Exception as error:
        message = explain(error, kind)
        if message is None:
            raise
        # Processes that work together make the same mistakes in their settings.
        if processes.is_rank_zero() or not isinstance(error, SettingsError):
            _print_error("\n".join(f"error: {line}" for line in message.splitlines()))
        sys.exit(USAGE_ERROR)
    finally:
        processes.shutdown()


def _print_error(message: str) -> None:
    rank = "" if processes.is_rank_zero() else f"[rank {processes.rank()}] "
    print(rank + message, file=sys.stderr)


def explain(error: Exception, kind: type[Any] = Config) -> str | None:
    """The error in a user's words, or None if it is a defect that deserves its traceback."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, MissingConfigException):
        group, _, name = (error.missing_cfg_file or "").rpartition("/")
        hint = INSTALL.get(group, "")
        allowed = sorted({*choices_of(group), *(error.options or () if group else ())})
        return unknown(group or "configuration", name, allowed) + hint
    if isinstance(error, HydraException | OmegaConfBaseException):
        cause: BaseException = error
        if isinstance(error, ConfigCompositionException):  # around OmegaConf's, if there is one
            cause = error.__cause__ or error.__context__ or error
        return _explain_setting(error, cause, kind)
    if isinstance(error, ValueError) and str(error).startswith(HYDRA_USAGE):
        return str(error)  # Hydra's options
    if isinstance(error, YAMLError):
        return f"cannot read the configuration: {' '.join(str(error).split())}"
    if is_out_of_memory(error):
        return (
            "out of memory; try a smaller optim.micro_batch_size in training, a smaller "
            "evaluation.batch_tokens in evaluation"
        )
    if isinstance(error, RuntimeError) and "deterministic" in str(error):
        return f"deterministic: {str(error).splitlines()[0]}; set deterministic=false"
    if isinstance(error, OSError) and error.strerror:
        where = error.filename if error.filename is not None else "a file"
        return f"cannot use {where}: {error.strerror}"
    return None


def _explain_setting(error: Exception, cause: BaseException, kind: type[Any]) -> str:
    """What Hydra or OmegaConf found wrong with one setting."""
    first_line = str(cause).strip().splitlines()[0]
    key = getattr(cause, "full_key", None)
    if first_line.startswith(("Ambiguous value for argument", "Sweep parameters")):
        given = first_line.split("'")[1] if "'" in first_line else first_line
        return f"'{given}' names several runs; use -m, or scripts/sweep.py to train"
    if type(cause).__name__ == "OverrideParseException":
        given = getattr(cause, "override", first_line)
        return (
            f"cannot read '{given}'; write key=value, lists as 'key=[a,b]', and in quotes what "
            "holds more than letters, digits and / - . * ?, as in 'data.train=[\"my books/*\"]'"
        )
    if first_line.startswith("Could not append to config"):
        return f"setting {first_line.rpartition(' ')[2].rstrip('.')} exists; set it without the +"
    if first_line.startswith("Could not override '"):  # a group that this script has not
        names, given = [key for key, _, _ in walk(kind())], first_line.split("'")[1]
        if given == "scale":
            return f"scale goes with an experiment that has scales: experiment={_scaled()}"
        return unknown("setting", given, names)
    if not key:
        return " ".join(str(error).split())
    if not isinstance(cause, ConfigKeyError | ConfigAttributeError):
        return explain_value(key, first_line)
    group, dot, name = key.rpartition(".")
    if group in {key for key, *_ in walk(kind())}:
        return f"{group}: given in part, but it is set as a whole, '{group}={{{name}:...}}'"
    owner = getattr(cause, "object_type", None)
    owner = owner if dataclasses.is_dataclass(owner) else kind
    choices = REGISTRIES[group].settings if group in REGISTRIES else {}
    if name == "kind" and choices:
        return f"setting '{key}' cannot be set; choose {group}={' or '.join(choices)}"
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
    groups = {
        field.name: field.default
        for field in dataclasses.fields(kind)
        if field.name in REGISTRIES or field.default_factory is not dataclasses.MISSING
    }
    if _installed:
        doc = re.sub(r"python scripts/(\w+)\.py", rf"{PROGRAM} \1", doc)
    lines = [inspect.cleandoc(doc), ""]
    if choices := _choices(groups):
        lines += ["choices (group=choice), defaults in brackets:", *choices, ""]
    lines.append("settings (key=value), with the defaults of their types; a choice may set others:")
    settings = [(key, value, field, "") for key, value, field in walk(kind())]
    settings.sort(key=lambda setting: "." in setting[0])
    known = {key for key, *_ in settings}
    for group in sorted(REGISTRIES.keys() & groups):
        for name, settings_of in REGISTRIES[group].settings.items():
            of_kind = walk(settings_of(), f"{group}.")
            settings += [(k, v, f, f"  ({group}={name})") for k, v, f in of_kind if k not in known]
    for key, value, field, note in settings:
        shown = "null" if value is None else str(value).replace(" ", "")
        lines.append(f"  {key + '=' + shown:<44} {field.metadata['meaning']}{note}")
    lines += ["", "Hydra's own options (-m, --cfg job, --info, ...): --hydra-help"]
    return "\n".join(lines)


def _choices(names: dict[str, Any]) -> list[str]:
    """A line for each group of settings that the command has, with what can be chosen.

    names: those of its settings that are groups, and None for those that are not chosen by default.
    """
    defaults: dict[str, Any] = {}
    for entry in OmegaConf.load(CONFIGS / "config.yaml").defaults:
        defaults |= entry if OmegaConf.is_dict(entry) else {}
    groups = sorted({path.parent.name for path in CONFIGS.glob("*/*.yaml")} | set(REGISTRIES))
    if "optim" in names:
        names = names | dict.fromkeys(["experiment", "scale"])
    lines = []
    for group in groups:
        if group in names and (choices := choices_of(group)):
            default = None if names[group] is None else defaults.get(group)
            marked = [f"[{name}]" if name == default else name for name in choices]
            lines.append(f"  {group:<12} {', '.join(marked)}")
    return lines
