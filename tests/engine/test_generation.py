# SPDX-License-Identifier: Apache-2.0
"""The ways to generate, for every family: sampling, beams, several sequences, streams, static caches, second turns,
threads."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import StaticCache
from transformers.generation.streamers import BaseStreamer

import prunevid
from engine import prompts as qwen
from engine import tiny
from engine.families import FAMILIES, build, make_inputs, settings
from engine.masked_reference import compare, plain_copy, reference
from engine.matrix import BATCH, ONE, attach, follow_up, order_of, prompts_of, repeatable
from engine.tiny import KERNELS, SPECIAL, generate
from prunevid import models

CACHES: list[dict[str, Any]] = [{}, {"enable_stage2": False}, {"enable_cache_compression": False}]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("family", FAMILIES)
def test_sampling_draws_from_the_reference_s_logits(family: str, kernel: str) -> None:
    model, config = build(family, kernel), settings(family)
    plain, (prompt,) = plain_copy(model), prompts_of(family, ONE)
    with attach(model, family, config):
        torch.manual_seed(5)
        out = generate(model, make_inputs(prompt), 6, do_sample=True, top_k=0)
    new = out.sequences[0, len(prompt) :]
    logits = reference(plain, prompt, new, config, order_of(model, config)).logits[len(prompt) - 1 : -1]
    torch.testing.assert_close(torch.cat(out.logits), logits, atol=1e-5, rtol=0)
    logits[:, SPECIAL] = -torch.inf
    torch.manual_seed(5)
    drawn = [int(torch.multinomial(row[None].softmax(-1), 1)) for row in logits]
    assert new.tolist() == drawn


@pytest.mark.parametrize("overrides", [{}, {"enable_cache_compression": False}], ids=str)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("family", FAMILIES)
def test_beam_scores_are_the_reference_s(family: str, kernel: str, overrides: dict[str, Any]) -> None:
    model, config = build(family, kernel), settings(family, **overrides)
    plain, prompts = plain_copy(model), repeatable(family, ["one", "two", "text"])
    with attach(model, family, config):
        out = generate(model, make_inputs(*prompts), 4, num_beams=3, num_return_sequences=2, output_scores=True)
    width, order = max(map(len, prompts)), order_of(model, config)
    assert len(out.sequences) == 2 * len(prompts)
    for row, (sequence, score) in enumerate(zip(out.sequences, out.sequences_scores)):
        prompt, new = prompts[row // 2], sequence[width:]
        logits = reference(plain, prompt, new, config, order).logits[len(prompt) - 1 : -1].log_softmax(-1)
        expected = logits[torch.arange(len(new)), new].sum() / len(new)
        torch.testing.assert_close(score, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("family", FAMILIES)
def test_several_return_sequences(family: str, kernel: str) -> None:
    model, config = build(family, kernel), settings(family)
    prompts = repeatable(family, ["one", "two", "text"])
    with attach(model, family, config) as pruning:
        torch.manual_seed(7)
        out = generate(model, make_inputs(*prompts), 4, do_sample=True, top_k=0, num_return_sequences=3)
        assert len(pruning.stats) in (len(prompts), 3 * len(prompts))
    assert len({tuple(row) for row in out.sequences.tolist()}) > len(prompts)
    repeated = [prompt for prompt in prompts for _ in range(3)]
    compare(plain_copy(model), repeated, out, config, order_of(model, config))


class _Recorder(BaseStreamer):
    def __init__(self) -> None:
        self.values: list[int] = []
        self.ended = False

    def put(self, value: Tensor) -> None:
        self.values += value.flatten().tolist()

    def end(self) -> None:
        self.ended = True


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("family", FAMILIES)
def test_streamer_gets_the_same_tokens(family: str, kernel: str) -> None:
    model, recorder, inputs = build(family, kernel), _Recorder(), make_inputs(*prompts_of(family, ONE))
    with attach(model, family, settings(family)):
        out = generate(model, inputs, 5, streamer=recorder)
        silent = generate(model, inputs, 5)
    assert recorder.ended and recorder.values == out.sequences[0].tolist()
    assert torch.equal(out.sequences, silent.sequences)


@pytest.mark.parametrize("given", ["by name", "object"])
@pytest.mark.parametrize(
    ("names", "overrides"), [(ONE, {}), (BATCH, {}), (BATCH, CACHES[1]), (ONE, CACHES[2]), (BATCH, CACHES[2])], ids=str
)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("family", FAMILIES)
def test_static_cache(family: str, kernel: str, names: list[str], overrides: dict[str, Any], given: str) -> None:
    model, config = build(family, kernel), settings(family, **overrides)
    prompts = prompts_of(family, names)
    if given == "by name":
        options: dict[str, Any] = {"cache_implementation": "static"}
    else:
        options = {"past_key_values": StaticCache(config=model.config.get_text_config(), max_cache_len=400)}
    with attach(model, family, config):
        out = generate(model, make_inputs(*prompts), 3, **options)
        again = generate(model, make_inputs(*prompts), 3)
    assert torch.equal(out.sequences, again.sequences)
    compare(plain_copy(model), prompts, out, config, order_of(model, config))


@pytest.mark.parametrize("overrides", CACHES, ids=str)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("family", FAMILIES)
def test_second_turn_on_the_returned_cache(family: str, kernel: str, overrides: dict[str, Any]) -> None:
    model, config = build(family, kernel), settings(family, **overrides)
    plain, (prompt,) = plain_copy(model), prompts_of(family, ["two"])
    with attach(model, family, config):
        first = generate(model, make_inputs(prompt), 3)
        cache = first.past_key_values
        assert cache.get_seq_length() == len(prompt) + 2
        second = generate(model, follow_up(family, first, prompt, 4), 3, past_key_values=cache)
    new = second.sequences[0, len(prompt) :]
    ref = reference(plain, prompt, new, config, order_of(model, config))
    torch.testing.assert_close(torch.cat(first.logits), ref.logits[len(prompt) - 1 :][:3], atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.cat(second.logits), ref.logits[-4:-1], atol=1e-5, rtol=0)
    assert cache.get_seq_length() == len(prompt) + len(new) - 1


@pytest.mark.parametrize("overrides", CACHES, ids=str)
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_second_turn_after_a_long_clip(family: str, overrides: dict[str, Any]) -> None:
    """A long clip (more frames than rows and columns) makes Qwen2.5-VL number the second turn differently."""
    model, config = build(family), qwen.settings(family, **overrides)
    prompt = tiny.make_prompt(4, tiny.make_clip((4, 4), (4, 5), seed=4), 6)
    with prunevid.attach(model, config):
        first = generate(model, tiny.make_inputs(prompt), 4)
        inputs = follow_up(family, first, prompt, 5)
        second = generate(model, inputs, 4, past_key_values=first.past_key_values)
    ref = reference(plain_copy(model), prompt, second.sequences[0, len(prompt) :], config, counted=3)
    torch.testing.assert_close(torch.cat(second.logits), ref.logits[-5:-1], atol=1e-5, rtol=0)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("family", FAMILIES)
def test_second_turn_after_detaching(family: str, kernel: str) -> None:
    """Going on is right where tokens kept their own positions, refused where they were renumbered, right once more
    with a pruning attached."""
    model, config = build(family, kernel), settings(family)
    plain, (prompt,) = plain_copy(model), prompts_of(family, ONE)
    with attach(model, family, config):
        first = generate(model, make_inputs(prompt), 4)
    cache, inputs = first.past_key_values, follow_up(family, first, prompt, 5)
    if models.adapter_for(model).positions == "mrope":
        second = generate(model, inputs, 4, past_key_values=cache)
    else:
        with pytest.raises(prunevid.errors.UnsupportedError, match="attach again"):
            generate(model, inputs, 4, past_key_values=cache)
        with attach(model, family, config):
            second = generate(model, inputs, 4, past_key_values=cache)
    ref = reference(plain, prompt, second.sequences[0, len(prompt) :], config, order_of(model, config))
    torch.testing.assert_close(torch.cat(second.logits), ref.logits[-5:-1], atol=1e-5, rtol=0)


@pytest.mark.parametrize("overrides", CACHES, ids=str)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("family", FAMILIES)
def test_cropping_the_cache(family: str, kernel: str, overrides: dict[str, Any]) -> None:
    """Generated tokens may be cropped; a cut into the video is refused and changes nothing."""
    model, config = build(family, kernel), settings(family, **overrides)
    plain, (prompt,) = plain_copy(model), prompts_of(family, ONE)
    with attach(model, family, config):
        first = generate(model, make_inputs(prompt), 5)
        cache = first.past_key_values
        held = [layer.keys.shape[-2] for layer in cache.layers]
        with pytest.raises(prunevid.errors.UnsupportedError, match="crop"):
            cache.crop(-60)
        assert [layer.keys.shape[-2] for layer in cache.layers] == held
        cache.crop(-2)
        assert cache.get_seq_length() == len(prompt) + 2
        second = generate(model, follow_up(family, first, prompt, 4, drop=2), 4, past_key_values=cache)
    new = second.sequences[0, len(prompt) :]
    ref = reference(plain, prompt, new, config, order_of(model, config))
    torch.testing.assert_close(torch.cat(second.logits), ref.logits[-5:-1], atol=1e-5, rtol=0)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("family", FAMILIES)
def test_without_a_cache_stage_1_alone_works(family: str, kernel: str) -> None:
    model, config, prompts = build(family, kernel), settings(family, enable_stage2=False), prompts_of(family, BATCH)
    with attach(model, family, config):
        out = generate(model, make_inputs(*prompts), 3, use_cache=False)
    compare(plain_copy(model), prompts, out, config, order_of(model, config))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("family", FAMILIES)
def test_prompt_lookup_equals_greedy(family: str, kernel: str) -> None:
    """Assisted decoding feeds several tokens at once and crops the cache."""
    model, inputs = build(family, kernel), make_inputs(*prompts_of(family, ONE))
    with attach(model, family, settings(family)):
        greedy = generate(model, inputs, 8)
        assisted = generate(model, inputs, 8, prompt_lookup_num_tokens=2)
    assert assisted.sequences.tolist() == greedy.sequences.tolist()


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("family", FAMILIES)
def test_threads_on_one_model_do_not_mix(family: str, kernel: str) -> None:
    prompts, model = prompts_of(family, BATCH), build(family, kernel)
    found: dict[int, list[Any]] = {i: [] for i in range(len(prompts))}
    errors: list[BaseException] = []
    start = threading.Barrier(len(prompts))

    def work(which: int) -> None:
        try:
            start.wait()
            for _ in range(2):
                found[which].append(generate(model, make_inputs(prompts[which]), 3))
        except BaseException as error:
            errors.append(error)

    with attach(model, family, settings(family)):
        alone = [generate(model, make_inputs(prompt), 3) for prompt in prompts]
        threads = [threading.Thread(target=work, args=(i,)) for i in range(len(prompts))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not errors
    for which, own in enumerate(alone):
        for out in found[which]:
            assert torch.equal(out.sequences, own.sequences)
            torch.testing.assert_close(torch.cat(out.logits), torch.cat(own.logits), atol=1e-5, rtol=0)
