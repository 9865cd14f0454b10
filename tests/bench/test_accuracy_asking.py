# SPDX-License-Identifier: Apache-2.0
"""All questions of a clip in one batch: the same as one by one, and the same tokens as asked for."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from bench.small import LAYERS, small
from prunevid import methods
from prunevid.bench import controls
from prunevid.bench.accuracy import clips as clips_module
from prunevid.bench.accuracy.asking import Sheet
from prunevid.bench.accuracy.clips import Choice, Examiner
from prunevid.bench.accuracy.entries import UNPRUNED, Context, Entry, method_of
from prunevid.bench.accuracy.plans import PLANS, QUESTION, Setting, entries_of
from prunevid.builtin.clips import make_clip
from prunevid.builtin.evaluate import prompts, straight
from prunevid.engine import attach
from prunevid.errors import ConfigError, PruneVidError

SETTING = Setting(layer=1, depth=LAYERS, shares=(0.1,), draws=2)


def sheet(seed: int = 0, count: int = 3) -> tuple[Sheet, Context]:
    model, processor = small()
    clip = make_clip(seed, "dev", questions=count)
    made = Sheet(model, processor, clip.frames, clip.fps, [question.text for question in clip.questions])
    return made, Context(seed, clip, clip.questions, made.grid, made.features(), LAYERS)


@torch.inference_mode()
def plainly(seed: int = 0, count: int = 3, method: methods.Method | None = None) -> torch.Tensor:
    """Logits of an ordinary batch, in which every row brings a clip of its own."""
    model, processor = small()
    clip = make_clip(seed, "dev", questions=count)
    frames, metadata = straight(clip)
    inputs = processor(
        text=prompts(processor, [question.text for question in clip.questions]),
        videos=[frames] * count,
        video_metadata=[dict(metadata) for _ in range(count)],
        padding=True,
        return_tensors="pt",
    )
    if method is None:
        return model(**inputs).logits[:, -1].float()
    with attach(model, method):
        return model(**inputs).logits[:, -1].float()


def test_unpruned_equals_an_ordinary_batch() -> None:
    torch.testing.assert_close(sheet()[0].unpruned(), plainly(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("prunevid", {"pruning_layer": 1, "retention_ratio": 0.1}),
        ("prunevid", {"pruning_layer": 1, "retention_ratio": 0.1, "enable_stage1": False}),
        ("fastv", {"layer": 2, "retention_ratio": 0.1}),
        ("visionzip", {"retention_ratio": 0.1}),
        ("pyramiddrop", {"layers": (1, 2, 3), "retention_ratio": 0.1}),
        ("random", {"retention_ratio": 0.1}),
    ],
)
def test_a_pruned_batch_equals_an_ordinary_one(name: str, options: dict) -> None:
    method = methods.get(name, **options)
    found = sheet()[0].ask(method)
    torch.testing.assert_close(found.logits, plainly(method=method), rtol=1e-4, atol=1e-5)
    assert found.kept == pytest.approx(0.1) and found.flops < 0.9 and found.tokens == [30] * 3


def test_a_row_alone_equals_its_row_of_the_batch() -> None:
    made, _ = sheet()
    method = methods.get("fastv", layer=2, retention_ratio=0.1)
    together = made.ask(method)
    for row in range(3):
        alone = made.row(row).ask(method)
        torch.testing.assert_close(alone.logits[0], together.logits[row], rtol=1e-4, atol=1e-5)


def test_early_layers_run_once_and_change_no_bit() -> None:
    made, _ = sheet()
    chosen = [controls.Lots(layer=2, seed=seed, retention_ratio=0.2) for seed in range(3)]
    apart = [sheet()[0].ask(method).logits for method in chosen]
    together = [made.ask(method).logits for method in chosen]
    assert made.early.ran == 2
    assert all(torch.equal(one, other) for one, other in zip(apart, together))
    assert not torch.equal(together[0], together[1])
    whole = made.ask(controls.Lots(layer=2, retention_ratio=1.0)).logits
    assert made.early.ran == 2 and torch.equal(whole, made.unpruned())
    merged = methods.get("prunevid", pruning_layer=1, retention_ratio=0.1)
    assert torch.equal(made.ask(merged).logits, sheet()[0].ask(merged).logits) and made.early.ran == 2
    made.ask(controls.Lots(layer=3, retention_ratio=0.2))
    assert made.early.ran == 3


def test_the_model_is_left_as_it_was() -> None:
    made, context = sheet()
    before = [dict(module.__dict__) for module in made.model.modules()]
    made.ask(method_of(Entry("oracle", "oracle", retention=0.1, layer=1), context))
    made.unpruned()
    for module, known in zip(made.model.modules(), before):
        assert set(module.__dict__) == set(known)
        assert not module._forward_hooks and not module._forward_pre_hooks


# ---- entries ---------------------------------------------------------------------------------------------------------


def maps_of(made: Sheet, method: methods.Method) -> list[torch.Tensor]:
    """Of every row the cells that are left at the end."""
    with attach(made.model, method) as pruning, torch.inference_mode():
        model, processor = small()
        clip = make_clip(0, "dev", questions=3)
        frames, metadata = straight(clip)
        texts = prompts(processor, [question.text for question in clip.questions])
        inputs = processor(
            text=texts, videos=[frames] * 3, video_metadata=[metadata] * 3, padding=True, return_tensors="pt"
        )
        model(**inputs)
        return [(maps[0].destination >= 0).nonzero()[:, 0] for maps in pruning.maps]


def test_the_asked_cells_are_exactly_those_of_the_things_asked_about() -> None:
    made, context = sheet()
    left = maps_of(made, method_of(Entry("asked cells", "asked cells", layer=1), context))
    for question, cells in zip(context.questions, left):
        expected = controls.asked_cells(context.clip, question, context.grid).nonzero()[:, 0]
        assert question.about and cells.tolist() == expected.tolist()


def test_the_oracle_with_a_budget_of_as_many_keeps_exactly_them() -> None:
    made, context = sheet()
    for row, question in enumerate(context.questions):
        asked = controls.asked_cells(context.clip, question, context.grid).nonzero()[:, 0]
        scores = controls.oracle_scores(context.clip, question, context.grid, (0, row))
        method = controls.Given(layer=1, scores=(scores,) * 3, retention_tokens=len(asked))
        assert maps_of(made, method)[row].tolist() == asked.tolist()


def test_every_control_meets_the_same_budget() -> None:
    made, context = sheet()
    for entry in entries_of("main", SETTING):
        if entry.place == "none" or entry.retention is None or entry.control == "keep all":
            continue
        one = Context(**{**vars(context), "questions": context.questions[:1]}) if entry.by_question else context
        found = (made.row(0) if entry.by_question else made).ask(method_of(entry, one))
        context.scores[entry.key] = found.scores
        if entry.control != "same cost":
            assert found.tokens == [round(entry.retention * 300)] * len(found.tokens), entry.key


PUBLISHED = {"enable_stage1": False, "pruning_layer": 1}


@pytest.mark.parametrize(
    ("method", "options"),
    [("prunevid", PUBLISHED), ("prunevid", {**PUBLISHED, "keep_scope": "global"}), ("fastv", {"layer": 2})],
)
def test_a_swapped_question_keeps_what_its_partner_keeps(method: str, options: dict) -> None:
    made, context = sheet()
    own = Entry("own", "method", method, options, 0.1, layer=1)
    context.scores[own.key] = made.ask(method_of(own, context)).scores
    swapped = method_of(dataclasses.replace(own, name="other", control="swapped question", needs=own.key), context)
    mine, theirs = maps_of(made, method_of(own, context)), maps_of(made, swapped)
    for row, other in enumerate(controls.partners(context.questions)):
        assert theirs[row].tolist() == mine[other].tolist()
    assert any(one.tolist() != other.tolist() for one, other in zip(mine, theirs))


def test_random_keeps_as_many_as_the_entry_that_it_stands_beside() -> None:
    made, context = sheet()
    entries = [entry for entry in entries_of("stage1", SETTING) if "tau 0.8" in entry.key and not entry.draw]
    merge, random = entries
    context.tokens[merge.key] = made.ask(method_of(merge, context)).tokens[0]
    assert 30 < context.tokens[merge.key] < 300
    assert made.ask(method_of(random, context)).tokens[0] == context.tokens[merge.key]


def test_random_at_the_same_cost_has_the_layers_process_as_many_tokens() -> None:
    made, context = sheet()
    entries = {entry.key: entry for entry in entries_of("main", SETTING)}
    checked = set()
    for entry in entries.values():
        if entry.control != "same cost" or entry.draw:
            continue
        random = made.ask(method_of(entry, context))
        for key in entry.beside:
            method = method_of(entries[key], context)
            assert random.tokens == [round(sum(made_tokens(method)) / LAYERS)] * 3
            checked.add(entries[key].name)
    assert checked == {"stage 2", "stage 2, peaks", "fastv", "prunevid", "prunevid, peaks"}


def made_tokens(method: methods.Method) -> list[int]:
    """Visual tokens that each of the layers processes."""
    made, _ = sheet()
    seen: list[int] = []
    text = made.inputs["input_ids"].shape[1] - 300

    def see(module: torch.nn.Module, args: tuple, output: torch.Tensor) -> None:
        seen.append(output.shape[1] - text)

    hooks = [layer.register_forward_hook(see) for layer in made.base.language_model.layers]
    try:
        made.ask(method)
    finally:
        for hook in hooks:
            hook.remove()
    return seen


@pytest.mark.parametrize("plan", list(PLANS))
@pytest.mark.parametrize("few", [False, True])
def test_every_entry_of_a_plan_can_be_made(plan: str, few: bool) -> None:
    _, context = sheet()
    entries = entries_of(plan, dataclasses.replace(SETTING, few=few))
    keys = [entry.key for entry in entries]
    assert len(set(keys)) == len(keys) and {UNPRUNED, "no video"} < set(keys)
    for entry in entries:
        if entry.needs is not None:
            assert keys.index(entry.needs) < keys.index(entry.key)
            context.scores[entry.needs] = [torch.zeros(300)] * 3
            context.tokens[entry.needs] = 40
        if entry.place != "none":
            made = method_of(entry, context).for_depth(LAYERS)
            assert (made.selection_layers or (None,))[-1] == entry.layer, entry.key


def test_settings_out_of_range_are_named() -> None:
    for wrong, says in (
        ({"layer": 3}, "from 0 to 2"),
        ({"shares": (0.1, 1.0)}, "above 0 and below 1"),
        ({"shares": ()}, "no share"),
        ({"draws": 0}, "at least 1"),
    ):
        with pytest.raises(ConfigError, match=says):
            dataclasses.replace(SETTING, **wrong)
    with pytest.raises(ConfigError, match="'fast' is no plan"):
        entries_of("fast", SETTING)


@dataclasses.dataclass(frozen=True, eq=False)
class Watching(methods.Method):
    """Keeps everything, and writes down the queries of every prompt's rows."""

    seen: dict = dataclasses.field(default_factory=dict)

    @property
    def selection_layers(self) -> tuple[int, ...]:
        return (1,)

    def choose(self, choosing: methods.Choosing) -> methods.Choice:
        self.seen[choosing.row] = choosing.attention.queries
        return methods.Choice(torch.arange(len(choosing.video)))


def test_the_rows_before_the_question_know_no_question() -> None:
    """What `score_contrast` takes off; and `QUESTION` cuts the prompt where the question begins and ends."""
    made, context = sheet()
    watching = Watching()
    made.ask(watching)
    head, tail = QUESTION["prompt_head"], QUESTION["prompt_tail"]
    tokenizer = small()[1].tokenizer
    for row, question in enumerate(context.questions):
        torch.testing.assert_close(watching.seen[row][:, :head], watching.seen[0][:, :head], rtol=1e-4, atol=1e-5)
        rows = watching.seen[row].shape[1]
        words = tokenizer.decode(made.inputs["input_ids"][row, -rows:][head : rows - tail])
        assert words.replace(" ", "") == question.text.replace(" ", "")
    assert not torch.allclose(watching.seen[0][:, -tail - 1], watching.seen[1][:, -tail - 1], atol=1e-3)


# ---- the record of a clip --------------------------------------------------------------------------------------------

FEW = [
    Entry("keep all", "keep all", layer=1),
    Entry("no video", "no video"),
    Entry("lookm", "method", "lookm", {}, 0.1),
    Entry("fastv", "method", "fastv", {"layer": 2}, 0.1, layer=1),
]


def test_a_record_holds_what_was_said_and_what_changed_nothing() -> None:
    model, processor = small()
    record = Examiner(model, processor, FEW, Choice("dev", per_clip=4)).record(2, check=True)
    made, _ = sheet(2, 4)
    words = [processor.tokenizer.decode([token]).strip() for token in made.unpruned().argmax(1).tolist()]
    assert record["entries"][UNPRUNED]["said"] == words
    assert [one["text"] for one in record["questions"]] == [
        one.text for one in make_clip(2, "dev", questions=4).questions
    ]
    same = {key: entry["same"] for key, entry in record["entries"].items()}
    assert same == {UNPRUNED: 4, "keep all @1": 4, "no video": 0, "lookm 0.1": 4, "fastv @1 0.1": 0}
    for entry in record["entries"].values():
        for question, chosen, sure in zip(record["questions"], entry["chosen"], entry["sure"]):
            assert chosen in question["choices"]
            assert sure <= 1 and (chosen == question["answer"] or sure <= 0.5)


def test_choices_go_by_likelihood() -> None:
    model, processor = small()
    examiner = Examiner(model, processor, [], Choice("dev"))
    question = make_clip(0, "dev").questions[0]
    logits = torch.zeros(len(processor.tokenizer))
    for word in question.choices:
        ahead = logits.clone()
        ahead[processor.tokenizer(word, add_special_tokens=False)["input_ids"][0]] = 3.0
        ahead[0] = 9.0  # the likeliest token of all is no choice
        chosen, sure = examiner._choose(ahead, question)
        others = len(question.choices) - 1
        power = 20.085536923187668
        share = power / (power + others) if word == question.answer else 1 / (power + others)
        assert chosen == word and sure == pytest.approx(share, abs=1e-5)


def test_one_question_of_a_kind_is_swapped_with_another_kind() -> None:
    model, processor = small()
    donor = Entry("fastv", "method", "fastv", {"layer": 2}, 0.1, layer=1)
    swapped = Entry("swapped", "swapped question", retention=0.1, layer=1, needs=donor.key)
    kinds = make_clip(0, "dev").questions[0].kind
    record = Examiner(model, processor, [donor, swapped], Choice("dev", kinds=(kinds,), per_clip=4)).record(0)
    assert [one["kind"] for one in record["questions"]] == [kinds]
    assert len(record["entries"]["swapped @1 0.1"]["said"]) == 1


def test_keep_all_that_differs_stops_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    model, processor = small()
    examiner = Examiner(model, processor, FEW[:1], Choice("dev", per_clip=2))
    put = clips_module._put

    def wrong(entry: Entry, *given: object) -> object:
        found = put(entry, *given)
        return dataclasses.replace(found, logits=found.logits + 1e-6)

    monkeypatch.setattr(clips_module, "_put", wrong)
    with pytest.raises(PruneVidError, match="keeps every visual token, but its logits differ"):
        examiner.record(0)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"split": "train"}, "must be 'test' or 'dev'"),
        ({"kinds": ("colour",)}, "'colour' is no kind"),
        ({"kinds": ()}, "is no kind"),
        ({"per_clip": 1}, "at least 2"),
        ({"first": -1}, "first -1"),
    ],
)
def test_wrong_choices_are_named(given: dict, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Choice(**given)


def test_two_entries_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigError, match="twice"):
        Examiner(*small(), [FEW[0], FEW[0]], Choice())
