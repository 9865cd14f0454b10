# SPDX-License-Identifier: Apache-2.0
"""positions="keep" where positions count on one axis: every token has the position of its representative."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import StaticCache
from transformers.masking_utils import find_packed_sequence_indices
from transformers.modeling_flash_attention_utils import _is_packed_sequence

import prunevid
from engine.families import FAMILIES, VideoPrompt, build, language_of, make_inputs, settings
from engine.masked_reference import Reference, compare, plain_copy, reference
from engine.matrix import BATCH, ONE, attach, order_of, prompts_of, repeatable
from engine.test_attach_detach import hooks, trace
from engine.tiny import LAYERS, PAD, SPECIAL, VOCABULARY, generate
from prunevid import PruneVidConfig, models
from prunevid.errors import ConfigError

ONE_AXIS = [name for name in FAMILIES if models._ADAPTERS[name].positions == "1d"]
THREE_AXES = [name for name in FAMILIES if name not in ONE_AXIS]
SCENARIOS: dict[str, tuple[list[str], dict[str, Any], dict[str, Any]]] = {
    "one": (ONE, {}, {}),
    "batch": (BATCH, {}, {}),
    "published order": (["two", "one"], {"token_order": "merged"}, {}),
    "raster order": (["two", "one"], {"token_order": "raster"}, {}),
    "middle frame": (["two", "one"], {"static_position": "middle"}, {}),
    "stage 1 only": (BATCH, {"enable_stage2": False}, {}),
    "stage 2 only": (BATCH, {"enable_stage1": False}, {}),
    "no cache compression": (BATCH, {"enable_cache_compression": False}, {}),
    "last layer": (["two", "text"], {"pruning_layer": LAYERS - 1}, {}),
    "rotary causal mean global": (
        ["one", "two"],
        {"score_rope": True, "score_causal": True, "attention_aggregation": "mean", "keep_scope": "global"},
        {},
    ),
    "static cache": (BATCH, {}, {"cache_implementation": "static"}),
    "without a cache": (["one"], {"enable_stage2": False}, {"use_cache": False}),
    "batch without a cache": (BATCH, {"enable_stage2": False}, {"use_cache": False}),
}
EAGER = ("batch", "no cache compression", "static cache", "batch without a cache")  # where masks differ by kernel
CASES = [("sdpa", scenario) for scenario in SCENARIOS] + [("eager", scenario) for scenario in EAGER]


def kept(family: str, **overrides: Any) -> PruneVidConfig:
    """The family's settings with kept positions."""
    return settings(family, positions="keep", **overrides)


def given_to_rotary(model: Any) -> list[Tensor]:
    """A list that fills with the positions that the decoder's rotary embedding is computed from."""
    seen: list[Tensor] = []

    def see(module: Any, args: Any, kwargs: Any, output: Any) -> None:
        seen.append(args[1] if len(args) > 1 else kwargs["position_ids"])

    language_of(model).rotary_emb.register_forward_hook(see, with_kwargs=True)
    return seen


def expected_positions(prompt: VideoPrompt, ref: Reference) -> list[int]:
    """Of the tokens that stage 1 leaves, in raster order."""
    hidden = set(ref.original) - set(ref.merged)
    return [place for place in range(len(prompt)) if place not in hidden]


@pytest.mark.parametrize(("kernel", "scenario"), CASES)
@pytest.mark.parametrize("family", ONE_AXIS)
def test_logits_of_every_step(family: str, kernel: str, scenario: str) -> None:
    names, overrides, options = SCENARIOS[scenario]
    prompts, config, model = prompts_of(family, names), kept(family, **overrides), build(family, kernel)
    with attach(model, family, config):
        out = generate(model, make_inputs(*prompts), 3, **options)
    compare(plain_copy(model), prompts, out, config, order_of(model, config))


@pytest.mark.parametrize("family", ONE_AXIS)
def test_kept_and_renumbered_differ_and_each_fits_its_own_reference_only(family: str) -> None:
    model, prompts = build(family), prompts_of(family, ["two", "one"])
    plain, found = plain_copy(model), {}
    for positions in ("auto", "renumber", "keep"):
        with attach(model, family, settings(family, positions=positions)):
            found[positions] = generate(model, make_inputs(*prompts), 3)
    order = order_of(model, settings(family))
    logits = {name: torch.stack(out.logits) for name, out in found.items()}
    assert torch.equal(logits["auto"], logits["renumber"])
    assert (logits["keep"][0] - logits["renumber"][0]).abs().max() > 0.1
    for positions, other in (("keep", "renumber"), ("renumber", "keep")):
        compare(plain, prompts, found[positions], settings(family, positions=positions), order)
        with pytest.raises(AssertionError, match="not close"):
            compare(plain, prompts, found[positions], settings(family, positions=other), order)


@pytest.mark.parametrize("family", ONE_AXIS)
def test_what_the_rotary_embedding_and_the_layers_are_given(family: str) -> None:
    """The rotary embedding sees the gaps; layers and masks see none, which they would take for packed sequences."""
    model, config, (prompt,) = build(family), kept(family, token_order="raster"), prompts_of(family, ONE)
    generate(model, make_inputs(prompt), 1)  # transformers places hooks of its own when a model first runs
    layers: list[Tensor] = []
    for layer in language_of(model).layers:
        layer.self_attn.register_forward_pre_hook(lambda m, a, k: layers.append(k["position_ids"]), with_kwargs=True)
    rotary, plain = given_to_rotary(model), plain_copy(build(family))
    before = hooks(model)
    with attach(model, family, config):
        resting = hooks(model)
        out = generate(model, make_inputs(prompt), 3)
        assert hooks(model) == resting
    assert hooks(model) == before
    ref = reference(plain, prompt, out.sequences[0, len(prompt) :], config)
    expected = expected_positions(prompt, ref)
    assert rotary[0].tolist() == [expected] and expected[-1] == len(prompt) - 1 > len(expected)
    assert [position.flatten().tolist() for position in rotary[1:]] == [[len(prompt)], [len(prompt) + 1]]
    assert bool(_is_packed_sequence(rotary[0], 1)) and bool(find_packed_sequence_indices(rotary[0]).any())
    assert len(layers) == 3 * LAYERS
    for given in layers:
        assert not bool(_is_packed_sequence(given, 1))
    lengths = [given.shape[-1] for given in layers[:LAYERS]]
    assert lengths[0] == len(expected) and lengths[-1] < len(expected)
    assert out.past_key_values.get_seq_length() == len(prompt) + 2
    assert {layer.shift for layer in out.past_key_values.layers} == {None}


@pytest.mark.parametrize("overrides", [{}, {"enable_cache_compression": False}], ids=str)
@pytest.mark.parametrize("family", ONE_AXIS)
def test_batch_row_is_the_row_alone(family: str, overrides: dict[str, Any]) -> None:
    prompts, model = prompts_of(family, BATCH), build(family)
    with attach(model, family, kept(family, **overrides)):
        together = generate(model, make_inputs(*prompts), 4)
        alone = [generate(model, make_inputs(prompt), 4) for prompt in prompts]
    width = max(map(len, prompts))
    for row, (prompt, own) in enumerate(zip(prompts, alone)):
        assert together.sequences[row, width:].tolist() == own.sequences[0, len(prompt) :].tolist()
        rows = torch.stack(together.logits)[:, row]
        torch.testing.assert_close(rows, torch.cat(own.logits), atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", ONE_AXIS)
def test_beam_scores_are_the_reference_s(family: str) -> None:
    model, config = build(family), kept(family)
    plain, prompts = plain_copy(model), repeatable(family, ["one", "two", "text"])
    with attach(model, family, config):
        out = generate(model, make_inputs(*prompts), 4, num_beams=2, num_return_sequences=2, output_scores=True)
    width, order = max(map(len, prompts)), order_of(model, config)
    for row, (sequence, score) in enumerate(zip(out.sequences, out.sequences_scores)):
        prompt, new = prompts[row // 2], sequence[width:]
        logits = reference(plain, prompt, new, config, order).logits[len(prompt) - 1 : -1].log_softmax(-1)
        expected = logits[torch.arange(len(new)), new].sum() / len(new)
        torch.testing.assert_close(score, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("overrides", [{}, {"enable_cache_compression": False}], ids=str)
@pytest.mark.parametrize("family", ONE_AXIS)
def test_second_turn_on_the_returned_cache(family: str, overrides: dict[str, Any]) -> None:
    """Of a padded batch; the second questions are padded too."""
    model, config = build(family), kept(family, **overrides)
    plain, prompts = plain_copy(model), prompts_of(family, ["other", "two", "text"])
    inputs, empty = make_inputs(*prompts), [0, 2, 1]
    width = inputs["input_ids"].shape[1]
    with attach(model, family, config):
        first = generate(model, inputs, 3)
        assert first.past_key_values.get_seq_length() == width + 2
        tails = torch.randint(len(SPECIAL), VOCABULARY, (3, 4))
        seen = torch.ones_like(tails)
        for row, count in enumerate(empty):
            tails[row, :count], seen[row, :count] = PAD, 0
        ids = torch.cat([first.sequences, tails], dim=1)
        mask = torch.cat([inputs["attention_mask"], torch.ones(3, 3, dtype=torch.long), seen], dim=1)
        more = {"input_ids": ids, "attention_mask": mask}
        second = generate(model, more, 3, past_key_values=first.past_key_values)
    order = order_of(model, config)
    for row, prompt in enumerate(prompts):
        new = second.sequences[row, width:]
        new = torch.cat([new[:3], new[3 + empty[row] :]])
        ref = reference(plain, prompt, new, config, order, 2)
        torch.testing.assert_close(torch.stack(second.logits)[:, row], ref.logits[-4:-1], atol=1e-5, rtol=0)


@pytest.mark.parametrize("static", [False, True], ids=["dynamic", "static"])
@pytest.mark.parametrize("family", ONE_AXIS)
def test_plain_forward_and_a_hand_written_decode_loop(family: str, static: bool) -> None:
    model, config = build(family), kept(family)
    plain, (prompt,) = plain_copy(model), prompts_of(family, ONE)
    cache = StaticCache(config=language_of(model).config, max_cache_len=len(prompt) + 8) if static else None
    steps, ids = [], []
    with attach(model, family, config), torch.no_grad():
        out = model(**make_inputs(prompt), past_key_values=cache)
        for _ in range(3):
            steps.append(out.logits[0, -1])
            ids.append(int(steps[-1].argmax()))
            out = model(input_ids=torch.tensor([[ids[-1]]]), past_key_values=out.past_key_values)
    ref = reference(plain, prompt, torch.tensor(ids), config, order_of(model, config))
    torch.testing.assert_close(torch.stack(steps), ref.logits[len(prompt) - 1 : -1], atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", ONE_AXIS)
def test_several_tokens_at_once_and_cropping(family: str) -> None:
    """Assisted decoding by prompt lookup equals greedy decoding."""
    model, (prompt,) = build(family), prompts_of(family, ONE)
    with attach(model, family, kept(family)):
        greedy = generate(model, make_inputs(prompt), 8)
        assisted = generate(model, make_inputs(prompt), 8, prompt_lookup_num_tokens=2)
    assert assisted.sequences.tolist() == greedy.sequences.tolist()


def test_threads_do_not_share_positions() -> None:
    """All threads run one rotary embedding; each prefill's positions are its own."""
    family = "llava_onevision"
    model, prompts = build(family), prompts_of(family, ["one", "other", "two", "text"])
    start = threading.Barrier(len(prompts))

    def work(prompt: VideoPrompt) -> list[Tensor]:
        start.wait()
        return [torch.cat(generate(model, make_inputs(prompt), 3).logits) for _ in range(4)]

    with attach(model, family, kept(family)):
        alone = [torch.cat(generate(model, make_inputs(prompt), 3).logits) for prompt in prompts]
        with ThreadPoolExecutor(len(prompts)) as pool:
            found = list(pool.map(work, prompts))
    for own, runs in zip(alone, found):
        for logits in runs:
            torch.testing.assert_close(logits, own, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", ONE_AXIS)
def test_right_padding(family: str) -> None:
    """Without position ids the model counts padding too, which stands behind the text here."""
    model, config, prompts = build(family), kept(family), prompts_of(family, ["one", "other"])
    inputs = make_inputs(*prompts)
    for row, prompt in enumerate(prompts):
        for name in ("input_ids", "attention_mask"):
            inputs[name][row] = inputs[name][row].roll(len(prompt) - inputs[name].shape[1])
    with attach(model, family, config), torch.no_grad():
        logits = model(**inputs).logits
    nothing, order = torch.tensor([], dtype=torch.long), order_of(model, config)
    for row, prompt in enumerate(prompts):
        ref = reference(plain_copy(model), prompt, nothing, config, order)
        torch.testing.assert_close(logits[row, -3:], ref.logits[-3:], atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", THREE_AXES)
def test_three_axes_keep_always_and_refuse_renumbering(family: str) -> None:
    model, inputs = build(family), make_inputs(*prompts_of(family, ["two", "one"]))
    before = trace(model)
    with pytest.raises(ConfigError, match=r"positions is 'renumber'.*'keep' or 'auto'"):
        prunevid.attach(model, settings(family, positions="renumber"))
    assert trace(model) == before
    prunevid.attach(model, settings(family, positions="renumber", enable_stage1=False)).detach()
    found = []
    for positions in ("auto", "keep"):
        with attach(model, family, settings(family, positions=positions)):
            found.append(torch.stack(generate(model, inputs, 3).logits))
    assert torch.equal(*found)


def test_a_decoder_that_can_not_be_given_positions_is_refused() -> None:
    model = build("llava_onevision")
    del language_of(model).rotary_emb
    with pytest.raises(ConfigError, match=r"positions is 'keep'.*rotary_emb"):
        prunevid.attach(model, kept("llava_onevision"))
    prunevid.attach(model, settings("llava_onevision")).detach()
