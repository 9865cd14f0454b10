# SPDX-License-Identifier: Apache-2.0
"""What the judge is asked, byte for byte."""

from __future__ import annotations

import json
from importlib.resources import files

import pytest

from evaluation.judge_server import generic, pair, temporal
from prunevid.errors import ConfigError, InputError
from prunevid.evaluation.judging.cases import cases_of
from prunevid.evaluation.judging.prompts import messages
from prunevid.evaluation.runs import Record

CI_SYSTEM = (
    "You are an intelligent chatbot designed for evaluating the factual accuracy of generative outputs for video-based "
    "question-answer pairs. Your task is to compare the predicted answer with the correct answer and determine if they "
    "are factually consistent. Here's how you can accomplish the task:------##INSTRUCTIONS: - Focus on the factual "
    "consistency between the predicted answer and the correct answer. The predicted answer should not contain any "
    "misinterpretations or misinformation.\n- The predicted answer must be factually accurate and align with the video "
    "content.\n- Consider synonyms or paraphrases as valid matches.\n- Evaluate the factual accuracy of the prediction "
    "compared to the answer."
)
CI_USER = (
    "Please evaluate the following video-based question-answer pair:\n\nQuestion: What happens?\nCorrect Answer: A man "
    "cooks soup.\nPredicted Answer: A man cooks.\n\nProvide your evaluation only as a factual accuracy score where the "
    "factual accuracy score is an integer value between 0 and 5, with 5 indicating the highest level of factual "
    "consistency. Please generate the response in the form of a Python dictionary string with keys 'score', where its "
    "value is the factual accuracy score in INTEGER, not STRING.DO NOT PROVIDE ANY OTHER OUTPUT TEXT OR EXPLANATION. "
    "Only provide the Python dictionary string. For example, your response should look like this: {'score': 4.8}."
)
DO_SYSTEM = (
    "You are an intelligent chatbot designed for evaluating the detail orientation of generative outputs for "
    "video-based question-answer pairs. Your task is to compare the predicted answer with the correct answer and "
    "determine its level of detail, considering both completeness and specificity. Here's how you can accomplish the "
    "task:------##INSTRUCTIONS: - Check if the predicted answer covers all major points from the video. The response "
    "should not leave out any key aspects.\n- Evaluate whether the predicted answer includes specific details rather "
    "than just generic points. It should provide comprehensive information that is tied to specific elements of the "
    "video.\n- Consider synonyms or paraphrases as valid matches.\n- Provide a single evaluation score that reflects "
    "the level of detail orientation of the prediction, considering both completeness and specificity."
)
DO_USER = (
    "Please evaluate the following video-based question-answer pair:\n\nQuestion: What happens?\nCorrect Answer: A man "
    "cooks soup.\nPredicted Answer: A man cooks.\n\nProvide your evaluation only as a detail orientation score where "
    "the detail orientation score is an integer value between 0 and 5, with 5 indicating the highest level of detail "
    "orientation. Please generate the response in the form of a Python dictionary string with keys 'score', where its "
    "value is the detail orientation score in INTEGER, not STRING.DO NOT PROVIDE ANY OTHER OUTPUT TEXT OR EXPLANATION. "
    "Only provide the Python dictionary string. For example, your response should look like this: {'score': 4.8}."
)
CU_SYSTEM = (
    "You are an intelligent chatbot designed for evaluating the contextual understanding of generative outputs for "
    "video-based question-answer pairs. Your task is to compare the predicted answer with the correct answer and "
    "determine if the generated response aligns with the overall context of the video content. Here's how you can "
    "accomplish the task:------##INSTRUCTIONS: - Evaluate whether the predicted answer aligns with the overall context "
    "of the video content. It should not provide information that is out of context or misaligned.\n- The predicted "
    "answer must capture the main themes and sentiments of the video.\n- Consider synonyms or paraphrases as valid "
    "matches.\n- Provide your evaluation of the contextual understanding of the prediction compared to the answer."
)
CU_USER = (
    "Please evaluate the following video-based question-answer pair:\n\nQuestion: What happens?\nCorrect Answer: A man "
    "cooks soup.\nPredicted Answer: A man cooks.\n\nProvide your evaluation only as a contextual understanding score "
    "where the contextual understanding score is an integer value between 0 and 5, with 5 indicating the highest level "
    "of contextual understanding. Please generate the response in the form of a Python dictionary string with keys "
    "'score', where its value is contextual understanding score in INTEGER, not STRING.DO NOT PROVIDE ANY OTHER OUTPUT "
    "TEXT OR EXPLANATION. Only provide the Python dictionary string. For example, your response should look like this: "
    "{'score': 4.8}."
)
TU_SYSTEM = (
    "You are an intelligent chatbot designed for evaluating the temporal understanding of generative outputs for "
    "video-based question-answer pairs. Your task is to compare the predicted answer with the correct answer and "
    "determine if they correctly reflect the temporal sequence of events in the video content. Here's how you can "
    "accomplish the task:------##INSTRUCTIONS: - Focus on the temporal consistency between the predicted answer and "
    "the correct answer. The predicted answer should correctly reflect the sequence of events or details as they are "
    "presented in the video content.\n- Consider synonyms or paraphrases as valid matches, but only if the temporal "
    "order is maintained.\n- Evaluate the temporal accuracy of the prediction compared to the answer."
)
TU_USER = (
    "Please evaluate the following video-based question-answer pair:\n\nQuestion: What comes first?\nCorrect Answer: "
    "He cuts, then he stirs.\nPredicted Answer: First he cuts, then he stirs.\n\nProvide your evaluation only as a "
    "temporal accuracy score where the temporal accuracy score is an integer value between 0 and 5, with 5 indicating "
    "the highest level of temporal consistency. Please generate the response in the form of a Python dictionary string "
    "with keys 'score', where its value is the temporal accuracy score in INTEGER, not STRING.DO NOT PROVIDE ANY OTHER "
    "OUTPUT TEXT OR EXPLANATION. Only provide the Python dictionary string. For example, your response should look "
    "like this: {'score': 4.8}."
)
CO_SYSTEM = (
    "You are an intelligent chatbot designed for evaluating the consistency of generative outputs for similar "
    "video-based question-answer pairs. You will be given two very similar questions, a common answer common to both "
    "the questions and predicted answers for the two questions .Your task is to compare the predicted answers for two "
    "very similar question, with a common correct answer and determine if they are consistent. Here's how you can "
    "accomplish the task:------##INSTRUCTIONS: - Focus on the consistency between the two predicted answers and the "
    "correct answer. Both predicted answers should correspond to the correct answer and to each other, and should not "
    "contain any contradictions or significant differences in the conveyed information.\n- Both predicted answers must "
    "be consistent with each other and the correct answer, in terms of the information they provide about the video "
    "content.\n- Consider synonyms or paraphrases as valid matches, but only if they maintain the consistency in the "
    "conveyed information.\n- Evaluate the consistency of the two predicted answers compared to the correct answer."
)
CO_USER = (
    "Please evaluate the following video-based question-answer pair:\n\nQuestion 1: Which thing is in his hand?\n"
    "Question 2: What does he hold?\nCorrect Answer: A pan.\nPredicted Answer to Question 1: A pan.\nPredicted Answer "
    "to Question 2: A pot.\n\nProvide your evaluation only as a consistency score where the consistency score is an "
    "integer value between 0 and 5, with 5 indicating the highest level of consistency. Please generate the response "
    "in the form of a Python dictionary string with keys 'score', where its value is the consistency score in INTEGER, "
    "not STRING.DO NOT PROVIDE ANY OTHER OUTPUT TEXT OR EXPLANATION. Only provide the Python dictionary string. For "
    "example, your response should look like this: {'score': 4.8}."
)
TYPED = {
    "CI": (CI_SYSTEM, CI_USER),
    "DO": (DO_SYSTEM, DO_USER),
    "CU": (CU_SYSTEM, CU_USER),
    "TU": (TU_SYSTEM, TU_USER),
    "CO": (CO_SYSTEM, CO_USER),
}
RECORDS = [generic(), temporal(), *pair()]


def asked(**options: str) -> dict[str, tuple[str, str]]:
    """System and user message by aspect."""
    found = {}
    for case in cases_of(RECORDS, **options).cases:
        system, user = case.messages
        assert (dict(system) | dict(user)).keys() == {"role", "content"}
        assert (system["role"], user["role"]) == ("system", "user")
        found[case.aspect] = (system["content"], user["content"])
    return found


@pytest.mark.parametrize("aspect", TYPED)
def test_messages_to_the_byte(aspect: str) -> None:
    assert asked()[aspect] == TYPED[aspect]


@pytest.mark.parametrize("aspect", TYPED)
def test_the_original_differs_in_the_example_alone(aspect: str) -> None:
    system, user = TYPED[aspect]
    assert asked(wording="original")[aspect] == (system, user.replace("{'score': 4.8}.", "{''score': 4.8}."))


def test_consistency_crossed_and_fixed() -> None:
    crossed = "Question 1: Which thing is in his hand?\nQuestion 2: What does he hold?\n"
    in_order = "Question 1: What does he hold?\nQuestion 2: Which thing is in his hand?\n"
    answers = "Predicted Answer to Question 1: A pan.\nPredicted Answer to Question 2: A pot.\n"
    for consistency, questions in (("prunevid", crossed), ("fixed", in_order)):
        user = asked(consistency=consistency)["CO"][1]
        assert questions in user and answers in user
    assert {**asked(), "CO": ""} == {**asked(consistency="fixed"), "CO": ""}  # nothing else changes


def test_which_records_make_which_cases() -> None:
    lone = pair(6)[1]
    found = cases_of([lone, *pair()[::-1], temporal(), generic(1), generic(2)])
    assert [(case.aspect, case.key) for case in found.cases] == [
        ("TU", "temporal/3"),
        *[(aspect, f"generic/{number}") for number in (1, 2) for aspect in ("CI", "DO", "CU")],
        ("CO", "consistency/5"),
    ]
    assert found.halves == ("consistency/6",)
    assert found.cases[-1].predictions == ("A pan.", "A pot.")  # by their part, not by their place in the file


def test_texts_with_braces_and_percent_signs_come_through() -> None:
    text = "{answer} {0} %s \\n {'score': 5}"
    user = messages("CI", text, text, text)[1]["content"]
    assert f"\n\nQuestion: {text}\nCorrect Answer: {text}\nPredicted Answer: {text}\n\nProvide" in user


@pytest.mark.parametrize(
    ("records", "options", "error", "words"),
    [
        ([generic(answer=None)], {}, InputError, "generic/17 has no reference"),
        ([Record("a/1", "other", "v", "q")], {}, InputError, "the task 'other'"),
        ([pair()[0], pair()[0]], {}, InputError, "both question 1"),
        ([Record("consistency/1/1", "consistency", "v", "q")], {}, InputError, "which part"),
        ([generic()], {"wording": "mine"}, ConfigError, "'mine'"),
        ([generic()], {"consistency": "crossed"}, ConfigError, "'crossed'"),
    ],
)
def test_refusals(records: list, options: dict, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        cases_of(records, **options)


def test_the_texts_name_their_source_and_licence() -> None:
    texts = json.loads(files("prunevid.evaluation.judging").joinpath("judge_texts.json").read_text(encoding="utf-8"))
    assert texts["SPDX-License-Identifier"] == "CC-BY-4.0"
    assert "github.com/mbzuai-oryx/Video-ChatGPT" in " ".join(texts["attribution"])
