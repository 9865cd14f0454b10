# SPDX-License-Identifier: Apache-2.0
"""ST-LLM to the engine: the cells of a frame are the query slots of the Q-Former."""

from __future__ import annotations

from typing import Any, ClassVar

from prunevid.models.base import Adapter, VideoLayout, stacked_frames


class STLLM(Adapter):
    """ST-LLM (Vicuna).

    The design is this package's: nobody has published a pruned ST-LLM. A frame is 1 x 32 cells, and the cell l of a
    frame is what the query slot l found in it, so that "the same position in all frames" is the same slot. Cells have
    no place in the picture. The video stands first, so every token of text asks in stage 2: BOS, system text, question.
    """

    model_types: ClassVar[frozenset[str]] = frozenset({"stllm"})
    checkpoints: ClassVar[tuple[str, ...]] = ("farewellthree/ST_LLM_weight (converted)",)
    arrangement: ClassVar[str] = "one run of T * 32 query slots, before all text (the conversation weights: 16 * 32)"
    salience: ClassVar[str] = "none: cells are query slots, which nothing in the tower attends to"
    equal_frames: ClassVar[bool] = True
    conditions: ClassVar[tuple[str, ...]] = ("qformer_input_ids", "qformer_attention_mask")

    def layouts(self, base: Any, arguments: dict[str, Any], output: Any) -> list[VideoLayout]:
        """See `Adapter.layouts`."""
        videos, frames = stacked_frames(arguments)
        if base.config.video_input == "residual":
            frames = base.config.residual_frames
        return [VideoLayout(frames, 1, base.config.num_query_tokens, pictured=False)] * videos

    def frame_block(self, base: Any, frames: int) -> int | None:
        """See `Adapter.frame_block`: the BT-Adapter and the residual fusion mix all frames."""
        return 1 if base.vision_model.bt_adapter is None and base.residual is None else None
