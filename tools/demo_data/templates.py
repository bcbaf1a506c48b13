"""Command templates by intent.

A leading ``!`` marks a whole sentence, which takes no "could you …" around it. A leading ``~`` marks a template kept
out of training: it is one of the held-out phrasings. Slots: ``<t>`` the thing ("the kitchen light"), ``<is>`` is/are
to match, ``<in>`` "in the kitchen", "in here" or nothing, ``<it2>`` "the kitchen" or "it", ``<it3>`` what is cleaned, ``<rm>``
"kitchen", ``<v>`` "the volume of the tv"; of the value ``<n>`` ("30 percent"), ``<n1>`` ("10 minute"), ``<np>`` (a percentage
that says so), ``<nm>`` a timer's name; ``<more>``, ``<less>``, ``<q>`` "brighter", "dimmer", "brightness". Most templates stand in
files of their own, which `phrasebook` reads.
"""

from __future__ import annotations

import re

from . import phrasebook
from . import templates_basic as basic
from . import templates_home as home
from . import templates_short as short

_MORE = phrasebook.read("light", "climate", "media", "kitchen")
# What asks for one value of an attribute, in words of its own: "light.brightness=100".
VALUES = {key: found for key, found in _MORE.items() if "=" in key}
_ON, _OFF = basic.ON + _MORE["on.true"], basic.OFF + _MORE["on.false"]
_TIMER = home.TIMER + short.TIMER + _MORE["timer.minutes"]
_OPEN, _CLOSE = home.OPEN + _MORE["open.true"], home.CLOSE + _MORE["open.false"]

_COMMANDS: dict[str, list[str]] = {
    "on.true": _ON,
    "on.false": _OFF,
    "light.on.true": _ON + basic.LIGHT_ON,
    "light.on.false": _OFF + basic.LIGHT_OFF,
    # A speaker that is started or stopped plays or pauses; in a list of devices ("stop the radio and the tv") it goes off.
    "speaker.on.true": [t for t in _ON if not re.search("start|run", t)],
    "speaker.on.false": [t for t in _OFF if "stop" not in t],
    "light.brightness": basic.BRIGHTNESS,
    "light.color": basic.COLOR,
    "light.brightness.up": basic.BRIGHTER,
    "light.brightness.down": basic.DIMMER,
    "thermostat.temperature": basic.TEMPERATURE,
    "thermostat.temperature.up": basic.WARMER,
    "thermostat.temperature.down": basic.COOLER,
    "ac.temperature": [t for t in basic.TEMPERATURE if "<t>" in t],
    "ac.temperature.up": [t for t in basic.WARMER if "<t>" in t],
    "ac.temperature.down": [t for t in basic.COOLER if "<t>" in t],
    "up.by": basic.UP_BY,
    "down.by": basic.DOWN_BY,
    "thermostat.up.by": basic.UP_BY + basic.THERMOSTAT_UP_BY,
    "thermostat.down.by": basic.DOWN_BY + basic.THERMOSTAT_DOWN_BY,
    "locked.true": home.LOCK + short.LOCK,
    "locked.false": home.UNLOCK,
    "open.true": _OPEN,
    "open.false": _CLOSE,
    "blinds.open.true": _OPEN + home.BLINDS_OPEN,
    "blinds.open.false": _CLOSE + home.BLINDS_CLOSE,
    "blinds.position": home.POSITION,
    "fan.speed": home.SPEED,
    "fan.speed.up": home.FASTER,
    "fan.speed.down": home.SLOWER,
    "volume": home.VOLUME,
    "volume.up": home.LOUDER,
    "volume.down": home.QUIETER,
    "speaker.volume": home.VOLUME + short.VOLUME * 2,
    "speaker.volume.up": home.LOUDER + home.SPEAKER_LOUDER + short.LOUDER,
    "speaker.volume.down": home.QUIETER + home.SPEAKER_QUIETER + short.QUIETER,
    "speaker.muted.true": home.MUTE + short.MUTE,
    "speaker.muted.false": home.UNMUTE + short.UNMUTE,
    "muted.true": home.MUTE,
    "muted.false": home.UNMUTE,
    "tv.channel": home.CHANNEL,
    "speaker.playing.true": home.PLAY + short.PLAY,
    "speaker.playing.false": home.PAUSE + short.PAUSE,
    "speaker.track.next": home.NEXT + short.NEXT,
    "speaker.track.previous": home.PREVIOUS + short.PREVIOUS,
    "vacuum.running.true": home.VACUUM_START + short.CLEAN,
    "vacuum.running.false": home.VACUUM_STOP,
    "vacuum.docked.true": home.DOCK,
    "vacuum.docked.false": home.UNDOCK,
    "alarm.armed.true": home.ARM,
    "alarm.armed.false": home.DISARM,
    "oven.temperature": home.OVEN,
    "coffee maker.on.true": _ON + home.COFFEE_ON + short.COFFEE * 2,
    "coffee maker.on.false": _OFF + short.COFFEE_OFF * 2,
    "kettle.on.true": _ON + home.KETTLE_ON,
    "sprinklers.on.true": _ON + home.SPRINKLERS_ON * 2,
    "sprinklers.on.false": _OFF + home.SPRINKLERS_OFF * 2,
    "washing machine.on.true": _ON + home.WASH_ON,
    "dishwasher.on.true": _ON + home.DISH_ON,
    "timer.minutes": _TIMER,
    "timer.seconds": _TIMER,
    "timer.hours": _TIMER,
    "timer.on.false": home.TIMER_OFF + short.TIMER_OFF,
    "thermostat.on.true": _ON + short.THERMOSTAT_ON,
}
# Where a key is made of another's templates, that one's further ones belong to it already.
_SHARED = {"on.true", "on.false", "open.true", "open.false", "timer.minutes"}
# What is said of any device with an attribute is said of those that have words of their own for it, too.
_OF_ALL = ("volume", "volume.up", "volume.down", "muted.true", "muted.false", "up.by", "down.by")


def _more(key: str) -> list[str]:
    own = [] if key in _SHARED else _MORE.get(key, [])
    common = key.partition(".")[2]
    return own + (_MORE.get(common, []) if common in _OF_ALL else [])


COMMANDS = {key: found + _more(key) for key, found in _COMMANDS.items()}

# Sentences around an imperative; <c> is the command, <g> the command with its verb in -ing.
FRAMES = [
    "<c>",
    "<c>",
    "<c>",
    "<c>",
    "<c>",
    "<c>",
    "<c>",
    "<c>[,] please",
    "please <c>",
    "please <c>",
    "(can|could|will|would) you <c>",
    "(can|could|would) you [please] <c>[ please]",
    "could you please <c>",
    "hey, (can|could) you <c>",
    "(hey|hi|ok|okay|hello|so|now|alright)[,] <c>",
    "I (want|need|'d like|would like) you to <c>",
    "I (want|need|'d like|would like) to <c>",
    "(would|do) you mind <g>",
    "(go ahead and|just|quickly|kindly) <c>",
    "<c> (now|right now|right away|immediately|asap)",
    "<c> for me [please]",
    "<c>, (thanks|thank you|thx|will you|would you|ok)",
    "you (can|should|may|could) <c>",
    "let's <c>",
    "time to <c>",
    "(hey|ok|hello) (house|home|assistant|computer)[,] <c>",
    "is it possible to <c>",
    "how about <g>",
    "try to <c>",
    "I think you should <c>",
    "we (need|want) to <c>",
    "pls <c>",
    "<c> pls",
    "it's late, <c>",
    "(alexa|hey google|ok google|siri|hey siri|olly|jarvis|google|computer|robot)[,] <c>",
    "(I was just thinking|I was going to ask|I keep forgetting), <c>",
    "(is it alright|is it all right|would it be all right) if you <c>",
    "(mommy|mum|dad|daddy|my sister|my wife|the doctor) (says|said) (to|you have to|you should) <c>",
    "(please to|you must|you have to|you need to|have the goodness to|I request that you) <c>",
    "<c> (will ya|won't you|wouldya|dude|man|buddy|love|already|thank you so much|if it isn't too much bother)",
    "(wanna|could ya|can ya|lets|gotta) <c>",
    "I'm (tired|busy|going out|leaving|home|back|going to bed), [please] <c>",
    "(can|could) I ask you to <c>",
    "(can|could|will) u <c> [pls|plz]",
    "plz <c>",
    "(can|could) you (maybe|quickly|also|kindly|just) <c>",
    "(are you able to|do you think you could|if you could|if possible) <c>",
    "is there a way to <c>",
    "I'd be grateful if you could <c>",
    "it would be great if you could <c>",
    "(you might want to|you'd better|make sure to|remember to|go and|feel free to) <c>",
    "(yo|dear house|excuse me|sorry|um|well|right|good morning|good evening|thanks), <c>",
    "(I told you to|I asked you to|I command you to) <c>",
    "(I'd love|I'd prefer) (for you to|you to) <c>",
    "tell the (house|home|system) to <c>",
    "next, <c>",
    "(first|actually|no|wait|oh), <c>",
    "(what about|why not|fancy|consider|start by|begin with|I suggest|I propose) <g>",
    "(give me a hand|help me out|be nice|be a dear|be good|be quick|do it|come on|hurry up) and <c>",
    "(don't hesitate|don't wait|don't be shy|don't be lazy|no need to wait), <c>",
    "don't hesitate to <c>",
    "(never mind|forget it|whatever|anyway|by the way|listen|look|guess what|my dear|darling|mate|dude), <c>",
    "(I wonder|I'm wondering|I wonder) (if|whether) you (can|could|would) <c>",
    "(I'd like it|I'd love it|I would be glad|I'd be thankful|I would be happy) if you (would|could|can) <c>",
    "it's (important|necessary|urgent|best|better|fine|nice|good) to <c>",
    "(is there any way|is there a chance|would there be a way|is it ok) (you could|to) <c>",
    "(may|might|must|shall) (I|we) ask you to <c>",
    "(somebody|someone|anyone) please <c>",
    "my (arms are tired|eyes hurt|phone is dead|feet hurt|back hurts|head hurts|boss is calling), <c>",
    "your (job|task|turn|mission) is to <c>",
    "(one more thing|last thing|quick question|a small request|attention|emergency|action)[:|,] <c>",
    "(if it's not too much trouble|when you have time|whenever you can|if you don't mind|as soon as possible), <c>",
    "<c>, (if you can|if you please|when you can|my friend|mate|that would be great|that's all|got it|ok|alright)",
    "(would it be possible|would it be ok|is it ok for you|would it be too much) to <c>",
    "(do me|do us) (a kindness|a solid|a good turn) and <c>",
    "be (so nice|so good|so sweet|kind enough|an angel) (as to|and|to) <c>",
    "I'd (be happy|be thankful|be pleased|like it very much) if you (would|could) <c>",
    "(any way|any possibility|is there any hope) (you could|you can|to) <c>",
    "I was (hoping|thinking|about to ask if) you (could|would|might) <c>",
    "my (hands are wet|hands are dirty|arms are full|bags are heavy|shoes are muddy), <c>",
    "(while|since|now that) (I|we|you) (am here|are here|are up|have a moment|are listening), <c>",
    "(as|like) I (said|told you|asked), <c>",
    "(one|a) (small|little|quick) (thing|favour|job|wish): <c>",
    "(we'd|they'd|she'd|he'd|my wife would|my husband would) like you to <c>",
    "(please be|be) (patient|careful) and <c>",
    "<s> to <c>",
    "<s>, <c>",
    "<s> and <c>",
    "<f>, <c>",
    "<f>. <c>",
    "<c>, <f>",
    "<f> so <c>",
]
# What people say about their day while they ask for something; it asks for nothing itself.
BECAUSE = [
    "(my|our) (parents|guests|friends|neighbours|in-laws) are (coming|here|on their way|visiting)",
    "we have (guests|visitors|company|a party)",
    "(dinner|lunch|breakfast) is ready",
    "the (kids|children|baby|twins|dog) (are|is) (asleep|sleeping|awake|in bed)",
    "I (can't|cannot) (sleep|concentrate|relax|find my keys)",
    "(I have|I've got) (a headache|a meeting|to work|a long day ahead|an exam)",
    "(I'm|I am|we're|we are) (about to leave|off to work|in bed|on my way|watching a film|cooking|reading|working|back soon)",
    "the (movie|film|show|match|party) is (starting|over)",
    "I (just woke up|got up early|have to go|need to study|will be back later|forgot it again)",
    "(it's|it is) (morning|evening|midnight|bedtime|nearly ten|time for bed|sunny|windy|stormy outside|a long night)",
    "there is a storm [coming|outside]",
    "the sun is (shining|going down|setting|coming up)",
    "the (postman|plumber|cleaner|delivery) is (here|coming|at the door)",
    "(I want|we want|I'd like) to (sleep|relax|read|eat|save energy|watch a film)",
    "(we|I) (go|went) to bed",
    "nobody is (home|here|there)",
]
_AROUND = phrasebook.read("frames")
FRAMES += _AROUND["frames"]
BECAUSE += _AROUND["because"]
RAMBLES, RAMBLE_STARTS, RAMBLE_JOINS = (_AROUND[f"ramble.{part}"] for part in ("whole", "starts", "joins"))
MORE_JOINS = _AROUND["joins"]  # an imperative follows
HELD_FRAMES = [
    "I'd appreciate it if you would <c>",
    "be so kind as to <c>",
    "do me a favour and <c>",
    "any chance you could <c>",
    "I was wondering if you could <c>",
    "my hands are full, <c>",
]
JOINS = [" and "] * 8 + [" then ", ", then ", " and then ", " and then ", ", ", ", ", ", and ", " and also ", "; "]
JOINS += [". ", ". Then ", ". Also, ", " and after that ", ", after that ", " & ", " plus ", ", also ", " and please "]
JOINS += [
    f"{a}{b} "
    for a in (" and ", ", and ", ". ", ", ")
    for b in ("lastly", "when that is over", "as soon as you can", "next")
]
JOINS += [
    f"{a}{b} " for a in (" and ", ", and ") for b in ("once you have that", "when you're done", "when that's ready")
]
JOINS += [
    f"{a}{b}, "
    for a in (" and ", ", and ", ". ")
    for b in ("while you're there", "by the way", "as you are up", "if you can")
]
JOINS += [
    f"{a}{b} " for a in (" and ", ", ") for b in ("in the end", "last of all", "at the same time", "as the last thing")
]
HELD_JOINS = [", and while you're at it, ", " and once that's done ", " and finally "]
