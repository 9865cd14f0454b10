# SPDX-License-Identifier: Apache-2.0
"""Clock, memory, probe and FLOPs: each against something that is known."""

from __future__ import annotations

import itertools
import time
from typing import Any

import pytest
import torch
from torch import nn

import prunevid
from bench.tiny_subjects import CPU, subject
from prunevid.bench import clips, clock
from prunevid.bench.clock import Clock, peak_bytes
from prunevid.bench.costs import layer_flops, prefill_flops
from prunevid.bench.probe import Probe
from prunevid.bench.results import Spread, ratios
from prunevid.engine import timing
from prunevid.errors import UnsupportedError
from prunevid.stats import cache_bytes, decoder_flops, measure_flops

MIB = 2**20
OPTIONS = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0}


# ---- memory ------------------------------------------------------------------------------------------------------


def floats(mebibytes: int) -> torch.Tensor:
    return torch.ones(mebibytes * MIB // 4)


@pytest.mark.parametrize(
    ("work", "expected"),
    [
        (lambda: floats(3), 3),
        (lambda: [floats(1), floats(2)], 3),
        (lambda: [len(floats(4)), len(floats(2))], 4),  # the first is gone when the second comes
        (lambda: floats(2) + floats(2), 6),
        (lambda: None, 0),
    ],
)
def test_peak_on_the_cpu(work: Any, expected: int) -> None:
    kept = floats(5)  # what was there before does not count
    assert peak_bytes(CPU, work) == pytest.approx(expected * MIB, abs=4096)
    assert len(kept)


def test_peak_sees_inside_of_kernels() -> None:
    """A product of a transposed half-precision copy: what the kernel makes for itself counts, too."""
    queries = torch.ones(1, 2, 600, 32)
    attention = nn.functional.scaled_dot_product_attention
    found = peak_bytes(CPU, lambda: attention(queries, queries, queries, is_causal=True))
    assert found > queries.nbytes


def test_the_profiler_is_silent(capfd: pytest.CaptureFixture[str]) -> None:
    peak_bytes(CPU, lambda: floats(1))
    assert capfd.readouterr() == ("", "")


def test_peak_on_cuda_is_the_allocator_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """No such device is needed: the allocator is asked before and after, with the queue empty both times."""
    asked: list[str] = []
    monkeypatch.setattr(clock, "now", lambda device: asked.append("wait"))
    numbers = {"memory_allocated": 100, "max_memory_allocated": 350, "reset_peak_memory_stats": None}
    for name, value in numbers.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, n=name, v=value: (asked.append(n), v)[1])
    assert peak_bytes(torch.device("cuda"), lambda: asked.append("work")) == 250
    assert asked == [
        *("wait", "memory_allocated", "reset_peak_memory_stats", "work", "wait", "max_memory_allocated"),
    ]


# ---- time --------------------------------------------------------------------------------------------------------


def test_the_clock_empties_the_device_s_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[Any] = []
    monkeypatch.setattr(torch.cuda, "synchronize", waits.append)
    device = torch.device("cuda", 0)
    Clock(device).time(lambda: waits.append("work"))
    assert waits == [device, "work", device]


def test_cpu_time_leaves_waiting_out_for_the_engine_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "process_time", itertools.count(0, 2).__next__)
    watch = Clock(CPU, cpu_time=True)
    assert watch.time(lambda: None)[0] == 2000
    with watch.running():
        assert timing.now(CPU) - timing.now(CPU) == -2000
    assert timing._read is time.perf_counter


def test_spreads() -> None:
    assert Spread.of([3.0]) == Spread(3.0, 3.0, 3.0, 1)
    assert Spread.of([1.0, 2.0, 3.0, 4.0, 5.0]) == Spread(3.0, 2.0, 4.0, 5)
    assert f"{Spread.of([1.0, 2.0, 3.0]):.1f}" == "2.0 (1.5 to 2.5)"
    assert ratios([2.0, 9.0], [1.0, 3.0]) == Spread(2.5, 2.25, 2.75, 2)


# ---- probe -------------------------------------------------------------------------------------------------------


def state(model: Any) -> list[Any]:
    return [
        (len(m._forward_pre_hooks), len(m._forward_hooks), "get_video_features" in m.__dict__) for m in model.modules()
    ]


def test_the_probe_changes_nothing_and_leaves_nothing() -> None:
    made = subject()
    inputs = made.encode([clips.make_frames(4, 112, 112)])
    before = state(made.model)
    plain = made.model.generate(**inputs, **OPTIONS)
    said: list[Any] = []
    with torch.inference_mode(), Probe(made, Clock(CPU)) as probe:
        for replay in (False, True, True):
            with probe.replay(replay):
                line = probe.run(lambda: said.append(made.model.generate(**inputs, **OPTIONS)))
            assert (line.vision > 0) is not replay
            assert line.prefill > 0 and len(line.steps) == 3  # five tokens, of which the prefill makes the first
    assert all(torch.equal(one, plain) for one in said)
    assert state(made.model) == before


def test_a_replayed_video_is_encoded_once() -> None:
    made = subject()
    inputs = made.encode([clips.make_frames(4, 112, 112)])
    calls: list[int] = []
    handle = made.base.visual.register_forward_hook(lambda *args: calls.append(1))
    with torch.inference_mode(), Probe(made, Clock(CPU)) as probe, probe.replay(True):
        for method in ("none", "prunevid", "prunevid"):
            with prunevid.attach(made.model, method):
                probe.run(lambda: made.model.generate(**inputs, **OPTIONS))
    handle.remove()
    assert len(calls) == 1


def test_the_cache_is_weighed_right_after_the_prefill() -> None:
    made = subject()
    inputs = made.encode([clips.make_frames(4, 112, 112)])
    with torch.no_grad():
        expected = cache_bytes(made.model(**inputs).past_key_values)
    with torch.inference_mode(), Probe(made, Clock(CPU)) as probe:
        assert probe.run(lambda: made.model.generate(**inputs, **OPTIONS)).kv_bytes == expected
        with prunevid.attach(made.model, "prunevid", retention_ratio=0.25) as pruning:
            line = probe.run(lambda: made.model.generate(**inputs, **OPTIONS))
    assert line.kv_bytes == pruning.stats[0]["stage3"]["compressed_bytes"] < expected


# ---- FLOPs -------------------------------------------------------------------------------------------------------


class PlainLayer(nn.Module):
    """A decoder layer of the paper's formula: as many key heads as query heads, an MLP of two matrices."""

    def __init__(self, hidden: int, mlp: int):
        super().__init__()
        self.self_attn = nn.Module()
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            setattr(self.self_attn, name, nn.Linear(hidden, hidden))
        self.up, self.down = nn.Linear(hidden, mlp), nn.Linear(mlp, hidden)


@pytest.mark.parametrize(("tokens", "hidden", "mlp"), [(7, 8, 24), (100, 16, 16)])
def test_counts_are_the_formula_s(tokens: int, hidden: int, mlp: int) -> None:
    """The formula counts a multiplication with its addition once, the count twice."""
    assert layer_flops(PlainLayer(hidden, mlp), tokens) == 2 * decoder_flops(tokens, hidden, mlp)


def test_causal_attention_is_nearly_half() -> None:
    layer = PlainLayer(8, 24)
    linear = 2 * 100 * (4 * 8 * 8 + 2 * 8 * 24)
    assert layer_flops(layer, 100, causal=True) == linear + 4 * 8 * 100 * 101 // 2
    assert layer_flops(layer, 1, causal=True) == layer_flops(layer, 1)


@pytest.mark.parametrize("name", ["qwen2.5-vl-7b", "qwen3-vl-8b", "pllava-7b"])
def test_counts_are_torch_s(name: str) -> None:
    """The unpruned prefill, to the last multiplication: grouped key heads, gated MLPs, attention on the CPU."""
    made = subject(name)
    inputs = made.encode([clips.make_frames(4, 112, 112)])
    path = next(path for path, module in made.model.named_modules() if module is made.language_model)
    name = f"{type(made.model).__name__}.{path}"
    with torch.no_grad():
        counted, _ = measure_flops(lambda: made.model(**inputs), name)
        tables, _ = measure_flops(lambda: made.model(**inputs), f"{name}.rotary_emb")  # a product in transformers 5.17
    layers = made.language_model.layers
    assert counted - tables == prefill_flops(layers, [inputs["input_ids"].shape[1]] * len(layers))


def test_a_mixture_of_experts_is_refused() -> None:
    layer = PlainLayer(8, 8)
    layer.experts = nn.Linear(8, 8)
    with pytest.raises(UnsupportedError, match="experts"):
        layer_flops(layer, 3)
