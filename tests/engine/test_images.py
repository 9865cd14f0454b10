# SPDX-License-Identifier: Apache-2.0
"""`prune_images`: every image is a video of one frame, in every family, beside videos and without them."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from transformers.models.llava_onevision.modeling_llava_onevision import image_size_to_num_patches

import prunevid
from engine.families import FRAMES, VideoPrompt, build, language_of, make_inputs, make_prompt, settings
from engine.families import WITH_IMAGES as FAMILIES
from engine.masked_reference import compare, plain_copy, reference
from engine.matrix import order_of
from engine.test_attach_detach import hooks, trace
from engine.tiny import IMAGE, KERNELS, LAYERS, PAD, SPECIAL, VOCABULARY, generate
from prunevid.errors import ConfigError, UnprunedWarning, UnsupportedError
from prunevid.models.base import Adapter, VideoLayout
from prunevid.models.tiles import tiled_layouts

PARTS: dict[str, tuple[Any, ...]] = {
    "before": (3, "image", 2, (3, 2), 5),
    "after": (2, (2, 3), 1, "image", 6),
    "between": (2, (3, 2), 1, "image", (2, 3), 4),
    "several": (2, "image", "image", 4, "image", 3),
    "only": (3, "image", 5),
    "video": (5, (3, 2), 6),
    "text": (7,),
    "pair": (2, "image", "image", 4),
}
MIXED = ["before", "text", "several", "video"]
SCENARIOS: dict[str, tuple[list[str], dict[str, Any]]] = {
    "before": (["before"], {}),
    "after": (["after"], {}),
    "several": (["several"], {}),
    "rows of every kind": (["text", "between", "only", "video"], {}),
    "published order": (["between", "several"], {"token_order": "merged"}),
    "raster order": (["before"], {"token_order": "raster"}),
    "stage 1 only": (["before", "only"], {"enable_stage2": False}),
    "stage 2 only": (["after", "text"], {"enable_stage1": False}),
    "no cache compression": (["before", "only", "text"], {"enable_cache_compression": False}),
    "last layer, rotary causal mean global": (
        ["between"],
        {
            "pruning_layer": LAYERS - 1,
            "score_rope": True,
            "score_causal": True,
            "attention_aggregation": "mean",
            "keep_scope": "global",
        },
    ),
    "nothing kept": (["before"], {"keep_ratio": 0}),
}


def prompts_of(family: str, names: list[str]) -> list[VideoPrompt]:
    """The prompts of these names, rendered for a family."""
    return [make_prompt(family, *PARTS[name], seed=list(PARTS).index(name)) for name in names]


def with_images(family: str, **overrides: Any) -> Any:
    """The settings of the matrix, with images pruned."""
    return settings(family, prune_images=True, **overrides)


def attach(model: Any, prompts: list[VideoPrompt], config: Any) -> prunevid.Pruning:
    """Attaches with what the family needs to know of these prompts."""
    family = prompts[0].family
    if not FAMILIES[family].attach:
        return prunevid.attach(model, config)
    if not any(prompt.videos for prompt in prompts):
        return prunevid.attach(model, config, frames_per_video=0)
    frames = [
        -1 if any(shown is image for image in prompt.images) else FRAMES for prompt in prompts for shown in prompt.shown
    ]
    return prunevid.attach(model, config, frames_per_video=frames)


def visual_tokens(prompt: VideoPrompt) -> int:
    """Placeholders of the prompt's videos and images."""
    return int((prompt.kinds > 0).sum())


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_of_every_step(family: str, kernel: str, scenario: str) -> None:
    names, overrides = SCENARIOS[scenario]
    prompts, config, model = prompts_of(family, names), with_images(family, **overrides), build(family, kernel)
    with attach(model, prompts, config):
        out = generate(model, make_inputs(*prompts), 2)
    compare(plain_copy(model), prompts, out, config, order_of(model, config))


@pytest.mark.parametrize("family", FAMILIES)
def test_images_are_merged_and_chosen_from_and_counted(family: str) -> None:
    """Maps stand in the order of the prompt, groups of different images are different, and the logits move."""
    model, names = build(family), ["between", "several", "before"]
    prompts = prompts_of(family, names)
    inputs = make_inputs(*prompts)
    with attach(model, prompts, settings(family)) as pruning:
        whole = generate(model, inputs, 2)
        assert [sum(item.layout.image for item in maps) for maps in pruning.maps] == [0, 0, 0]
        assert pruning.stats[1]["stage1"]["original_tokens"] == 0
    with attach(model, prompts, with_images(family)) as pruning:
        pruned = generate(model, inputs, 2)
    views = max(1, len(prompts[0].images[0].views))
    kinds = [[item.layout.image for item in maps] for maps in pruning.maps]
    assert kinds == [[False, *[True] * views, False], [True] * 3 * views, [*[True] * views, False]]
    for maps, stats, prompt in zip(pruning.maps, pruning.stats, prompts):
        images = [item for item in maps if item.layout.image]
        assert len(images) == views * len(prompt.images)
        for item in images:
            cells, merged = item.layout.cells, item.tokens
            assert item.layout.frames == 1 and item.merged.scene_lengths == [1] and item.merged.static_sizes == [0]
            assert merged == int(cells * 0.5) and len(item.kept) == int(merged * 0.4)
        protected = visual_tokens(prompt) - sum(item.layout.cells for item in maps)
        assert stats["stage1"]["original_tokens"] == visual_tokens(prompt)
        assert stats["stage1"]["compressed_tokens"] == sum(item.tokens for item in maps) + protected
        assert stats["stage2"]["compressed_tokens"] == sum(len(item.kept) for item in maps) + protected
        assert stats["stage1"]["num_segments"] == sum(len(item.merged.scene_lengths) for item in maps)
    moved = (torch.stack(pruned.logits) - torch.stack(whole.logits)).abs().amax(dim=(0, 2))
    assert moved.min() > 0.05


@pytest.mark.parametrize("family", FAMILIES)
def test_off_is_untouched_and_on_changes_no_prompt_without_images(family: str) -> None:
    """Bit for bit; and the encoder of images is the model's own unless images are pruned."""
    model, (video,) = build(family), prompts_of(family, ["video"])
    generate(model, make_inputs(video), 2)  # transformers keeps hooks of its own from the first call on
    before, found = trace(model), {}
    for prune_images in (False, True):
        with attach(model, [video], settings(family, prune_images=prune_images)) as pruning:
            found[prune_images] = generate(model, make_inputs(video), 2)
            wrapped = {name for name in vars(pruning.base) if name.startswith("get_")}
        images = {"get_image_features"} if prune_images else set()
        assert wrapped == {pruning.adapter.feature_function} | images
        assert trace(model) == before
    assert torch.equal(torch.stack(found[False].logits), torch.stack(found[True].logits))


@pytest.mark.parametrize("enabled", [True, False], ids=["nothing to drop", "baseline"])
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_to_drop_is_bit_equal(family: str, kernel: str, enabled: bool) -> None:
    model, prompts = build(family, kernel), prompts_of(family, MIXED)
    config = prunevid.PruneVidConfig(
        tau=1.5, cluster_ratio=1, keep_ratio=1, pruning_layer=1, prune_images=True,
        enable_stage1=enabled, enable_stage2=enabled,
    )  # fmt: skip
    inputs = make_inputs(*prompts)
    expected = generate(model, inputs, 2)
    with attach(model, prompts, config):
        found = generate(model, inputs, 2)
    assert torch.equal(found.sequences, expected.sequences)
    assert torch.equal(torch.stack(found.logits), torch.stack(expected.logits))


@pytest.mark.parametrize("family", FAMILIES)
def test_batch_row_is_the_row_alone(family: str) -> None:
    prompts, model = prompts_of(family, MIXED), build(family)
    with attach(model, prompts, with_images(family)):
        together = generate(model, make_inputs(*prompts), 3)
    width = max(map(len, prompts))
    for row, prompt in enumerate(prompts):
        with attach(model, [prompt], with_images(family)):
            own = generate(model, make_inputs(prompt), 3)
        assert together.sequences[row, width:].tolist() == own.sequences[0, len(prompt) :].tolist()
        rows = torch.stack(together.logits)[:, row]
        torch.testing.assert_close(rows, torch.cat(own.logits), atol=1e-5, rtol=0)


def repeatable(family: str, model: Any) -> list[VideoPrompt]:
    """The richest prompts whose rows transformers itself repeats: some versions repeat pictures and not rows, which
    is seen without pruning."""
    before = "mm_encoder_outputs" in inspect.signature(model.forward).parameters
    for names in (["pair", "text", "before"], ["before", "text", "only"], ["pair", "text", "only"], ["only", "text"]):
        if FAMILIES[family].attach and "before" in names and not before:
            continue  # the list of frames would have to describe the repeated rows
        prompts = prompts_of(family, names)
        inputs = make_inputs(*prompts)
        once = generate(model, inputs, 1).logits[0]
        try:
            twice = generate(model, inputs, 1, num_return_sequences=2, do_sample=True).logits[0]
        except ValueError:  # which transformers 5.18 raises of itself for LLaVA-NeXT-Video
            continue
        if torch.allclose(twice, once.repeat_interleave(2, 0), atol=1e-5):
            return prompts
    raise AssertionError("This transformers can't even repeat a row with one image.")


@pytest.mark.parametrize("family", FAMILIES)
def test_beams_and_several_return_sequences(family: str) -> None:
    model, config = build(family), with_images(family)
    plain, prompts = plain_copy(model), repeatable(family, model)
    options = {"num_beams": 2, "num_return_sequences": 2, "output_scores": True}
    with attach(model, prompts, config):
        beams = generate(model, make_inputs(*prompts), 3, **options)
        sampled = generate(model, make_inputs(*prompts), 2, do_sample=True, top_k=0, num_return_sequences=2)
    width, order = max(map(len, prompts)), order_of(model, config)
    for row, (sequence, score) in enumerate(zip(beams.sequences, beams.sequences_scores)):
        prompt, new = prompts[row // 2], sequence[width:]
        logits = reference(plain, prompt, new, config, order).logits[len(prompt) - 1 : -1].log_softmax(-1)
        expected = logits[torch.arange(len(new)), new].sum() / len(new)
        torch.testing.assert_close(score, expected, atol=1e-5, rtol=0)
    compare(plain, [prompt for prompt in prompts for _ in range(2)], sampled, config, order)


@pytest.mark.parametrize("overrides", [{}, {"enable_cache_compression": False}], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_second_turn_on_the_returned_cache(family: str, overrides: dict[str, Any]) -> None:
    model, config = build(family), with_images(family, **overrides)
    plain, (prompt,) = plain_copy(model), prompts_of(family, ["between"])
    with attach(model, [prompt], config):
        first = generate(model, make_inputs(prompt), 3)
        assert first.past_key_values.get_seq_length() == len(prompt) + 2
        ids = torch.cat([first.sequences, torch.randint(len(SPECIAL), VOCABULARY, (1, 4))], dim=1)
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if FAMILIES[family].kinds:
            inputs["mm_token_type_ids"] = torch.zeros_like(ids)
            inputs["mm_token_type_ids"][:, : len(prompt)] = prompt.kinds
        second = generate(model, inputs, 3, past_key_values=first.past_key_values)
    ref = reference(plain, prompt, second.sequences[0, len(prompt) :], config, order_of(model, config), 2)
    torch.testing.assert_close(torch.cat(second.logits), ref.logits[-4:-1], atol=1e-5, rtol=0)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("family", FAMILIES)
def test_static_cache(family: str, kernel: str) -> None:
    prompts, config, model = prompts_of(family, ["after", "only"]), with_images(family), build(family, kernel)
    with attach(model, prompts, config):
        out = generate(model, make_inputs(*prompts), 2, cache_implementation="static")
    compare(plain_copy(model), prompts, out, config, order_of(model, config))


@pytest.mark.parametrize("family", FAMILIES)
def test_plain_forward_and_a_hand_written_decode_loop(family: str) -> None:
    """Images are encoded inside this forward pass, in every version of transformers."""
    model, config = build(family), with_images(family)
    plain, (prompt,) = plain_copy(model), prompts_of(family, ["before"])
    steps, ids = [], []
    with attach(model, [prompt], config), torch.no_grad():
        out = model(**make_inputs(prompt))
        for _ in range(2):
            steps.append(out.logits[0, -1])
            ids.append(int(steps[-1].argmax()))
            out = model(input_ids=torch.tensor([[ids[-1]]]), past_key_values=out.past_key_values)
    ref = reference(plain, prompt, torch.tensor(ids), config, order_of(model, config))
    torch.testing.assert_close(torch.stack(steps), ref.logits[len(prompt) - 1 : -1], atol=1e-5, rtol=0)


@pytest.mark.parametrize("frames", [0, None])
@pytest.mark.parametrize("family", [name for name, kind in FAMILIES.items() if kind.attach])
def test_pictures_that_are_no_frames_are_images(
    family: str, frames: int | None, recwarn: pytest.WarningsRecorder
) -> None:
    """Nothing is guessed: without a word on frames, `prune_images` means that every picture is an image."""
    model, config, prompts = build(family), with_images(family), prompts_of(family, ["several", "only"])
    with prunevid.attach(model, config, frames_per_video=frames) as pruning:
        out = generate(model, make_inputs(*prompts), 2)
    assert not [warning for warning in recwarn if issubclass(warning.category, UnprunedWarning)]
    assert [len(maps) for maps in pruning.maps] == [3, 1]
    compare(plain_copy(model), prompts, out, config, order_of(model, config))


@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_video_can_not_an_image_can_not_either(family: str) -> None:
    model, (prompt,) = build(family), prompts_of(family, ["only"])
    with attach(model, [prompt], with_images(family)):
        resting = hooks(model)
        with pytest.raises(UnsupportedError, match=r"tokens but no \w+ was encoded"):
            model(input_ids=prompt.ids[None])
        with pytest.raises(UnsupportedError, match="label"):
            model(**make_inputs(prompt), labels=prompt.ids[None])
        with pytest.raises(UnsupportedError, match="use_cache"):
            model(**make_inputs(prompt), use_cache=False)
        assert hooks(model) == resting
        generate(model, make_inputs(prompt), 2)


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl", "llava_onevision", "internvl"])
def test_features_from_elsewhere_are_refused(family: str) -> None:
    model, (prompt,) = build(family), prompts_of(family, ["only"])
    inputs = make_inputs(prompt)
    if "mm_encoder_outputs" not in inspect.signature(model.forward).parameters:
        pytest.skip("this transformers takes no encoded images")
    given = {name: inputs.pop(name) for name in list(inputs) if name.startswith(("pixel", "image"))}
    features = model.model.get_image_features(**given, return_dict=True)
    with attach(model, [prompt], with_images(family)):
        with pytest.raises(UnsupportedError, match=r"not encoded by the attached model.*pass pixel_values"):
            model(**inputs, mm_encoder_outputs={"image": features})
        generate(model, inputs | given, 2)


@pytest.mark.parametrize("family", ["qwen2_5_vl", "llava_onevision"])
def test_a_new_image_in_a_later_turn_passes_whole_with_a_warning(family: str) -> None:
    model, (first, more) = build(family), prompts_of(family, ["before", "only"])
    inputs = make_inputs(more)
    with attach(model, [first], with_images(family)), torch.no_grad():
        cache = model(**make_inputs(first)).past_key_values
        given = {name: inputs[name] for name in inputs if name != "attention_mask"}
        given["attention_mask"] = torch.ones(1, len(first) + len(more), dtype=torch.long)
        if FAMILIES[family].kinds:
            given["position_ids"] = torch.arange(len(more)).expand(3, 1, -1) + len(first)
        with pytest.warns(UnprunedWarning, match="later turn"):
            out = model(**given, past_key_values=cache)
    assert out.logits.shape[1] == len(more)
    assert cache.get_seq_length() == len(first) + len(more)


@pytest.mark.parametrize("family", ["qwen2_5_vl", "llava_next_video", "smolvlm"])
def test_reuse_encodes_an_image_once(family: str) -> None:
    model, (prompt,) = build(family), prompts_of(family, ["only"])
    inputs = make_inputs(prompt)
    calls: list[int] = []
    with attach(model, [prompt], with_images(family)) as pruning:
        tower = next(module for name, module in pruning.base.named_children() if "vis" in name)
        tower.register_forward_hook(lambda *a: calls.append(1))
        with pruning.reuse():
            found = [generate(model, inputs, 2) for _ in range(3)]
        assert len(calls) == 1
        found.append(generate(model, inputs, 2))
        assert len(calls) == 2
    for out in found[1:]:
        torch.testing.assert_close(torch.stack(out.logits), torch.stack(found[0].logits), atol=1e-6, rtol=0)


def test_reuse_tells_an_image_from_a_video_of_the_same_pixels() -> None:
    model, prompt = build("qwen2_5_vl"), make_prompt("qwen2_5_vl", 3, "image", 2, (1,), 5)
    inputs = make_inputs(prompt)
    inputs["pixel_values"] = inputs["pixel_values_videos"].clone()
    with attach(model, [prompt], with_images("qwen2_5_vl")) as pruning:
        expected = generate(model, inputs, 2)
        inputs["pixel_values"] = inputs["pixel_values_videos"]
        with pruning.reuse():
            found = generate(model, inputs, 2)
        assert [[item.layout.image for item in maps] for maps in pruning.maps] == [[True, False]]
    torch.testing.assert_close(torch.stack(found.logits), torch.stack(expected.logits), atol=1e-6, rtol=0)


# ---- images that the LLaVA families cut into tiles -------------------------------------------------------------------

TILED = ["llava_onevision", "llava_next_video"]


@pytest.mark.parametrize("name", ["several", "before"])
@pytest.mark.parametrize("family", TILED)
def test_what_is_protected_in_a_tiled_image_is_the_newline(family: str, name: str) -> None:
    """At the places that a layout leaves out of its grid the model itself puts its learnt newline, and nowhere else."""
    model, (prompt,) = build(family), prompts_of(family, [name])
    inputs, seen = make_inputs(prompt), {}
    handle = language_of(model).register_forward_pre_hook(lambda m, a, k: seen.update(k), with_kwargs=True)
    model(**inputs)
    handle.remove()
    embeds = seen["inputs_embeds"][0, prompt.kinds == 1]
    newline = (embeds == model.model.image_newline).all(-1)
    layouts = prunevid.models.adapter_for(model).image_layouts(
        model.model, {"image_sizes": inputs["image_sizes"], "pixel_values": inputs["pixel_values"]}, None
    )
    expected, start = torch.ones(len(embeds), dtype=torch.bool), 0
    for layout in layouts:
        expected[start + layout.places()] = False
        start += layout.tokens
    assert start == len(embeds) and len(layouts) == 2 * len(prompt.images)
    assert 0 < int(newline.sum()) < len(embeds) and torch.equal(newline, expected)


@pytest.mark.parametrize("kernel", KERNELS)
def test_several_images_of_a_row_have_no_tiles(kernel: str) -> None:
    """LLaVA-OneVision's processor says how many images a row has; only an only one is cut into tiles."""
    model, config = build("llava_onevision", kernel), with_images("llava_onevision")
    tiled = make_prompt("llava_onevision", 3, "image", 5)
    newline = [IMAGE] * 101
    ids = torch.tensor([10, 11, *newline, 12, *newline, 13, 14, 15])
    padded = torch.full((2, max(len(ids), len(tiled))), PAD)
    padded[0, -len(tiled) :], padded[1, -len(ids) :] = tiled.ids, ids
    pixels = torch.zeros(3, 3, 3, 40, 40)
    pixels[0], pixels[1:, 0] = tiled.images[0].pixels, torch.randn(2, 3, 40, 40)
    inputs = {
        "input_ids": padded,
        "attention_mask": (padded != PAD).long(),
        "pixel_values": pixels,
        "image_sizes": torch.tensor([tiled.images[0].size, (30, 60), (60, 14)]),
        "batch_num_images": torch.tensor([1, 2]),
    }
    with prunevid.attach(model, config) as pruning:
        out = generate(model, inputs, 2)
    assert [[m.layout for m in maps][1:] for maps in pruning.maps] == [
        [VideoLayout(1, 20, 4, newlines=1, image=True)],
        [VideoLayout(1, 10, 10, tail=1, image=True)],
    ]
    assert [len(m.kept) for m in pruning.maps[1]] == [20, 20]
    plain = plain_copy(model)
    compare_row = compare(plain, [tiled], _row(out, 0, len(tiled), padded.shape[1]), config, "merged")
    assert len(compare_row[0].kept) == 20 + 16


def _row(out: Any, row: int, length: int, width: int) -> Any:
    """One row of a generated batch, as if it had been generated alone."""
    sequences = out.sequences[row : row + 1, width - length :]
    return type(out)(sequences=sequences, logits=tuple(step[row : row + 1] for step in out.logits))


@pytest.mark.parametrize("family", TILED)
def test_layouts_of_tiles_are_what_the_model_makes_of_any_size(family: str) -> None:
    """The model's own packing of zeros, over sizes of all shapes, has as many tokens as the layouts say."""
    model = build(family)
    config, side = model.config, 10
    config.image_grid_pinpoints = [[40, 80], [80, 40], [80, 80], [40, 120], [120, 40]]
    generator = torch.Generator().manual_seed(3)
    sizes = [(40, 40), (1, 200), (200, 1), (79, 81), *torch.randint(5, 200, (60, 2), generator=generator).tolist()]
    for size in map(tuple, sizes):
        most = 1 if family == "llava_onevision" else None
        base, tiles = tiled_layouts(config, size, most)
        count = image_size_to_num_patches(list(size), config.image_grid_pinpoints, 40)
        features = [torch.zeros(count, side * side, 64)]
        more = {"vision_aspect_ratio": "anyres_max_1"} if most else {"vision_feature_select_strategy": "default"}
        packed, _ = model.model.pack_image_features(
            features, torch.tensor([size]), image_newline=torch.ones(64), **more
        )
        newline = packed[0][:, 0] == 1
        assert (base.tokens, base.newlines, base.tail) == (side * side, 0, 0) and not newline[: side * side].any()
        expected = torch.arange(tiles.tokens) % (tiles.width + 1) == tiles.width
        assert torch.equal(newline[side * side :], expected), size


def test_layouts_need_what_the_processor_says() -> None:
    for family, missing in {
        "qwen3_vl": "image_grid_thw",
        "video_llama_3": "image_merge_sizes",
        "llava_onevision": "image_sizes",
    }.items():
        model = build(family)
        given = {"image_grid_thw": torch.tensor([[1, 4, 4]])} if family == "video_llama_3" else {}
        with pytest.raises(UnsupportedError, match=missing):
            prunevid.models.adapter_for(model).image_layouts(model.model, given, None)


@pytest.mark.parametrize("strategy", ["default", "full"])
def test_the_class_token_of_an_image(strategy: str) -> None:
    """Video-LLaVA drops an image's class token unless told otherwise; the layout follows what the model does."""
    model = build("video_llava")
    model.config.vision_feature_select_strategy = strategy
    pixels = torch.randn(2, 3, 20, 20)
    features = model.model.get_image_features(pixels, return_dict=True).pooler_output
    layouts = prunevid.models.adapter_for(model).image_layouts(model.model, {"pixel_values": pixels}, None)
    assert [layout.tokens for layout in layouts] == [features.shape[1]] * 2 == [25 + (strategy == "full")] * 2


def test_a_family_whose_images_are_not_described_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("qwen2_vl")
    adapter = prunevid.models.adapter_for(model)
    monkeypatch.setattr(type(adapter), "image_function", None)
    before = trace(model)
    with pytest.raises(ConfigError, match="prune_images is True"):
        prunevid.attach(model, with_images("qwen2_vl"))
    assert trace(model) == before
    with pytest.raises(NotImplementedError):
        Adapter.image_layouts(adapter, model.model, {}, None)
