# SPDX-License-Identifier: Apache-2.0
"""The ways to generate: sampling, beams, several sequences, streams, static caches, second turns, threads."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import StaticCache
from transformers.generation.streamers import BaseStreamer

import prunevid
from engine.masked_reference import compare, plain_copy, reference
from engine.prompts import ONE, OTHER, TEXT, TWO_VIDEOS, settings
from engine.tiny import FAMILIES, KERNELS, SPECIAL, build, generate, make_clip, make_inputs, make_prompt

BATCH = [ONE, OTHER, TEXT]


def _log_probabilities(logits: Tensor) -> Tensor:
    scores = logits.log_softmax(-1)
    scores[:, SPECIAL] = -torch.inf
    return scores


@pytest.mark.parametrize("family", FAMILIES)
def test_sampling_draws_from_the_reference_s_logits(family: str) -> None:
    model, config = build(family), settings(family)
    plain = plain_copy(model)
    with prunevid.attach(model, config):
        torch.manual_seed(5)
        out = generate(model, make_inputs(ONE), 6, do_sample=True, top_k=0)
    compare(plain, [ONE], out, config)
    new = out.sequences[0, len(ONE) :]
    logits = reference(plain, ONE, new, config).logits[len(ONE) - 1 : -1]
    logits[:, SPECIAL] = -torch.inf
    torch.manual_seed(5)
    drawn = [int(torch.multinomial(row[None].softmax(-1), 1)) for row in logits]
    assert new.tolist() == drawn


@pytest.mark.parametrize("cache", ["compressed", "kept"])
@pytest.mark.parametrize("prompts", [[ONE], BATCH, [OTHER, TWO_VIDEOS]], ids=["one", "batch", "three videos"])
@pytest.mark.parametrize("family", FAMILIES)
def test_beam_scores_are_the_reference_s(family: str, prompts: list[Any], cache: str) -> None:
    model, config = build(family), settings(family, enable_cache_compression=cache == "compressed")
    plain = plain_copy(model)
    with prunevid.attach(model, config):
        out = generate(model, make_inputs(*prompts), 5, num_beams=3, num_return_sequences=2, output_scores=True)
    width = max(len(prompt) for prompt in prompts)
    assert len(out.sequences) == 2 * len(prompts)
    for row, (sequence, score) in enumerate(zip(out.sequences, out.sequences_scores)):
        prompt, new = prompts[row // 2], sequence[width:]
        logits = reference(plain, prompt, new, config).logits[len(prompt) - 1 : -1]
        expected = _log_probabilities(logits)[torch.arange(len(new)), new].sum() / len(new)
        torch.testing.assert_close(score, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("prompts", [[ONE], BATCH], ids=["one", "batch"])
@pytest.mark.parametrize("family", FAMILIES)
def test_several_return_sequences(family: str, prompts: list[Any]) -> None:
    model, config = build(family), settings(family)
    with prunevid.attach(model, config) as pruning:
        torch.manual_seed(7)
        out = generate(model, make_inputs(*prompts), 5, do_sample=True, top_k=0, num_return_sequences=3)
        assert len(pruning.stats) in (len(prompts), 3 * len(prompts))
    assert len({tuple(row) for row in out.sequences.tolist()}) > len(prompts)
    compare(plain_copy(model), [prompt for prompt in prompts for _ in range(3)], out, config)


class _Recorder(BaseStreamer):
    def __init__(self) -> None:
        self.values: list[int] = []
        self.ended = False

    def put(self, value: Tensor) -> None:
        self.values += value.flatten().tolist()

    def end(self) -> None:
        self.ended = True


@pytest.mark.parametrize("family", FAMILIES)
def test_streamer_gets_the_same_tokens(family: str) -> None:
    model, recorder = build(family), _Recorder()
    with prunevid.attach(model, settings(family)):
        out = generate(model, make_inputs(ONE), 5, streamer=recorder)
        silent = generate(model, make_inputs(ONE), 5)
    assert recorder.ended and recorder.values == out.sequences[0].tolist()
    assert torch.equal(out.sequences, silent.sequences)


@pytest.mark.parametrize("given", ["by name", "object"])
@pytest.mark.parametrize("overrides", [{}, {"enable_stage2": False}, {"enable_cache_compression": False}], ids=str)
@pytest.mark.parametrize("prompts", [[ONE], BATCH], ids=["one", "batch"])
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("family", FAMILIES)
def test_static_cache(family: str, kernel: str, prompts: list[Any], overrides: dict[str, Any], given: str) -> None:
    model, config = build(family, kernel), settings(family, **overrides)
    if given == "by name":
        options: dict[str, Any] = {"cache_implementation": "static"}
    else:
        options = {"past_key_values": StaticCache(config=model.config.text_config, max_cache_len=400)}
    with prunevid.attach(model, config):
        out = generate(model, make_inputs(*prompts), 5, **options)
        again = generate(model, make_inputs(*prompts), 5)
    assert torch.equal(out.sequences, again.sequences)
    compare(plain_copy(model), prompts, out, config)


def _follow_up(out: Any, prompt: Any, text: int, drop: int = 0) -> dict[str, Any]:
    """Inputs of a second turn: the whole conversation so far (less `drop` tokens), then new text."""
    new = torch.randint(len(SPECIAL), 120, (len(out.sequences), text))
    ids = torch.cat([out.sequences[:, : out.sequences.shape[1] - drop], new], dim=1)
    kinds = torch.zeros_like(ids)
    kinds[:, : len(prompt)] = prompt.kinds
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "mm_token_type_ids": kinds}


@pytest.mark.parametrize("clip", ["wide", "long"])
@pytest.mark.parametrize("overrides", [{}, {"enable_stage2": False}, {"enable_cache_compression": False}], ids=str)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("family", FAMILIES)
def test_second_turn_on_the_returned_cache(family: str, kernel: str, overrides: dict[str, Any], clip: str) -> None:
    """A long clip (more frames than rows and columns) makes Qwen2.5-VL number the second turn differently."""
    model, config = build(family, kernel), settings(family, **overrides)
    prompt = ONE if clip == "wide" else make_prompt(4, make_clip((4, 4), (4, 5), seed=4), 6)
    plain = plain_copy(model)
    with prunevid.attach(model, config):
        first = generate(model, make_inputs(prompt), 4)
        cache = first.past_key_values
        assert cache.get_seq_length() == len(prompt) + 3
        inputs = _follow_up(first, prompt, 5)
        second = generate(model, inputs, 4, past_key_values=cache)
    new = second.sequences[0, len(prompt) :]
    ref = reference(plain, prompt, new, config, counted=3)
    torch.testing.assert_close(torch.cat(first.logits), ref.logits[len(prompt) - 1 :][:4], atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.cat(second.logits), ref.logits[-5:-1], atol=1e-5, rtol=0)
    assert cache.get_seq_length() == len(prompt) + len(new) - 1


@pytest.mark.parametrize("family", FAMILIES)
def test_second_turn_after_detaching(family: str) -> None:
    """The pruned cache belongs to the conversation: going on with it needs the handle, or fails loudly or right."""
    model, config = build(family), settings(family)
    plain = plain_copy(model)
    with prunevid.attach(model, config):
        first = generate(model, make_inputs(ONE), 4)
    second = generate(model, _follow_up(first, ONE, 5), 4, past_key_values=first.past_key_values)
    ref = reference(plain, ONE, second.sequences[0, len(ONE) :], config, counted=3)
    torch.testing.assert_close(torch.cat(second.logits), ref.logits[-5:-1], atol=1e-5, rtol=0)


@pytest.mark.parametrize("overrides", [{}, {"enable_cache_compression": False}], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_cropping_the_cache(family: str, overrides: dict[str, Any]) -> None:
    model, config = build(family), settings(family, **overrides)
    plain = plain_copy(model)
    with prunevid.attach(model, config):
        first = generate(model, make_inputs(ONE), 5)
        cache = first.past_key_values
        cache.crop(-2)
        assert cache.get_seq_length() == len(ONE) + 2
        second = generate(model, _follow_up(first, ONE, 4, drop=2), 4, past_key_values=cache)
    ref = reference(plain, ONE, second.sequences[0, len(ONE) :], config, counted=2)
    torch.testing.assert_close(torch.cat(second.logits), ref.logits[-5:-1], atol=1e-5, rtol=0)


def test_cropping_into_the_video_is_refused() -> None:
    model = build("qwen2_vl")
    with prunevid.attach(model, settings("qwen2_vl")):
        cache = generate(model, make_inputs(ONE), 2).past_key_values
    before = [layer.keys.shape[-2] for layer in cache.layers]
    with pytest.raises(prunevid.errors.UnsupportedError, match="crop"):
        cache.crop(-60)
    assert [layer.keys.shape[-2] for layer in cache.layers] == before


@pytest.mark.parametrize("family", FAMILIES)
def test_without_a_cache_stage_1_alone_works(family: str) -> None:
    model, config = build(family), settings(family, enable_stage2=False)
    with prunevid.attach(model, config):
        out = generate(model, make_inputs(*BATCH), 4, use_cache=False)
    compare(plain_copy(model), BATCH, out, config)


@pytest.mark.parametrize("family", FAMILIES)
def test_prompt_lookup_equals_greedy(family: str) -> None:
    """Assisted decoding feeds several tokens at once and crops the cache."""
    model, config = build(family), settings(family)
    with prunevid.attach(model, config):
        greedy = generate(model, make_inputs(ONE), 8)
        assisted = generate(model, make_inputs(ONE), 8, prompt_lookup_num_tokens=2)
    assert assisted.sequences.tolist() == greedy.sequences.tolist()


@pytest.mark.parametrize("family", FAMILIES)
def test_threads_on_one_model_do_not_mix(family: str) -> None:
    prompts = [ONE, OTHER, TWO_VIDEOS, TEXT]
    model = build(family)
    found: dict[int, list[Any]] = {i: [] for i in range(len(prompts))}
    errors: list[BaseException] = []
    start = threading.Barrier(len(prompts))

    def work(which: int) -> None:
        try:
            start.wait()
            for _ in range(3):
                found[which].append(generate(model, make_inputs(prompts[which]), 5))
        except BaseException as error:
            errors.append(error)

    with prunevid.attach(model, settings(family)):
        alone = [generate(model, make_inputs(prompt), 5) for prompt in prompts]
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
