# SPDX-License-Identifier: Apache-2.0
"""What is read of the vision tower, against the maps of an attention function that keeps them and plain loops."""

from __future__ import annotations

import copy
import inspect
import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from engine.families import FAMILIES, SIDE, build
from engine.tiny import PATCH, scale_weights
from prunevid import models
from prunevid.errors import ConfigError, UnsupportedError
from prunevid.methods.base import TowerRequest, TowerView
from prunevid.models import towers, watch_tower
from prunevid.models.towers import Patches

PAGE = Path(__file__).resolve().parents[2] / "docs" / "models.md"
RECORDING = "recording for tests"
CLASSED = ("llava_next_video", "video_llava", "internvl", "pllava")
PACKED = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "video_llama_3")
BILINEAR = ("llava_onevision", "video_llama_3")
ALL_MASK_ATTENTION_FUNCTIONS.register(RECORDING, ALL_MASK_ATTENTION_FUNCTIONS["eager"])  # 0 or the lowest number
TOWERS = [name for name in FAMILIES if type(models._ADAPTERS[name]).tower is not models.Adapter.tower]
WINDOW = 2  # merge blocks of a window's row and column in the tiny Qwen2.5-VL


@dataclass(frozen=True)
class Case:
    """One call of a family's feature function.

    videos: (frames, rows of patches, columns of patches, merge size) of every video in order; frames 0: a picture
    that is no frame.
    """

    family: str
    model: Any
    arguments: dict[str, Any]
    videos: list[tuple[int, int, int, int]]
    more: dict[str, Any]

    @property
    def adapter(self) -> models.Adapter:
        return models.adapter_for(self.model)

    @property
    def base(self) -> Any:
        return self.model.model

    def bound(self) -> dict[str, Any]:
        """The arguments as the engine hands them to an adapter."""
        encode = getattr(self.base, self.adapter.feature_function)
        return dict(inspect.signature(encode).bind(**self.arguments).arguments) | self.more

    def encode(self) -> Any:
        return getattr(self.base, self.adapter.feature_function)(**self.arguments)

    def layouts(self) -> list[models.VideoLayout]:
        return self.adapter.layouts(self.base, self.bound(), None)


def _model(family: str, dtype: torch.dtype, side: int | None, vision: dict[str, Any] | None) -> Any:
    """The tiny model of a family; its tower with other settings, or for another number of patches a side."""
    model = build(family)
    if side is not None or vision:
        config = copy.deepcopy(model.config)
        if side is not None:
            size = side * (SIDE if family == "smolvlm" else PATCH)
            config.vision_config.image_size = [size] * 2 if family == "internvl" else size
        for name, value in (vision or {}).items():
            setattr(config.vision_config, name, value)
        model = type(model)(config).eval().requires_grad_(False)
        scale_weights(model)
    return model.to(dtype)


def make_case(
    family: str,
    dtype: torch.dtype = torch.float32,
    side: int | None = None,
    seed: int = 0,
    vision: dict[str, Any] | None = None,
) -> Case:
    """Videos of unequal sizes where the family takes them."""
    model = _model(family, dtype, side, vision)
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(dtype)

    encode = getattr(model.model, models.adapter_for(model).feature_function)
    pixels = next(name for name in inspect.signature(encode).parameters if name.startswith("pixel"))
    if family in PACKED:
        merges = [2, 1, 4] if family == "video_llama_3" else [2, 2, 2]
        grid = torch.tensor([[3, 6, 10], [1, 4, 2], [2, 8, 4]])
        values = 3 * PATCH * PATCH * (1 if family == "video_llama_3" else 2)
        arguments = {pixels: noise(int(grid.prod(1).sum()), values), "video_grid_thw": grid}
        if family == "video_llama_3":
            arguments["video_merge_sizes"] = torch.tensor(merges)
        return Case(family, model, arguments, [(*row, m) for row, m in zip(grid.tolist(), merges)], {})
    size = model.config.vision_config.image_size
    size = size[0] if isinstance(size, (list, tuple)) else size
    if family == "internvl":
        side = size // PATCH
        arguments = {pixels: noise(6, 3, size, size)}
        return Case(family, model, arguments, [(n, side, side, 2) for n in (3, 0, 2)], {"frames_per_video": [3, -1, 2]})
    if family == "smolvlm":
        side = size // SIDE if side else 2 * SIDE  # its patches have 5 pixels; it takes pictures of any size
        padded = noise(2, 3, 3, side * SIDE, side * SIDE)
        padded[1, 2] = 0
        return Case(family, model, {pixels: padded}, [(n, side, side, 2) for n in (3, 2)], {"frames_per_video": [3, 2]})
    merge, side = 1 if family == "video_llava" else 2, size // PATCH
    return Case(family, model, {pixels: noise(2, 3, 3, size, size)}, [(3, side, side, merge)] * 2, {})


def watched(case: Case, layer: int = -1, split_heads: bool = True) -> list[TowerView]:
    """The views of a call."""
    with watch_tower(case.adapter, case.base, TowerRequest(layer, split_heads)) as seen:
        case.encode()
    return seen.views(case.layouts(), case.bound())


def tower_of(case: Case) -> Any:
    names = ("visual", "vision_tower", "video_tower", "vision_model")
    return next(getattr(case.base, name) for name in names if hasattr(case.base, name))


def blocks_of(case: Case) -> Any:
    """The tower's layers."""
    tower = tower_of(case)
    encoder = getattr(getattr(tower, "vision_model", tower), "encoder", tower)
    return next(getattr(encoder, name) for name in ("layers", "layer", "blocks") if hasattr(encoder, name))


def attention_of(case: Case, layer: int) -> Any:
    block = blocks_of(case)[layer]
    return next(getattr(block, name) for name in ("self_attn", "attn", "attention") if hasattr(block, name))


# ---- the reference ---------------------------------------------------------------------------------------------------


@dataclass
class Recorded:
    """maps: (pictures or 1, L, L) of every call of the attention function; keys: of all tokens, (..., heads, d)."""

    maps: list[Tensor]
    keys: Tensor


@contextmanager
def recording(case: Case, layer: int, split_heads: bool) -> Iterator[list[Recorded]]:
    """Computes the tower's attention by a function that keeps the map of one layer, and keys from the layer's input."""
    attention, maps, done = attention_of(case, layer), [], []

    def attend(
        module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, scaling: float, **_: Any
    ) -> Any:
        assert attention_mask is None or attention_mask.is_floating_point()
        mask = torch.zeros(1, 1, 1, 1) if attention_mask is None else attention_mask.float()
        weights = (query.float() @ key.float().mT * scaling + mask).softmax(-1)
        if module is attention and split_heads:
            maps.append(weights.mean(1))
        elif module is attention:
            whole = [states.transpose(1, 2).flatten(2).float() for states in (query, key)]
            maps.append((whole[0] @ whole[1].mT / math.sqrt(whole[0].shape[-1]) + mask[:, 0]).softmax(-1))
        return (weights @ value.float()).to(value.dtype).transpose(1, 2).contiguous(), weights

    def keep(module: Any, args: Any, kwargs: Any) -> None:
        states = args[0] if args else kwargs["hidden_states"]
        if hasattr(module, "qkv"):
            width = states.shape[-1]
            parts = [part[width : 2 * width] for part in (module.qkv.weight, module.qkv.bias)]
            keys = torch.nn.functional.linear(states, *parts)
        else:
            keys = getattr(module, "k_norm", torch.nn.Identity())(module.k_proj(states))
        done.append(Recorded(maps, keys.unflatten(-1, (module.num_heads, -1))))

    before = attention.config._attn_implementation
    handle = attention.register_forward_pre_hook(keep, with_kwargs=True)
    ALL_ATTENTION_FUNCTIONS[RECORDING] = attend
    attention.config._attn_implementation = RECORDING
    try:
        yield done
    finally:
        attention.config._attn_implementation = before
        handle.remove()
        del ALL_ATTENTION_FUNCTIONS[RECORDING]


def raster_places(case: Case) -> list[tuple[int, int, int, int]]:
    """(video, frame, row, column) of every patch in a packed tower's row, by plain loops."""
    places = []
    for video, (frames, rows, columns, merge) in enumerate(case.videos):
        for frame in range(frames):
            blocks = [(r, c) for r in range(rows // merge) for c in range(columns // merge)]
            if case.family == "qwen2_5_vl":  # window by window
                blocks.sort(key=lambda block: (block[0] // WINDOW, block[1] // WINDOW))
            for r, c in blocks:
                inner = [(r * merge + i, c * merge + j) for i in range(merge) for j in range(merge)]
                places += [(video, frame, row, column) for row, column in inner]
    return places


def by_patch(case: Case, seen: Recorded) -> list[list[tuple[Tensor, Tensor, Tensor | None]]]:
    """Of every video and frame: salience (rows, columns), keys (rows, columns, heads, d), the class token's key."""
    if case.family not in PACKED:
        return _by_picture(case, seen)
    places, start = raster_places(case), 0
    result = []
    for frames, rows, columns, _ in case.videos:
        shape = (frames, rows * columns, rows * columns)
        result.append((torch.zeros(shape), torch.zeros(frames, rows, columns, *seen.keys.shape[-2:])))
    for token, (video, frame, row, column) in enumerate(places):
        result[video][1][frame, row, column] = seen.keys[token].float()
    for weights in seen.maps:
        segment = places[start : start + weights.shape[-1]]
        start += len(segment)
        (video, frame) = {place[:2] for place in segment}.pop()
        numbers = torch.tensor([row * case.videos[video][2] + column for _, _, row, column in segment])
        result[video][0][frame, numbers[:, None], numbers] = weights[0]
    assert start == len(places)
    return [[(table.mean(0).view(keys.shape[1:3]), k, None) for table, k in zip(maps, keys)] for maps, keys in result]


def _by_picture(case: Case, seen: Recorded) -> list[list[tuple[Tensor, Tensor, Tensor | None]]]:
    (maps,) = seen.maps
    shown = case.more.get("shown")
    result, picture = [], 0
    for frames, rows, columns, _ in case.videos:
        first = maps.shape[-1] - rows * columns
        views = []
        for _ in range(frames):
            table, keys = maps[picture], seen.keys[picture].float()
            asked = table if shown is None else table[shown[picture]]
            salience = table[0, 1:] if first else asked.mean(0)
            views.append((salience.view(rows, columns), keys[first:].unflatten(0, (rows, columns)), keys[0]))
            picture += 1
        picture += not frames
        result.append(views)
    return result


def _weights(case: Case, patches: int, merge: int) -> list[list[tuple[int, float]]]:
    """For every cell of one axis: which patches make it, and how much of each."""
    if case.family not in BILINEAR:
        return [[(cell * merge + i, 1 / merge) for i in range(merge)] for cell in range(patches // merge)]
    cells = math.ceil(patches / merge)
    result = []
    for cell in range(cells):
        place = max(0.0, (cell + 0.5) * patches / cells - 0.5)
        low, share = int(place), place - int(place)
        result.append([(low, 1 - share), (min(low + 1, patches - 1), share)])
    return result


def expected(case: Case, seen: Recorded) -> list[tuple[Tensor, Tensor]]:
    """(T, N) salience and (T, N, heads, d) keys of every video."""
    result = []
    for (_, rows, columns, merge), frames in zip(case.videos, by_patch(case, seen)):
        salience, keys = [], []
        for patch_salience, patch_keys, class_key in frames:
            cells = []
            for down in _weights(case, rows, merge):
                for across in _weights(case, columns, merge):
                    parts = [(r, c, a * b) for r, a in down for c, b in across]
                    total = sum(patch_salience[r, c] * share for r, c, share in parts)
                    cells.append((total, sum(patch_keys[r, c] * share for r, c, share in parts)))
            if case.family == "video_llava":
                cells.insert(0, (max(s for s, _ in cells), class_key))
            salience.append(torch.stack([s for s, _ in cells]))
            keys.append(torch.stack([k for _, k in cells]))
        empty = not salience
        result.append(None if empty else (torch.stack(salience), torch.stack(keys)))
    return result


def compare(views: list[TowerView], reference: list[Any], layouts: list[models.VideoLayout]) -> None:
    assert len(views) == len(reference) == len(layouts)
    for view, wanted, layout in zip(views, reference, layouts):
        assert view.salience.shape == (layout.frames, layout.height * layout.width)
        assert view.salience.dtype == view.keys.dtype == torch.float32
        if wanted is not None:
            torch.testing.assert_close(view.salience, wanted[0], atol=1e-6, rtol=1e-4)
            torch.testing.assert_close(view.keys, wanted[1], atol=1e-5, rtol=1e-5)


def _reference(case: Case, layer: int, split_heads: bool) -> list[Any]:
    with recording(case, layer, split_heads) as seen:
        case.encode()
    return expected(case, seen[0])


# ---- what is read ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("split_heads", [True, False], ids=["heads", "whole"])
@pytest.mark.parametrize("layer", [-1, -2])
@pytest.mark.parametrize("family", TOWERS)
def test_views_are_what_the_tower_computed(family: str, layer: int, split_heads: bool, dtype: torch.dtype) -> None:
    case = make_case(family, dtype)
    reference = _reference(case, layer, split_heads)
    with recording(case, layer, split_heads):  # the same kernel, so that layers before see the same states
        views = watched(case, layer, split_heads)
    compare(views, reference, case.layouts())
    assert {view.class_token for view in views} == {family in CLASSED}
    assert max(view.salience.std(1).max() for view in views if len(view.salience)) > 1e-3


@pytest.mark.parametrize("family", ["llava_onevision", "llava_next_video"])
def test_an_odd_number_of_patches(family: str) -> None:
    case = make_case(family, side=9)
    compare(watched(case), _reference(case, -1, True), case.layouts())


def test_queries_and_keys_that_are_normed() -> None:
    """InternVL's tower may norm whole vectors before it splits them into heads."""
    case = make_case("internvl", vision={"use_qk_norm": True})
    assert sum(part.numel() for part in attention_of(case, -1).k_norm.parameters())
    compare(watched(case), _reference(case, -1, True), case.layouts())


@pytest.mark.parametrize("family", TOWERS)
def test_cells_are_those_of_the_features(family: str) -> None:
    """A change in one patch's last state changes the features of just the cells that the patch is mapped to."""
    case = make_case(family)
    keyword = {"vision_feature_layer": -1} if "llava" in family else {}
    plain = _features(Case(family, case.model, case.arguments | keyword, case.videos, case.more))
    with watch_tower(case.adapter, case.base, TowerRequest()) as seen:
        case.encode()
    (patches,) = seen._seen
    tower, shape = seen.tower, patches.salience.shape
    first = int(tower.class_token)
    for number in torch.randperm(patches.salience.numel(), generator=torch.Generator().manual_seed(1))[:8].tolist():
        if first and not number % shape[-1]:
            continue
        hot = torch.zeros(shape)
        hot.view(-1)[number] = 1
        views = tower.views(Patches(hot, torch.zeros_like(patches.keys)), case.layouts(), case.bound())

        def disturb(module: Any, args: Any, output: Tensor, number: int = number) -> Tensor:
            output = output.clone(memory_format=torch.contiguous_format)
            output.view(-1, output.shape[-1])[number, ::2] += 3
            return output

        handle = blocks_of(case)[-1].register_forward_hook(disturb, prepend=True)
        changed = _features(Case(family, case.model, case.arguments | keyword, case.videos, case.more)) != plain
        handle.remove()
        layouts = case.layouts()
        sizes = [v.tokens for v in layouts]
        if sum(sizes) != len(plain):  # as older versions leave out the newline here
            sizes = [v.cells for v in layouts]
        for view, layout, part in zip(views, layouts, changed.any(-1).split(sizes), strict=True):
            cells = view.salience.flatten() > 0
            if family == "video_llava":
                cells.view(-1, layout.width)[:, 0] = False  # stands for no patch, and takes the maximum
            assert torch.equal(cells, part[: layout.cells])


def _features(case: Case) -> Tensor:
    """(tokens, channels), the features of all videos in order."""
    features = case.encode().pooler_output
    parts = [features] if isinstance(features, Tensor) else features
    return torch.cat([part.flatten(0, -2) for part in parts])


@pytest.mark.parametrize("family", TOWERS)
def test_every_map_adds_up(family: str) -> None:
    """Attention is shared out: the saliences of a frame's patches sum to 1, less what the class token keeps."""
    case = make_case(family)
    for view, (frames, rows, columns, merge) in zip(watched(case), case.videos):
        if not frames or (family in BILINEAR and merge > 2):
            continue
        salience = view.salience[:, 1:] if family == "video_llava" else view.salience
        total = salience.sum(1) * rows * columns / salience.shape[1]
        assert (total <= 1 + 1e-5).all() and (total > 0.9 if view.class_token else total > 1 - 1e-5).all()


def test_the_class_token_s_cell_comes_first() -> None:
    case = make_case("video_llava")
    for view in watched(case):
        assert torch.equal(view.salience.argmax(1), torch.zeros(3, dtype=torch.long))
        assert torch.equal(view.salience[:, 0], view.salience[:, 1:].amax(1))


@pytest.mark.parametrize("split_heads", [True, False], ids=["heads", "whole"])
def test_padded_parts_of_a_picture_neither_attend_nor_are_attended_to(split_heads: bool) -> None:
    case = make_case("smolvlm")
    mask = torch.ones(2, 3, 50, 50, dtype=torch.bool)
    mask[0, 1, 15:], mask[1, 0, :, 25:] = False, False
    shown = mask[..., ::SIDE, ::SIDE].flatten(2).flatten(0, 1)
    case = Case(case.family, case.model, case.arguments | {"pixel_attention_mask": mask}, case.videos, case.more)
    reference = _reference(Case(*list(vars(case).values())[:4], case.more | {"shown": shown}), -1, split_heads)
    for kernel in ("sdpa", "eager"):
        attention_of(case, -1).config._attn_implementation = kernel
        views = watched(case, -1, split_heads)
        compare(views, reference, case.layouts())
    assert views[0].salience[1, 10:].max() == 0 and views[0].salience[1, :5].min() > 0


def test_windows_that_the_caller_computed() -> None:
    """A tower takes another order of the windows from its caller; the views are the same."""
    case = make_case("qwen2_5_vl")
    plain = watched(case, -2)
    places = raster_places(case)
    index, lengths = [], []
    bases = [0]
    for frames, rows, columns, _ in case.videos:
        bases.append(bases[-1] + frames * rows * columns // 4)
    windows: dict[Any, list[int]] = {}
    for video, frame, row, column in places[::4]:
        width = case.videos[video][2] // 2
        cell = bases[video] + (frame * case.videos[video][1] // 2 + row // 2) * width + column // 2
        windows.setdefault((video, frame, -(row // 4), -(column // 4)), []).append(cell)
    for _, cells in sorted(windows.items()):
        index += cells
        lengths.append(4 * len(cells))
    given = {
        "video_window_index": torch.tensor(index),
        "video_cu_window_seqlens": torch.tensor([0, *lengths]).cumsum(0).int(),
    }
    other = Case(case.family, case.model, case.arguments | given, case.videos, case.more)
    for view, wanted in zip(watched(other, -2), plain):
        torch.testing.assert_close(view.salience, wanted.salience)
        torch.testing.assert_close(view.keys, wanted.keys)


# ---- what is left alone ----------------------------------------------------------------------------------------------


def _hooks(model: Any) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.mark.parametrize("family", TOWERS)
def test_watching_leaves_no_trace(family: str) -> None:
    case = make_case(family)
    plain = _features(case)
    before = _hooks(case.model)
    with watch_tower(case.adapter, case.base, TowerRequest()) as seen:
        assert _hooks(case.model) > before
        assert torch.equal(_features(case), plain)
    assert _hooks(case.model) == before and not seen._call and not seen._projected
    (patches,) = seen._seen
    assert patches.keys.untyped_storage().nbytes() == patches.keys.nbytes  # nothing else is held in memory
    with pytest.raises(KeyboardInterrupt), watch_tower(case.adapter, case.base, TowerRequest()):
        raise KeyboardInterrupt
    assert _hooks(case.model) == before
    with (
        pytest.raises(ConfigError, match=r"layer 7 .* has [23]"),
        watch_tower(case.adapter, case.base, TowerRequest(7)),
    ):
        pass
    assert _hooks(case.model) == before and torch.equal(_features(case), plain)


def test_gradients_stay_outside() -> None:
    case = make_case("llava_onevision")
    case.model.requires_grad_(True)
    with torch.enable_grad():
        views = watched(case)
    assert not views[0].salience.requires_grad and not views[0].keys.requires_grad


@pytest.mark.parametrize("family", ["qwen2_5_vl", "llava_onevision", "internvl"])
def test_threads_see_their_own_videos(family: str) -> None:
    """In the middle of the watched layer another thread runs the same model, not watching and watching."""
    case = make_case(family)
    other = make_case(family, seed=1)
    other = Case(family, case.model, other.arguments, other.videos, other.more)
    alone = [watched(case), watched(other)]
    found: list[Any] = []
    here = threading.get_ident()

    def interrupt(module: Any, args: Any) -> None:
        if threading.get_ident() == here:
            for action in (other.encode, lambda: found.append(watched(other))):
                thread = threading.Thread(target=action)
                thread.start()
                thread.join()

    attention = attention_of(case, -1)
    between = next(getattr(attention, n) for n in ("k_norm", "k_proj", "proj") if hasattr(attention, n))
    handle = between.register_forward_pre_hook(interrupt)
    with watch_tower(case.adapter, case.base, TowerRequest()) as seen:
        case.encode()
    handle.remove()
    for views, wanted in zip([seen.views(case.layouts(), case.bound()), *found], alone, strict=True):
        assert all(torch.equal(view.salience, want.salience) for view, want in zip(views, wanted, strict=True))
        assert all(torch.equal(view.keys, want.keys) for view, want in zip(views, wanted, strict=True))


# ---- memory ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 500, 20_000])
@pytest.mark.parametrize("split_heads", [True, False], ids=["heads", "whole"])
@pytest.mark.parametrize("family", TOWERS)
def test_pieces_give_the_same(family: str, split_heads: bool, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    case = make_case(family)
    whole = watched(case, -1, split_heads)
    monkeypatch.setattr(towers, "MAP_ELEMENTS", limit)
    for view, wanted in zip(watched(case, -1, split_heads), whole, strict=True):
        torch.testing.assert_close(view.salience, wanted.salience, atol=1e-7, rtol=1e-5)
        assert torch.equal(view.keys, wanted.keys)


class Largest(TorchDispatchMode):
    """The most numbers in one tensor that was made, or in one float32 tensor."""

    def __init__(self, single: bool = False) -> None:
        super().__init__()
        self.single, self.numbers = single, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        for value in output if isinstance(output, (list, tuple)) else [output]:
            if isinstance(value, Tensor) and (value.dtype == torch.float32 or not self.single):
                self.numbers = max(self.numbers, value.numel())
        return output


@pytest.mark.parametrize("split_heads", [True, False], ids=["heads", "whole"])
@pytest.mark.parametrize("limit", [1, 2000, 5000])
@pytest.mark.parametrize("kind", ["class token", "pictures", "packed"])
def test_a_map_is_never_whole(kind: str, limit: int, split_heads: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """No float32 tensor is larger than the limit, or one picture's keys; the maps alone would be ten times that."""
    pictures, patches, heads, width = 5, 64, 4, 8
    pool, layout = towers.mean_pool(2), models.VideoLayout(pictures, 4, 4)
    states = [torch.randn(pictures, patches, heads, width).bfloat16() for _ in range(2)]
    call: dict[str, Any] = {}
    if kind == "packed":
        tower: Any = towers.PackedTower(make_case("qwen2_vl").base.visual, lambda m: pool, lambda a, v: [2] * len(v))
        states = [part.flatten(0, 1) for part in states]
        tables = (torch.ones(pictures * patches, width), torch.zeros(pictures * patches, width))
        call = {"cu_seqlens": torch.arange(pictures + 1) * patches, "position_embeddings": tables}
    else:
        tower = towers.PictureTower(make_case("llava_onevision").base.vision_tower, pool)
        if kind == "class token":
            tower.class_token = True
            states = [torch.cat((part, part[:, :1]), 1) for part in states]

    def run() -> tuple[Patches, TowerView]:
        seen = tower.patches(*states, call, split_heads)
        return seen, tower.views(seen, [layout], {})[0]

    whole = run()
    monkeypatch.setattr(towers, "MAP_ELEMENTS", limit)
    with Largest(single=True) as made:
        pieces = run()
    torch.testing.assert_close(pieces[0].salience, whole[0].salience)
    assert torch.equal(pieces[1].keys, whole[1].keys)
    bound = max(limit, (patches + 1) * heads * width, whole[1].keys.numel())
    assert bound < pictures * patches * heads * width
    assert patches <= made.numbers <= bound


@pytest.mark.parametrize("family", TOWERS)
def test_watching_makes_no_larger_tensors_than_the_model(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = make_case(family, side=20 if family == "llava_onevision" else None)
    with Largest() as plain:
        case.encode()
    numbers = {}
    for limit in (1, 1 << 24):
        monkeypatch.setattr(towers, "MAP_ELEMENTS", limit)
        with Largest() as seen:
            watched(case)
        numbers[limit] = seen.numbers
    assert numbers[1] <= plain.numbers
    if family in ("llava_onevision", "smolvlm"):  # enough patches for their whole map to be the largest
        assert numbers[1 << 24] > 2 * plain.numbers


# ---- refusals --------------------------------------------------------------------------------------------------------


def test_what_is_refused() -> None:
    case = make_case("llava_onevision")
    with watch_tower(case.adapter, case.base, TowerRequest(0)) as seen:
        pass
    with pytest.raises(UnsupportedError, match="layer 0 were seen"):
        seen.views(case.layouts(), case.bound())
    for family in ("llava_onevision", "qwen2_5_vl"):
        case = make_case(family)
        with watch_tower(case.adapter, case.base, TowerRequest()) as seen:
            case.encode()
        with pytest.raises(UnsupportedError, match="tower was given"):
            seen.views(case.layouts()[:1], case.bound())
    with pytest.raises(UnsupportedError, match="Linear has none of the parts layers"):
        towers.PictureTower(torch.nn.Linear(1, 1), towers.mean_pool(1))
    with pytest.raises(UnsupportedError, match=r"Unknown does not say.*LlavaOnevisionModel"):
        _unknown().tower(make_case("llava_onevision").base)


def _unknown() -> models.Adapter:
    class Unknown(models.Adapter):
        def layouts(self, base: Any, arguments: Any, output: Any) -> list[models.VideoLayout]:
            return []

    return Unknown()


def test_a_mask_that_is_no_tensor_is_refused() -> None:
    case = make_case("smolvlm")
    with watch_tower(case.adapter, case.base, TowerRequest()) as seen:
        case.encode()
    states = torch.randn(2, 100, 2, 16)
    with pytest.raises(UnsupportedError, match=r"is a dict.*sdpa"):
        seen.tower.patches(states, states, {"attention_mask": {}}, True)


def test_the_table_is_current() -> None:
    held = PAGE.read_text().split("<!-- towers -->\n")[1].split("\n<!-- end of towers -->")[0]
    assert held == models.tower_table(), "put the output of prunevid.models.tower_table() between the marks"
    assert "not known" not in held
