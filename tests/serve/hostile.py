"""Text that must do nothing in a page: what models write, or a file of chats brings, when someone wants it to act.

Each sets `window.hit`, asks for something from another origin, or leads to a link that a click would run.
"""

from __future__ import annotations

HIT = "window.hit=1"
FAR = "http://203.0.113.7"  # reserved for documentation: nobody answers

HOSTILE = [
    f"<script>{HIT}</script>",
    f"<img src=x onerror='{HIT}'>",
    f"<img src='{FAR}/a.png'>",
    f"<svg onload='{HIT}'><circle r=9></svg>",
    f"<svg><script>{HIT}</script></svg>",
    f"<svg><a xlink:href='javascript:{HIT}'><text y=20>a</text></a></svg>",
    f"<math><mtext><table><mglyph><style><img src=x onerror='{HIT}'></style></mglyph></table></mtext></math>",
    f"<form><math><mtext></form><form><mglyph><style></math><img src=x onerror={HIT}>",
    "<iframe src='javascript:parent.hit=1'></iframe><iframe srcdoc='<script>parent.hit=1</script>'></iframe>",
    f"<iframe src='{FAR}'></iframe><object data='{FAR}'></object><embed src='{FAR}'>",
    f"<video src='{FAR}/v' autoplay><source onerror='{HIT}'></video><audio src={FAR}/a autoplay>",
    f"<link rel=stylesheet href='{FAR}/s.css'><style>@import '{FAR}/t.css';*{{display:none}}</style>",
    f"<meta http-equiv=refresh content='0;url={FAR}'><base href='{FAR}/'>",
    f"<body onload='{HIT}'><details open ontoggle='{HIT}'>a</details>",
    f"<input autofocus onfocus='{HIT}'><select autofocus onfocus='{HIT}'><textarea autofocus onfocus='{HIT}'>",
    f"<div style='position:fixed;inset:0;z-index:999;background:url({FAR}/b)'>cover</div>",
    f"<form action='{FAR}'><input name=attributes><input name=nodeName><button>go</button></form>",
    f"<a href='javascript:{HIT}' id=composer name=input>click</a>",
    f"<template><img src=x onerror='{HIT}'></template><noscript><p title='</noscript><img src=x onerror={HIT}>'>",
    f"[click](javascript:{HIT})",
    f"[click](JaVaScRiPt:{HIT})",
    f"[click](java\tscript:{HIT})",
    f"[click](&#106;avascript:{HIT})",
    f"[click](&#x6A;&#x61;vascript&colon;{HIT})",
    f"[click]( \x01javascript:{HIT})",
    f"[click](vbscript:{HIT}) [click](data:text/html,<script>{HIT}</script>) [click](file:///etc/passwd)",
    f"[click](blob:{FAR}/x) [click](//203.0.113.7/x) [click](/metrics) [click](v1/models)",
    f"<javascript:{HIT}> <data:text/html;base64,PHNjcmlwdD4=>",
    f'[click]({FAR} "onmouseover=\'{HIT}\'") [click](<{FAR}/"onmouseover="{HIT}">)',
    f'[a"onmouseover="{HIT}]({FAR}/q"onmouseover="{HIT}"x=)',
    f"![picture]({FAR}/p.png) ![picture](javascript:{HIT}) ![picture](data:image/svg+xml,<svg/onload={HIT}>)",
    f'![x"onerror="{HIT}](x) ![<img src=x onerror={HIT}>](y "z\'onload=\'{HIT}")',
    f"[![picture]({FAR}/p.png)](javascript:{HIT})",
    f"[ref]\n\n[ref]: javascript:{HIT} 'title'",
    f'```"><img src=x onerror={HIT}>\n</code></pre><script>{HIT}</script>\n```',
    f"```html\n<script>{HIT}</script><img src=x onerror={HIT}>\n```",
    f"```js onload={HIT}\n`</span><img src=x onerror={HIT}>` // <script>{HIT}</script>\n```",
    f"`<img src=x onerror={HIT}>` **<img src=x onerror={HIT}>** # <script>{HIT}</script>",
    f"| a | b |\n|---|---|\n| <img src=x onerror={HIT}> | [x](javascript:{HIT}) |",
    f"- [ ] <img src=x onerror={HIT}>\n- [x] <script>{HIT}</script>",
    f"<think><img src=x onerror={HIT}></think><script>{HIT}</script>",
    f"<!--><img src=x onerror={HIT}>--> <![CDATA[<script>{HIT}</script>]]> <?php {HIT} ?>",
    f"</div></article></main><script>{HIT}</script>",
    f"<custom-element onclick='{HIT}' is=x>c</custom-element><a ping='{FAR}' href='{FAR}'>p</a>",
    "> " * 4000 + "deep",
    "[" * 5000 + "a",
    "*" * 3000 + "a" + "_" * 3000,
]
