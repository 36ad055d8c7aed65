from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from flowcat_server.providers.tts._word_times import Clause, Spoken, place_words


def clause(symbols: str, ends: bool = False) -> Clause:
    return Clause(list(symbols), ends)


def test_words_that_agree_with_the_phonemes_have_their_own() -> None:
    only = clause("wun tu.", ends=True)
    place_words(["one", "two."], [3, 2], [only])
    assert only.words == [Spoken("one", 0, 4), Spoken("two.", 4, 6)]


def test_two_words_said_as_one_share_it() -> None:
    only = clause("uvði end.", ends=True)
    place_words(["of", "the", "end."], [2, 2, 3], [only])
    assert only.words == [Spoken("of", 0, 2), Spoken("the", 2, 5), Spoken("end.", 5, 8)]


def test_a_number_takes_all_its_words() -> None:
    only = clause("at eit θɜti nau.", ends=True)
    place_words(["at", "8:30", "now."], [2, 7, 3], [only])
    assert [w.text for w in only.words] == ["at", "8:30", "now."]
    assert only.words[1] == Spoken("8:30", 3, 12)


def test_words_stay_in_the_clause_that_says_them() -> None:
    first, second = clause("jes, "), clause("ɔv kɔs.", ends=True)
    place_words(["Yes,", "of", "course."], [3, 2, 3], [first, second])
    assert [w.text for w in first.words] == ["Yes,"]
    assert [w.text for w in second.words] == ["of", "course."]


def test_without_punctuation_to_go_by_words_are_shared_out() -> None:
    first, second = clause("aaaa bbbb ", ends=True), clause("cccc dddd", ends=True)
    place_words(["a", "b", "c", "d"], [4, 4, 4, 4], [first, second])
    assert [w.text for w in (*first.words, *second.words)] == ["a", "b", "c", "d"]


def test_a_long_clause_is_split_between_words() -> None:
    whole = clause("aaa bbb ccc ddd.", ends=True)
    place_words(["a", "b", "c", "d."], [3, 3, 3, 3], [whole])
    parts = whole.split(9)
    assert ["".join(p.symbols) for p in parts] == ["aaa bbb ", "ccc ddd."]
    assert [[w.text for w in p.words] for p in parts] == [["a", "b"], ["c", "d."]]
    assert [p.ends for p in parts] == [False, True]
    assert parts[1].words[0] == Spoken("c", 0, 4)


@given(
    st.lists(st.text(alphabet="ab.,", min_size=1, max_size=5), min_size=1, max_size=12),
    st.lists(st.text(alphabet="xy ", min_size=1, max_size=20), min_size=1, max_size=4),
)
def test_every_word_is_placed_once_in_order(words: list[str], spoken: list[str]) -> None:
    clauses = [clause(symbols, ends=True) for symbols in spoken]
    place_words(words, [len(word) for word in words], clauses)
    placed = [w for c in clauses for w in c.words]
    assert [w.text for w in placed] == words
    for c in clauses:
        edges = [edge for w in c.words for edge in (w.begin, w.end)]
        assert edges == sorted(edges)
        assert all(0 <= edge <= len(c.symbols) for edge in edges)
