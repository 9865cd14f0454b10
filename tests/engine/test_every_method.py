# SPDX-License-Identifier: Apache-2.0
"""Every method on two families: off is off, what is dropped equals hiding it, rows don't mix, no trace is left."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from transformers.generation.streamers import BaseStreamer

from engine.families import make_inputs
from engine.matrix import BATCH, ONE, attach, follow_up, prompts_of, repeatable
from engine.method_reference import recorded_scores, rows_of
from engine.methods_matrix import (
    MAIN,
    NAMES,
    REVISING,
    compare,
    forward,
    method_of,
    model_of,
    plain_of,
    reference_of,
    run,
)
from engine.test_attach_detach import hooks, trace
from engine.tiny import KERNELS, generate
from prunevid import methods
from prunevid.errors import UnsupportedError


@functools.cache
def _plain_run(family: str, kernel: str) -> Any:
    return generate(model_of(family, kernel), make_inputs(*prompts_of(family, BATCH)), 3)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("family", MAIN)
def test_the_whole_budget_changes_nothing(family: str, kernel: str, name: str) -> None:
    """Bit for bit, also of the methods that merge; DyCoke's answers see a part of the video all the same, unless told
    not to."""
    expected = _plain_run(family, kernel)
    method = method_of(name, family, retention_ratio=1.0)
    if name == "dycoke":
        method = method.replace(p=0)
    pruning, out = run(model_of(family, kernel), family, method, prompts_of(family, BATCH))
    assert torch.equal(out.sequences, expected.sequences)
    assert torch.equal(torch.stack(out.logits), torch.stack(expected.logits))
    assert {row["total"]["retained_ratio"] for row in pruning.stats} == {1.0}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("kernel", "budget"), [("sdpa", None), ("eager", 0.4)], ids=["own options", "budget"])
@pytest.mark.parametrize("family", MAIN)
def test_logits_of_every_step(family: str, kernel: str, budget: float | None, name: str) -> None:
    """A batch of one video, none and two, against a pass in which masks hide what the token maps say."""
    method = method_of(name, family, retention_ratio=budget)
    prompts = prompts_of(family, ["one", "text", "two"])
    pruning, out = run(model_of(family, kernel), family, method, prompts)
    refs = compare(pruning, family, prompts, out)
    if name != "none":
        _, _, _, unpruned = torch.stack(_plain_run(family, kernel).logits, dim=1)
        assert not torch.allclose(torch.stack(out.logits)[:, -1], unpruned, atol=1e-3)
    for prompt, maps, ref in zip(prompts, pruning.maps, refs):
        rows = rows_of(plain_of(family), prompt, torch.tensor([], dtype=torch.long), pruning.method, maps, False)
        assert len(ref.scores) == max((len(item.steps) for item in maps), default=0)
        if ref.scores and name != "prunevid":  # which scores in another way, and has a reference of its own
            _check_choices(maps, rows, ref.scores)
            found, expected = recorded_scores(maps, rows), {k: v for step in ref.scores for k, v in step.items()}
            assert found.keys() == expected.keys()
            assert [found[place] for place in expected] == pytest.approx(list(expected.values()), abs=1e-6)


def _check_choices(maps: Any, rows: Any, scores: list[dict[int, float]]) -> None:
    """At every choice, a video's tokens that go on unmerged have the best of the reference's scores."""
    for step, rated in enumerate(scores):
        for item, places in zip(maps, rows.places):
            target = item.steps[step].tolist()
            before = item.steps[step - 1].tolist() if step else list(range(len(target)))
            alive = [i for i in range(len(target)) if before[i] == i]
            joined = [i for i in alive if any(target[other] == i for other in alive if other != i)]
            lost = [i for i in alive if target[i] == -1]
            alone = [rated[places[i]] for i in alive if target[i] == i and i not in joined]
            gone = [rated[places[i]] for i in lost]
            assert not gone or not alone or min(alone) >= max(gone) - 1e-6


def test_methods_that_merge_inside_really_do() -> None:
    """So that the comparison above has something to see: HoliTom drops nothing, SparseVLM some."""
    for name, lost in (("holitom", False), ("sparsevlm", True)):
        pruning, _ = forward(model_of(MAIN[0]), MAIN[0], method_of(name, MAIN[0]), prompts_of(MAIN[0], ONE))
        (item,) = pruning.maps[0]
        joined = item.steps[0][item.steps[0] >= 0]
        assert len(joined.unique()) < len(joined) and bool((item.steps[-1] < 0).any()) == lost


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("family", MAIN)
def test_batch_row_is_the_row_alone(family: str, name: str) -> None:
    model, prompts, method = model_of(family), prompts_of(family, BATCH), method_of(name, family)
    pruning, together = run(model, family, method, prompts)
    width = max(map(len, prompts))
    for row, prompt in enumerate(prompts):
        own, alone = run(model, family, method, [prompt])
        assert together.sequences[row, width:].tolist() == alone.sequences[0, len(prompt) :].tolist()
        torch.testing.assert_close(torch.stack(together.logits)[:, row], torch.cat(alone.logits), atol=1e-5, rtol=0)
        for item, other in zip(pruning.maps[row], own.maps[0], strict=True):
            assert torch.equal(item.destination, other.destination)


class _Fails(Exception):
    pass


class _Watcher(BaseStreamer):
    """Writes the hooks down that stand between two passes; fails at last where told so."""

    def __init__(self, model: Any, left: int):
        self.model, self.left, self.seen = model, left, []

    def put(self, value: Any) -> None:
        self.seen.append(hooks(self.model))
        self.left -= 1
        if not self.left:
            raise _Fails

    def end(self) -> None:
        pass


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("family", MAIN)
def test_detaching_restores_the_model(family: str, name: str) -> None:
    """Hooks of a pass are gone when it ends, all others at the end of the block, after an exception too."""
    model, inputs = model_of(family), make_inputs(*prompts_of(family, ONE))
    before = trace(model)
    watcher = _Watcher(model, 3)
    with pytest.raises(_Fails), attach(model, family, method_of(name, family)):
        resting = hooks(model)
        generate(model, inputs, 3, streamer=watcher)
    assert len(watcher.seen) == 3 and all(found == resting for found in watcher.seen)
    assert trace(model) == before


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("family", MAIN)
def test_second_turn_on_the_returned_cache(family: str, name: str) -> None:
    model, (prompt,) = model_of(family), prompts_of(family, ["two"])
    with attach(model, family, method_of(name, family)) as pruning:
        first = generate(model, make_inputs(prompt), 3)
        maps = pruning.maps[0]
        assert first.past_key_values.get_seq_length() == len(prompt) + 2
        second = generate(model, follow_up(family, first, prompt, 4), 3, past_key_values=first.past_key_values)
        assert pruning.maps[0] is maps
    new = second.sequences[0, len(prompt) :]
    ref = reference_of(pruning, family, prompt, new, maps, together=range(2, 7))
    torch.testing.assert_close(torch.cat(first.logits), ref.logits[:3], atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.cat(second.logits), ref.logits[-4:-1], atol=1e-5, rtol=0)


@pytest.mark.parametrize(("name", "then"), [("fastv", "none"), ("pyramiddrop", "uniform"), ("fastv", "dycoke")])
@pytest.mark.parametrize("family", MAIN)
def test_second_turn_under_another_method(family: str, name: str, then: str) -> None:
    """The cache knows which layers hold less, whoever goes on with it."""
    model, (prompt,) = model_of(family), prompts_of(family, ["two"])
    pruning, first = run(model, family, method_of(name, family), [prompt])
    inputs = follow_up(family, first, prompt, 4)
    with attach(model, family, method_of(then, family)):
        second = generate(model, inputs, 3, past_key_values=first.past_key_values)
    ref = reference_of(pruning, family, prompt, second.sequences[0, len(prompt) :], pruning.maps[0])
    torch.testing.assert_close(torch.cat(second.logits), ref.logits[-4:-1], atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("family", MAIN)
def test_static_cache(family: str, name: str) -> None:
    model, prompts, method = model_of(family), prompts_of(family, ["one", "text", "other"]), method_of(name, family)
    if name in REVISING:
        with pytest.raises(UnsupportedError, match="needs a cache that grows"):
            run(model, family, method, prompts, cache_implementation="static")
        return
    pruning, out = run(model, family, method, prompts, cache_implementation="static")
    compare(pruning, family, prompts, out)


@pytest.mark.parametrize(
    ("name", "given"),
    [("fastv", {}), ("lookm", {}), ("tome|fastv", {}), ("dycoke", {}), ("dycoke", {"turned": 0.75, "layer": 2})],
    ids=str,
)
@pytest.mark.parametrize("family", MAIN)
def test_beam_scores_are_the_reference_s(family: str, name: str, given: dict[str, Any]) -> None:
    """Beams that part ways take what a method remembers of the token before with them."""
    model, prompts = model_of(family), repeatable(family, ["one", "text"])
    options: dict[str, Any] = dict(num_beams=4, num_return_sequences=3, output_scores=True)
    pruning, out = run(model, family, method_of(name, family, **given), prompts, 7, **options)
    width = max(map(len, prompts))
    each = len(pruning.maps) // len(prompts)  # rows may have been repeated before the prompt's pass
    for row, (sequence, score) in enumerate(zip(out.sequences, out.sequences_scores)):
        prompt, new = prompts[row // 3], sequence[width:]
        ref = reference_of(pruning, family, prompt, new, pruning.maps[row // 3 * each])
        logits = ref.logits[:-1].log_softmax(-1)
        expected = logits[torch.arange(len(new)), new].sum() / len(new)
        torch.testing.assert_close(score, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("positions", ["keep", "renumber"])
@pytest.mark.parametrize("name", ["uniform", "evs", "visionzip", "tome|fastv", "evs|lookm", "dycoke"])
def test_positions_are_an_option(name: str, positions: str) -> None:
    """On an axis that counts tokens; what the method itself does there is one of both."""
    family, prompts = "llava_onevision", prompts_of("llava_onevision", ["two", "one"])
    method = method_of(name, family, positions=positions)
    pruning, out = run(model_of(family), family, method, prompts)
    compare(pruning, family, prompts, out)
    _, natural = run(model_of(family), family, method_of(name, family), prompts)
    same = torch.equal(torch.stack(natural.logits), torch.stack(out.logits))
    assert same == ((positions == "keep") == name.startswith("evs"))


@pytest.mark.parametrize("merge_by", ["pivotal", "averaged", "weighted", "none"])
@pytest.mark.parametrize("recent", [0, 32])
@pytest.mark.parametrize("family", MAIN)
def test_lookm_head_by_head(family: str, recent: int, merge_by: str) -> None:
    prompts = prompts_of(family, ["two"])
    pruning, out = run(model_of(family), family, methods.get("lookm", recent=recent, merge_by=merge_by), prompts, 4)
    compare(pruning, family, prompts, out)


@pytest.mark.parametrize("options", [{"turned": 1.0}, {"turned": -1.0}, {"layer": 3, "p": 0.5}, {"layer": 4}], ids=str)
@pytest.mark.parametrize("family", MAIN)
def test_dycoke_token_by_token(family: str, options: dict[str, Any]) -> None:
    """With a choice at every token, with the first token's only, later, and where no layer is left to hide from."""
    prompts = prompts_of(family, ["one", "two", "text"])
    pruning, out = run(model_of(family), family, methods.get("dycoke", **options), prompts, 6)
    refs = compare(pruning, family, prompts, out)
    assert not refs[2].shown
    for ref in refs[:2]:
        different = len(set(map(frozenset, ref.shown)))
        assert different == 1 if options.get("turned") == -1.0 else different > 1
