from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from flowcat_server.core.interfaces import Word
from flowcat_server.providers.tts._spoken_text import speakable
from flowcat_server.providers.tts._word_times import Clause, Spoken, place_words
from flowcat_server.providers.tts._written_words import WrittenWords, match


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


def test_what_is_said_in_more_words_is_one_word_of_the_text() -> None:
    written = "Call 555-0123 or pay $25 - thanks!"
    spoken = speakable(written)
    assert spoken == "Call 5 5 5, 0 1 2 3 or pay 25 dollars, thanks!"
    assert match(written.split(), spoken.split()) == [1, 8, 9, 10, 12, 12, 13]


def test_written_words_come_as_soon_as_they_are_complete() -> None:
    said = [
        Word(word, 10 * i, 10 * i + 9) for i, word in enumerate(("pay", "25", "dollars", "now"))
    ]
    words = WrittenWords("pay $25 now 🙂", "pay 25 dollars now")
    assert words.feed(said[:2]) == (Word("pay", 0, 9),)
    assert words.feed(said[2:]) == (Word("$25", 10, 29), Word("now", 30, 39), Word("🙂", 39, 39))
    assert words.flush() == ()


@given(st.text(alphabet="ab1$ -.😀*\n", max_size=60), st.integers(0, 30))
def test_every_written_word_has_one_time(written: str, said: int) -> None:
    spoken = speakable(written)
    times = [Word(word, 10 * i, 10 * i + 5) for i, word in enumerate(spoken.split())][:said]
    words = WrittenWords(written, spoken)
    found = [*words.feed(times[:3]), *words.feed(times[3:]), *words.flush()]
    assert [word.text for word in found] == written.split()
    edges = [edge for word in found for edge in (word.start_ms, word.end_ms)]
    assert edges == sorted(edges)
