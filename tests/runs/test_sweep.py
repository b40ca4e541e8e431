import math
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given, settings
from hypothesis import strategies as st

from alibi_lm.config import Config
from alibi_lm.runs.plan import plan_member
from alibi_lm.runs.sweep import commands, mean_loss, run_member

SETTINGS = {
    "position": ["position=alibi", "position=t5", "position=none"],
    "seed": ["seed=0", "seed=1"],
    "lengths": ["evaluation.lengths=[16,40]", "evaluation.lengths=[16]"],
}


def members(chosen: list[tuple[str, ...]]) -> list[list[str]]:
    return [list(words) for words in chosen]


@settings(deadline=None)
@given(st.sets(st.tuples(*map(st.sampled_from, SETTINGS.values())), min_size=1))
def test_commands_name_just_the_members_asked_for(chosen: set[tuple[str, ...]]) -> None:
    """Read as the command line is, they give the members and no others."""
    found: list[frozenset[str]] = []
    for command in commands(members(sorted(chosen))):
        words = shlex.split(command)
        assert words[:2] == ["python", "scripts/sweep.py"]
        choices = OverridesParser.create().parse_overrides(words[2:])
        (batch,) = BasicSweeper.split_arguments(choices, max_batch_size=None)
        found += map(frozenset, batch)
    assert sorted(map(sorted, found)) == sorted(map(sorted, chosen))
    assert len(found) == len(chosen)


def test_all_combinations_are_one_command() -> None:
    every = [(p, s, SETTINGS["lengths"][0]) for p in SETTINGS["position"] for s in SETTINGS["seed"]]
    (command,) = commands(members(every))
    assert command == (
        "python scripts/sweep.py position=alibi,t5,none seed=0,1 'evaluation.lengths=[16,40]'"
    )
    assert len(commands(members(every[:-1]))) == 5


def test_a_value_with_spaces_is_quoted() -> None:
    words = ("data.train=['my books/*']", "position=t5")
    (command,) = commands(members([words]))
    assert shlex.split(command)[2:] == list(words)
    assert Path(shlex.split(command)[1]).name == "sweep.py"


def test_a_search_compares_nothing_but_whole_evaluations(
    small_config: Callable[..., Config],
) -> None:
    """One that could not be read at a long length would else look better than one that could."""
    member = plan_member(small_config())
    assert mean_loss(member) == math.inf
    run_member(member)
    losses = [result.row.loss for result in member.run.results().values()]
    assert len(losses) == len(member.wanted) == 2
    assert mean_loss(member) == pytest.approx(sum(losses) / 2)
    lacking = replace(member.wanted[0].protocol, length=8)
    more = replace(member, wanted=[*member.wanted, replace(member.wanted[0], protocol=lacking)])
    assert mean_loss(more) == math.inf
