"""examples/android: as far as it can be checked without an Android SDK."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

EXAMPLE = Path(__file__).parents[1] / "examples" / "android"
MAIN = EXAMPLE / "app" / "src" / "main"
ANDROID = "{http://schemas.android.com/apk/res/android}"
# Methods of onnxruntime-genai's Java classes that the example may call, by its sources (src/java in its repository).
JAVA = {
    "tokenizer": {"updateOptions", "applyChatTemplate", "encode", "createStream", "close"},
    "sequences": {"getSequence"},
    "params": {"setSearchOption"},
    "generator": {"appendTokenSequences", "isDone", "generateNextToken", "getLastTokenInSequence"},
    "stream": {"decode"},
    "model": {"close"},
}


def sources() -> dict[str, str]:
    files = [path for path in EXAMPLE.rglob("*.kt*") if path.suffix in (".kt", ".kts") and "build" not in path.parts]
    return {str(path.relative_to(EXAMPLE)) if path.suffix == ".kts" else path.name: path.read_text() for path in files}


def test_brackets_are_closed() -> None:
    assert len(sources()) == 5
    for name, text in sources().items():
        code = re.sub(r'""".*?"""|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\])+\'|//[^\n]*|/\*.*?\*/', "", text, flags=re.S)
        open_brackets: list[str] = []
        for character in code:
            if character in "([{":
                open_brackets.append(")]}"["([{".index(character)])
            elif character in ")]}":
                assert open_brackets, name
                assert open_brackets.pop() == character, name
        assert not open_brackets, name


def test_resources_are_there() -> None:
    layout = ElementTree.parse(MAIN / "res/layout/main.xml")
    ids = {e.attrib[f"{ANDROID}id"].removeprefix("@+id/") for e in layout.iter() if f"{ANDROID}id" in e.attrib}
    strings = {e.attrib["name"] for e in ElementTree.parse(MAIN / "res/values/strings.xml").iter("string")}
    text = "".join(sources().values())
    assert set(re.findall(r"R\.id\.(\w+)", text)) == ids
    used = set(re.findall(r"R\.string\.(\w+)", text)) | set(
        re.findall(r"@string/(\w+)", (MAIN / "res/layout/main.xml").read_text())
    )
    assert used == strings


def test_the_app_asks_for_nothing() -> None:
    root = ElementTree.parse(MAIN / "AndroidManifest.xml").getroot()
    assert not list(root.iter("uses-permission"))
    (activity,) = root.iter("activity")
    assert f"class {activity.attrib[f'{ANDROID}name'].removeprefix('.')} " in sources()["MainActivity.kt"]


def test_calls_are_those_of_onnxruntime_genai() -> None:
    text = sources()["EdgeBundle.kt"]
    for name, methods in JAVA.items():
        assert set(re.findall(rf"\b{name}\.(\w+)", text)) <= methods, name
