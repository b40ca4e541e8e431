import shlex
from pathlib import Path

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given, settings
from hypothesis import strategies as st

from alibi_lm.runs.sweep import commands

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
