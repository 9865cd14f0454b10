# SPDX-License-Identifier: Apache-2.0
"""What every model class of lmms-eval gets from us: arguments that choose a method, the pruning, and its numbers."""

from __future__ import annotations

import inspect
import os
from typing import Any, ClassVar

from prunevid.engine import Pruning, attach
from prunevid.integrations.lmms import arguments
from prunevid.integrations.lmms.prompts import follow_parents
from prunevid.integrations.lmms.tally import Tally, Totals, gathered


class Pruned:
    """To be put before a model class of lmms-eval: that class loads the model, reads clips and writes prompts as it is.

    The method stays attached to the model from the moment it is loaded until lmms-eval has all answers (`clean`).
    It is attached to the model under accelerate's wrapper, which is what `self.model` gives and what lmms-eval's
    classes generate with.

    Args:
        given: arguments of the model's own class, and ours (`arguments.choose`).

    Raises:
        ConfigError: an argument that neither knows, or a method that does not fit the model.
        UnsupportedModelError: the checkpoint is of a family that can't be pruned.
    """

    model_id: ClassVar[str]

    def __init__(self, **given: Any) -> None:
        theirs = arguments.accepted(super().__init__)
        ours, rest = arguments.split(given, theirs)
        method = arguments.choose(ours, self.model_id, theirs)  # before weights are read
        follow_parents()
        super().__init__(**_placed(rest, super().__init__))
        self.pruning: Pruning | None = attach(self.model, method)  # type: ignore[attr-defined]
        self._tally = Tally(self.pruning)

    @property
    def totals(self) -> Totals:
        """What was kept so far, in this process."""
        return self._tally.totals

    def generate_until(self, requests: list[Any]) -> list[Any]:
        """lmms-eval's answers; warns where some were made without the model, as after an error that its class hides."""
        before = self.totals.prompts
        answers: list[Any] = super().generate_until(requests)  # type: ignore[misc]
        asked = self.totals.prompts - before
        if asked < len(requests):
            _logger().warning(
                f"{self.model_id}: {len(requests) - asked} of {len(requests)} answers were made without the model; "
                "look for an error above."
            )
        return answers

    def clean(self) -> None:
        """Called by lmms-eval once, in every process, when all answers are there: reports, and frees the model."""
        if self.pruning is not None:
            totals = gathered(self.totals)
            if self.rank == 0:  # type: ignore[attr-defined]
                report(self.model_id, self.pruning.method, totals)
            self._tally.stop()
            self.pruning.detach()
            self.pruning = None
        super().clean()  # type: ignore[misc]


def report(model_id: str, method: Any, totals: Totals) -> None:
    """Logs what a run kept, and writes it into the results of lmms-eval beside its own numbers of throughput."""
    from lmms_eval.models.model_utils import gen_metrics

    logger, line = _logger(), f"{model_id}, method {method.label}: {totals.describe()}"
    untouched = method.acts and totals.kept >= totals.original
    (logger.warning if untouched else logger.info)(line)
    # Beside what the class itself measured: alone, it would state a throughput of 0.
    if totals.with_video and gen_metrics.get_logged_metrics_history():
        gen_metrics.log_metrics(0.0, 0, 0.0, totals.numbers())


def _placed(given: dict[str, Any], function: Any) -> dict[str, Any]:
    """The arguments, with a device_map where the class's own default is an empty one, which transformers refuses.

    Among several processes the class itself fills it in.
    """
    default = inspect.signature(function).parameters.get("device_map")
    if default is None or default.default != "" or given.get("device_map") or int(os.environ.get("WORLD_SIZE", 1)) > 1:
        return given
    return {**given, "device_map": str(given.get("device") or "cuda")}


def _logger() -> Any:
    from loguru import logger

    return logger
