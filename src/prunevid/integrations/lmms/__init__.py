# SPDX-License-Identifier: Apache-2.0
"""Our models inside lmms-eval (extra `lmms`): its own model classes, pruned, under names of ours.

lmms-eval finds them by the entry point group `lmms_eval.models`. Nothing of lmms-eval is imported before it asks.
`docs/lmms-eval.md` tells how to use them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from prunevid.errors import MissingDependencyError

_CLASSES = "prunevid.integrations.lmms.classes"
_OWN = "prunevid.integrations.lmms.own"


@dataclass(frozen=True)
class Parent:
    """A model of lmms-eval that one of ours extends.

    Attributes:
        model_id: its name in lmms-eval.
        simple, chat: which of its classes ours extends, by name; None: not that one.
    """

    model_id: str
    simple: str | None = None
    chat: str | None = None


PARENTS: dict[str, Parent] = {
    "prunevid_qwen2_vl": Parent("qwen2_vl", simple="PruneVidQwen2VL"),
    "prunevid_qwen2_5_vl": Parent("qwen2_5_vl", simple="PruneVidQwen25VL", chat="PruneVidQwen25VLChat"),
    "prunevid_qwen3_vl": Parent("qwen3_vl", simple="PruneVidQwen3VL", chat="PruneVidQwen3VLChat"),
    # Only the simple class samples frames: the chat class hands whole videos to a processor that takes every frame.
    "prunevid_llava_onevision": Parent("llava_hf", simple="PruneVidLlavaOnevision"),
}
"""Our models by name, and what each extends."""

OWN: dict[str, str] = {"prunevid": "PruneVidModel", "prunevid_builtin": "PruneVidBuiltin"}
"""Our models that read clips and write prompts as `prunevid.VideoQA` does, and their classes."""


def manifests() -> list[Any]:
    """What the entry point gives to lmms-eval: a `ModelManifest` for each of our models.

    Raises:
        MissingDependencyError: lmms-eval is not installed, or too old to know manifests.
    """
    try:
        from lmms_eval.models.registry_v2 import ModelManifest
    except ImportError as error:
        raise MissingDependencyError(
            "lmms-eval 0.7.3 or newer is needed for this; install prunevid with the extra 'lmms'."
        ) from error
    pruned = [
        ModelManifest(
            name,
            simple_class_path=parent.simple and f"{_CLASSES}.{parent.simple}",
            chat_class_path=parent.chat and f"{_CLASSES}.{parent.chat}",
        )
        for name, parent in PARENTS.items()
    ]
    return pruned + [ModelManifest(name, simple_class_path=f"{_OWN}.{kind}") for name, kind in OWN.items()]
