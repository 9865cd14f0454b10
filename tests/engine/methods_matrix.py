# SPDX-License-Identifier: Apache-2.0
"""What the tests that run on every method share: the methods, what each needs, and its own reference."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch

import prunevid
from engine import matrix
from engine.families import VideoPrompt, build, make_inputs, settings
from engine.masked_reference import plain_copy
from engine.method_reference import MethodReference, reference, shrunken_reference
from engine.tiny import generate
from prunevid import methods
from prunevid.methods import Method

MAIN = ("qwen2_5_vl", "llava_onevision")
COMPOSED = ("vidcom2|fastv", "evs|lookm", "uniform|pyramiddrop", "tome|fastv")
OWN = tuple(name for name in methods.names() if type(methods.get(name)).__module__.startswith("prunevid."))
NAMES = (*OWN, *COMPOSED)
# Whose merged tokens are no plain means of their cells; the recorded features are taken for true.
WEIGHTED = ("prumerge", "prumerge+", "visionzip", "fastvid", "holitom", "flashvid")
ASKING = tuple(name for name in NAMES if methods.get(name).selection_layers)
SHRINKING = tuple(name for name in NAMES if methods.get(name).shrinks_cache)
REVISING = tuple(name for name in NAMES if methods.get(name).revision_layer is not None)


def method_of(name: str, family: str, **options: Any) -> Method:
    """A method by name, with what the tiny clips ask for where its defaults would see too little in them."""
    if name == "prunevid":  # tokens in published order have a reference of their own
        return methods.resolve(settings(family, token_order="raster"), **options)
    if "lookm" in name:  # the published 32 recent tokens are more than what follows the tiny clips
        return methods.compose(*(methods.get(part, **_lookm(part)) for part in name.split("|")), **options)
    if name == "none":  # which refuses a budget
        options = {key: value for key, value in options.items() if key != "retention_ratio"}
    return methods.get(name, **options)


def _lookm(part: str) -> dict[str, Any]:
    return {"recent": 4} if part == "lookm" else {}


@functools.cache
def model_of(family: str, kernel: str = "sdpa") -> Any:
    """One model for all tests that leave no trace on it; it has answered once."""
    return matrix.used(family, kernel)


@functools.cache
def plain_of(family: str) -> Any:
    """The same, eager, for references."""
    return plain_copy(build(family))


def run(model: Any, family: str, method: Method, prompts: list[VideoPrompt], steps: int = 3, **options: Any) -> Any:
    """The pruning, detached, and what it generated."""
    with matrix.attach(model, family, method) as pruning:
        out = generate(model, make_inputs(*prompts), steps, **options)
    return pruning, out


def forward(model: Any, family: str, method: Method, prompts: list[VideoPrompt]) -> Any:
    """The pruning, detached, and the output of one pass over the prompts."""
    with matrix.attach(model, family, method) as pruning, torch.no_grad():
        out = model(**make_inputs(*prompts))
    return pruning, out


def reference_of(
    pruning: prunevid.Pruning,
    family: str,
    prompt: VideoPrompt,
    new_ids: torch.Tensor,
    maps: Sequence[Any],
    together: range = range(0),
) -> MethodReference:
    """The reference that fits a method."""
    method = pruning.method
    names = {method.name, *(part.name for part in getattr(method, "parts", ()))}
    averages = not names & set(WEIGHTED)
    if method.shrinks_cache:
        return shrunken_reference(plain_of(family), prompt, new_ids, method, maps, averages)
    return reference(plain_of(family), prompt, new_ids, method, maps, averages, together)


def compare(pruning: prunevid.Pruning, family: str, prompts: list[VideoPrompt], out: Any) -> list[MethodReference]:
    """Asserts that every step's logits of a generated batch are the reference's."""
    width, steps, found = max(map(len, prompts)), torch.stack(out.logits, dim=1), []
    for row, prompt in enumerate(prompts):
        ref = reference_of(pruning, family, prompt, out.sequences[row, width:], pruning.maps[row])
        torch.testing.assert_close(steps[row], ref.logits[:-1], atol=1e-5, rtol=0)
        found.append(ref)
    return found


def tokens_of(pruning: prunevid.Pruning) -> list[list[list[int]]]:
    """Of each row and video: tokens that each decoder layer processes, and last what is left after them."""
    method, depth = pruning.method, pruning.language_model.config.num_hidden_layers
    rows = []
    for maps in pruning.maps:
        videos = []
        for item in maps:
            left = [item.tokens, *(int((own == torch.arange(len(own))).sum()) for own in item.steps)]
            choices = method.selection_layers if item.steps else ()
            videos.append([left[sum(layer < index for layer in choices)] for index in range(depth + 1)])
        rows.append(videos)
    return rows
