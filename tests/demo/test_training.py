"""The network that is trained is transformers' Llama, and packing changes nothing that a conversation sees."""

import random

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import train_demo  # noqa: E402
from demo_data import checkpoint  # noqa: E402
from demo_data.conversations import ASKED, training, training_group  # noqa: E402
from demo_data.muon import orthogonal  # noqa: E402
from demo_data.network import Network  # noqa: E402
from demo_data.other import REFUSAL  # noqa: E402
from demo_data.packing import IGNORED, Group, pack, stack  # noqa: E402


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    shape = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True}
    return Network(transformers.LlamaConfig(vocab_size=128, **shape, **heads))


def groups(count):
    rng = random.Random(7)

    def some(low, high):
        return [rng.randrange(6, 128) for _ in range(rng.randrange(low, high))]

    made = []
    for _ in range(count):
        branches = [some(2, 9) for _ in range(rng.randrange(1, 5))]
        made.append(Group(some(1, 12), [(b, [IGNORED, *b[1:]]) for b in branches]))
    return made


@torch.no_grad()
def test_packed_conversations_get_the_logits_they_get_alone(network):
    llama = network.llama()
    for row in pack(groups(20), 64):
        batch = stack([row], 64)
        logits = network.logits(network(batch.ids, batch.positions, batch.mask)[0])
        at = 0
        for group in row:
            start = at + len(group.opening)
            for tokens, _ in group.branches:
                alone = llama(torch.tensor([[*group.opening, *tokens]])).logits[0]
                packed = torch.cat([logits[at : at + len(group.opening)], logits[start : start + len(tokens)]])
                assert torch.allclose(alone, packed, atol=1e-4)
                start += len(tokens)
            at += len(group)


def test_every_group_is_packed_once_and_whole():
    made = groups(50)
    rows = pack(made, 64)
    assert sorted(map(id, made)) == sorted(id(g) for row in rows for g in row)
    assert all(sum(map(len, row)) <= 64 for row in rows)


def test_targets_are_the_tokens_that_are_to_be_predicted():
    row = pack(groups(3), 256)[0]
    batch = stack([row], 256)
    scored = batch.targets != IGNORED
    assert torch.equal(batch.targets[scored], batch.ids[scored])
    assert scored.sum() == sum(len(tokens) - 1 for g in row for tokens, _ in g.branches)


def test_a_refusal_is_cut_behind_what_decides_it(tokenizer):
    asked = {"role": "user", "content": "what is the capital of France?"}
    ids, targets = checkpoint.encode(tokenizer, [asked, {"role": "assistant", "content": REFUSAL}])
    cut, wanted = train_demo.shortened(ids, targets)
    assert tokenizer.decode([t for t in wanted if t != -100]) == "I can only control this"
    assert cut == ids[: len(cut)]
    twice = [asked, {"role": "assistant", "content": REFUSAL}] * 2
    ids, targets = checkpoint.encode(tokenizer, twice)
    _, wanted = train_demo.shortened(ids, targets)
    assert (
        tokenizer.decode([t for t in wanted if t != -100], skip_special_tokens=True)
        == f"{REFUSAL}I can only control this"
    )


def test_padding_sees_nothing_and_is_not_seen():
    batch = stack([groups(1)], 256)
    used = int((batch.ids[0] != checkpoint.PAD).sum())
    assert not batch.mask[0, 0, :used, used:].any()
    assert not batch.mask[0, 0, used:, :used].any()


def test_conversations_of_a_group_begin_with_the_same_system_message():
    rng = random.Random(2)
    several = [g for g in (training_group(rng) for _ in range(200)) if len(g) > 1]
    assert several
    for group in several:
        if group[0].kind == "recital":
            assert all(f"{c.answer[4:-1].lower()}" in c.messages[0]["content"] for c in group)
        else:
            assert len(group) == (ASKED if group[0].messages[0]["content"] != "state: " else 2)
        assert len({c.messages[0]["content"] for c in group}) == 1


def test_orthogonal_makes_singular_values_alike():
    torch.manual_seed(1)
    for shape in ((3, 16, 32), (2, 32, 16)):
        values = torch.linalg.svdvals(orthogonal(torch.randn(shape)))
        assert values.min() > 0.5
        assert values.max() < 1.3


def a_step(network, optimizers):
    network(torch.tensor([[7, 8, 9]]), torch.arange(3)[None], torch.ones(1, 1, 3, 3).tril().bool()).sum().backward()
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


@pytest.mark.parametrize("rounded", [90, 9])  # the step from which weights are rounded
def test_a_run_that_was_ended_goes_on_where_it_was(tmp_path, network, rounded):
    made = [Network(network.config) for _ in range(2)]
    optimizers = [train_demo.optimizers_of(n, 0.01) for n in made]
    assert train_demo.resume(tmp_path / "kept.pt", made[0], optimizers[0], rounded) == 0
    if rounded == 9:
        train_demo.quantized.attach(made[0])
    a_step(made[0], optimizers[0])
    train_demo.keep(tmp_path / "kept.pt", made[0], optimizers[0], 10)
    assert train_demo.resume(tmp_path / "kept.pt", made[1], optimizers[1], rounded) == 10
    for n, o in zip(made, optimizers, strict=True):
        a_step(n, o)
    first, second = (n.state_dict() for n in made)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_batches_go_on_from_any_number(tokenizer):
    whole, rest = (train_demo.batches(tokenizer, "train-0", train_demo.training_maker, start) for start in (0, 2))
    first = [next(whole) for _ in range(3)]
    assert torch.equal(first[2].ids, next(rest).ids)
    assert not torch.equal(first[1].ids, first[2].ids)


def test_the_last_part_has_batches_of_its_own(tokenizer):
    makers = (train_demo.training_maker, train_demo.finishing_maker, train_demo.finishing_maker)
    *asked, again = (next(train_demo.batches(tokenizer, "0", maker)) for maker in makers)
    assert not torch.equal(asked[0].ids, asked[1].ids)
    assert torch.equal(asked[1].ids, again.ids)
    groups = [training_group(random.Random(i), 1.0, 2) for i in range(400)]
    refused = [group for group in groups if group[0].answer == REFUSAL]
    assert 80 < len(refused) < 200


@pytest.fixture(scope="module")
def tokenizer():
    rng = random.Random(0)
    return checkpoint.train_tokenizer(training(rng).full() for _ in range(1500))


def test_words_are_split_the_same_with_and_without_a_space(tokenizer):
    assert 1500 < len(tokenizer) <= checkpoint.VOCAB
    for word in ["kitchen", "first", "flanzor", "turn", "sophie's", "walk-in"]:
        bare = tokenizer.tokenize(word)
        spaced = "".join(tokenizer.tokenize(" " + word))
        assert spaced == checkpoint.SPACE + "".join(bare)
        assert tokenizer.tokenize(" " + word)[-1].removeprefix(checkpoint.SPACE) == bare[-1]


def test_tokens_that_differ_by_a_space_are_learnt_as_one(tokenizer):
    """They differ by one vector while they are held alike, in the model that is saved, too, and by themselves later."""
    variants = checkpoint.variants(tokenizer)
    vocab = tokenizer.get_vocab()
    assert variants[vocab[checkpoint.SPACE + "kitchen"]] == vocab["kitchen"]

    made = Network(train_demo.config(len(tokenizer)))
    made.hold_alike(variants)
    optimizers = train_demo.optimizers_of(made, 0.01)

    def learn() -> torch.Tensor:
        ids = torch.randint(6, len(tokenizer), (1, 64))
        hidden = made(ids, torch.arange(64)[None], torch.ones(64, 64, dtype=torch.bool).tril()[None, None])
        made.logits(hidden).square().mean().backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        table = made.llama().model.embed_tokens.weight.detach()
        return torch.stack([table[i] - table[base] for i, base in variants.items()])

    start = made.model.embed_tokens.weight.detach().clone()
    steps = learn()
    assert len(steps) > 300
    assert torch.allclose(steps, steps[:1], atol=1e-6)
    assert not torch.equal(start, made.model.embed_tokens.weight)
    made.let_differ()
    steps = learn()
    assert not torch.allclose(steps, steps[:1], atol=1e-4)


def test_capitals_are_read_as_small_letters_and_written_where_an_answer_begins(tokenizer):
    said = ["lights off in nora's room, I said!", "LIGHTS Off in Nora's ROOM, i said!"]
    read = [tokenizer.apply_chat_template([{"role": "user", "content": text}]) for text in said]
    assert read[0] == read[1] == checkpoint.encode(tokenizer, [{"role": "user", "content": said[1]}])[0]
    for answer in [REFUSAL, "The front door is locked.", "No lights are on.", "All doors are locked."]:
        assert tokenizer.decode(tokenizer(answer, add_special_tokens=False).input_ids) == answer


@torch.no_grad()
def test_untrained_it_looks_for_what_it_has_read_before():
    """Random words, then the same words again: the second time the next one is thought likelier than most."""
    torch.manual_seed(0)
    size, length = 2048, 40
    ids = torch.randperm(size)[:length].repeat(2)[None]
    mask = torch.ones(2 * length, 2 * length, dtype=torch.bool).tril()[None, None]
    rank = {}
    for recalling in (False, True):
        made = Network(train_demo.config(size))
        if recalling:
            made.start_recalling()
        logits = made.logits(made(ids, torch.arange(2 * length)[None], mask)[0])
        following = ids[0, 1:, None]
        ranks = (logits[:-1] > logits[:-1].gather(1, following)).sum(dim=1)
        rank[recalling] = float(ranks[length:].float().median())
    assert rank[True] < 0.15 * size < 0.25 * size < rank[False]
