"""Sweeps: Hydra's own multirun over runs, then one report over what they scored.

Every member is composed and checked before the first is trained, so a typo in the last one costs
nothing. Which launcher runs the members is Hydra's business.
"""

import sys
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

from alibi_lm.cli import (
    CONFIGS,
    check_overrides,
    help_text,
    run_cleanly,
    run_hydra,
    wants_help,
)
from alibi_lm.config import Config, from_hydra, register_schemas
from alibi_lm.data.tokens import TokenizedCorpus, prepare
from alibi_lm.errors import SettingsError, UserError
from alibi_lm.evaluation import (
    check_evaluation,
    evaluate_run,
    evaluation_device,
    missing_results,
    protocols,
)
from alibi_lm.progress import say
from alibi_lm.report import summary, write_report
from alibi_lm.runs import check_identity, find_run, identity
from alibi_lm.training import train_run, training_batches, training_device


def main(doc: str) -> None:
    """Run the sweep that the command line describes."""
    if wants_help():
        print(help_text(doc, Config))
    else:
        run_cleanly(lambda: sweep(sys.argv[1:]))


def sweep(arguments: list[str]) -> None:
    """Check every member, run them through Hydra's multirun, report on all of them."""
    options = get_args_parser().parse_args(arguments)
    if options.cfg or options.info or options.hydra_help:
        run_hydra("config", lambda values: None)  # Hydra prints what is asked for and runs nothing
        return
    check_overrides(options.overrides, may_sweep=True)
    members = plan(options.overrides)
    say(f"{len(members)} {'run' if len(members) == 1 else 'runs'}")
    check_members(members)

    def member(values: DictConfig) -> None:
        number = HydraConfig.get().job.num + 1
        run_member(from_hydra(values, Config), f"[{number}/{len(members)}] ")

    if not options.multirun:
        sys.argv.append("--multirun")
    try:
        run_hydra("config", member)
    finally:
        report(members)


def plan(overrides: list[str]) -> list[Config]:
    """Every member of the sweep, in order; a SettingsError if any of them cannot be."""
    register_schemas()
    parser = OverridesParser.create()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        fixed = [o for o in overrides if not parser.parse_override(o).is_sweep_override()]
        base = compose("config", fixed, return_hydra_config=True)
        # A preset's own choices come first; the command line replaces them key by key.
        preset = [f"{key}={value}" for key, value in (base.hydra.sweeper.params or {}).items()]
        choices = parser.parse_overrides([*preset, *overrides])
        (batch,) = BasicSweeper.split_arguments(choices, max_batch_size=None)
        members, problems = [], []
        for member in batch:
            try:
                members.append(from_hydra(compose("config", member), Config))
            except SettingsError as error:
                problems += [line for line in error.problems if line not in problems]
    if problems:
        raise SettingsError(problems)
    return members


def check_members(members: list[Config]) -> None:
    """Check devices, outputs and every length; tokenize what is not yet tokenized."""
    for config in members:
        training_device(config)
        evaluation_device(config, protocols(config.evaluation, config.train_length))
    for output in {config.output for config in members}:
        (Path(output) / "runs").mkdir(parents=True, exist_ok=True)
    identities: dict[Path, dict[str, Any]] = {}
    for config in members:
        data = _prepared(config)
        training_batches(config, data)  # refuses a length that the text is too short for
        check_evaluation(config.evaluation, config.train_length, data)
        check_identity(config, data)
        wanted = identity(config, data)
        if identities.setdefault(find_run(config, data).path, wanted) != wanted:
            raise UserError(
                f"run: given {config.run}, but the sweep's runs differ and need a folder each; "
                "leave run=NAME to single runs"
            )


def run_member(config: Config, label: str = "") -> None:
    """Train and evaluate one run, each unless it is done."""
    data = _prepared(config)
    run = train_run(config, data, label)
    evaluate_run(run, data, config.evaluation, config.device, config.backend, label)


def report(members: list[Config]) -> None:
    """Print the tables of all members' results and write the report into the output folder."""
    results = []
    for config in members:
        run = find_run(config, _prepared(config))
        wanted = protocols(config.evaluation, config.train_length)
        there = run.results()
        results += [there[protocol] for protocol in wanted if protocol in there]
        if missing_results(run, wanted, config.backend):
            say(f"not complete: {run.path}")
    if results:
        paths = write_report(results, Path(members[0].output))
        say("\n" + summary(results) + "\n")
        say("written: " + ", ".join(map(str, paths)))


_OPEN: dict[str, TokenizedCorpus] = {}


def _prepared(config: Config) -> TokenizedCorpus:
    """The member's token files; members that share them read and hash the text once."""
    key = repr((config.data, config.tokenizer, config.cache))
    if key not in _OPEN:
        _OPEN[key] = prepare(config.data, config.tokenizer, Path(config.cache))
    return _OPEN[key]
