# SPDX-License-Identifier: Apache-2.0
"""The settings of PruneVid and its presets.

Source: paper section 3 and `docs/algorithm.md`. The names of the fields and presets are a contract with other programs.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args, get_type_hints

from prunevid.errors import ConfigError

if TYPE_CHECKING:
    from typing_extensions import Self

_RATIOS = ("cluster_ratio", "temporal_segment_ratio", "keep_ratio")
_COUNTS = {"dpc_knn_k": 1, "pruning_layer": 0, "max_frames": 1, "prompt_head": 0, "prompt_tail": 0, "cluster_seed": 0}


class DefaultLayer(int):
    """A layer that nobody chose: the published one for the published depth, to be scaled to a model's own.

    It is the number in every other respect. A copy of a config keeps it, and an explicit equal number replaces it.
    """

    published: int
    of: int

    def __new__(cls, layer: int, of: int = 32, published: int | None = None) -> Self:
        """`of`: layers of the model that the `published` layer (`layer` itself if None) was chosen for."""
        made = super().__new__(cls, layer)
        made.published, made.of = layer if published is None else published, of
        return made

    def __getnewargs__(self) -> tuple[int, int, int]:  # type: ignore[override]
        """So that copies and pickles keep where it comes from."""
        return int(self), self.of, self.published

    def for_depth(self, depth: int, first: int = 0) -> Self:
        """The layer for a model: round(published / of * depth), halves to the even one, within `first` ... depth - 1.

        Args:
            depth: decoder layers of the model.
            first: the lowest layer that its family allows.
        """
        scaled = round(self.published * depth / self.of)
        return type(self)(min(max(scaled, first), depth - 1), self.of, self.published)


class DefaultCount(DefaultLayer):
    """The same for a number of layers, the last of which is the one before this number."""

    def for_depth(self, depth: int, first: int = 0) -> Self:
        """As `DefaultLayer.for_depth`, within first + 1 ... depth."""
        scaled = round(self.published * depth / self.of)
        return type(self)(min(max(scaled, first + 1), depth), self.of, self.published)


@dataclass(frozen=True)
class PruneVidConfig:
    """What PruneVid does to a prompt; frozen, checked when it is made.

    Stage 1, before the language model:
        tau: a position is static in a scene when its mean pairwise cosine similarity over the scene's frames is above
            this value; -1 ... 1, or more to make every token dynamic.
        cluster_ratio: share of each set of more than 14 tokens that its clusters leave, in (0, 1].
        temporal_segment_ratio: frame clusters for each frame, in (0, 1].
        dpc_knn_k: neighbours of the density estimate, at least 1 (capped at the number of points).
        enable_stage1: merge before the language model.
        cluster_centres: the centres of a set's clusters: by "density" (DPC-KNN, as published), or tokens by lot
            ("random": for comparisons; by lots of `cluster_seed`).
        prune_images: treat every image of a prompt as a video of one frame: its tokens are dynamic, merged in stage 1,
            chosen from in stage 2 and forgotten in stage 3, and the statistics count them. Otherwise images stay whole.
        token_order: order of the merged tokens in the sequence: "merged" (scene by scene, static before dynamic, as
            published), "raster" (by frame and place of the cell that stands for each token) or "auto" (what suits the
            model family).
        static_position: which frame's position stands for a static token, "first" or "middle" of its scene
            (only models with (t, h, w) rotary positions, raster order or kept positions care).
        positions: rotary positions after the merge: "keep" (each token has the position that its representative had,
            text its own, and decoding goes on from the unpruned prompt's end), "renumber" (0, 1, 2, ... over what is
            left, as published; only models with positions on one axis can) or "auto" (what suits the model family:
            keep (t, h, w), renumber one axis).

    Stage 2, inside it:
        enable_stage2: choose by the question.
        keep_ratio: share kept, in [0, 1].
        pruning_layer: 0-based decoder layer after which tokens go. Left out (or copied from a config that left it
            out), it is scaled to the model when attached: round(10/32 * depth), at least the lowest layer that the
            family allows; the statistics state it. A number that was given is used as it is.
        attention_aggregation: over heads and question rows: "max" or "mean".
        keep_scope: `keep_ratio` of each "group" (a scene's static tokens; a frame's dynamic tokens) as published, or
            "global".
        keep_rule: by what the best of them are found: by the "score" itself (as published), or by "peaks": the score
            times the distance to the nearest token of the video with a higher one, which passes over tokens that show
            again what a better one shows (see `prunevid.core.peak_scores`).
        score_rope: score with rotary embeddings applied (published: without).
        score_causal: let a question token see only keys up to itself (published: all keys).
        score_heads, score_row_mix: how the heads of a row, and then the rows, are put together: "max", "mean", for
            heads also "peaked" (see `prunevid.core.Mixing`); "auto": as `attention_aggregation` says (as published).
        score_normalise: "none" (as published), or by "head" or "row" (see `prunevid.core.Mixing`).
        score_rows: the rows that score: "all" after the last visual token (as published), those of the "question"
            between `prompt_head` and `prompt_tail`, or the "last" one.
        prompt_head, prompt_tail: how many of the rows after the last visual token are the same for every question,
            before the question and behind it; for `score_rows` and `score_contrast`.
        score_contrast: take off what a prompt without a question would look at, which is what the rows before the
            question (`prompt_head` of them) attend to: "difference" of both scores, or their "ratio" (the
            question-free score and the share of one key in even attention below the line); "none" (as published).

    Stage 3:
        enable_cache_compression: earlier layers forget the tokens that stage 2 dropped.

    Clips:
        max_frames: frames to sample, at least 1.
        video_sampling: "uniform" or "fps".

    Reports:
        verbose: log one line per prefill.
        collect_stats: measure times and bytes (costs a synchronisation per stage on a GPU).

    Raises:
        ConfigError: a value is of the wrong kind or out of range.
    """

    tau: float = 0.8
    cluster_ratio: float = 0.5
    temporal_segment_ratio: float = 0.25
    dpc_knn_k: int = 5
    enable_stage1: bool = True
    keep_ratio: float = 0.4
    pruning_layer: int = DefaultLayer(10)
    attention_aggregation: Literal["max", "mean"] = "max"
    enable_stage2: bool = True
    enable_cache_compression: bool = True
    max_frames: int = 16
    video_sampling: Literal["uniform", "fps"] = "uniform"
    verbose: bool = False
    collect_stats: bool = True
    token_order: Literal["auto", "merged", "raster"] = "auto"
    static_position: Literal["first", "middle"] = "first"
    keep_scope: Literal["group", "global"] = "group"
    keep_rule: Literal["score", "peaks"] = "score"
    score_rope: bool = False
    score_causal: bool = False
    positions: Literal["auto", "renumber", "keep"] = "auto"
    prune_images: bool = False
    cluster_centres: Literal["density", "random"] = "density"
    cluster_seed: int = 0
    score_heads: Literal["auto", "max", "mean", "peaked"] = "auto"
    score_row_mix: Literal["auto", "max", "mean"] = "auto"
    score_normalise: Literal["none", "head", "row"] = "none"
    score_rows: Literal["all", "question", "last"] = "all"
    prompt_head: int = 0
    prompt_tail: int = 0
    score_contrast: Literal["none", "difference", "ratio"] = "none"

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for field in dataclasses.fields(self):
            _check_kind(field.name, getattr(self, field.name), hints[field.name])
        if not -1 <= self.tau <= 2:
            raise ConfigError(f"tau is {self.tau}, but must be between -1 and 2 (above 1 makes every token dynamic).")
        for name in _RATIOS:
            value = getattr(self, name)
            if name == "keep_ratio" and value == 0:
                continue
            if not 0 < value <= 1:
                low = "at least 0" if name == "keep_ratio" else "above 0"
                raise ConfigError(f"{name} is {value}, but must be {low} and at most 1.")
        for name, low_count in _COUNTS.items():
            if getattr(self, name) < low_count:
                raise ConfigError(f"{name} is {getattr(self, name)}, but must be at least {low_count}.")
        if self.score_contrast != "none" and not self.prompt_head:
            raise ConfigError(
                f"score_contrast is {self.score_contrast!r}, but prompt_head is 0; say how many rows before the "
                "question are the same for every question."
            )

        if self.keep_rule == "peaks" and self.score_contrast == "difference":
            raise ConfigError(
                "keep_rule is 'peaks', but score_contrast 'difference' makes scores below 0, which peaks can't weigh; "
                "set score_contrast to 'none' or 'ratio'."
            )

    def replace(self, **overrides: Any) -> PruneVidConfig:
        """A copy with some fields changed.

        Raises:
            ConfigError: a name that is no field (the message lists them), or a value out of range.
        """
        names = [field.name for field in dataclasses.fields(self)]
        unknown = sorted(set(overrides) - set(names))
        if unknown:
            raise ConfigError(f"{unknown[0]!r} is no setting of PruneVid; the settings are {', '.join(names)}.")
        return dataclasses.replace(self, **overrides)


def _check_kind(name: str, value: Any, hint: Any) -> None:
    """Refuses a value whose kind does not fit the field (a bool is no number here)."""
    choices = get_args(hint)
    if choices:
        if value not in choices:
            raise ConfigError(f"{name} is {value!r}, but must be one of {', '.join(map(repr, choices))}.")
    elif hint is bool:
        if not isinstance(value, bool):
            raise ConfigError(f"{name} is {value!r}, but must be True or False.")
    elif isinstance(value, bool) or not isinstance(value, (int, float) if hint is float else int):
        raise ConfigError(f"{name} is {value!r}, but must be {'a number' if hint is float else 'a whole number'}.")


def get_baseline_config() -> PruneVidConfig:
    """Prunes nothing: the model's tensors pass untouched."""
    return PruneVidConfig(enable_stage1=False, enable_stage2=False, enable_cache_compression=False)


def get_paper_config() -> PruneVidConfig:
    """The published setting: tau 0.8, cluster ratio 0.5, segment ratio 0.25, k = 7, keep 0.4 after layer 10 of 32 (the
    same share of other depths), scores before rotary embedding and without the causal mask, kept share per group
    (paper section 4.1; docs/algorithm.md)."""
    return PruneVidConfig(dpc_knn_k=7)


def get_conservative_config() -> PruneVidConfig:
    """Compresses most: tau 0.7, cluster ratio 0.3, keep 0.3 (the name reads backwards; it is the users' name)."""
    return PruneVidConfig(tau=0.7, cluster_ratio=0.3, keep_ratio=0.3)


def get_aggressive_config() -> PruneVidConfig:
    """Compresses least: tau 0.85, cluster ratio 0.6, keep 0.5 (the name reads backwards; it is the users' name)."""
    return PruneVidConfig(tau=0.85, cluster_ratio=0.6, keep_ratio=0.5)


def get_stage1_only_config() -> PruneVidConfig:
    """Stops after the merge before the language model."""
    return PruneVidConfig(enable_stage2=False, enable_cache_compression=False)


def get_diverse_config() -> PruneVidConfig:
    """The published setting but for the choice: the best of the whole clip, and by "peaks", so that a token stays for
    what no better token shows (ours; measured in docs/benchmark.md)."""
    return get_paper_config().replace(keep_scope="global", keep_rule="peaks")


PRESETS = {
    "baseline": get_baseline_config,
    "paper": get_paper_config,
    "conservative": get_conservative_config,
    "aggressive": get_aggressive_config,
    "stage1_only": get_stage1_only_config,
    "diverse": get_diverse_config,
}


def get_preset(name: str) -> PruneVidConfig:
    """The preset of that name.

    Raises:
        ConfigError: there is no such preset; the message lists them.
    """
    if name not in PRESETS:
        raise ConfigError(f"{name!r} is no preset; choose one of {', '.join(PRESETS)}.")
    return PRESETS[name]()
