"""Texts of speech in one way of writing, so that an error is a wrong word and not another style.

The rules are those that published word error rates of Whisper use, built from their description in
appendix C of Radford et al. 2022 ("Robust Speech Recognition via Large-Scale Weak Supervision").
Both texts of a comparison go through the same rules, so what a rule does to a rare word does not
matter as long as it does it twice.

English: what is in brackets and hesitations go, contractions are written out, numbers and sums of
money in digits, British spellings as American ones. Other languages: letters and digits in lower
case; those that are written without spaces are compared by characters.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from typing import Final, TypeAlias

from seq2edge.errors import OptionError
from seq2edge.evaluation.spoken_numbers import CURRENCIES, write_numbers
from seq2edge.runtime.speech.language import UNSPACED

Normalize: TypeAlias = Callable[[str], str]

HESITATIONS: Final = "hmm|mm|mhm|mmm|uh|um"
CONTRACTIONS: Final = {
    # What has a form of its own, before the endings.
    r"won't": "will not",
    r"can't": "can not",
    r"let's": "let us",
    r"ain't": "aint",
    r"y'all": "you all",
    r"wanna": "want to",
    r"gotta": "got to",
    r"gonna": "going to",
    r"i'ma": "i am going to",
    r"imma": "i am going to",
    r"(would|could|should)a": r"\1 have",
    r"ma'am": "madam",
    # Titles and what else is written short.
    r"mr": "mister",
    r"mrs": "missus",
    r"st": "saint",
    r"dr": "doctor",
    r"prof": "professor",
    r"capt": "captain",
    r"gov": "governor",
    r"gen": "general",
    r"sen": "senator",
    r"rep": "representative",
    r"pres": "president",
    r"rev": "reverend",
    r"hon": "honorable",
    r"asst": "assistant",
    r"assoc": "associate",
    r"lt": "lieutenant",
    r"col": "colonel",
    r"jr": "junior",
    r"sr": "senior",
    r"esq": "esquire",
}
ENDINGS: Final = {
    # Before a participle 's is "has" and 'd is "had".
    r"'d (been|gone|done)\b": r" had \1",
    r"'s (been|gone|got)\b": r" has \1",
    r"n't\b": " not",
    r"'re\b": " are",
    r"'s\b": " is",
    r"'d\b": " would",
    r"'ll\b": " will",
    r"'t\b": " not",
    r"'ve\b": " have",
    r"'m\b": " am",
}
# Letters that have no accent to lose.
LETTERS: Final = {
    "œ": "oe",
    "Œ": "OE",
    "ø": "o",
    "Ø": "O",
    "æ": "ae",
    "Æ": "AE",
    "ß": "ss",
    "ẞ": "SS",
    "đ": "d",
    "Đ": "D",
    "ð": "d",
    "Ð": "D",
    "þ": "th",
    "Þ": "th",
    "ł": "l",
    "Ł": "L",
}
IN_NUMBERS: Final = f".%{''.join(CURRENCIES)}¢"  # marks that a number may have
# British spellings by what is regular in them; words that only look so are left out.
_OUR: Final = (
    "arb|arm|behavi|cand|clam|col|demean|endeav|enam|fav|ferv|flav|harb|hon|hum|lab|neighb|od|parl|"
    "ranc|rig|rum|savi|sav|splend|succ|tum|val|vap|vig"
)
_DOUBLED: Final = (
    "cance|channe|chise|counse|due|ename|equa|fue|grove|initia|jewe|labe|leve|libe|marve|mode|pane|"
    "penci|quarre|reve|riva|shove|signa|snorke|spira|swive|tota|towe|trave|tunne|unrave"
)
_ALWAYS_ISE: Final = (
    "adver?t|adv|anatom?|appr|ar|chast|circumc|compr|comprom|conc|dem|desp|dev|disfranch|disgu|"
    "enfranch|enterpr|exc|exerc|expert|franch|improv|inc|merchand|parad|prec|prem|prev|prom|rem|"
    "repr|rev|sunr|moonr|superv|surm|surpr|telev|treat|upr"
)
SPELLINGS: Final = (
    (rf"\b(\w*(?:{_OUR}))our(?=s\b|\w*\b)", r"\1or"),
    (
        rf"\b(?!(?:{_ALWAYS_ISE})is)(\w{{2,}}[^aouw\W])is(e|ed|es|er|ers|ing|able|ation|ations)\b",
        r"\1iz\2",
    ),
    (r"\b(anal|catal|dial|electrol|hydrol|paral|psychoanal)ys(e|ed|er|ers|es|ing)\b", r"\1yz\2"),
    (
        r"\b(\w*(?:cent|theat|met|lit|fib|calib|sab|somb|spect|lust|meag|mit|manoeuv))re(s|d|)\b",
        r"\1er\2",
    ),
    (rf"\b(\w*?(?:{_DOUBLED}))ll(ed|ing|er|ers|or|ors|ist|ists|ous)\b", r"\1l\2"),
    (r"\b(def|off|pret)ence(s|less|)\b", r"\1ense\2"),
    (r"\blicence(s|d|)\b", r"license\1"),
    (r"\bpractis(e|ed|es|ing)\b", r"practic\1"),
    (r"\b(anal|catal|dial)ogue(s|d|)\b", r"\1og\2"),
    (r"\b(an|leuk|hypoglyc|isch|ur)aem", r"\1em"),
    (r"\b(an|kin)aesth", r"\1esth"),
    (r"\bhaem", "hem"),
    (r"paed(?=i|o)", "ped"),
    (r"\bgynaec", "gynec"),
    (r"\bmediaeval", "medieval"),
    (r"\b(arch|pal)aeo", r"\1eo"),
    (r"manoeuv", "maneuv"),
    (r"\boe(?=stro|soph)", "e"),
    (r"\bfoet", "fet"),
    (r"diarrhoea", "diarrhea"),
    (r"\bgrey", "gray"),
    (r"\bplough", "plow"),
    (r"\bcheque(s?)\b", r"check\1"),
    (r"\btyre(s?)\b", r"tire\1"),
    (r"\bkerb", "curb"),
    (r"\b(m|sm)oul(d|t)", r"\1ol\2"),
    (r"\bpyjama", "pajama"),
    (r"\bprogramme(s?)\b", r"program\1"),
    (r"\baluminium\b", "aluminum"),
    (r"\bsceptic", "skeptic"),
    (r"\bsulph", "sulf"),
    (r"\bageing\b", "aging"),
    (r"\bjewellery\b", "jewelry"),
    (r"\bwoollen", "woolen"),
    (r"\b(distil|enrol|instal|enthral|fulfil)(s|ment|ments|)\b", r"\1l\2"),
    (r"\b(ski|wi)lful", r"\1llful"),
    (r"\bmoustache", "mustache"),
    (r"\bcos(y|ier|iest)\b", r"coz\1"),
    (r"\bdraught", "draft"),
    (r"\bgaol", "jail"),
    (r"\b(judg|acknowledg)ement", r"\1ment"),
    (r"\baeroplane", "airplane"),
    (r"\byoghurt", "yogurt"),
    (r"\bstorey(s?)\b", r"story\1"),
    (r"\btowards\b", "toward"),
)
NONE, BASIC, ENGLISH = "none", "basic", "english"
NORMALIZATIONS: Final = (ENGLISH, BASIC, NONE)


def normalizer(name: str, language: str | None = None) -> Normalize:
    """The rules of that name, for texts of a language. Raises OptionError for another name."""
    by_character = language in UNSPACED
    known: dict[str, Normalize] = {
        ENGLISH: normalize_english,
        BASIC: lambda text: normalize_basic(text, by_character=by_character),
        NONE: str,
    }
    if name not in known:
        raise OptionError(f"normalize: {name!r} is unknown, known: {', '.join(NORMALIZATIONS)}")
    return known[name]


def normalize_basic(text: str, *, by_character: bool = False) -> str:
    """Lower case, without what is in brackets, marks and symbols; for any language.

    `by_character` parts the letters of languages that are written without spaces.
    """
    text = _without_brackets(text.lower())
    plain = "".join(
        " " if unicodedata.category(c)[0] in "MSP" else c
        for c in unicodedata.normalize("NFKC", text)
    )
    if by_character:
        plain = " ".join(plain)
    return " ".join(plain.lower().split())


def normalize_english(text: str) -> str:
    """One way of writing English; see the module."""
    text = _without_brackets(text.lower())
    text = re.sub(rf"\b({HESITATIONS})\b", "", text)
    text = re.sub(r"\s+'", "'", text.replace("’", "'"))  # noqa: RUF001 - as it is printed
    for short, whole in CONTRACTIONS.items():
        text = re.sub(rf"\b{short}\b", whole, text)
    for short, whole in ENDINGS.items():
        text = re.sub(short, whole, text)
    text = re.sub(r"(?<=\d),(?=\d)", "", text)
    text = re.sub(r"\.(?!\d)", " ", text)
    text = write_numbers(_plain_letters(text))
    for british, american in SPELLINGS:
        text = re.sub(british, american, text)
    text = re.sub(rf"[.{''.join(CURRENCIES)}¢](?!\d)", " ", text)
    text = re.sub(r"(?<!\d)%", " ", text)
    return " ".join(text.split())


def _without_brackets(text: str) -> str:
    return re.sub(r"\(([^)]+?)\)", "", re.sub(r"[<\[][^>\]]*[>\]]", "", text))


def _plain_letters(text: str) -> str:
    """Without accents, and a space for each symbol but those that numbers have."""
    kept = []
    for c in unicodedata.normalize("NFKD", text):
        category = unicodedata.category(c)
        if c in IN_NUMBERS:
            kept.append(c)
        elif c in LETTERS:
            kept.append(LETTERS[c])
        elif category == "Mn":
            continue
        else:
            kept.append(" " if category[0] in "MSP" else c)
    return "".join(kept)
