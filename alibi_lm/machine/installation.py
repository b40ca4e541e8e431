"""Where the project's other folders are: in a checkout beside the package, in a wheel within it."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent.parent
_WITHIN = _PACKAGE / "shipped"  # pyproject.toml puts them there


def folder(name: str) -> Path:
    """A folder that stands at the top of a checkout: configs, scripts, experiments."""
    return (_WITHIN if _WITHIN.is_dir() else _PACKAGE.parent) / name
