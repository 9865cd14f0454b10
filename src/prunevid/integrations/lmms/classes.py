# SPDX-License-Identifier: Apache-2.0
"""The classes of `PARENTS`, each made when lmms-eval asks for it: one may need packages that others do not."""

from __future__ import annotations

import functools
from typing import Any

from prunevid.integrations.lmms import PARENTS, Parent
from prunevid.integrations.lmms.pruned import Pruned


def __getattr__(name: str) -> Any:
    for model_id, parent in PARENTS.items():
        if name in (parent.simple, parent.chat):
            return _extend(model_id, parent, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(name for parent in PARENTS.values() for name in (parent.simple, parent.chat) if name)


@functools.cache
def _extend(model_id: str, parent: Parent, name: str) -> type:
    """lmms-eval's class of that parent with `Pruned` before it."""
    from lmms_eval.models import get_model

    theirs = get_model(parent.model_id, force_simple=name == parent.simple)
    described = {
        "__doc__": f"lmms-eval's {parent.model_id}, pruned.",
        "__module__": __name__,
        "model_id": model_id,
    }
    return type(name, (Pruned, theirs), described)
