"""Breaks one line at a time that decides a number, and sees whether a golden test notices.

  python tests/golden/mutants.py     (20 minutes; status 1 if one survives)

Each mutant is a line of the package and what stands there instead. The package itself is not
touched: copies of it are.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MUTANTS = {
    # schedule, optimizers, clipping
    "warm-up begins at 0": ("optim.lr * (step + 1) / optim", "optim.lr * step / optim"),
    "warm-up ignores its first rate": ("return optim.warmup_init_lr + step", "return step"),
    "cosine counts the warm-up": ("done = (step - optim.warmup_steps)", "done = step"),
    "cosine ends at 0": ("return optim.min_lr + (optim.lr", "return (optim.lr"),
    "beta1": ("betas=(self.beta1, ", "betas=(0.8, "),
    "beta2": ("self.beta2)", "0.999)"),
    "no weight decay": ('"weight_decay": self.weight_decay', '"weight_decay": 0.0'),
    "decay of norms and biases": ("parameter.ndim >= 2 and id(", "id("),
    "decay of the scheme": (" and id(parameter) not in spared", ""),
    "no Nesterov": ("nesterov=True", "nesterov=False"),
    "momentum": ("self.lr, self.momentum", "self.lr, 0.99 * self.momentum"),
    "clipping at twice the limit": ("(model.parameters(), limit)", "(model.parameters(), 2*limit)"),
    "loss per pass, not per step": (
        "model(x, y, **drawn).sum() / n_tokens",
        "model(x, y, **drawn).mean()",
    ),
    "same dropout at each step": ("SeedSequence((seed, step, rank))", "SeedSequence((seed, rank))"),
    # initialisation
    "seed": ('f"{seed} {name}".encode()', 'f"{name}".encode()'),
    "gain": (
        "nn.init.xavier_uniform_(parameter, generator=generator)\n        self.position",
        "nn.init.xavier_uniform_(parameter, 0.9, generator=generator)\n        self.position",
    ),
    "init=fairseq ignored": ('if init == "fairseq" and', "if False and"),
    "bound of init=fairseq": (".in_features ** -0.5", ".in_features ** -0.4"),
    "deviation of the tied embedding": (
        'variance 1."""\n        parameter.normal_(0, parameter.shape[1] ** -0.5',
        'variance 1."""\n        parameter.normal_(0, 0.5 * parameter.shape[1] ** -0.5',
    ),
    "deviation of the bands": (
        'startswith("bands."):\n            parameter.normal_(0, parameter.shape[1] ** -0.5',
        'startswith("bands."):\n            parameter.normal_(0, 0.5 * parameter.shape[1] ** -0.5',
    ),
    # dropouts
    "no dropout on embeddings": ("x = self.dropout(x)", "x = x"),
    "no dropout after attention": (
        "self.dropout(self.attention(self.attention_norm(x), position, begun, window))",
        "self.attention(self.attention_norm(x), position, begun, window)",
    ),
    "no dropout after the ReLU": ("nn.Dropout(config.activation_dropout)", "nn.Dropout(0.0)"),
    "no dropout after feed-forward": (
        "x + self.dropout(self.ffn(self.ffn_norm(x)))",
        "x + self.ffn(self.ffn_norm(x))",
    ),
    "no dropout of attention": ("self.dropout if self.training else 0.0", "0.0"),
    "no dropout before the softmax": ("hidden = self.dropout(hidden)", "hidden = hidden"),
    "no dropout within tails": (
        "self.dropout(F.linear(hidden[here], projection.T))",
        "F.linear(hidden[here], projection.T)",
    ),
    # the model
    "embeddings not scaled": ("= math.sqrt(config.d_model)", "= 1.0"),
    "norm before attention": ("self.attention(self.attention_norm(x)", "self.attention((x)"),
    "norm before feed-forward": ("self.ffn(self.ffn_norm(x))", "self.ffn(x)"),
    "final norm always": ("if config.final_norm else nn.Identity()", ""),
    "tail without its band": ("losses[here] + within_band", "losses[here]"),
    "head without its clusters": ("in_head[here] = n_words + number", "in_head[here] = n_words"),
    # schemes
    "first slope is 1": ("[2 ** (-8 * (h + 1) / p)", "[2 ** (-8 * h / p)"),
    "slopes between": ("(-8 * (h + 1) / (2 * p))", "(-8 * (h + 2) / (2 * p))"),
    "exact buckets": ("exact = num_buckets // 2", "exact = num_buckets // 4"),
    "largest distance": ("math.log(max_distance / exact)", "math.log(2 * max_distance / exact)"),
    "deviation of T5's table": ("self.std = sizes.d_model**-0.5", "self.std = 1.0"),
    "first position": ("FIRST_POSITION = 2", "FIRST_POSITION = 1"),
    "sinusoidal frequencies": ('(half - 1 if table == "fairseq" else half)', "half"),
    "cosines first": ("cat([angles.sin(), angles.cos()]", "cat([angles.cos(), angles.sin()]"),
    "theta": (
        'setting(10000.0, "base of the wavelengths", above=1)\n    scaling',
        'setting(20000.0, "base of the wavelengths", above=1)\n    scaling',
    ),
    "rotary frequencies": ("theta ** (-pairs / width)", "theta ** (-pairs / (width - 2))"),
    "deviation of learned positions": (
        '"""As GPT-2."""\n        parameter.normal_(0, 0.02',
        '"""As GPT-2."""\n        parameter.normal_(0, 0.2',
    ),
    "KERPLE's factor of the distance": ("torch.log1p(a * distances)", "torch.log1p(distances)"),
    "KERPLE's bounds": ("self.a.clamp_(SMALLEST)", "self.a.clamp_(0.5)"),
    "FoX's gate of the key": (
        "by_key=-log_gates.cumsum(-1)",
        "by_key=log_gates - log_gates.cumsum(-1)",
    ),
    "CABLE's sign": ("sums, q = penalties.cumsum(-1)", "sums, q = -penalties.cumsum(-1)"),
    "CABLE scaled": ("1.0 if config.scaled else sizes.head_dim**0.5", "1.0"),
    "FIRE by the distance alone": ("torch.maximum(i.to(c.dtype), floor)", "floor"),
    "CoPE's gates of the future": ("gates.sigmoid() * block.visible", "gates.sigmoid()"),
    "CoPE's positions not divided": ("1.0 if config.nodiv else sizes.head_dim**-0.5", "1.0"),
    "Shaw's last distance": ("self.by_distance.shape[-1] - 1)", "self.by_distance.shape[-1] - 2)"),
    "Shaw's values twice": ("scatter_add(-1, near, weights)", "scatter_add(-1, near, 2 * weights)"),
    "stick-breaking at itself": ("block.visible & (block.j < block.i)", "block.visible"),
    "stick broken by the key": ("cumsum(-1).flip(-1) - left", "cumsum(-1).flip(-1)"),
    "shift in evaluation": ("return positions + self.config.max_shift", "return positions"),
    "shift in training": ("draws.sequences % self.config.max_shift", "draws.sequences % 7"),
    "range of randomized positions": (
        "self.config.max_positions, generator=generator)[: tokens",
        "self.config.max_positions // 2, generator=generator)[: tokens",
    ),
    "draws of a step": ("spawn_key=(1,)", "spawn_key=(2,)"),
    "order of layers": ("members[layer % len(members)]", "members[(layer + 1) % len(members)]"),
    # attention
    "scale of scored": ("to(wide) * v.shape[-1] ** -0.5", "to(wide) * v.shape[-1] ** -0.4"),
    "window of scored": ("(i - j < self.window)", "(i - j <= self.window)"),
    "window of a key more": ("device=device) >= window", "device=device) > window"),
    "dropout of attention not made up for": ("kept.div_(1 - dropout)", "kept"),
    "first key of a block": (
        "length), max(0, start - window + 1)",
        "length), max(0, start - window + 2)",
    ),
    # data and evaluation
    "targets off by one": ("return rows[:, :-1], rows[:, 1:]", "return rows[:, :-1], rows[:, :-1]"),
    "order of the blocks": ("default_rng((seed, epoch))", "default_rng((seed, epoch, 1))"),
    "evaluation targets off by one": ("stream[places + 1]", "stream[places]"),
    "lines are no words": (".split()) + len(lines(document))", ".split())"),
    "sliding with a token less": (
        "maximum(0, scored_from + stride - length)",
        "maximum(0, scored_from + stride - length + 1)",
    ),
    "sliding scores a token less": ("(places >= scored_from)", "(places >= scored_from + 1)"),
    "same_targets with a token more": ("target + 1 - context", "target - context"),
    "same_targets from another part": ("EARLIEST_TARGET = 0.5", "EARLIEST_TARGET = 0.45"),
    "same_targets by another seed": ("TARGETS_SEED = 0", "TARGETS_SEED = 1"),
    "perplexity per word": ("loss * tokens / words", "loss * words / tokens"),
    "bits per byte": ("math.log(2) / n_bytes", "math.log(10) / n_bytes"),
    "16 bits ignored": ('enabled=dtype != "float32"', "enabled=False"),
}


def write_mutant(old: str, new: str, root: Path) -> None:
    """Change the one place of the package's copy that reads `old`."""
    files = [path for path in (root / "alibi_lm").rglob("*.py") if old in path.read_text()]
    if len(files) != 1 or files[0].read_text().count(old) != 1:
        raise SystemExit(f"{old!r} does not stand in one place: {files}")
    files[0].write_text(files[0].read_text().replace(old, new))


def is_caught(old: str = "", new: str = "") -> bool:
    """Whether a golden test fails with `new` in place of `old`; by default with nothing changed."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ("alibi_lm", "hydra_plugins", "tests", "configs"):
            shutil.copytree(ROOT / name, Path(folder) / name)
        shutil.copy(ROOT / "pyproject.toml", folder)
        if old:
            write_mutant(old, new, Path(folder))
        pytest = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"]
        run = subprocess.run(
            [*pytest, "-x", "-q", "tests/golden"],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": folder},
            capture_output=True,
            text=True,
            check=False,
        )
    if run.returncode == 0:
        return False
    # A mutant that does not even run is no proof of the numbers.
    if run.returncode != 1 or not re.search(
        "^E +(AssertionError: |assert )", run.stdout, re.MULTILINE
    ):
        raise SystemExit(run.stdout + run.stderr)
    return True


def main() -> None:
    """Try the unchanged package, then every mutant."""
    if is_caught():
        raise SystemExit("the golden tests fail without any change")
    caught = 0
    for name, (old, new) in MUTANTS.items():
        found = is_caught(old, new)
        caught += found
        print(f"{'caught' if found else 'SURVIVES':<9} {name}", flush=True)
    print(f"{caught} of {len(MUTANTS)} caught")
    sys.exit(caught < len(MUTANTS))


if __name__ == "__main__":
    main()
