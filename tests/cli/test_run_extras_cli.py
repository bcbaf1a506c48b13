"""``edgelm run``: penalties, biases, log-probabilities, several texts, echo, and a ceiling on memory."""

from __future__ import annotations

import json

import pytest

FEW = ("-p", "lamp", "--max-tokens", "5", "--temperature", "0")


@pytest.fixture
def run(edgelm, tiny_bundle):
    def call(*options: object):
        ended = edgelm("run", tiny_bundle.path, *FEW, "--json", *options)
        assert ended.code == 0, ended.err
        return json.loads(ended.out)

    return call


def test_logprobs_stand_in_the_json(run):
    answer = run("--logprobs", "2")
    assert len(answer["logprobs"]) == answer["completion_tokens"] == 5
    for record in answer["logprobs"]:
        assert record.keys() == {"token", "text", "logprob", "top"}
        assert record["top"][0]["token"] == record["token"]  # greedy
        assert record["top"][0]["logprob"] >= record["top"][1]["logprob"]
    assert "logprobs" not in run()


def test_biases_and_penalties_reach_the_library(run):
    first = run("--logprobs", "0")["logprobs"][0]["token"]
    assert run("--logprobs", "0", "--logit-bias", f"{first}=-inf")["logprobs"][0]["token"] != first
    same = ("--logprobs", "0", "--logit-bias", "70=10000", "--logit-bias", "71=9900")
    assert [r["token"] for r in run(*same)["logprobs"]] == [70] * 5
    assert [r["token"] for r in run(*same, "--presence-penalty", "1000")["logprobs"]][:2] == [70, 71]
    assert [r["token"] for r in run(*same, "--frequency-penalty", "1000")["logprobs"]][:3] == [70, 71, 70]


def test_several_texts(edgelm, tiny_bundle, run):
    answer = run("--n", "3", "--temperature", "1", "--seed", "4")
    texts = [completion["text"] for completion in answer["completions"]]
    assert texts == [run("--temperature", "1", "--seed", str(4 + i))["text"] for i in range(3)]
    assert answer["completions"][1]["usage"]["cached_tokens"] > 0
    ended = edgelm("run", tiny_bundle.path, *FEW, "--n", "2")
    assert ended.out.count("---\n") == 1


def test_echo(run):
    plain, echoed = run()["text"], run("--echo")["text"]
    assert echoed.endswith(plain)
    assert "lamp" in echoed.removesuffix(plain)


def test_a_ceiling_on_memory(edgelm, tiny_bundle):
    ended = edgelm("run", tiny_bundle.path, *FEW, "--max-memory", "1")
    assert (ended.code, ended.out) == (1, "")
    assert ended.err.startswith("error: 1 MB are too little: this bundle needs ")
    assert edgelm("run", tiny_bundle.path, *FEW, "--max-memory", "100000").code == 0


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--logit-bias", "x"], 2, "error: invalid value for '--logit-bias': 'x' is not ID=BIAS"),
        (["--logit-bias", "99999=1"], 1, "error: logit_bias: the model has no token 99999"),
        (["--n", "0"], 1, "error: n must be an integer, 1 or more and at most 1,024, not 0"),
        (["--logprobs", "-1"], 1, "error: top_logprobs must be an integer from 0 to 100"),
        (["--max-memory", "0"], 1, "error: max_memory_mb must be a number above 0"),
        (["--speculate", "yes"], 2, "error: invalid value for '--speculate'"),
    ],
)
def test_wrong_options(edgelm, tiny_bundle, options, code, said):
    ended = edgelm("run", tiny_bundle.path, *FEW, *options)
    assert (ended.code, ended.out) == (code, "")
    assert ended.err.startswith(said)
