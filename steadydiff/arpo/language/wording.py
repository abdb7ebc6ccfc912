"""What the words of an answer mean: talk, refusals, labels, negations, and which kind a phrase is of."""

from __future__ import annotations

import re
from typing import Literal

Kind = Literal["content", "style"]
Place = Literal["content", "style", "negative", "aside"]
"""Where a phrase belongs; what is aside is no phrase."""

# --- talk -------------------------------------------------------------------------------------------------

_TALK = re.compile(
    r"(?:sure|sorry|okay|ok|certainly|absolutely|of course|please|as an ai|as requested|let me|let's|"
    r"here(?:'s| is| are)|note that|based on|"
    r"i(?:'m|'ll|'ve|'d| am| can| cannot| can't| will| would| have| had| think| see| hope| don't| do not)|"
    r"(?:you|we)(?:'ll|'re|'d)? (?:can|could|might|may|should|need|want)|"
    r"it (?:seems|looks like|appears)|"
    r"(?:the|both)(?: two| both)? (?:picture|image|difference|prompt|answer|phrase|list)s?|"
    r"none|no difference|n/a|wait|corrected|"
    r"(?:there (?:is|are) )?no (?:\w+ )?(?:differences?|changes?|additions?|phrases?)|"
    r"以下|这些|希望)(?:\b|(?<=[\u3400-\u9fff]))"
    r"|.*\b(?:image|picture) [12]\b"
    r"|hope (?:this|that|it|these)\b|(?:et cetera|etc|and so on|and more)\W*$"
    r"|(?:first|second|third|fourth|last|final)(?:ly)?$|next$"
    r"|.*\?$",
    re.IGNORECASE,
)
_EXPLAINS = re.compile(
    r"(?:this|that|it|these|they|because|since|as seen|to (?:match|make|add|give|bring|reflect|capture)|"
    r"(?:add|match|capture|give|bring|reflect|emphasi[sz]e|create|help|make|ensure|set|correct|define|enhance|"
    r"introduce|provide|establish|describe)e?s)\b",
    re.IGNORECASE,
)
_PICTURE = r"(?:image|picture|photo)"
_REFUSAL = re.compile(
    r"\b(?:i|we)(?:'m| am| are) (?:(?:very |so |really |deeply )?sorry|afraid|unable|"
    r"not (?:able|going|comfortable|allowed|permitted))\b"
    r"|\bi (?:cannot|can't|can not|won't|will not|must decline|have to decline|apologi[sz]e|don't feel|"
    r"do not feel|don't have|do not have|'m not)\b(?! (?:see|find|tell) )"
    r"|\bi(?:'d| would)? prefer not to\b|\bi (?:do not|don't) (?:identify|recogni[sz]e|describe)\b"
    r"|\bi(?:'ll| will| must| have to) (?:\w+ )?decline\b|\bsomething (?:that )?i (?:can|avoid|don't)\b"
    r"|\b(?:designed|programmed|trained|instructed) not to\b"
    r"|\bmy (?:\w+ )?(?:guidelines|policies|programming)\b"
    r"|\bnot (?:be )?appropriate (?:for me )?to\b|\bapologies,? but\b|\brequest can(?:no|')t be\b"
    r"|\b(?:unable|not able) to (?:help|assist|identify|comply|process|view|see|provide|describe)\b"
    r"|\bcan(?:no|')t (?:help|assist) with\b"
    r"|\b(?:against|violates?) (?:my|our|the) (?:\w+ )?(?:guidelines|polic|programming|rules)"
    r"|\bas an? (?:[\w-]+ ){0,4}(?:ai|language model|assistant)\b"
    rf"|\bno {_PICTURE}s? (?:was|were|is|are|has|have)\b|\bsee (?:an?|any|the) {_PICTURE}"
    rf"|\b(?:attach|upload|provide|share) (?:an?|the|your) {_PICTURE}"
    r"|\b(?:our safety system|content (?:management )?polic(?:y|ies))\b"
    r"|\brequest (?:(?:was|is|has been) )?(?:rejected|blocked|flagged|declined)\b"
    r"|作为一?[个款]?(?:人工智能|AI|语言模型)|我不(?:能|会|可以)|抱歉|对不起|對不起|很遗憾|很遺憾|无法|無法|不能(?:帮|协助|回答|提供|识别|描述)"
    r"|申し訳|できません|できかねます|죄송|수 없습니다"
    r"|\btut mir leid\b|\bnicht in der lage\b|\b(?:kann|darf) (?:ich )?(?:\w+ ){0,6}(?:nicht|keine?\w?)\b"
    r"|\b(?:ik kan|kan ik) (?:\w+ ){0,4}niet\b"
    r"|\b(?:jag kan|kan jag) (?:\w+ )?inte\b|\b(?:jeg kan|kan jeg) (?:\w+ )?ikke\b|\ben voi\b"
    r"|\bdésolée?\b|\bje ne (?:peux|suis|saurais) pas\b|\blo siento\b|\bno puedo\b"
    r"|\bdesculpe\b|\bnão posso\b|\bmi dispiace\b|\bnon posso\b|\bîmi pare rău\b|\bsajnálom\b"
    r"|извините|вибачте|не (?:могу|можу)|к сожалению|\bprzykro mi\b|\bnie mogę\b|\bnemohu\b"
    r"|\büzgünüm\b|\byardımcı olamam\b|\bxin lỗi\b|\btôi không thể\b|\bmaaf\b|ขออภัย|ขอโทษ"
    r"|لا (?:يمكنني|أستطيع)|متأسفم|לא יכול|क्षमा करें|नहीं कर सकत",
    re.IGNORECASE,
)


def is_talk(sentence: str) -> bool:
    """What a chat says around its list, and what speaks of the comparison instead of the picture."""
    return bool(_TALK.match(sentence))


def explains(text: str) -> bool:
    """Whether a text goes on from a phrase to say why it is there."""
    return bool(_EXPLAINS.match(text))


def refuses(text: str) -> bool:
    """Whether a text says somewhere that the model will or can not do what it was asked."""
    return bool(_REFUSAL.search(text.replace("’", "'")))


def offers(text: str) -> bool:
    """Whether a line offers other help than was asked for."""
    return bool(re.search(r"\b(?:i can(?!')|i could|i'd be|happy to|if you|instead)\b", text, re.IGNORECASE))


# --- labels and kinds -------------------------------------------------------------------------------------

_NEGATIVE_LABEL = re.compile(r"\bnegatives?\b|\b(?:avoid|exclude|remove|absent)\b|负面|負面", re.IGNORECASE)
_ASIDE_LABEL = re.compile(
    r"(?:\w+ )?(?:reasons?|reasoning|why|explanations?|differences?|notes?|id|no|analysis|rationale|"
    r"comparison|image 2|picture 2|category|aspect|type|element|kind|priority|importance|score|confidence|"
    r"weight|error|#|nr|number|rank)",
    re.IGNORECASE,
)
_STYLE_NOUN = (
    r"(?:paintings?|drawings?|sketch|illustrations?|photo(?:graph)?s?|photography|render(?:ing)?s?|artworks?|art|"
    r"engraving|etching|woodcut|lithograph|watercolou?rs?|gouache|pastels?|collage|mosaic|anime|manga|cartoon|"
    r"comic|styles?|stylistic|aesthetics?|realism|\w+ionism|surrealism|cubism|minimalism|medium|techniques?|"
    r"(?:day|sun|moon|candle|back|rim|side)?light(?:ing)?|illumination|glow|shadows?|highlights|contrast|"
    r"exposure|palette|colou?rs?|colou?ring|scheme|tones?|hues?|saturation|(?:brush ?)?strokes?|brushwork|"
    r"line ?work|outlines?|shading|textures?|composition|perspective|angle|shot|framing|focus|bokeh|grain|"
    r"resolution|mood|atmosphere|vibe|gradients?|lens|chiaroscuro|camera|quality|visuals?|feel)"
)
_CONTENT_NOUN = (
    r"(?:main|subjects?|objects?|characters?|persons?|people|figures?|background|foreground|setting|"
    r"environment|scene|location|place|pose|expression|clothing|outfit|accessories|details?|overall)"
)
_LABEL_WORD = re.compile(f"{_STYLE_NOUN}|{_CONTENT_NOUN}", re.IGNORECASE)
_ENDS_IN_STYLE = re.compile(rf"(?:.*[\s-])?{_STYLE_NOUN}", re.IGNORECASE)
_STYLE_WORDS = re.compile(
    r"\bstyles?\b|\bon (?:canvas|paper)\b|\bdepth of field\b|\b(?:golden|blue) hour\b"
    r"|\b(?:soft|sharp|selective) focus\b|\brule of thirds\b|\bclose-?up\b"
    r"|^(?:(?:hyper|photo|semi)?-?realistic|monochrom(?:e|atic)|stylized|minimalist(?:ic)?|surreal|cinematic|"
    r"painterly|vintage|gr[ae]yscale|sepia|backlit|symmetrical|impressionist(?:ic)?|low-poly|"
    r"(?:highly|very|extremely|intricately|ultra|hyper|super)[ -]?detailed|masterpiece|[48]k|u?hd|hdr)$"
    r"|(?:black and white|油画|水彩画?|水墨画?|版画|漫画|素描|插画|摄影|"
    r"风格|画风|光线|光影|灯光|照明|色调|色彩|构图|笔触|质感)$",
    re.IGNORECASE,
)
_PREPOSITION = re.compile(r"\s(?:of|in|with|from|by|over|on|at|through|across|against|and|is|are)\s")

_SAID_KIND = re.compile(
    r"(style|风格|風格|\b(?:estilo|stile?)\b)|content|内容|內容|\b(?:contenido|conteúdo|contenu|contenuto|inhalt)\b",
    re.IGNORECASE,
)


def place_of_label(label: str) -> Place | None:
    """What a heading, a key or a column's head says of what stands beneath it."""
    label = " ".join(re.sub(r"[^\w\s#]", " ", label).replace("_", " ").split())
    if _ASIDE_LABEL.fullmatch(label):
        return "aside"
    if _NEGATIVE_LABEL.search(label):
        return "negative"
    said = said_kind(label)
    return said or ("style" if _ENDS_IN_STYLE.fullmatch(label) or _STYLE_WORDS.search(label) else None)


def said_kind(label: str) -> Kind | None:
    """The kind that is said in so many words."""
    found = _SAID_KIND.search(label)
    return None if not found else "style" if found[1] else "content"


def is_label(text: str) -> bool:
    """Whether a text only names what another one says: "Camera angle", not "low angle"."""
    words = re.findall(r"\w+", text)
    return bool(words) and all(_LABEL_WORD.fullmatch(word) for word in words)


def kind_of_phrase(phrase: str) -> Kind:
    """Content or style, by what the phrase is about: its last noun before a preposition."""
    head = _PREPOSITION.split(phrase, maxsplit=1)[0]
    return "style" if _STYLE_WORDS.search(phrase) or _ENDS_IN_STYLE.fullmatch(head) else "content"


# --- phrases ----------------------------------------------------------------------------------------------

_LEAD = re.compile(
    r"(?:(?:in )?(?:the|this|an?) (?:image|picture|photo|photograph|scene) "
    r"(?:shows|portrays|depicts|features|contains|captures|displays|is)(?: of)? |"
    r"it (?:is|shows|depicts|features|has) |there(?: is| are|'s) |add (?!to\b)|include |and |also )+",
    re.IGNORECASE,
)
_SHOWN = re.compile(
    r"\b(?:the|this) (?:image|picture|photo|photograph|scene) (?:shows|portrays|depicts|features) .*",
    re.IGNORECASE,
)
_DENIED = (
    r"(?!(?:yet|quite|fully|entirely|completely|far|only|just|merely|always|unlike|long|longer|"
    r"(?:more|less|fewer) than|one)\b)"
)
_ABSENT = re.compile(
    r"(?:(?:there (?:is|are) )?no|without|not|remove|avoid|exclude|omit|delete|lacks?|lacking|absence of|"
    rf"free of|devoid of|(?:do not|don't) (?:include|add|show)|never|ohne|keine?[mnrs]?)\s+{_DENIED}"
    r"|没有|沒有|不要|避免|去除|移除",
    re.IGNORECASE,
)
_BUT = re.compile(
    r"(?:,? (?:and|but|with))?\s(?:without|lacking|no|not|instead of|rather than|free of|devoid of|ohne)\s"
    + _DENIED,
    re.IGNORECASE,
)
_THE = r"(?:the|an?|its|his|her|their)\b"
_REPLACED = re.compile(rf"(?:replace|swap(?= {_THE})) (.+?) (?:with|for|by) (.+)", re.IGNORECASE)
_CHANGED = re.compile(rf"(?:change|turn|convert) (?:{_THE} .+?|\w+) (?:in)?to (?!be\b)(.+)", re.IGNORECASE)
_ARTICLES = re.compile(r"^(?:(?:the|an?|any|visible)\s+)+", re.IGNORECASE)
_JOINT = re.compile(r"\s(?=(?:while|where|which|who|whose|that|and|as|with)\s)")
_JOINER = re.compile(r"^(?:while|where|which|who|that|and|as)\s+")


def without_lead(phrase: str) -> str:
    """A sentence's beginning that says nothing of the picture is cut off, and so is an order to add."""
    return _LEAD.sub("", phrase, count=1) if _LEAD.match(phrase) else phrase


def shown_in(text: str) -> str:
    """From where a sentence says what the picture shows; empty if it does not."""
    found = _SHOWN.search(text)
    return found[0] if found else ""


def parted(phrase: str) -> tuple[str, tuple[str, ...]]:
    """What a phrase wants to be seen and to be absent: ("a man", ("hat",)) of "a man without a hat"."""
    if changed := _CHANGED.match(phrase):
        phrase = changed[1]
    if orders := _REPLACED.match(phrase):
        head, absent = orders[2], [orders[1]]
    elif orders := _ABSENT.match(phrase):
        head, absent = "", [phrase[orders.end() :]]
    else:
        head, *absent = _BUT.split(" " + phrase)
    parts = (part.strip() for text in absent for part in re.split(r"\s(?:or|nor)\s", text))
    return head.strip(), tuple(filter(None, map(without_article, parts)))


def without_article(phrase: str) -> str:
    return _ARTICLES.sub("", phrase, count=1)


def shortened(phrase: str, words: int, letters: int) -> list[str]:
    """A phrase in pieces of at most so many words and letters, cut where its clauses join.

    What is too long and has no joint is left out.
    """
    pieces: list[str] = []
    for clause in _JOINT.split(phrase):
        longer = f"{pieces[-1]} {clause}" if pieces else clause
        if pieces and len(longer.split()) <= words and len(longer) <= letters:
            pieces[-1] = longer
        else:
            pieces.append(_JOINER.sub("", clause, count=1) if pieces else clause)
    return [piece for piece in pieces if len(piece.split()) <= words and len(piece) <= letters]
