"""Languages of speech models: their names, and which one is spoken."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from seq2edge.errors import InputError

# What Whisper's codes stand for: ISO 639-1 where that has one, and other names of some behind it.
_NAMES = """
af afrikaans, am amharic, ar arabic, as assamese, az azerbaijani, ba bashkir, be belarusian,
bg bulgarian, bn bengali, bo tibetan, br breton, bs bosnian, ca catalan/valencian, cs czech,
cy welsh, da danish, de german, el greek, en english, es spanish/castilian, et estonian, eu basque,
fa persian/farsi, fi finnish, fo faroese, fr french, gl galician, gu gujarati, ha hausa,
haw hawaiian, he hebrew, hi hindi, hr croatian, ht haitian creole/haitian, hu hungarian,
hy armenian, id indonesian, is icelandic, it italian, ja japanese, jw javanese, ka georgian,
kk kazakh, km khmer, kn kannada, ko korean, la latin, lb luxembourgish/letzeburgesch, ln lingala,
lo lao, lt lithuanian, lv latvian, mg malagasy, mi maori, mk macedonian, ml malayalam,
mn mongolian, mr marathi, ms malay, mt maltese, my myanmar/burmese, ne nepali, nl dutch/flemish,
nn nynorsk, no norwegian, oc occitan, pa punjabi/panjabi, pl polish, ps pashto/pushto,
pt portuguese, ro romanian/moldavian/moldovan, ru russian, sa sanskrit, sd sindhi,
si sinhala/sinhalese, sk slovak, sl slovenian, sn shona, so somali, sq albanian, sr serbian,
su sundanese, sv swedish, sw swahili, ta tamil, te telugu, tg tajik, th thai, tk turkmen,
tl tagalog, tr turkish, tt tatar, uk ukrainian, ur urdu, uz uzbek, vi vietnamese, yi yiddish,
yo yoruba, yue cantonese, zh chinese/mandarin
"""
# Codes with their names, the usual one first.
NAMES: dict[str, tuple[str, ...]] = {
    code: tuple(names.split("/"))
    for code, _, names in (entry.strip().partition(" ") for entry in _NAMES.split(","))
}
_CODES = {name: code for code, names in NAMES.items() for name in names}

# Written without spaces between words: each character that is whole is one.
UNSPACED = frozenset({"zh", "ja", "th", "lo", "my", "yue"})


def language_code(language: str, known: Mapping[str, int]) -> str:
    """The code of a language that is called by its code or a name, in any case.

    `known` are a model's codes with their tokens. Raises InputError for a language that nobody
    knows, or that this model does not.
    """
    plain = language.strip().lower().replace("_", "-")
    code = plain if plain in known else _CODES.get(plain, plain)
    if code not in known:
        listed = ", ".join(sorted(known)) or "none"
        what = f"{language!r}" if code == plain else f"{language!r} ({code})"
        raise InputError(f"language: this model does not know {what}, known: {listed}")
    return code


def language_probabilities(
    logits: NDArray[np.floating], known: Mapping[str, int]
) -> dict[str, float]:
    """How likely each language is, among those that a model knows; the likeliest first.

    `logits` (vocab,) are those behind the token that a transcription starts with.
    """
    codes = list(known)
    scores = logits[[known[code] for code in codes]].astype(np.float64)
    likely = np.exp(scores - scores.max())
    likely /= likely.sum()
    order = np.argsort(-likely, kind="stable")
    return {codes[i]: float(likely[i]) for i in order}
