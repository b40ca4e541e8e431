"""A sweeper of Hydra's: all combinations, as the basic one, for a task that checks them first.

Chosen by `hydra/sweeper=checked` (configs/config.yaml). A task with the methods `check` and `run`
gets every member composed before one is launched; any other is called for each.
"""

from functools import partial
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class CheckedSweeper(BasicSweeper):
    """Composes and checks all members, launches them, and lets the task report on them."""

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Keep the task, which the basic sweeper only hands to the launcher."""
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)
        self.task: Any = task_function

    def sweep(self, arguments: list[str]) -> Any:
        """A preset's own choices come first; the command line replaces them key by key."""
        assert self.hydra_context is not None and self.launcher is not None
        assert self.config is not None
        launcher, loader = self.launcher, self.hydra_context.config_loader
        overrides = OverridesParser.create(config_loader=loader).parse_overrides(
            [*self._parse_config(), *arguments]
        )
        (batch,) = self.split_arguments(overrides, max_batch_size=None)
        launch = partial(launcher.launch, batch, initial_job_idx=0)
        if not hasattr(self.task, "check"):
            return [job.return_value for job in launch()]  # which raises what the job raised
        given = self.config.hydra.overrides.hydra  # the launcher, say; Hydra composes with it
        chosen = [word for word in given if not word.startswith("hydra.mode=")]
        self.task.check(
            [
                ([*chosen, *words], partial(loader.load_sweep_config, self.config, words))
                for words in batch
            ]
        )
        return self.task.run(launch)


ConfigStore.instance().store(
    group="hydra/sweeper",
    name="checked",
    node={
        "_target_": "hydra_plugins.alibi_lm_sweeper.CheckedSweeper",
        "max_batch_size": None,
        "params": None,
    },
    provider="alibi_lm",
)
