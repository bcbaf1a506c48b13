"""Command templates for what is said without a noun, and more ways to ask for sound, coffee, cleaning and timers."""

from __future__ import annotations

PLAY = [
    "(play|resume|unpause|continue|go on|carry on)",
    "(play|resume|unpause|continue) (it|that|this|playback|playing) [again]",
    "(keep|go on|start|continue) playing",
    "(play|put on) (something|anything|some sound) <in>",
    "!sound (please|again)",
    "(resume|unpause|continue|restart) <t>",
    "(resume|continue|unpause) the (song|sound|tune|player) <in>",
    "(give|gimme|get) me (some|a bit of) (music|tunes|songs) <in>",
    "!I (wanna|want to|would like to|'d like to) hear (some|a little|a bit of) music <in>",
    "!(it's|it is) too (quiet|silent) <in>, play (something|some music)",
    "!music <in>",
    "!(a bit of|some) music (would be (nice|lovely|good)|please) <in>",
    "start the (music|speaker|radio|sound) <in>",
    "~play me a tune <in>",
]
PAUSE = [
    "(pause|stop|halt|hold)",
    "(pause|stop|halt|hold) (it|that|this|playback|the playback|playing)",
    "(pause|stop|hold|halt) the (sound|song|tune|player|track) <in>",
    "(stop|quit) (playing|singing) <in>",
    "(turn|switch) off (the|that) (yucky|loud|awful|terrible|stupid|silly) music <in>",
    "(pause|hold) the music <in>",
    "!(be quiet|that's enough|enough|hush|silence please) <in>",
    "!stop the music, (please|I'm on the phone|I have a call|the phone is ringing) <in>",
    "~give the music a break <in>",
]
NEXT = [
    "(next|skip|forward)",
    "(skip|next) (it|this|that|this one|that one|please|one|now)",
    "(play|go to|jump to|skip to|give me) (the next|the next one|another one|another song|something else)",
    "(change|switch) the (song|track|tune) <in>",
    "!(this|that) (one|song|track) is (boring|awful|bad|terrible), (next|skip|skip it)",
    "!next (one|tune|please) <in>",
    "!I (don't like|hate|can't stand) (this|it|this one), (next|skip)",
    "~hop over this one",
]
PREVIOUS = [
    "(previous|back|rewind)",
    "go back [one|please]",
    "(play|go to|give me) the (previous|last) one",
    "(play|hear) (it|that|that one|the last one) again",
    "!(one|a) (song|track|tune) back <in>",
    "!(previous|last) (one|tune|please)",
    "~back to the song before",
]
MUTE = [
    "(mute|silence)",
    "(mute|silence) (it|that|this|the sound|everything you play)",
    "(turn|switch) (off the sound|the sound off) <in>",
    "!(sound off|no sound|no more sound) <in>",
    "cut the sound <in>",
]
UNMUTE = [
    "unmute",
    "unmute (it|that|the sound)",
    "(turn|switch) (the sound back on|the sound on again|on the sound) <in>",
    "!(sound on|sound back on) <in>",
    "bring the sound back <in>",
]
LOUDER = [
    "(turn|put|crank|bring) (it|the volume|the sound) up [a bit|a little|some]",
    "(increase|raise|turn up|boost) (the volume|the sound|volume|the audio) <in>",
    "make it [a bit|a little|much] louder <in>",
    "!(volume|sound) up <in>",
    "!I (can't|can hardly|cannot|couldn't|can barely) hear (it|this|anything|the music|the song) <in>",
    "!(it's|it is|that's) [far|way|much] too (quiet|low|soft) <in>",
    "!(louder|more volume|more sound) (please|now) <in>",
    "!(the music|the sound|the volume) is too (low|quiet|soft) <in>",
]
QUIETER = [
    "(turn|put|bring) (it|the volume|the sound) down [a bit|a little|some]",
    "(decrease|lower|reduce|turn down) (the volume|the sound|volume|the audio) <in>",
    "make it [a bit|a little|much] (quieter|softer|less loud) <in>",
    "!(volume|sound) down <in>",
    "!(it's|it is|that's) [far|way|much] too (loud|noisy) <in>",
    "!(quieter|softer|less volume|less noise) (please|now) <in>",
    "!(the music|the sound|the volume) is too (loud|high) <in>",
    "put the music (more low|lower|softer) <in>",
]
VOLUME = [
    "(set|put|turn|change|adjust) (it|the sound|the volume|volume|the audio) (to|at) <n> <in>",
    "(set|turn) the (volume|sound) level to <n> <in>",
    "!(volume|sound) [at|to] <n> <in>",
    "(turn|bring) (the volume|the sound|it) (up|down) to <n> <in>",
]
COFFEE = [
    "(make|brew|prepare|cook|fix|do) [me|us] [a|some|a fresh|a strong|a cup of|a pot of|two cups of|an|more] (coffee|espresso|cappuccino)",
    "(make|brew|prepare) [some] coffee (for me|for us|for two|for everyone)",
    "start (making|brewing|preparing) [the|some|my] coffee",
    "(turn on|start|switch on) the coffee [pot|machine|maker]",
    "(get|put) [some|the|my] coffee (on|going|started|ready)",
    "have [a|some|my|the] coffee ready [for me|for us]",
    "!I (could use|could do with|could really use|would love|'d kill for|feel like|fancy) [a|some|a cup of|another] coffee",
    "!I (want|need|would like) [to have|to drink|a hot|another] coffee",
    "!(a|one|some|two|another) (coffee|coffees|espresso|cup of coffee) [please|now|for me]",
    "!coffee [please|now|time]",
    "!(can|could|may) I (have|get) [a|some|a cup of] coffee",
    "!(I'm|I am) so (tired|sleepy), (make|I need) some coffee",
]
COFFEE_OFF = [
    "stop (making|brewing) [the] coffee",
    "(turn|switch) off the coffee [pot]",
    "!no more coffee",
    "!coffee off",
]
CLEAN = [
    "(clean|clean up|vacuum|hoover|sweep|mop) <it3> [please]",
    "(start|begin) (the cleaning|cleaning|to clean|the vacuuming) [<in>]",
    "!(there's|there is|there are) (dust|dirt|crumbs|sand|mud|cat hair) [all over|everywhere|on the floor] <in>",
    "!I (need|want) <it3> (cleaned|vacuumed|to be clean)",
    "!<it3> is (a mess|dirty|full of crumbs|dusty|filthy)",
    "(vacuum|hoover|clean) the (carpet|carpets|rug|floor|floors) <in>",
    "(let|make) <t> (do|clean|vacuum) <it3>",
    "!I (need|want) <t> to (clean|vacuum) <it3>",
]
TIMER = [
    "(set|start|make|create|begin) a <nm> timer (for|of) <n>",
    "(set|start|create) a timer (for|of) <n> (for|called|named) [the|my] <nm>",
    "set a <n1> <nm> timer",
    "(set|start|make|begin) (a|the) timer (with|at|for) <n>",
    "(set|start) (a countdown|the countdown|a count down) (for|of|from) <n>",
    "(set|start) timer [for|to] <n>",
    "set (it|the clock) for <n> on the timer",
    "(start|begin) timing <n>",
    "!(new timer|timer please|timer)[:|,] <n>",
    "!<n> timer for (the|my) <nm>",
    "!<nm> timer [for] <n>",
    "!I've got <nm> (on|in the oven), [give me] a timer for <n>",
    "!(give me|I need) <n> [for the <nm>], set a timer",
    "(give|hit|get) me [with] a <n1> timer",
    "let me know (in|after) <n>",
    "tell me when <n> (is over|are over|have passed|are up)",
    "(wake|remind|ping|buzz) me in <n>",
    "make it a <n1> timer",
]
TIMER_OFF = [
    "(cancel|stop|delete|clear|end|remove|reset|turn off) (the|my) <nm> timer",
    "(cancel|stop|delete|clear) (all|all the|all my|the|my) timers",
    "(cancel|stop|end) (the|that|this) (running timer|countdown|running countdown)",
    "(stop|cancel) timing",
    "!(you can|please) (stop|cancel|end) (the|that|this) timer [now]",
    "!forget (about the|that|my) timer",
    "~drop the timer",
]
THERMOSTAT_ON = [
    "(put|turn|switch) on the (heat|heating) <in>",
    "heat <it2>",
    "start heating <it2>",
    "!I want that the heating goes on <in>",
]
LOCK = ["lock <t> [with the key]", "bolt <t> [shut]", "(close|shut) <t> with [the|a] key", "make <t> safe, lock it"]
