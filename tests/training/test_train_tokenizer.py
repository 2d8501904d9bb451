import pytest

from seq2edge.errors import TrainingError
from seq2edge.training.train_tokenizer import END_ID, START_ID, train_tokenizer

TEXTS = ["the quick brown fox", "the lazy dog sleeps", "Ünïcode and the fox"] * 10


@pytest.mark.parametrize(
    ("kind", "size"), [("bpe", 300), ("unigram", 60), ("bytes", 260), ("characters", 60)]
)
def test_a_text_of_the_training_comes_back(kind, size):
    """Decoding inverts encoding for every kind within its size."""
    tokenizer = train_tokenizer(TEXTS, kind, size)
    ids = tokenizer.encode("the quick fox").ids
    assert ids[-1] == END_ID
    assert tokenizer.decode(ids) == "the quick fox"
    assert tokenizer.get_vocab_size() <= size


def test_words_are_the_tokens_of_the_words_kind():
    """Tokens are split at spaces, unknown words are `<unk>`."""
    tokenizer = train_tokenizer(["AH0 B", "B K"], "words", 50)
    assert tokenizer.encode("K AH0 XX").tokens[:3] == ["K", "AH0", "<unk>"]


def test_bytes_never_meet_an_unknown_text():
    """Any Unicode text comes back without `<unk>`, though nothing was learnt."""
    tokenizer = train_tokenizer([], "bytes", 260)
    for text in ("日本語 \n\t", "🙂é"):
        ids = tokenizer.encode(text).ids
        assert tokenizer.token_to_id("<unk>") not in ids
        assert tokenizer.decode(ids) == text


def test_a_causal_tokenizer_begins_a_text_instead_of_ending_it():
    """`begin` puts `<s>` before a text and no `</s>` behind it."""
    ids = train_tokenizer(TEXTS, "words", 60, begin=True).encode("the fox").ids
    assert ids[0] == START_ID
    assert END_ID not in ids


def test_extra_tokens_are_special_and_lowercasing_is_in_the_tokenizer():
    """Extra tokens follow the four usual ids; texts are lowered when encoded."""
    tokenizer = train_tokenizer(TEXTS, "words", 60, lowercase=True, extra=("<mask>",))
    assert tokenizer.token_to_id("<mask>") == 4
    assert tokenizer.encode("THE Fox").tokens[:2] == ["the", "fox"]


def test_a_vocabulary_too_small_for_its_kind_is_refused():
    """Bytes need 256 tokens and the special ones."""
    with pytest.raises(TrainingError, match=r"tokenizer.size: 100 tokens, bytes needs 260"):
        train_tokenizer([], "bytes", 100)
