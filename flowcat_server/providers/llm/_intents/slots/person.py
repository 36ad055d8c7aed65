"""Names: "it's Anna Becker", "my name is ...", "Becker, B E C K E R"."""

from __future__ import annotations

import re

from flowcat_server.providers.llm._intents.slots.reading import Reading

_WORD = r"[^\W\d_]+(?:['\u2019-][^\W\d_]+)*"
_NAME = rf"(?P<name>{_WORD}(?:\.? {_WORD}){{0,3}})"
_TITLE = re.compile(r"^(?:mr|mrs|ms|miss|dr|doctor|mister|missus)\b\.? *", re.IGNORECASE)
# Frames that nothing but a name follows, and frames that also open other sentences.
_SURE = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"\bname(?:'s|\u2019s| is| was|s|:| would be) (?:actually |really )?{_NAME}",
        rf"\b(?:under|for|in) the name(?: of)? {_NAME}",
        rf"\bcall me {_NAME}",
        rf"\b{_NAME} (?:speaking|is my name|is the name)\b",
        rf"\bi(?: am|'m|\u2019m) called {_NAME}",
    )
)
_LIKELY = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"\b(?:it's|it\u2019s|its|it is|this is|that's|that\u2019s|that is|that would be) {_NAME}",
        rf"\b(?:i'm|i\u2019m|i am) {_NAME}",
        rf"\b(?:put it |book it |book it in )?under {_NAME}",
    )
)
_SPELLED = re.compile(r"\b(?:[a-z](?:[\s.,-]+|$)){3,}", re.IGNORECASE)
_LEAD = re.compile(
    r"^(?:(?:um+|uh+|er+|erm|ah|oh|well|so|yes|yeah|yep|sure|okay|ok|of course|hi|hello|hey|"
    r"please|right|and|no|nope|actually|sorry|it should be|it's|its|that's)\b[\s,.!-]*)+",
    re.IGNORECASE,
)
_TAIL = re.compile(
    r"[\s,.!?]*\b(?:please|thanks|thank you|here|speaking|by the way|and)[\s,.!?]*$", re.IGNORECASE
)

# Words that show that what follows "I'm" or stands alone is a sentence, not a name.
_OTHER_WORDS = """
a about afraid after afternoon again all allergic alone already also am an and any anyone
anything are as ask at available back bad because been before being book booked booking busy but
by call called calling can can't cancel cancelled checking closed come coming confused correct
could curious day did do doctor does doing don't done driving early else enough evening
everything fine first for free friday from fully get getting give glad go going gone good got
great had happy has have having he hear hello help here hi hold how hungry hurt hurting i i'd
i'll i'm if ill in interested into is it it's its just keep know last late later leave let lets
like listening long looking lost made make making may maybe me mean might minute moment monday
month more morning much my name need new next nice no none not nothing now number of off oh ok
okay old on once one only open or other our out outside over pain parking patient phone please
possible pregnant price quick quite ready really repeat right running saturday say seeing sick
slow so some someone something soon sorry speak still stuck sunday sure talk tell terrible than
thank thanks that that's the their them then there they thing think this thursday time to today
tomorrow tonight too trouble trying tuesday two unable under unsure until unwell up urgent very
visit wait waiting want wanted was we wednesday week well were what what's when where which who
whole why will with won't wondering worried would wouldn't wrong yeah yes yesterday you your
yours
"""
_NOT_NAMES = frozenset(_OTHER_WORDS.split())
_TOO_LONG = 30


def find(text: str, *, asked: bool) -> Reading | None:
    """A person's name in a sentence as it was transcribed (not normalized).

    Without being asked, a name must be introduced ("my name is", "it's Anna Becker"), and after
    the shorter introductions it must be capitalized. Asked, it may stand alone.
    """
    spelled = _spelled(text)
    for pattern in _SURE:
        if (found := pattern.search(text)) and (name := _take(found["name"], spelled)):
            return Reading(name, name, span=found.span())
    for pattern in _LIKELY:
        if not (found := pattern.search(text)):
            continue
        if not asked and not found["name"][0].isupper():
            continue
        if name := _take(found["name"], spelled):
            return Reading(name, name, span=found.span())
    if not asked:
        return None
    bare = _TAIL.sub("", _LEAD.sub("", text.strip())).strip(" .,!?")
    if name := _bare(bare, spelled):
        return Reading(name, name, span=(0, len(text)))
    return None


def _bare(text: str, spelled: str) -> str:
    text = _SPELLED.sub("", text).strip(" .,!?-") if spelled else text
    if not text:
        return spelled
    words = _TITLE.sub("", text).replace(",", " ").split()
    if not words or len(words) > 4 or not all(re.fullmatch(rf"{_WORD}\.?", word) for word in words):
        return ""
    if any(word.lower().strip(".") in _NOT_NAMES for word in words):
        return ""
    return _merge(_title_case(words), spelled)


def _take(text: str, spelled: str) -> str:
    """The leading words that can be a name."""
    words: list[str] = []
    for word in _TITLE.sub("", text).split():
        plain = word.strip(".,")
        if plain.lower() in _NOT_NAMES or (words and plain.islower() and words[0][0].isupper()):
            break
        if len(plain) == 1 and spelled:
            break
        words.append(plain)
    return _merge(_title_case(words), spelled) if words else ""


def _title_case(words: list[str]) -> str:
    return " ".join(word if word[:1].isupper() and not word.isupper() else word.capitalize()
                    for word in words)[:_TOO_LONG * 2]  # fmt: skip


def _spelled(text: str) -> str:
    found = _SPELLED.search(text)
    if not found:
        return ""
    letters = re.findall(r"[a-z]", found[0], re.IGNORECASE)
    return "".join(letters).capitalize() if 3 <= len(letters) <= _TOO_LONG else ""


def _merge(name: str, spelled: str) -> str:
    """A spelled name replaces the word it spells: the one that begins alike, else the last."""
    if not spelled:
        return name
    words = name.split()
    if not words:
        return spelled
    alike = [at for at, word in enumerate(words) if word[:1].lower() == spelled[:1].lower()]
    if alike:
        words[alike[-1]] = spelled
    elif len(words) == 1:
        words.append(spelled)
    else:
        words[-1] = spelled
    return " ".join(words)


def introduced(text: str) -> bool:
    """Whether a name is announced beyond doubt ("my name is")."""
    return any(pattern.search(text) for pattern in _SURE)
