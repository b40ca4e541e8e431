"""Write a trained run as a folder that transformers loads, and whatever builds on it.

  python scripts/export.py run=outputs/runs/NAME
  python scripts/export.py run=outputs/runs/NAME output=my_model

Rotary models and those without positions are GPT-NeoX there, sinusoidal ones XGLM; the others are
classes of this package: `import alibi_lm.interop.modeling` first, or trust_remote_code=True. The
folder is loaded again and its losses compared with ours before it gets its name.
"""

from pathlib import Path

from alibi_lm.cli import command
from alibi_lm.interop.export import ExportConfig, export
from alibi_lm.machine.progress import say
from alibi_lm.runs.folder import load_run


def export_and_say(config: ExportConfig) -> None:
    """Export, then print how to load it."""
    run = load_run(Path(config.run), config.cache)
    found = export(run, Path(config.output or run.path / "huggingface"))
    first = "" if found.is_native else "import alibi_lm.interop.modeling; "
    say(
        f"{found.path}: {found.class_name}, losses within {found.difference:.1e} nats of the "
        f"run's\nload it: {first}AutoModelForCausalLM.from_pretrained('{found.path}')"
    )


if __name__ == "__main__":
    command(__doc__, ExportConfig, export_and_say, "export")
