"""Command templates for doors, covers, sound, cleaning, kitchen and timers; `templates` explains the notation."""

from __future__ import annotations

LOCK = [
    "lock <t>",
    "lock <t>",
    "lock up <t>",
    "lock <t> up",
    "(secure|bolt) <t>",
    "make sure <t> <is> locked",
    "get <t> locked",
    "keep <t> locked",
    "put the lock on <t>",
    "set <t> to locked",
    "!<t> locked",
    "!<t> lock",
    "!I (want|need|'d like|would like) <t> [to be] locked",
    "!<t> (should|must|needs to|has to) be locked",
    "!let's lock <t>",
    "~have <t> locked",
    "~see to it that nobody gets through <t>, lock it",
    "~!don't forget to lock <t>",
]
UNLOCK = [
    "unlock <t>",
    "unlock <t>",
    "(unbolt|unlatch) <t>",
    "take the lock off <t>",
    "open the lock (on|of) <t>",
    "release the lock (on|of) <t>",
    "make sure <t> <is> unlocked",
    "get <t> unlocked",
    "leave <t> unlocked",
    "set <t> to unlocked",
    "!<t> unlocked",
    "!<t> unlock",
    "!I (want|need|'d like|would like) <t> [to be] unlocked",
    "!<t> (should|must|needs to|has to) be unlocked",
    "!let's unlock <t>",
    "!someone is at the door, unlock <t>",
    "~have <t> unlocked",
    "~!don't forget to unlock <t>",
]
OPEN = [
    "open <t>",
    "open <t>",
    "open up <t>",
    "open <t> [up] [completely|fully|all the way|wide]",
    "fully open <t>",
    "raise <t>",
    "get <t> open",
    "put <t> up",
    "leave <t> open",
    "make sure <t> <is> open",
    "set <t> to open",
    "!<t> open",
    "!<t> up",
    "!I (want|need|'d like|would like) <t> [to be] open",
    "!<t> (should|must|needs to) be open",
    "!(can|could) we have <t> open",
    "~have <t> opened",
    "~!don't forget to open <t>",
    "~!let's get <t> open",
]
CLOSE = [
    "(close|shut) <t>",
    "(close|shut) <t>",
    "close up <t>",
    "(close|shut) <t> [completely|fully|all the way]",
    "fully close <t>",
    "lower <t>",
    "get <t> closed",
    "put <t> down",
    "leave <t> (closed|shut)",
    "make sure <t> <is> (closed|shut)",
    "set <t> to closed",
    "!<t> (closed|shut|close)",
    "!<t> down",
    "!I (want|need|'d like|would like) <t> [to be] (closed|shut)",
    "!<t> (should|must|needs to) be (closed|shut)",
    "!why <is> <t> open, close <t>",
    "~have <t> (closed|shut)",
    "~!don't forget to (close|shut) <t>",
    "~!let's get <t> closed",
]
BLINDS_OPEN = [
    "pull up <t>",
    "pull <t> up",
    "roll up <t>",
    "get <t> up",
    "roll <t> up",
    "draw back <t>",
    "let the sun in <in>",
]
BLINDS_OPEN += ["let (some|the) daylight in <in>", "~draw <t> open", "pull <t> open", "raise <t> all the way"]
BLINDS_CLOSE = [
    "pull down <t>",
    "pull <t> down",
    "roll down <t>",
    "get <t> down",
    "roll <t> down",
    "draw <t>",
    "pull <t> (shut|closed)",
]
BLINDS_CLOSE += ["keep the sun out <in>", "block the sun <in>", "~draw <t> (closed|shut)", "lower <t> all the way"]
POSITION = [
    "(set|put|move|adjust) <t> to <n>",
    "open <t> [to] <n>",
    "(raise|lower|bring) <t> to <n>",
    "set <t> (at|to) <n> open",
    "open <t> up to <n>",
    "make <t> <n> open",
    "!<t> (at|to) <n>",
    "!<t> <n> [open]",
    "!I (want|'d like|would like) <t> <n> open",
    "!<t> should be <n> open",
    "~have <t> stand at <n>",
    "~!<n> open is right for <t>",
]
SPEED = [
    "set <t> to <n> [speed]",
    "set <t> on <n>",
    "set <t> speed to <n>",
    "set the speed of <t> to <n>",
    "(put|run|turn) <t> (on|to|at) <n> [speed]",
    "turn <t> (up|down) to <n>",
    "turn on <t> (at|on) <n>",
    "turn <t> on (at|to) <n>",
    "switch <t> to <n>",
    "change <t> [speed] to <n>",
    "!<t> (to|on|at) <n> [speed]",
    "!<t> <n>",
    "!<n> speed (for|on) <t>",
    "!<n> for <t>",
    "!I (want|'d like|would like) <t> (on|at) <n>",
    "~let <t> spin at <n>",
    "~!<n> on <t>",
]
FASTER = [
    "make <t> [a bit|a little|slightly] (faster|stronger|quicker)",
    "(speed up|turn up) <t> [a bit|a little]",
    "turn <t> up [a bit|a little]",
    "(increase|raise) <t> speed",
    "(increase|raise) the speed of <t>",
    "!<t> [a bit|a little] (faster|stronger)",
    "!more air from <t>",
    "~!<t> could be [a bit|a little] (faster|stronger)",
]
SLOWER = [
    "make <t> [a bit|a little|slightly] (slower|weaker|gentler)",
    "(slow down|turn down|slow) <t> [a bit|a little]",
    "turn <t> down [a bit|a little]",
    "(decrease|lower|reduce) <t> speed",
    "(decrease|lower|reduce) the speed of <t>",
    "!<t> [a bit|a little] (slower|weaker)",
    "!<t> <is> too (fast|strong)",
    "~!<t> could be [a bit|a little] (slower|gentler)",
]
VOLUME = [
    "set <v> to <n>",
    "set <v> (at|on) <n>",
    "(turn|put) <v> (up|down) to <n>",
    "(change|adjust|raise|lower|increase|reduce|bring|drop) <v> to <n>",
    "turn (up|down) <v> to <n>",
    "put <v> (at|on|to) <n>",
    "!<v> (to|at) <n>",
    "!<v> <n>",
    "!I (want|'d like|would like) <v> (at|on) <n>",
    "!<v> should be (at|on) <n>",
    "~let <v> go to <n>",
    "~!<n> for <v>",
]
LOUDER = [
    "turn up <v> [a bit|a little]",
    "turn <v> up [a bit|a little|a notch|some]",
    "(increase|raise|boost) <v> [a bit]",
    "make <t> [a bit|a little|slightly|much] louder",
    "crank up <v>",
    "crank <v> up",
    "!<t> [a bit|a little] louder",
    "!louder <t>",
    "!<v> (up|higher) [a bit|a little]",
    "!(I|we) (can't|cannot|can hardly|can barely) hear <t>",
    "!<t> <is> (too quiet|not loud enough|hard to hear)",
    "~!<t> could be [a bit|a little] louder",
    "give <t> (a bit|some|a little) more (volume|sound)",
    "(put|push) (some|a little|a bit) more volume on <t>",
    "~add a bit of volume on <t>",
]
QUIETER = [
    "turn down <v> [a bit|a little]",
    "turn <v> down [a bit|a little|a notch|some]",
    "(decrease|lower|reduce) <v> [a bit]",
    "make <t> [a bit|a little|slightly|much] (quieter|softer|less loud)",
    "!<t> [a bit|a little] (quieter|softer)",
    "!quieter <t>",
    "!<v> (down|lower) [a bit|a little]",
    "!<t> <is> [way|a bit|so|much] too (loud|noisy)",
    "!<t> <is> (so|very|really) loud",
    "!<t> too loud",
    "~!<t> could be [a bit|a little] quieter",
    "give <t> (a bit|some|a little) less (volume|sound)",
    "(cut|knock|shave) (a bit of|some|a little) (volume|sound) (off|from) <t>",
    "~take a bit of volume off <t>",
]
SPEAKER_QUIETER = [
    "turn it down <in>",
    "turn it down [a bit|a little] <in>",
    "!(quieter|softer|not so loud) <in>",
    "!a (bit|little) quieter <in>",
    "!(it's|it is) [way|a bit|much] too (loud|noisy) <in>",
]
SPEAKER_LOUDER = [
    "turn it up <in>",
    "turn it up [a bit|a little] <in>",
    "crank it up <in>",
    "!louder <in>",
    "!a (bit|little) louder <in>",
    "!(it's|it is) [a bit] too quiet <in>",
]
MUTE = ["mute <t>", "mute <t>", "put <t> on mute", "silence <t>", "(turn|switch|cut) off the sound (on|of) <t>"]
MUTE += ["cut the sound of <t>", "!I don't want [any|a] sound from <t>", "!<t> without sound"]
MUTE += ["!<t> (mute|on mute|muted)", "set <t> to mute", "!I want <t> muted", "~!no sound from <t>", "!mute on <t>"]
UNMUTE = ["unmute <t>", "unmute <t>", "take <t> off mute", "(turn|switch) the sound (on|of) <t> back on"]
UNMUTE += ["let me hear <t> again", "bring back the sound (of|on) <t>", "!<t> with sound again"]
UNMUTE += ["!<t> unmute", "!<t> off mute", "give <t> its sound back", "~!I want to hear <t> again", "!unmute on <t>"]
CHANNEL = [
    "(change|switch|set|turn|put) <t> to channel <n>",
    "(put|turn) on channel <n> on <t>",
    "(go|switch|change) to channel <n> on <t>",
    "put channel <n> on <t>",
    "tune <t> to channel <n>",
    "!channel <n> on <t>",
    "!<t> [to|on] channel <n>",
    "!I (want|'d like) to watch channel <n> on <t>",
    "~flip <t> over to channel <n>",
]
PLAY = [
    "(play|start) [some|the|my] music <in>",
    "put on [some|the] (music|tunes|songs) <in>",
    "(play|put on) (a song|some songs|some tunes|something) <in>",
    "(resume|continue|unpause) [the] (music|playback|song) <in>",
    "play music on <t>",
    "start playing [music] (on|from) <t>",
    "turn on (the|some) music <in>",
    "turn the music on <in>",
    "!music on <in>",
    "!(I|we) want [to hear|to listen to] [some] music <in>",
    "!let's (hear|have|play) some music <in>",
    "!(can|could) we have some music <in>",
    "!music please <in>",
    "~let the music start <in>",
    "~!a little music would be nice <in>",
]
PAUSE = [
    "(stop|pause|halt) [the|this|my] (music|song|playback|tune) <in>",
    "(stop|pause) <t>",
    "turn off the music <in>",
    "turn the music off <in>",
    "stop playing [music] <in>",
    "stop playing music (on|from) <t>",
    "!music off <in>",
    "!no more music <in>",
    "!I (don't|do not) want [any|to hear any] music <in>",
    "~let the music end <in>",
    "~!enough music for now <in>",
]
NEXT = [
    "(play|go to|skip to) the next (song|track|tune) <in>",
    "skip (this|the) (song|track|tune) <in>",
    "!next (song|track) <in>",
    "skip to the next one <in>",
    "!I (don't like|hate) this song, (skip it|next) <in>",
    "next track on <t>",
    "~jump (forward one song|to the following song) <in>",
]
PREVIOUS = [
    "(play|go to|go back to) the (previous|last) (song|track|tune) <in>",
    "!(previous|last) (song|track) <in>",
    "go back (a|one) (song|track) <in>",
    "previous track on <t>",
    "play that [last] song again <in>",
    "~jump back one (song|track) <in>",
]
VACUUM_START = [
    "(start|run|launch) <t> <in>",
    "(vacuum|hoover|clean|sweep) <it3>",
    "(start|begin) (vacuuming|cleaning|hoovering) <it3>",
    "send <t> to clean <it3>",
    "have <t> clean <it3>",
    "let <t> (run|clean) <in>",
    "get <t> going <in>",
    "turn on <t> <in>",
    "clean <it3> with <t>",
    "!<it3> (needs|has to be) (vacuuming|vacuumed|cleaning|cleaned)",
    "!(it's|the floor is) [so|really|very] (dirty|dusty) <in>",
    "!time to (vacuum|hoover|clean) <it3>",
    "~give <it3> a (clean|sweep|vacuum)",
    "~!there is dirt on the floor <in>",
]
VACUUM_STOP = ["(stop|pause|halt) <t>", "stop (vacuuming|cleaning|hoovering)", "turn off <t>", "turn <t> off"]
VACUUM_STOP += ["!no more (vacuuming|cleaning|hoovering)", "make <t> stop", "~!<t> should stop", "!<t> (stop|off)"]
DOCK = ["send <t> (home|back|back home|to its dock|to the dock|to its base|to charge)", "dock <t>"]
DOCK += [
    "(return|bring) <t> to (its|the) (dock|base|charger|station|charging station)",
    "!<t> (go home|home|back home)",
]
DOCK += ["!<t> (should|can) go (home|back)", "let <t> go home", "~have <t> drive to its dock", "recharge <t>"]
UNDOCK = [
    "undock <t>",
    "get <t> (out of|off) (its|the) (dock|base|charger)",
    "!<t> out of the dock",
    "~!<t> off its dock",
]
ARM = ["arm <t>", "arm <t>", "(set|activate|enable|turn on|switch on) <t>", "(turn|switch) <t> on", "!<t> (on|armed)"]
ARM += ["make sure <t> is (armed|on|set)", "put <t> on", "!I want <t> (armed|on)", "~get <t> armed", "secure the house"]
ARM += ["~!don't forget to arm <t>", "!<t> should be (armed|on)", "set <t> to armed", "arm the (house|home)"]
DISARM = ["disarm <t>", "disarm <t>", "(deactivate|disable|turn off|switch off) <t>", "(turn|switch) <t> off"]
DISARM += ["!<t> (off|disarmed)", "make sure <t> is (disarmed|off)", "stop <t>", "!I want <t> (disarmed|off)"]
DISARM += ["~get <t> disarmed", "~!don't forget to disarm <t>", "!<t> should be (disarmed|off)", "set <t> to disarmed"]
OVEN = ["(preheat|heat|heat up|set|turn|put) <t> to <n>", "preheat to <n>", "!<t> (to|at|on) <n>", "!<t> <n>"]
OVEN += [
    "(turn|switch) on <t> (to|at) <n>",
    "(turn|switch) <t> on (to|at) <n>",
    "!I need <t> at <n>",
    "put <t> (on|at) <n>",
]
OVEN += ["~get <t> up to <n>", "set <t> temperature to <n>", "!<t> should be at <n>", "~!<n> in <t>"]
COFFEE_ON = ["make [me|us] [a|some|a cup of] coffee", "brew [me|us] [a|some|a pot of] coffee", "start [the|my] coffee"]
COFFEE_ON += [
    "!I (want|need|would like|'d like) [a|some|a cup of] coffee",
    "~!a coffee would be nice",
    "get [the] coffee going",
]
KETTLE_ON = ["(boil|heat) [some|the] water", "put the kettle on", "boil the kettle", "~!I'd like some tea water"]
SPRINKLERS_ON = [
    "water the garden",
    "water (the|my|our) (plants|lawn|garden|grass|flowers)",
    "start watering the (garden|lawn|plants)",
]
SPRINKLERS_OFF = ["stop watering the (garden|lawn|plants|grass)", "stop watering"]
WASH_ON = ["start [a|the] wash", "do the laundry", "start the laundry", "run a wash"]
DISH_ON = ["(wash|do) the dishes", "start the dishes", "run the dishes"]
TIMER = [
    "set a timer (for|of|to) <n>",
    "set a <n1> timer",
    "set the timer (to|for) <n>",
    "start a timer (for|of) <n>",
    "start a <n1> timer",
    "give me a <n1> timer",
    "(create|make|add|put on) a timer (for|of) <n>",
    "remind me in <n>",
    "wake me [up] in <n>",
    "(alert|ping|tell|notify) me (in|after) <n>",
    "count down <n>",
    "count down from <n>",
    "time <n>",
    "!timer [for|of] <n>",
    "!<n1> timer",
    "!<n> timer",
    "!<n> on the timer",
    "!I (want|need|'d like) a timer for <n>",
    "!I (want|need) a <n1> timer",
    "~let me know when <n> have passed",
    "~begin a countdown of <n>",
]
TIMER_OFF = ["(cancel|stop|delete|clear|turn off|end|kill|remove) (the|my) timer", "turn (the|my) timer off"]
TIMER_OFF += ["!no more timer", "!I don't need the timer (anymore|any more)", "!timer off", "!forget the timer"]
TIMER_OFF += ["~get rid of the timer", "!cancel timer", "switch off the timer", "!stop timer"]
