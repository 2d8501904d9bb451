"""`/tokenize` and `/detokenize` are the model's tokenizer."""

from __future__ import annotations

SAID = [{"role": "user", "content": "w5 w6 w7"}]


def test_texts_and_chats_become_ids_and_ids_texts(served, models):
    """With and without the special tokens."""
    model = models["writer"]
    for body, ids in (
        ({"prompt": "w5 w6"}, model.tokenizer.encode("w5 w6")),
        ({"prompt": "w5 w6", "add_special_tokens": False}, [5, 6]),
        ({"messages": SAID}, model.encode_chat(SAID)),
    ):
        answer = served.post("/tokenize", {"model": "writer", **body}).json()
        assert answer == {"tokens": ids, "count": len(ids)}
    answer = served.post("/detokenize", {"model": "writer", "tokens": [5, 6]})
    assert answer.json() == {"prompt": "w5 w6"}


def test_what_is_no_list_of_ids_is_refused(served):
    """With the field's name, or the id."""
    for tokens in (["5"], [True], [10**20]):
        answer = served.post("/detokenize", {"model": "writer", "tokens": tokens})
        assert answer.status_code == 400
        assert "token" in answer.json()["error"]["message"]
