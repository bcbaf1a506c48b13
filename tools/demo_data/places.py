"""Places that no list of rooms holds: a home has a play corner, a first floor and a Sophie's room.

The model keeps such a place as it was said, so that what it does not know is never taken for what it does.
"""

from __future__ import annotations

import random
from functools import cache

from .devices import DOOR_WORDS, OTHER_PLACES, ROOMS
from .grammar import listed
from .other import WORDS

_NAMED = listed(
    "first floor|second floor|third floor|top floor|ground floor|upper floor|lower floor|lower level|play corner|play area"
    "|playroom|play room|game room|gaming room|craft room|sewing room|music room|media room|home theatre|movie room"
    "|laundry nook|breakfast nook|breakfast bar|reading nook|reading corner|sunroom|sun porch|mudroom|wine cellar"
    "|root cellar|crawl space|walk-in closet|linen closet|coat closet|powder room|guest bathroom|kids bathroom"
    "|main bathroom|master bathroom|upstairs bathroom|downstairs bathroom|shower room|wet room|steam room|hot tub"
    "|outdoor kitchen|summer kitchen|back porch|front porch|front hall|back hall|upstairs hallway|rear entrance|front yard"
    "|side yard|orchard|vineyard|vegetable garden|roof terrace|winter garden|tree house|guest house|summer house"
    "|chicken coop|dog house|bike shed|tool shed|tool room|wood shop|dark room|panic room|safe room|ski room|hobby room"
    "|archive|copy room|break room|conference room|board room|class room|waiting area|reception area|bar area|living area"
    "|kitchen island|kitchen counter|dining table|bookshelf|workbench|work area|desk area|tv corner|tv room|piano room"
    "|pet room|cat room|dog corner|plant room|prayer room|meditation room|yoga room|fitness room|weight room|dance hall"
    "|second bedroom|third bedroom|small bedroom|big bedroom|back bedroom|front bedroom|spare bedroom|parents bedroom"
    "|parents' room|boys room|girls room|teenager's room|maid's room|nanny's room|au pair room|the twins' room|main hall"
    "|entrance hall|staircase landing|basement gym|basement bar|garage workshop|attic room|loft bedroom|tower room|outhouse"
    "|barn loft|stables|kennel|farm house|coach house|boiler house|engine room|control room|data room|studio flat|penthouse"
    "|atrium|arcade|alcove|bay|cabin|canteen|chamber|cloister|cottage|crypt|dungeon|gazebo|hangar|hut|larder|laboratory"
    "|lodge|lounge bar|mezzanine|nook|observatory|parlour|parlor|passage|pavilion|pergola|quarters|salon|scullery|snug|spa"
    "|solarium|suite|theatre|utility closet|vault|vestibule|well|wing|outside|indoors|car park|parking lot|parking garage"
)
_KINDS = listed(
    "room|room|room|room|corner|area|nook|floor|wing|bedroom|bathroom|hallway|studio|kitchen|office|closet|hall|zone|suite"
    "|cellar|den|space|lounge|house|cabin|shed|side|level|garden|terrace|balcony|porch|section|spot|table|wall|garage"
)
_BEFORE = listed(
    "play|game|craft|music|reading|sewing|working|sleeping|resting|dressing|changing|drawing|painting|writing|training"
    "|cooking|eating|party|study|school|baby|teen|kids|boys|girls|cat|dog|bird|fish|plant|flower|wine|beer|tea|tool|bike|car"
    "|boat|ski|snow|sun|moon|star|sky|sea|lake|river|forest|mountain|city|street|north|south|east|west|upper|lower|left|right"
    "|front|back|middle|inner|outer|upstairs|downstairs|first|second|third|big|small|tiny|long|round|old|new|spare|extra|private"
    "|public|quiet|secret|cosy|cold|hot|dry|wet|red|blue|green|white|black|yellow|pink|golden|silver|crystal|wooden|stone|glass"
    "|family|guest|master|mom|dad|grandma|grandpa|uncle|aunt|sister|brother|nanny|chef|server|printer|computer|radio|video"
    "|photo|film|movie|theatre|dance|yoga|sport|swimming|bath|shower|steam|fire|water|ice|wind|summer|winter|spring|autumn"
    "|storage|laundry|coat|shoe|box|bar|coffee|breakfast|lunch|dinner|bread|fruit|apple|cherry|rose|lion|tiger|bear|eagle|owl"
    "|fox|rabbit|dragon|pirate|space|rocket|train|plane|jungle|desert|beach|island|castle|tower|bridge|gate|church|temple"
)
_PEOPLE = listed(
    "anna|ben|carla|david|emma|felix|grandma|grandpa|jonas|lena|max|mia|nora|oscar|paul|sara|tom|mum|mom|dad|alice|bob|charlie"
    "|daniel|ella|frank|george|hannah|isabel|jack|kate|leo|lily|lucas|maria|nina|olivia|peter|rosa|sam|tim|victor|william|zoe"
    "|chloe|julia|laura|mark|mike|jane|john|jim|susan|amy|alex|chris|harry|henry|james|karen|linda|lisa|lucy|martin|mary"
    "|noah|oliver|philip|rachel|robert|ruth|sally|simon|steve|theo|my son|my daughter|my sister|my brother|the baby"
)
_NUMBERS = listed("one|two|three|four|five|six|1|2|3|4|5|6|7|8|9|10|11|12|b|c|d")
_NUMBERED = listed(
    "bedroom|bedroom|room|room|bathroom|zone|floor|level|office|apartment|flat|unit|suite|section|garage"
)
_ORDINALS = listed("first|second|third|fourth|fifth|upper|lower|top|bottom|main|ground|1st|2nd|3rd")
_STARTS = listed("b|br|c|ch|cl|d|dr|f|fl|g|gr|h|j|k|kl|l|m|n|p|pl|qu|r|s|sh|sk|st|t|tr|v|w|y|z|zw")
_MIDDLES = listed("a|e|i|o|u|ai|ea|oo|ou|ar|er|or|an|en|in|on|al|el|um|us")
_KNOWN = {w for words in [*ROOMS.values(), *DOOR_WORDS.values()] for w in words} | set(ROOMS)
OWN_ROOMS = ["my room", "our room", "her room", "his room"]  # kept as they are
_ARTICLES = ("my ", "the ")
_FIRST_NAMES = {p for p in _PEOPLE if not p.startswith(_ARTICLES)}


def made_up(rng: random.Random) -> str:
    """A word that no language has: "flanzor"."""
    return "".join(rng.choice(_STARTS) + rng.choice(_MIDDLES) for _ in range(rng.randrange(1, 4))) + rng.choice(
        "nrstlxk"
    )


@cache
def proper(place: str) -> bool:
    """Whether a place takes no article: what is somebody's or has a number, "nora's room", "zone 3"."""
    owner, _, rest = place.partition("'s ")
    return place in OWN_ROOMS or bool(rest and owner in _FIRST_NAMES) or place.rpartition(" ")[2] in _NUMBERS


def unknown_place(rng: random.Random) -> str:
    """A place as it is said, without an article: "play corner", "sophie's room", "bedroom two"."""
    while True:
        place = _draw(rng)
        if place not in _KNOWN:
            return place


def _draw(rng: random.Random) -> str:
    roll = rng.random()
    if roll < 0.09:
        word = rng.choice(WORDS[rng.choice(["noun", "adj", "animal", "sport"])].split("|")).removeprefix("the ").lower()
        return f"{word} {rng.choice(_KINDS)}"
    if roll < 0.40:
        return rng.choice(rng.choice([_NAMED, OTHER_PLACES])).removeprefix("the ")
    if roll < 0.7:
        return f"{rng.choice(_BEFORE)} {rng.choice(_KINDS)}"
    if roll < 0.8:
        owner = rng.choice(_PEOPLE)
        for article in _ARTICLES:
            owner = owner.removeprefix(article)
        return f"{owner}'s {rng.choice(['room', 'room', 'room', 'bedroom', 'office', 'corner', 'bathroom', 'closet'])}"
    if roll < 0.86:
        return f"{rng.choice(_NUMBERED)} {rng.choice(_NUMBERS)}"
    if roll < 0.91:
        return f"{rng.choice(_ORDINALS)} floor"
    return made_up(rng) + rng.choice(["", " room", " room", " area", " hall"])
