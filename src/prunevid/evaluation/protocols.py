# SPDX-License-Identifier: Apache-2.0
"""How a benchmark is run: which frames are shown, what is asked and how long, and how the answer is read.

"paper" is the evaluation behind PruneVid's published numbers, "lmms" that of lmms-eval's tasks (docs/evaluation.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from prunevid.config import DefaultLayer
from prunevid.errors import InputError
from prunevid.evaluation.frames import LMMS, PAPER, Choose, read_clip
from prunevid.evaluation.items import BENCHMARKS, Item
from prunevid.evaluation.matching import Reading, read_lmms, read_paper
from prunevid.evaluation.prompts import Parts, lmms_parts, paper_parts, render
from prunevid.video import Clip

STOP_WORDS = ("###", "USER")  # in an open answer of PLLaVA; they stay in its text


@dataclass(frozen=True)
class Published:
    """Settings of the published run of a benchmark: PLLaVA with PruneVid, greedy, one question at a time.

    Attributes:
        layer: after which tokens go, of 32.
        lora_alpha: with which PLLaVA's adapters are merged.
        max_new_tokens: length of an answer.
        frames: of a clip.
    """

    layer: int = 10
    lora_alpha: float = 14
    max_new_tokens: int = 100
    frames: int = 16

    @property
    def settings(self) -> dict[str, Any]:
        """As settings of `PruneVidConfig`; the layer keeps its place in models of another depth."""
        return {
            "tau": 0.8,
            "temporal_segment_ratio": 0.25,
            "cluster_ratio": 0.5,
            "keep_ratio": 0.4,
            "dpc_knn_k": 7,
            "pruning_layer": DefaultLayer(self.layer),
        }


PUBLISHED: Mapping[str, Published] = {
    "mvbench": Published(),
    "videomme": Published(),
    "egoschema": Published(),
    "vcgbench": Published(layer=5, lora_alpha=4),
}
LMMS_FRAMES = 32
LMMS_TOKENS: Mapping[str, int] = {"mvbench": 16, "videomme": 16, "egoschema": 16, "vcgbench": 1024}


@dataclass(frozen=True)
class Protocol:
    """One way to run one benchmark; made by `protocol_for`.

    Attributes:
        benchmark: one of `prunevid.evaluation.items.BENCHMARKS`.
        subtitles: ask Video-MME with its subtitles.
        subtitles_before_video: with the protocol "paper", put them where the choice of tokens doesn't see them.
    """

    name: ClassVar[str]
    choices: ClassVar[Mapping[str, Choose]]

    benchmark: str
    subtitles: bool = False
    subtitles_before_video: bool = False

    @property
    def frames(self) -> int:
        """How many are shown."""
        raise NotImplementedError

    @property
    def max_new_tokens(self) -> int:
        """Length of an answer, at most."""
        raise NotImplementedError

    @property
    def defaults(self) -> Mapping[str, Any]:
        """Settings of PruneVid in the published run of this benchmark."""
        return PUBLISHED[self.benchmark].settings

    @property
    def lora_alpha(self) -> float:
        """With which PLLaVA's adapters were merged in the published run."""
        return PUBLISHED[self.benchmark].lora_alpha

    def load(self, item: Item, frames: int) -> Clip:
        """The frames of an item's clip that the protocol shows, with their true times; short clips repeat some.

        Raises:
            InputError: the clip is missing, can't be read, or ends before the part that is asked about.
        """
        if frames < 1:
            raise InputError(f"frames is {frames}, but must be at least 1.")
        return read_clip(item.video, dict(self.choices), frames)

    def prompt(self, item: Item, clip: Clip, processor: Any, family: str) -> str:
        """The whole prompt in the model's own format, with one placeholder for the video.

        Args:
            item: what is asked.
            clip: of `load`; its times say which subtitles are shown.
            processor: the model's.
            family: its `config.model_type`.

        Raises:
            InputError: the item's text can't be put to this model, or its subtitles are damaged.
            UnsupportedModelError: the processor's chat template can't show it.
        """
        return render(self.parts(item, clip), processor, family)

    def parts(self, item: Item, clip: Clip) -> Parts:
        """The texts of an item's prompt, without any model's format."""
        raise NotImplementedError

    def generation(self, processor: Any, family: str) -> dict[str, Any]:
        """Arguments of `generate` besides the length: where an answer stops. Decoding is greedy without any."""
        if family != "stllm":
            return {}
        from transformers import StoppingCriteriaList

        from prunevid.models.stllm.prompts import StopAt

        return {"stopping_criteria": StoppingCriteriaList([StopAt()])}

    def read(self, item: Item, text: str, family: str = "") -> Reading:
        """What the protocol takes from an answer, and what a strict matcher reads in it.

        Args:
            item: what was asked.
            text: the new tokens' text.
            family: the model's; ST-LLM marks where its turn ends.
        """
        return self._read(item, text.partition("###")[0].strip() if family == "stllm" else text)

    def _read(self, item: Item, text: str) -> Reading:
        raise NotImplementedError

    def remarks(self, config: Any) -> list[str]:
        """What a reader of the results must know about a model, in sentences; `config`: the loaded model's."""
        merged, published = getattr(config, "pllava_lora_alpha", None), self.lora_alpha
        if merged is None or merged == published:
            return []
        return [
            f"PLLaVA's adapters were merged with alpha {merged:g} here, but with {published:g} in the published run of "
            f"{self.benchmark}; convert the checkpoint again with --lora-alpha {published:g} or --keep-adapters."
        ]


class PaperProtocol(Protocol):
    """The evaluation behind PruneVid's published numbers."""

    name = "paper"
    choices = PAPER

    @property
    def frames(self) -> int:
        """16."""
        return PUBLISHED[self.benchmark].frames

    @property
    def max_new_tokens(self) -> int:
        """100."""
        return PUBLISHED[self.benchmark].max_new_tokens

    def parts(self, item: Item, clip: Clip) -> Parts:
        """See `prunevid.evaluation.prompts.paper_parts`."""
        text = None
        if self.subtitles:
            from prunevid.evaluation.subtitles import paper_text

            text = paper_text(item.video.path, clip.times)
        return paper_parts(item, text, self.subtitles_before_video)

    def generation(self, processor: Any, family: str) -> dict[str, Any]:
        """As `Protocol.generation`; PLLaVA's open answers also end at a stop word. Other models may write "###" as a
        heading, and end their turn by a token."""
        if self.benchmark == "vcgbench" and family == "pllava":
            from transformers import StoppingCriteriaList

            from prunevid.evaluation.stopping import StopWords

            return {"stopping_criteria": StoppingCriteriaList([StopWords(processor.tokenizer, STOP_WORDS)])}
        return super().generation(processor, family)

    def _read(self, item: Item, text: str) -> Reading:
        return read_paper(item, text)


class LmmsProtocol(Protocol):
    """The evaluation of lmms-eval's tasks, on the whole clips of the published layout."""

    name = "lmms"
    choices = LMMS

    @property
    def frames(self) -> int:
        """32, which most of its models take."""
        return LMMS_FRAMES

    @property
    def max_new_tokens(self) -> int:
        """16, and 1024 for open questions."""
        return LMMS_TOKENS[self.benchmark]

    def parts(self, item: Item, clip: Clip) -> Parts:
        """See `prunevid.evaluation.prompts.lmms_parts`."""
        text = None
        if self.subtitles:
            from prunevid.evaluation.subtitles import lmms_text

            text = lmms_text(item.video.path, clip.indices, clip.fps)
        return lmms_parts(item, text)

    def _read(self, item: Item, text: str) -> Reading:
        return read_lmms(item, text)


PROTOCOLS: Mapping[str, type[Protocol]] = {"paper": PaperProtocol, "lmms": LmmsProtocol}


def protocol_for(
    benchmark: str, name: str = "paper", *, subtitles: bool = False, subtitles_before_video: bool = False
) -> Protocol:
    """The protocol of that name for a benchmark.

    Args:
        benchmark: one of `prunevid.evaluation.items.BENCHMARKS`.
        name: "paper" or "lmms".
        subtitles: ask with subtitles (Video-MME only). The published runs did without.
        subtitles_before_video: with "paper", show them before the video instead of before the question, so that the
            choice of tokens doesn't go by them.

    Raises:
        InputError: no such benchmark or protocol, or subtitles where there are none.
    """
    for what, value, known in (("benchmark", benchmark, BENCHMARKS), ("protocol", name, tuple(PROTOCOLS))):
        if value not in known:
            raise InputError(f"There is no {what} {value!r}; choose one of {', '.join(known)}.")
    if subtitles and benchmark != "videomme":
        raise InputError(f"{benchmark} has no subtitles; only videomme has.")
    if subtitles_before_video and (name != "paper" or not subtitles):
        raise InputError("subtitles_before_video goes with subtitles and the protocol 'paper'; leave it out.")
    return PROTOCOLS[name](benchmark, subtitles, subtitles_before_video)
