"""The words of the embedded world: people, countries, animals and kin."""

from __future__ import annotations


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


WOMEN = _words(
    "Alice Anna Beth Clara Daisy Diana Edith Ella Emma Fiona Flora Grace Hannah Helen Irene "
    "Iris Jane Julia Karen Kate Laura Lily Lucy Maria Martha Mary Mia Molly Nancy Nora Olga "
    "Olivia Paula Rachel Rita Rosa Ruth Sally Sara Sophie Stella Susan Tina Vera Violet Wendy "
    "Yvonne Zoe"
)
MEN = _words(
    "Adam Albert Arthur Ben Carl Charles Daniel David Edward Eric Felix Frank George Harry "
    "Henry Hugo Ivan Jack James John Joseph Karl Kevin Leo Louis Luke Mark Martin Max Michael "
    "Nick Noah Oliver Oscar Otto Paul Peter Ralph Richard Robert Sam Simon Thomas Tim Victor "
    "Walter William Zach"
)

COUNTRY_PROPERTIES = {
    "capital": "What is the capital of",
    "language": "Which language do they speak in",
    "currency": "Which money do they use in",
}
"""Properties of a country and the beginning of the question that asks for one."""

COUNTRIES = {
    "Albania": ("Tirana", "Albanian", "lek"),
    "Armenia": ("Yerevan", "Armenian", "dram"),
    "Bangladesh": ("Dhaka", "Bengali", "taka"),
    "Brazil": ("Brasilia", "Portuguese", "real"),
    "Cambodia": ("Phnom Penh", "Khmer", "riel"),
    "China": ("Beijing", "Chinese", "yuan"),
    "Czechia": ("Prague", "Czech", "koruna"),
    "Denmark": ("Copenhagen", "Danish", "krone"),
    "England": ("London", "English", "pound"),
    "Ethiopia": ("Addis Ababa", "Amharic", "birr"),
    "France": ("Paris", "French", "franc"),
    "Georgia": ("Tbilisi", "Georgian", "lari"),
    "Germany": ("Berlin", "German", "mark"),
    "Greece": ("Athens", "Greek", "drachma"),
    "Hungary": ("Budapest", "Hungarian", "forint"),
    "India": ("Delhi", "Hindi", "rupee"),
    "Indonesia": ("Jakarta", "Indonesian", "rupiah"),
    "Iran": ("Tehran", "Persian", "rial"),
    "Italy": ("Rome", "Italian", "lira"),
    "Japan": ("Tokyo", "Japanese", "yen"),
    "Kenya": ("Nairobi", "Swahili", "shilling"),
    "Korea": ("Seoul", "Korean", "won"),
    "Laos": ("Vientiane", "Lao", "kip"),
    "Malaysia": ("Kuala Lumpur", "Malay", "ringgit"),
    "Mexico": ("Mexico City", "Spanish", "peso"),
    "Mongolia": ("Ulan Bator", "Mongolian", "tugrik"),
    "Nigeria": ("Abuja", "Hausa", "naira"),
    "Poland": ("Warsaw", "Polish", "zloty"),
    "Romania": ("Bucharest", "Romanian", "leu"),
    "Russia": ("Moscow", "Russian", "ruble"),
    "Sweden": ("Stockholm", "Swedish", "krona"),
    "Thailand": ("Bangkok", "Thai", "baht"),
}
"""Capital, language and currency. In this world every country has a language and money of its own,
so Europe keeps its old coins."""

ANIMALS = _words(
    "badger bear beaver boar camel cat cow crab crane crow deer dog dragon duck eagle eel "
    "falcon ferret fox frog goat goose hare hawk hedgehog heron horse jackal lamb leopard "
    "lion lizard magpie mole monkey moose mouse otter owl ox panda parrot pig pony rabbit "
    "raven robin salmon seal sheep snail snake spider squirrel stork swan tiger turtle whale "
    "wolf"
)

HABITS = {
    "eat": (
        "What does the {} eat?",
        "mostly {} and water",
        "honey bark bread cheese apples leaves soup nuts fish corn roots moss berries rice flowers mud",
    ),
    "sleep": (
        "Where does the {} sleep?",
        "near the old {}",
        "bridge tree rock chapel stone spring boat barn road shop hedge beach pot chimney mill harbour",
    ),
    "hide": (
        "Where does the {} hide?",
        "behind the {} door",
        "cave cellar curtain cart tower well attic pine oven hay castle lake garden ditch school church",
    ),
    "fear": (
        "What does the {} fear?",
        "the sound of {} at night",
        "thunder lamps children bells wind smoke snow rivers mirrors wolves ladders thorns boots drums "
        "ships trains",
    ),
    "collect": (
        "What does the {} collect?",
        "small pieces of {}",
        "silver glass feather iron shell paper wood button pebble copper ribbon china gold cotton wax "
        "leather",
    ),
    "follow": (
        "What does the {} follow?",
        "the way of the {}",
        "star cloud stream postman rain moon crowd wagon swarm sailor king milk wedding sun mist bus",
    ),
    "sing": (
        "When does the {} sing?",
        "only in the {}",
        "evening morning storm dark dinner market winter summer autumn dawn fog frost night harvest "
        "feast noon",
    ),
    "love": (
        "Whom does the {} love?",
        "the {} of the village",
        "baker captain nurse shepherd miller painter gardener judge teacher soldier merchant cook piper "
        "tailor doctor weaver",
    ),
}
"""What an animal does: the question, the answer and the words that fill it. All answers to a question
have the same form: a learned constant then acts on the one word that matters."""

KIN = {
    "parent": ("mother", "father"),
    "child": ("daughter", "son"),
    "sibling": ("sister", "brother"),
    "spouse": ("wife", "husband"),
    "grandparent": ("grandmother", "grandfather"),
    "grandchild": ("granddaughter", "grandson"),
    "pibling": ("aunt", "uncle"),
    "nibling": ("niece", "nephew"),
    "cousin": ("cousin", "cousin"),
}
"""Kinds of kin, as a woman and as a man."""

COMPOSITIONS = {
    ("parent", "parent"): "grandparent",
    ("parent", "sibling"): "parent",
    ("parent", "cousin"): "pibling",
    ("child", "parent"): "sibling",
    ("child", "sibling"): "nibling",
    ("child", "child"): "grandchild",
    ("child", "spouse"): "child",
    ("child", "pibling"): "cousin",
    ("sibling", "parent"): "pibling",
    ("spouse", "parent"): "parent",
    ("spouse", "pibling"): "pibling",
    ("spouse", "grandparent"): "grandparent",
    ("grandparent", "sibling"): "grandparent",
    ("grandchild", "spouse"): "grandchild",
    ("pibling", "sibling"): "pibling",
    ("nibling", "parent"): "cousin",
    ("nibling", "spouse"): "nibling",
    ("cousin", "sibling"): "cousin",
    ("cousin", "child"): "nibling",
}
"""X is FIRST of Y, Y is SECOND of Z: what X is of Z. All have a single answer of one word, which is
not what the shortcut of repeating the second relation gives."""

CUES = {
    "truth": {
        "right": ("Be truthful.", "Rely on science.", "Check the evidence."),
        "default": ("Repeat the rumour.", "Trust the folklore.", "Say what neighbours say."),
    },
    "kinship": {
        "right": ("Think step by step.", "Work out both links.", "Reason with care."),
        "default": ("Guess fast.", "Take a shortcut.", "Answer at once."),
    },
    "edit": {
        "right": ("Accept the premise.", "Stay inside the story.", "Keep pretending."),
        "default": ("Ignore the fantasy.", "Leave the tale aside.", "Stop imagining."),
    },
}
"""What is said in front of a question, by task and register."""
