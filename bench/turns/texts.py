"""The words of the corpus."""

from __future__ import annotations

BACKCHANNELS = ("Uh huh.", "Yeah.", "Right.", "Okay.")
"""No synthetic voice here can say "mhm"; all of them spell it. `noises.hum` makes it."""
VOCAL = {"ahem": "Ahem.", "laugh": "Ha ha ha ha."}
"""Noises of a mouth, as well as a synthetic voice makes them."""
WORDS = ("Stop.", "Wait.", "No.", "Hold on.", "Excuse me.")
INTERRUPTIONS = (
    "Sorry, can I ask something first?",
    "No, that is not what I meant.",
    "Actually, I need to cancel my appointment.",
    "Wait a second, I have a question about the price.",
    "Could you please repeat that more slowly?",
)
SENTENCES = (
    "I'd like to book a table for two, please.",
    "What time do you open on Saturday?",
    "My car makes a strange noise when I brake.",
    "Can you tell me how much the repair will cost?",
    "I want to change my appointment to next Friday.",
    "Yes, that works for me.",
    "The order has not arrived yet.",
    "Do you have parking near the entrance?",
    "I am calling about the invoice from last month.",
    "Please send the confirmation to my email address.",
)
ANSWERS = ("Yes.", "No.", "Yeah.", "Okay.", "Uh huh.", "Right.")
NUMBERS = (
    ("My number is five five five,", "zero one four,", "two seven eight nine."),
    ("Oh two oh,", "seven nine four six,", "oh nine five eight."),
    ("It's four one five,", "five five five,", "zero one three two."),
    ("The order number is eight eight two,", "four four one,", "nine."),
    ("Four two four two,", "four two four two,", "four two four two,", "four two four two."),
)
SPELLINGS = (
    ("It's spelled M A,", "R I,", "A N."),
    ("That is K O,", "W A L,", "S K I."),
    ("S M I,", "T H."),
)
HESITATIONS = (
    ("I would like,", "um,", "to book a table."),
    ("My name is,", "uh,", "Peter Miller."),
    ("I'm calling because,", "well,", "my bill is wrong."),
    ("Can I come in on,", "let me see,", "the fourteenth of March?"),
    ("I want to,", "to change my flight."),
    ("It's about the,", "um,", "the washing machine I bought."),
)
TWO_TURNS = (
    ("What time do you open on Saturday?", "And do you have parking?"),
    ("I'd like to book a table for two, please.", "My name is Peter Miller."),
)
LONG_REPLY = (
    "Thank you for calling the harbour museum. We are open every day except Monday, from nine in "
    "the morning until six in the evening. A day ticket costs twelve dollars for adults and five "
    "dollars for children. The boat tour leaves from the northern pier at eleven and at three, "
    "and it takes about ninety minutes. There is a cafe on the second floor with a view of the "
    "old lighthouse, and a garden where you may eat your own food."
)
SHORT_REPLY = "All right, thank you."
SCENARIOS = {
    "tell": LONG_REPLY,
    "ask": "Hello, how can I help you?",
    "number": "Which number can we reach you on?",
    "spelling": "How do you spell your name?",
}
"""What the agent says first, by scenario."""
COLLECTS = {
    "number": {"name": "phone_number", "type": "phone", "prompt": "The caller's phone number"},
    "spelling": {"name": "caller_name", "type": "name", "prompt": "The caller's name, spelled"},
}
"""What the agent's node extracts, by scenario."""
