"""Schemes and the like of the user's own, from files and from installed packages.

What registers itself by a decorator (SCHEMES.add, say) is found by name as if it stood here: in
configuration, `--help`, sweeps, reports and tests. It is loaded when schemes are first imported,
before Hydra composes anything, and in every process of a launcher:

* files and modules that the environment variable ALIBI_LM_PLUGINS names, separated by commas:
  ALIBI_LM_PLUGINS=mine.py,their_package.schemes
* modules of installed packages that name them as entry points of the group `alibi_lm.plugins`.
"""

import importlib
import importlib.util
import os
import sys
from importlib.metadata import entry_points
from pathlib import Path

VARIABLE = "ALIBI_LM_PLUGINS"
GROUP = "alibi_lm.plugins"
FAILURES: list[str] = []  # why a plugin could not be loaded; commands end with these lines


def load_plugins() -> None:
    """Import every plugin. One that fails is noted and stops nothing here."""
    named = [name.strip() for name in os.environ.get(VARIABLE, "").split(",")]
    wanted = [(VARIABLE, name) for name in named if name]
    wanted += [(GROUP, point.value) for point in entry_points(group=GROUP)]
    for source, name in wanted:
        try:
            _import(name)
        except (Exception, SystemExit) as error:  # whatever a user's code raises
            reason = f"{type(error).__name__}: {error}"
            if isinstance(error, FileNotFoundError):
                reason = "no such file"
            FAILURES.append(f"{source}: given {name}, which cannot be loaded: {reason}")


def _import(name: str) -> None:
    """A file by its path, under the name of the file; anything else as a module."""
    path = Path(name)
    if path.suffix != ".py":
        importlib.import_module(name)
        return
    there = sys.modules.get(path.stem)
    if there is not None:
        if Path(getattr(there, "__file__", None) or "").resolve() == path.resolve():
            return
        raise ImportError(f"another module is called {path.stem}; give the file another name")
    spec = importlib.util.spec_from_file_location(path.stem, path.resolve())
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # launchers send what it defines by this name
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[path.stem]
        raise
