"""`/v1/rerank`, `/v1/classify`, `/v1/tag` and `/v1/answer` give what the library gives."""

from __future__ import annotations

import dataclasses

import pytest
import serving
from speaking import sentences

from seq2edge.errors import InputError
from seq2edge.serve.calls.fields import Fields
from seq2edge.serve.calls.parts import PART
from seq2edge.serve.routes.understanding import MOST_TEXTS, READERS

TEXTS = [example.input for example in sentences(70)]
KINDS = {
    "classify": ("bert", {}),
    "rerank": ("bert", {"num_labels": 1}),
    "tag": ("bert-tokens", {}),
    "answer": ("bert-span", {}),
}


@pytest.fixture(scope="module")
def folders(speaking):
    """A bundle for each route."""
    return {task: speaking(name, **changes) for task, (name, changes) in KINDS.items()}


@pytest.fixture(scope="module")
def models(folders):
    """The same models, to compare with."""
    return {task: serving.load(folder) for task, folder in folders.items()}


@pytest.fixture(scope="module")
def ask(folders):
    """`ask(task, **fields)`: what a server of these models answers."""
    with serving.serve(folders) as served:

        def get(task, **fields):
            answer = served.post(f"/v1/{task}", {"model": task, **fields})
            assert answer.status_code == 200, answer.text
            assert answer.json()["model"] == task
            return answer.json()

        yield get


def test_documents_are_ranked_as_the_library_ranks_them(ask, models):
    """More than a part of them, texts and objects; the best first, and no more than asked for."""
    assert len(TEXTS) > PART
    wanted = [
        {"index": each.index, "relevance_score": pytest.approx(each.score, abs=1e-5)}
        for each in models["rerank"].rerank("w4 w5", TEXTS)
    ]
    documents = [*TEXTS[:3], *({"text": text} for text in TEXTS[3:])]
    ranked = ask("rerank", query="w4 w5", documents=documents)["results"]
    assert ranked == wanted
    few = ask("rerank", query="w4 w5", documents=documents, top_n=2, return_documents=True)
    assert few["results"] == [
        {**each, "document": {"text": TEXTS[each["index"]]}} for each in ranked[:2]
    ]


def test_texts_and_pairs_are_classified(ask, models):
    """With the scores of all labels; one text is a list of one."""
    wanted = models["classify"].classify([TEXTS[0], (TEXTS[1], TEXTS[2])])
    results = ask("classify", input=[TEXTS[0], [TEXTS[1], TEXTS[2]]])["results"]
    assert results == [dataclasses.asdict(each) for each in wanted]
    (one,) = ask("classify", input=TEXTS[0])["results"]
    assert one["label"] == wanted[0].label
    assert one["scores"] == pytest.approx(wanted[0].scores, abs=1e-5)


def test_texts_are_tagged(ask, models):
    """A list of entities for each text, by the options of the library."""
    texts = TEXTS[:5]
    for options in ({}, {"aggregation": "max"}, {"ignore": ["LABEL_1"]}, {"overlap": 4}):
        wanted = models["tag"].tag(texts, **options)
        results = ask("tag", input=texts, **options)["results"]
        assert results == [[dataclasses.asdict(each) for each in entities] for entities in wanted]
    assert any(map(len, results))


def test_questions_are_answered(ask, models):
    """Of a context read in windows; the options are the library's."""
    question, context = "w3 w4 w5", " ".join(TEXTS[:9])
    options = {"top_k": 3, "longest": 4, "may_be_empty": True, "window": 40, "overlap": 8}
    for chosen in ({}, options):
        wanted = models["answer"].answer(question, context, **chosen)
        answers = ask("answer", question=question, context=context, **chosen)["answers"]
        assert answers == [dataclasses.asdict(each) for each in wanted]


@pytest.mark.parametrize(
    ("task", "fields", "message"),
    [
        ("rerank", {"documents": ["a"]}, "query: is needed"),
        ("rerank", {"query": "a", "documents": []}, "documents: 0 entries, needs 1 to"),
        ("rerank", {"query": "a", "documents": [{"title": "b"}]}, "documents: needs texts, or"),
        ("rerank", {"query": "a", "documents": ["b"], "top_n": 0}, "top_n: 0, needs an integer"),
        (
            "rerank",
            {"query": "a", "documents": ["b"], "max_tokens_per_doc": 9},
            "max_tokens_per_doc: no field of this request",
        ),
        ("classify", {"input": ["a"] * (MOST_TEXTS + 1)}, "input: 1,001 entries, needs 1 to 1,000"),
        ("classify", {"input": [["a", "b", "c"]]}, "input: needs a text, or a list"),
        ("classify", {"input": [["a", 1]]}, "input: needs a text, or a list"),
        ("tag", {"input": "a", "aggregation": "all"}, "aggregation: 'all', needs one of none"),
        ("answer", {"question": "a"}, "context: is needed"),
        ("answer", {"question": "a", "context": "b" * 2**18}, "context: 262,144 characters"),
        ("answer", {"question": "a", "context": "b", "handle": 1}, "handle: no field"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(task, fields, message):
    """Before a model is looked at."""
    with pytest.raises(InputError, match=message):
        READERS[f"/v1/{task}"](Fields(fields))


@pytest.mark.parametrize("task", ["rerank", "classify", "tag", "answer"])
def test_work_ends_between_its_parts(models, task):
    """Where nobody waits for it any more: the check that is made before each part raises."""
    looks = []

    def check():
        looks.append(task)
        if len(looks) == (1 if task == "answer" else 2):
            raise RuntimeError("nobody waits")

    fields = {
        "rerank": {"query": "a", "documents": ["b"] * 2 * PART},
        "classify": {"input": ["b"] * 2 * PART},
        "tag": {"input": ["b"] * 2 * PART},
        "answer": {"question": "a", "context": "b"},
    }
    with pytest.raises(RuntimeError, match="nobody waits"):
        READERS[f"/v1/{task}"](Fields(fields[task]))(models[task], check)
