# SPDX-License-Identifier: Apache-2.0
"""A task for lmms-eval out of made clips, in files as a user would write them; and lmms-eval's evaluator on it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

NAME = "made_clips"
SPECIAL = "look closely. "  # what the task says to qwen3_vl alone

_TASK = """
task: made_clips
dataset_path: json
dataset_kwargs:
  data_files: {test: FOLDER/questions.json}
test_split: test
output_type: generate_until
doc_to_visual: !function made_clips_functions.visual
doc_to_text: !function made_clips_functions.text
doc_to_target: answer
generation_kwargs: {max_new_tokens: 2, temperature: 0}
process_results: !function made_clips_functions.results
metric_list:
  - {metric: right, aggregation: mean, higher_is_better: true}
lmms_eval_specific_kwargs:
  default: {before: ""}
  qwen3_vl: {before: "look closely. "}
"""
_FUNCTIONS = """
def visual(doc):
    return [doc["video"]]

def text(doc, lmms_eval_specific_kwargs=None):
    return lmms_eval_specific_kwargs["before"] + doc["question"]

def results(doc, answers):
    return {"right": float(answers[0].strip() == doc["answer"])}
"""


def write(folder: Path, clips: int = 3, questions: int = 2) -> Path:
    """Writes clips, questions and the task's files into a folder."""
    from prunevid.builtin import make_clip, write_clip

    rows = []
    for seed in range(clips):
        clip = make_clip(seed)
        video = write_clip(clip, folder / f"{seed}.mp4")
        for question in clip.questions[:questions]:
            rows.append({"video": str(video), "question": question.text, "answer": question.answer})
    (folder / "questions.json").write_text(json.dumps(rows))
    (folder / f"{NAME}.yaml").write_text(_TASK.replace("FOLDER", str(folder)))
    (folder / f"{NAME}_functions.py").write_text(_FUNCTIONS)
    return folder


def evaluate(folder: Path, model: Any, model_args: str, **options: Any) -> Any:
    """lmms-eval's results for a model on the task, as its command line asks for them."""
    from lmms_eval.evaluator import simple_evaluate
    from lmms_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(folder), include_defaults=False, model_name=model)
    chosen = {"batch_size": 1, "device": "cpu", "bootstrap_iters": 0, **options}
    return simple_evaluate(model=model, model_args=model_args, tasks=[NAME], task_manager=manager, **chosen)


def answers(results: dict[str, Any]) -> list[str]:
    """What was answered to each question, in the order of the questions."""
    samples = sorted(results["samples"][NAME], key=lambda sample: sample["doc_id"])
    return [sample["resps"][0][0] for sample in samples]


def prompts(results: dict[str, Any]) -> list[str]:
    """The words of each question."""
    samples = sorted(results["samples"][NAME], key=lambda sample: sample["doc_id"])
    return [sample["arguments"][0] for sample in samples]
