"""Training a run from where it stands until it is trained or asked to stop.

Every `checkpoint_seconds`, and when it is asked to stop, the state of the last whole update is
kept. A training that was killed at any moment, and the one that continues it, together give the
weights and metrics of one that was not, bit for bit (on one machine, where `deterministic`).
"""

import time
from datetime import UTC, datetime
from typing import Any

from alibi_lm.errors import UserError
from alibi_lm.machine import processes
from alibi_lm.machine.device import be_deterministic, resolve_device
from alibi_lm.machine.interruption import Interrupted, deferred
from alibi_lm.machine.memory import prepare_memory
from alibi_lm.machine.progress import bar, logged, say
from alibi_lm.machine.provenance import differences, environment
from alibi_lm.model.decoder import Decoder
from alibi_lm.runs.curve import CurveFile
from alibi_lm.runs.folder import Run
from alibi_lm.runs.plan import batches_of
from alibi_lm.runs.start import load_start
from alibi_lm.tracking import NO_TRACKING, Tracker
from alibi_lm.training.checkpoint import Checkpoints, State, pack_weights, restore, state_of
from alibi_lm.training.loop import Update, build_scaler, compile_blocks, train
from alibi_lm.training.optim import build_optimizer
from alibi_lm.training.parallel import share_model

TRAINING = 3.0  # work of a token that is trained on, for one that is evaluated
LOG_EVERY = 10  # steps; a line of metrics.jsonl is the mean over as many


def train_run(run: Run, tracker: Tracker = NO_TRACKING) -> None:
    """Train the run from where it stands, unless it is trained."""
    processes.init()
    processes.on_rank_zero(run.create)
    with run.lock(), logged(run.log):
        if processes.on_rank_zero(lambda: run.is_trained):
            say(f"{run.path} is already trained")
            if processes.is_rank_zero():
                # A kill may have come after the weights and before the clearing.
                Checkpoints(run.checkpoints).clear()
        else:
            Trainer(run, tracker).train()


def build_model(run: Run, seed: int | None, backend: str) -> Decoder:
    """The run's model; seed: None for weights that are loaded."""
    config = run.training
    model = Decoder(
        config.model,
        config.position,
        run.data.vocab_size,
        config.train_length,
        seed,
        backend,
        config.checkpointing,
    )
    model.position.read_vocabulary(run.data.texts)
    return model


class Trainer:
    """A model in training, and what the run's folder keeps of it. All processes take part."""

    def __init__(self, run: Run, tracker: Tracker) -> None:
        config = run.training
        self.run, self.config, self.tracker = run, config, tracker
        self.device = resolve_device(config.device)
        prepare_memory(self.device)
        self.deterministic = be_deterministic(config.deterministic, self.device)
        self.checkpoints = Checkpoints(run.checkpoints)
        newest = self.checkpoints.newest()
        self.model = build_model(run, config.seed, config.backend)
        if config.start is not None and newest is None:
            load_start(self.model, config.start, run.identity.values["source"])
        self.model.to(self.device)
        self.n_parameters = self.model.n_parameters  # before it is shared
        if config.compile:
            compile_blocks(self.model)
        self.shared = share_model(self.model, config.parallel, self.device)
        self.optimizer = build_optimizer(self.model, config.optim)
        self.scaler = build_scaler(config.dtype, self.device, config.optim.tokens_per_step)
        # What a checkpoint keeps beside model and optimizer:
        self.step = 0
        self.recent: list[float] = []  # losses since the last line of metrics.jsonl
        self.seconds = 0.0  # of training, up to the last checkpoint
        self.first_step_seconds: float | None = None  # with compile=true mostly the compiler's
        self._resume(newest)
        self.started = self.saved_at = 0.0  # when training begins
        self.saved_step = self.step

    def _resume(self, state: State | None) -> None:
        """Continue from the newest checkpoint that is whole, if there is one."""
        steps = processes.all_gather(state.step if state else 0)
        if len(set(steps)) > 1:
            raise UserError(
                f"the processes see checkpoints of different steps in {self.checkpoints.folder}: "
                f"{steps}; output must be a folder that all of them share"
            )
        if state is None:
            return
        try:
            restore(self.model, self.optimizer, state.tensors, state.notes["optimizer"])
            self.scaler.load_state_dict(state.notes["scaler"])
        except (KeyError, RuntimeError, ValueError) as error:
            raise UserError(
                f"{self.checkpoints.folder} does not fit the run ({error}); remove it to train "
                "from the start"
            ) from error
        self.step = state.step
        self.recent = state.notes["recent"]
        self.seconds = state.notes["seconds"]
        self.first_step_seconds = state.notes["first_step_seconds"]

    def train(self) -> None:
        """Make the missing updates and keep the weights."""
        self._announce()
        config, optim = self.config, self.config.optim
        self.curve = CurveFile(self.run.curve, self.step)
        self.started = self.saved_at = time.perf_counter()
        with (
            bar(
                total=optim.train_tokens,
                initial=self.step * optim.tokens_per_step,
                unit="tok",
                desc=f"train {config.position.kind}",
                weight=TRAINING,
            ) as progress,
            deferred() as asked,
        ):

            def stop_if_asked() -> None:
                if number := processes.all_reduce_max(asked() or 0):
                    raise Interrupted(number)

            updates = train(
                self.shared,
                self.optimizer,
                batches_of(config, self.run.data),
                optim,
                self.device,
                seed=config.seed,
                dtype=config.dtype,
                passes=config.grad_accum_steps(processes.world_size()),
                first=self.step,
                before_pass=stop_if_asked,
                scaler=self.scaler,
            )
            try:
                for update in updates:
                    self._keep(update)
                    progress.set_postfix_str(f"loss {update.loss:.3f}", refresh=False)
                    progress.update(optim.tokens_per_step)
            except (Interrupted, UserError):
                self._save()
                raise
            self._finish()

    def _announce(self) -> None:
        config, n_processes = self.config, processes.world_size()
        passes = config.grad_accum_steps(n_processes)
        say(
            f"{self.run.path}: {self.n_parameters:,} parameters, "
            f"{config.optim.train_tokens:,} tokens in {config.optim.steps} steps of "
            f"{config.sequences_per_step} x {config.train_length}"
            + (f" in {n_processes} processes" if n_processes > 1 else "")
            + (f" ({passes} passes each)" if passes > 1 else "")
            + (f", continuing after step {self.step}" if self.step else "")
        )
        if not processes.is_rank_zero():
            return
        here = environment(self.device) | {
            "processes": n_processes,
            "parallel": config.parallel if n_processes > 1 else None,
            "deterministic": self.deterministic,
        }
        sessions = self.run.sessions()
        if self.step and (changed := differences(sessions[-1], here)):
            say(
                "warning: this machine or code differs from the last session's, so the result is "
                f"not bit for bit what it would have been: {'; '.join(changed)}"
            )
        started = datetime.now(UTC).isoformat(timespec="seconds")
        sessions.append({"after_step": self.step, "started": started} | here)
        self.run.update_manifest(sessions=sessions)
        self.tracker.describe(self._facts())

    def _facts(self) -> dict[str, Any]:
        return {
            "n_parameters": self.n_parameters,
            "train_tokens": self.config.optim.train_tokens,
            "vocab_size": self.run.data.vocab_size,
        }

    def _elapsed(self) -> float:
        return self.seconds + time.perf_counter() - self.started

    def _keep(self, update: Update) -> None:
        """Note an update: a line of metrics every LOG_EVERY steps, and a checkpoint when due."""
        self.step = update.step
        self.recent.append(update.loss)
        if self.first_step_seconds is None:
            self.first_step_seconds = self._elapsed()
        optim, last = self.config.optim, self.step == self.config.optim.steps
        if self.step % LOG_EVERY == 0 or last:
            line = {
                "step": self.step,
                "tokens": self.step * optim.tokens_per_step,
                "loss": sum(self.recent) / len(self.recent),
                "grad_norm": update.grad_norm,
                "lr": update.lr,
                "seconds": self._elapsed(),
            }
            self.recent.clear()
            self.curve.write(line)
            self.tracker.metrics(line)
        due = time.perf_counter() - self.saved_at >= self.config.checkpoint_seconds
        if processes.all_reduce_max(int(due)) and not last:
            self._save()

    def _save(self) -> None:
        """Keep the state of the last whole update, unless that is done."""
        if self.step == self.saved_step:
            return
        tensors, groups = state_of(self.model, self.optimizer)
        notes = {
            "optimizer": groups,
            "scaler": self.scaler.state_dict(),
            "recent": self.recent,
            "seconds": self._elapsed(),
            "first_step_seconds": self.first_step_seconds,
        }
        if processes.is_rank_zero():
            self.curve.sync()  # whenever a checkpoint is there, so are the lines before it
            self.checkpoints.save(State(self.step, tensors, notes))
        self.saved_at, self.saved_step = time.perf_counter(), self.step

    def _finish(self) -> None:
        """Keep the weights. From then on the run is trained and needs no checkpoints."""
        weights, seconds = pack_weights(self.model), self._elapsed()
        if processes.is_rank_zero():
            self.curve.close()
            self.run.finish(
                weights,
                **self._facts(),
                backend=self.model.backend,
                first_step_seconds=self.first_step_seconds,
                train_seconds=seconds,
                train_tokens_per_second=self.config.optim.train_tokens / seconds,
            )
            self.checkpoints.clear()
        processes.barrier()  # none continues before the weights are there
