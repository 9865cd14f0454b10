# SPDX-License-Identifier: Apache-2.0
"""Models for lmms-eval that read clips and write prompts as `prunevid.VideoQA` does.

They serve what lmms-eval has no class for (PLLaVA, ST-LLM, Video-LLaVA, SmolVLM2, ...) and the embedded model.
"""

from __future__ import annotations

import time
from typing import Any, ClassVar

import torch
from accelerate import Accelerator
from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms
from lmms_eval.models.model_utils.gen_metrics import log_metrics
from loguru import logger
from tqdm import tqdm

from prunevid.errors import ConfigError, InputError, PruneVidError
from prunevid.integrations.lmms import arguments
from prunevid.integrations.lmms.pruned import report
from prunevid.integrations.lmms.tally import Totals, gathered
from prunevid.qa import VideoQA

_VIDEO_KEYS = {"url", "path", "type", "video_start", "video_end"}


class PruneVidModel(lmms):
    """Any model that `prunevid.VideoQA` can load.

    Args:
        pretrained: a folder or a hub id.
        device: "cuda" takes a GPU for each process, "cpu" none.
        device_map: for models larger than one GPU; `device` is then not used.
        dtype: "auto" (as saved), "float32", "float16" or "bfloat16".
        attn_implementation, revision: as in transformers.
        lora_alpha: for PLLaVA checkpoints with adapters (`prunevid.models.pllava`).
        max_num_frames: frames of a clip; None: as the method's settings say (16).
        batch_size: 1.
        given: see `prunevid.integrations.lmms.arguments.choose`.

    Raises:
        ConfigError, InputError, UnsupportedModelError: see `VideoQA.from_pretrained`.
    """

    is_simple = True
    model_id: ClassVar[str] = "prunevid"

    def __init__(
        self,
        pretrained: str | None = None,
        device: str | None = None,
        device_map: str | None = None,
        dtype: str = "auto",
        attn_implementation: str | None = None,
        revision: str | None = None,
        lora_alpha: float | None = None,
        max_num_frames: int | None = None,
        batch_size: int | str = 1,
        **given: Any,
    ) -> None:
        super().__init__()
        if str(batch_size) != "1":
            raise ConfigError(f"batch_size is {batch_size}, but {self.model_id} answers one by one; give 1.")
        self.accelerator = Accelerator()
        self._rank, self._world_size = self.accelerator.process_index, self.accelerator.num_processes
        self.max_num_frames = max_num_frames
        method = arguments.choose(given, self.model_id, arguments.accepted(type(self).__init__), self._defaults())
        options = {
            "device_map": device_map,
            "attn_implementation": attn_implementation,
            "revision": revision,
            "lora_alpha": lora_alpha,
        }
        chosen = {name: value for name, value in options.items() if value is not None}
        self.qa = self._load(pretrained, None if device_map else self._place(device), dtype, method, chosen)
        self._device = torch.device(self.accelerator.device if device_map else self.qa.model.device)
        self.totals = Totals()

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self._device

    def _defaults(self) -> dict[str, Any]:
        """Settings of "prunevid" that suit the model."""
        return {}

    def _load(self, pretrained: str | None, device: str | None, dtype: str, method: Any, options: Any) -> VideoQA:
        if not pretrained:
            raise ConfigError("pretrained is missing; give a model's folder or hub id, or use prunevid_builtin.")
        return VideoQA.from_pretrained(pretrained, device=device, dtype=dtype, method=method, **options)

    def _place(self, device: str | None) -> str | None:
        """The device of this process: of several on GPUs, each has its own."""
        wanted = str(device) if device else None
        if self._world_size > 1 and wanted in (None, "cuda") and torch.cuda.is_available():
            return f"cuda:{self.accelerator.local_process_index}"
        return wanted

    def generate_until(self, requests: list[Instance]) -> list[GenerationResult]:
        """Answers in the order of the requests; "" where a clip can't be read, with its error in the log."""
        answers, spent, tokens, failed = [], 0.0, 0, 0
        for request in tqdm(requests, disable=self._rank != 0, desc="Model Responding"):
            context, options, doc_to_visual, doc_id, task, split = request.args
            started = time.perf_counter()
            try:
                text = self._answer(context, dict(options), doc_to_visual(self.task_dict[task][split][doc_id]))
            except InputError as error:
                logger.error(f"{task}, document {doc_id}: {error}")
                failed += 1
                text = ""
            spent += time.perf_counter() - started
            count = len(self.qa.processor.tokenizer(text, add_special_tokens=False)["input_ids"])
            tokens += count
            answers.append(GenerationResult(text, TokenCounts(output_tokens=count)))
            self.cache_hook.add_partial("generate_until", (context, options), text)
        if failed:
            logger.warning(f"{self.model_id}: {failed} of {len(requests)} questions have no answer; see above.")
        log_metrics(spent, tokens, tokens / spent if spent else 0.0)
        return answers

    def _answer(self, question: str, options: dict[str, Any], visuals: Any) -> str:
        """One answer, cut at the first of the task's stop words."""
        clip, bounds = _clip(visuals)
        until = options.get("until") or []
        sampling = {"num_beams": options["num_beams"]} if (options.get("num_beams") or 1) > 1 else {}
        if (options.get("temperature") or 0) > 0:
            sampling |= {"do_sample": True, "temperature": options["temperature"], "top_p": options.get("top_p")}
        answer = self.qa.ask(
            clip,
            question,
            max_new_tokens=options.get("max_new_tokens"),
            max_frames=self.max_num_frames,
            **bounds,
            **sampling,
        )
        self.totals.add(answer.stats)
        text = answer.text
        for word in [until] if isinstance(until, str) else until:
            text = text.split(word)[0] if word else text
        return text

    def clean(self) -> None:
        """Called by lmms-eval once, in every process, when all answers are there: reports, and frees the model."""
        if hasattr(self, "qa"):
            totals = gathered(self.totals)
            if self.rank == 0:
                report(self.model_id, self.qa.method, totals)
            del self.qa
        super().clean()

    def loglikelihood(self, requests: list[Instance]) -> Any:
        """Not to be had: pruned prompts have no logits for every token.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(f"{self.model_id} generates answers; choose a task that asks for text.")

    def generate_until_multi_round(self, requests: list[Instance]) -> Any:
        """Not to be had: a clip is asked one question at a time.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(f"{self.model_id} answers single questions; choose a task of one round.")


class PruneVidBuiltin(PruneVidModel):
    """The embedded model, in float32 unless `dtype` says otherwise: for trying things out, on a CPU too."""

    model_id: ClassVar[str] = "prunevid_builtin"

    def _defaults(self) -> dict[str, Any]:
        from prunevid import builtin

        return dict(builtin.DEFAULTS)

    def _load(self, pretrained: str | None, device: str | None, dtype: str, method: Any, options: Any) -> VideoQA:
        if pretrained or options.keys() - {"attn_implementation"}:
            raise ConfigError("prunevid_builtin is the embedded model; leave pretrained, revision and device_map out.")
        kind = None if dtype == "auto" else getattr(torch, dtype)
        place = device or ("cuda" if torch.cuda.is_available() else "cpu")
        return VideoQA.builtin(method, device=place, dtype=kind, **options)


def _clip(visuals: Any) -> tuple[Any, dict[str, Any]]:
    """The clip of a question and its bounds in seconds.

    Raises:
        PruneVidError: there is not exactly one video.
    """
    found = list(visuals or [])
    if len(found) == 1 and isinstance(found[0], str):
        return found[0], {}
    if len(found) == 1 and isinstance(found[0], dict) and found[0].keys() <= _VIDEO_KEYS:
        video = found[0]
        bounds = {"start": video.get("video_start"), "end": video.get("video_end")}
        return video.get("url") or video.get("path"), bounds
    kinds = ", ".join(type(visual).__name__ for visual in found) or "nothing"
    raise PruneVidError(
        f"A question comes with {kinds}, but these models answer questions about one video file each; choose a task of "
        "videos, or one of the models that extend lmms-eval's own classes."
    )
