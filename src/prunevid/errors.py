# SPDX-License-Identifier: Apache-2.0
"""The errors that this package raises: each message is one sentence that names the value and what to do.

`one_line` brings the messages of others to one line.
"""

from __future__ import annotations


class PruneVidError(Exception):
    """Base of every error that this package raises on purpose."""


class ConfigError(PruneVidError, ValueError):
    """A setting is outside its allowed range, or two settings contradict each other."""


class InputError(PruneVidError, ValueError):
    """A clip, an image, a question or a tensor that was handed in can't be used as it is."""


class UnsupportedError(PruneVidError):
    """Something that the model can do but that can't work together with pruning."""


class UnsupportedModelError(UnsupportedError):
    """The model belongs to a family that has no adapter (see `prunevid.models.supported()`)."""


class AlreadyAttachedError(PruneVidError):
    """`attach` was called on a model that a pruning is attached to already."""


class JudgeError(PruneVidError):
    """The judge of a benchmark can't be reached, refuses, or has no budget left; what it said so far is kept."""


class MissingDependencyError(PruneVidError, ImportError):
    """An optional package is needed for this and is not installed."""


class UnprunedWarning(UserWarning):
    """A forward pass runs unpruned because pruning can't see what it would need."""


class StoppedError(PruneVidError):
    """Work that had to stop halfway; what was done is kept, and the message says how to go on."""


def one_line(said: object) -> str:
    """A text, or the message of an error, with every run of spaces and line breaks as one space.

    An error without a message goes by the name of its class.
    """
    line = " ".join(str(said).split())
    return type(said).__name__ if not line and isinstance(said, BaseException) else line
