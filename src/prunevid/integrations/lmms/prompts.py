# SPDX-License-Identifier: Apache-2.0
"""Lets lmms-eval's tasks ask our models in the words in which they ask the models that ours extend.

A task may hold other words, targets or lengths for some models, under their names (`lmms_eval_specific_kwargs` and its
like): Video-MME does for `qwen3_vl`. The name is that of `--model`, so `prunevid_qwen3_vl` would be asked in the words
for everybody, and a difference in accuracy would not be the pruning's.
"""

from __future__ import annotations

from typing import Any

from prunevid.integrations.lmms import PARENTS


class _NameForTasks:
    """`TaskManager.model_name` (what tasks look their words up by): our names read as their parents'."""

    def __get__(self, manager: Any, kind: Any = None) -> Any:
        if manager is None:
            return self
        name = manager.__dict__.get("model_name")
        return PARENTS[name].model_id if isinstance(name, str) and name in PARENTS else name

    def __set__(self, manager: Any, name: Any) -> None:
        manager.__dict__["model_name"] = name


def follow_parents() -> None:
    """Makes every `TaskManager`, those made before too, choose words for our models by their parents' names.

    To be called before tasks are loaded, which lmms-eval does once its model is there. Safe to call again.
    """
    from lmms_eval.tasks import TaskManager

    if not isinstance(TaskManager.__dict__.get("model_name"), _NameForTasks):
        TaskManager.model_name = _NameForTasks()
