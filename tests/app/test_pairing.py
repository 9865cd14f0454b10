# SPDX-License-Identifier: Apache-2.0
"""A processor that belongs to another model is refused before anything runs; an unusual one that fits passes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from transformers import Qwen2VLVideoProcessor

from app import tiny_qwen
from app.test_families_qa import PROCESSORS, _qa
from prunevid import VideoQA
from prunevid.errors import InputError
from prunevid.pairing import check_pair


def _other_ids() -> Any:
    """Qwen2.5-VL's processor, whose tokenizer has one more token before the placeholders."""
    processor = tiny_qwen.processor()
    processor.tokenizer.convert_tokens_to_ids = lambda token: tiny_qwen.SPECIAL.index(token) + 1
    return processor


def _other_patches(**sizes: int) -> Any:
    processor = tiny_qwen.processor()
    processor.video_processor = Qwen2VLVideoProcessor(**sizes)
    return processor


WRONG = {
    "another family's": (
        PROCESSORS["llava_onevision"][0],
        r"LlavaOnevisionProcessor.*'qwen2_5_vl'.*Qwen2_5_VLProcessor",
    ),
    "the next family's": (PROCESSORS["qwen3_vl"][0], r"Qwen3VLProcessor.*qwen3_vl.*'qwen2_5_vl'"),
    "other token ids": (_other_ids, r"has the id \d, but the model expects \d"),
    "other patches": (lambda: _other_patches(patch_size=16), r"patch_size is 16.*Qwen2VLVideoProcessor but 14"),
    "other merging": (lambda: _other_patches(merge_size=1), r"merge_size is 1.* but 2"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_processor_of_another_model_is_refused(case: str) -> None:
    make, message = WRONG[case]
    model = tiny_qwen.model()
    with pytest.raises(InputError, match=message):
        VideoQA(model, make())
    assert not model._forward_pre_hooks


@pytest.mark.parametrize("family", PROCESSORS)
def test_every_family_s_own_processor_passes(family: str) -> None:
    qa = _qa(family)
    check_pair(qa.model, qa.processor)
    with pytest.raises(InputError, match="is the processor of a model of type"):
        check_pair(qa.model, tiny_qwen.processor() if "qwen2" not in family else PROCESSORS["internvl"][0]())


def test_unusual_processors_that_fit_pass() -> None:
    model, processor = tiny_qwen.model(), tiny_qwen.processor()
    check_pair(model, type("Own", (type(processor),), {})(**_parts(processor)))
    check_pair(model, tiny_qwen.processor("qwen2_vl"))  # the adapter serves both, and so does their processor
    check_pair(model, SimpleNamespace(video_processor=object()))
    check_pair(model, SimpleNamespace(tokenizer=None, video_token="<|video_pad|>", patch_size=None))


def _parts(processor: Any) -> dict[str, Any]:
    names = ("image_processor", "tokenizer", "video_processor", "chat_template")
    return {name: getattr(processor, name) for name in names}
