"""A session: training a run from where it stands until it is done or asked to stop.

Every `checkpoint_seconds`, and when it is asked to stop, the state of the last whole update is
kept. A session that was killed at any moment, and the next one, together give the weights and
metrics of one that was not, bit for bit (on one machine, where `deterministic`).
"""

import time
from dataclasses import asdict
from datetime import UTC, datetime

import torch

from alibi_lm.config import Config
from alibi_lm.data.batches import Batches
from alibi_lm.data.tokens import TokenizedCorpus
from alibi_lm.errors import SettingsError, UserError
from alibi_lm.machine import processes
from alibi_lm.machine.device import be_deterministic, resolve_device
from alibi_lm.machine.interruption import Interrupted, deferred
from alibi_lm.machine.memory import fail_when_memory_runs_out, keep_freed_memory
from alibi_lm.machine.progress import bar, logged, say
from alibi_lm.machine.provenance import differences, environment
from alibi_lm.model.decoder import check_backend, check_vocabulary
from alibi_lm.positions import build_position
from alibi_lm.runs.build import build_model
from alibi_lm.runs.curve import MetricsFile
from alibi_lm.runs.folder import Run, open_run
from alibi_lm.runs.tracking import NOBODY, Tracker
from alibi_lm.training.checkpoint import Checkpoints, State, pack_weights, restore, state_of
from alibi_lm.training.loop import Update, compile_blocks, train
from alibi_lm.training.loss_scale import LossScale
from alibi_lm.training.optim import build_optimizer
from alibi_lm.training.parallel import share_model

LOG_EVERY = 10  # steps; a line of metrics.jsonl is the mean over as many


def training_device(config: Config) -> torch.device:
    """The device to train on; a UserError if it is not there or the backend cannot train on it."""
    device = resolve_device(config.device)
    position = build_position(config.position, config.model)
    dropout = config.model.attention_dropout
    check_backend(config.backend, position, device.type, training=True, dropout=dropout)
    return device


def training_batches(config: Config, data: TokenizedCorpus) -> Batches:
    """The run's batches; a UserError if the text does not fit the model, or they cannot be made."""
    check_vocabulary(config.model, data.vocab_size)
    if problems := config.sharing_problems(processes.count()):
        raise SettingsError(problems)
    return Batches(data.split("train"), config.train_length, config.sequences_per_step, config.seed)


def train_run(
    config: Config, data: TokenizedCorpus, tracker: Tracker = NOBODY, label: str = ""
) -> Run:
    """Train the run that the configuration describes, from where it stands, unless it is done."""
    device = training_device(config)
    batches = training_batches(config, data)
    keep_freed_memory()
    processes.join()
    run = processes.by_first(lambda: open_run(config, data))
    with run.lock(), logged(run.log):
        if processes.by_first(lambda: run.is_trained):
            say(f"{label}{run.path} is trained already")
            if processes.is_first():
                Checkpoints(run.checkpoints).clear()  # a kill may have come before the clearing
        else:
            Session(run, data, batches, device, tracker, label).train()
    return run


class Session:
    """A model in training, and what a run's folder keeps of it. All processes take part."""

    def __init__(
        self,
        run: Run,
        data: TokenizedCorpus,
        batches: Batches,
        device: torch.device,
        tracker: Tracker,
        label: str = "",
    ) -> None:
        config = run.config
        self.run, self.config = run, config
        self.batches, self.device, self.tracker, self.label = batches, device, tracker, label
        if device.type == "cpu":
            fail_when_memory_runs_out()
        self.deterministic = be_deterministic(config.deterministic, device)
        self.model = build_model(config, data).to(device)
        self.train_tokens = config.optim.steps * config.optim.tokens_per_step
        self.facts = {
            "n_parameters": self.model.n_parameters,
            "train_tokens": self.train_tokens,
            "vocab_size": data.vocab_size,
            "backend": self.model.backend(config.train_length),
        }
        if config.compile:
            compile_blocks(self.model)
        self.shared = share_model(self.model, config.parallel, device)
        self.optimizer = build_optimizer(self.model, config.optim)
        self.checkpoints = Checkpoints(run.checkpoints)
        # What a checkpoint keeps beside the tensors:
        self.step = 0
        self.recent: list[float] = []  # losses since the last line of metrics.jsonl
        self.seconds = 0.0  # of all sessions, up to the last one's end
        self.first_step_seconds: float | None = None  # with compile=true mostly the compiler's
        self.scale = LossScale() if config.dtype == "float16" else None
        self._resume()
        self.started = self.saved_at = 0.0  # when training begins
        self.saved_step = self.step
        if processes.is_first():
            self.metrics = MetricsFile(run.curve, self.step)

    def _resume(self) -> None:
        """Take up the newest checkpoint that is whole."""
        state = self.checkpoints.newest()
        steps = processes.all_of(state.step if state else 0)
        if len(set(steps)) > 1:
            raise UserError(
                f"the processes see checkpoints of other steps in {self.checkpoints.folder}: "
                f"{steps}; output must be a folder that all of them share"
            )
        if state is None:
            return
        try:
            restore(self.model, self.optimizer, state.tensors)
        except (KeyError, RuntimeError) as error:
            raise UserError(
                f"{self.checkpoints.folder} does not fit the run ({error}); remove it to train "
                "from the start"
            ) from error
        self.step = state.step
        self.recent = state.notes["recent"]
        self.seconds = state.notes["seconds"]
        self.first_step_seconds = state.notes["first_step_seconds"]
        if self.scale:
            self.scale = LossScale(**state.notes["loss_scale"])

    def train(self) -> None:
        """Make the updates that are missing; a UserError where the loss is no number."""
        self._announce()
        config = self.config
        self.started = self.saved_at = time.perf_counter()
        with (
            bar(
                total=self.train_tokens,
                initial=self.step * config.optim.tokens_per_step,
                unit="tok",
                desc=f"{self.label}train {config.position.name}",
            ) as progress,
            deferred() as asked,
        ):

            def stop_if_asked() -> None:
                if number := processes.largest(asked() or 0):
                    raise Interrupted(number)

            updates = train(
                self.shared,
                self.optimizer,
                self.batches,
                config,
                self.device,
                self.step,
                stop_if_asked,
                self.scale,
            )
            try:
                for done in updates:
                    self._keep(done)
                    progress.set_postfix_str(f"loss {done.loss:.3f}", refresh=False)
                    progress.update(config.optim.tokens_per_step)
            except (Interrupted, UserError):
                self._save()
                raise
            self._finish()

    def _announce(self) -> None:
        config, n_processes = self.config, processes.count()
        passes = config.grad_accum_steps(n_processes)
        say(
            f"{self.label}{self.run.path}: {self.facts['n_parameters']:,} parameters, "
            f"{self.train_tokens:,} tokens in {config.optim.steps} steps of "
            f"{config.sequences_per_step} x {config.train_length}"
            + (f" in {n_processes} processes" if n_processes > 1 else "")
            + (f" ({passes} passes each)" if passes > 1 else "")
            + (f", going on after step {self.step}" if self.step else "")
        )
        if processes.is_first():
            here = environment(self.device) | {
                "processes": n_processes,
                "parallel": config.parallel if n_processes > 1 else None,
                "deterministic": self.deterministic,
            }
            before = self.run.sessions()
            if self.step and (changed := differences(before[-1], here)):
                say(
                    "warning: not the same as in the session before, so not bit for bit what it "
                    f"would have become: {'; '.join(changed)}"
                )
            started = datetime.now(UTC).isoformat(timespec="seconds")
            self.run.add_session({"after_step": self.step, "started": started} | here)
        self.tracker.describe(self.facts)

    def _elapsed(self) -> float:
        return self.seconds + time.perf_counter() - self.started

    def _keep(self, done: Update) -> None:
        """Take note of an update: a line of metrics now and then, and a checkpoint."""
        self.step = done.step
        self.recent.append(done.loss)
        if self.first_step_seconds is None:
            self.first_step_seconds = self._elapsed()
        if done.step % LOG_EVERY == 0 or done.step == self.config.optim.steps:
            line = {
                "step": done.step,
                "tokens": done.step * self.config.optim.tokens_per_step,
                "loss": sum(self.recent) / len(self.recent),
                "grad_norm": done.grad_norm,
                "lr": done.lr,
                "seconds": self._elapsed(),
            }
            self.recent.clear()
            if processes.is_first():
                self.metrics.write(line)
                self.tracker.metrics(line)
        due = time.perf_counter() - self.saved_at >= self.config.checkpoint_seconds
        if processes.largest(int(due)) and done.step < self.config.optim.steps:
            self._save()

    def _save(self) -> None:
        """Keep the state of the last whole update, unless that is done."""
        if self.step == self.saved_step:
            return
        tensors = state_of(self.model, self.optimizer)
        notes = {
            "recent": self.recent,
            "seconds": self._elapsed(),
            "first_step_seconds": self.first_step_seconds,
            "loss_scale": asdict(self.scale) if self.scale else None,
        }
        if processes.is_first():
            self.metrics.sync()  # whenever a checkpoint is there, so are the lines before it
            self.checkpoints.save(State(self.step, tensors, notes))
        self.saved_at, self.saved_step = time.perf_counter(), self.step

    def _finish(self) -> None:
        """Keep the weights. From then on the run is trained and needs no checkpoints."""
        weights, seconds = pack_weights(self.model), self._elapsed()
        if processes.is_first():
            self.metrics.sync()
            self.metrics.close()
            self.run.finish(
                weights,
                **self.facts,
                first_step_seconds=self.first_step_seconds,
                train_seconds=seconds,
                train_tokens_per_second=self.train_tokens / seconds,
            )
            self.checkpoints.clear()
        processes.largest(0)  # none goes on before the weights are there
