"""Pool: no sample is lost, none is counted twice, and what belongs together stays together."""

import copy
import threading

import numpy as np
import pytest

from tunrex_jax_monitor.host import pool
from tunrex_jax_monitor.host.pool import Pool

NAMES = ("a", "b")


def f(*values):
    return np.array(values, np.float32)


def test_a_round_is_full_when_every_reward_is_there():
    p = Pool(NAMES)
    p.add("train", 1, "a", f(1))
    assert p.waiting == 0
    p.add("train", 1, "b", f(2))
    assert p.waiting == 1
    assert p.take() == {"train": [{"a": f(1), "b": f(2)}]}
    assert p.take() == {}


def test_a_repeated_reward_begins_a_new_round():
    p = Pool(NAMES)
    for value in (1, 2):
        p.add("train", 1, "a", f(value))
    assert p.take("none") == {"train": [{"a": f(1)}]}
    assert p.take("mine") == {"train": [{"a": f(2)}]}


def test_modes_and_keys_are_kept_apart():
    p = Pool(NAMES)
    for name in NAMES:
        for mode, key in (("train", 1), ("eval", 1), ("train", 2)):
            p.add(mode, key, name, f(key))
    taken = p.take()
    assert [len(taken[mode]) for mode in ("train", "eval")] == [2, 1]


def on_a_thread(action, *arguments):
    thread = threading.Thread(target=action, args=arguments)
    thread.start()
    thread.join()


def test_what_another_thread_goes_on_with_is_not_left():
    p = Pool(NAMES)
    on_a_thread(p.add, "train", 1, "a", f(1))
    assert p.take() == {}
    looks = p.look()
    p.add("train", 1, "b", f(2))
    assert p.take_left(looks) == {}
    assert p.take() == {"train": [{"a": f(1), "b": f(2)}]}


@pytest.mark.parametrize(("at", "is_left"), [((), True), (("a",), True), (("b",), False)])
def test_a_round_is_left_where_its_thread_is_at_no_function_that_it_lacks(monkeypatch, at, is_left):
    p = Pool(NAMES)
    on_a_thread(p.add, "train", 1, "a", f(1))
    monkeypatch.setattr(pool, "functions_of", lambda thread: at)
    assert p.take_left(p.look()) == ({"train": [{"a": f(1)}]} if is_left else {})
    assert p.take("all") == ({} if is_left else {"train": [{"a": f(1)}]})


def test_of_two_rounds_of_equal_contents_each_keeps_its_own():
    p = Pool(NAMES)
    for name in NAMES:
        for batch in (1, 2):
            p.add("train", 7, name, f(batch), batch)
    assert p.take() == {"train": [{"a": f(1), "b": f(1)}, {"a": f(2), "b": f(2)}]}
    for thread_value in (1, 2):  # other objects of the same contents, on two threads

        def both(value=thread_value):
            for name in NAMES:
                p.add("train", 7, name, f(value), id(object()))

        thread = threading.Thread(target=both)
        thread.start()
        thread.join()
    assert p.take("all") == {"train": [{"a": f(1), "b": f(1)}, {"a": f(2), "b": f(2)}]}


def test_rounds_that_nobody_finishes_do_not_pile_up():
    p = Pool(NAMES)
    for batch in range(1000):
        p.add("train", 7, "a", f(batch), batch)
    assert p.waiting > 900
    assert len(p.take("all")["train"]) == 1000


def test_rounds_of_many_threads_stay_whole():
    p, taken, stop = Pool(NAMES), [], threading.Event()

    def produce(producer):
        for i in range(300):
            for name in NAMES:
                p.add("train", producer, name, f(1000 * producer + i))

    def consume():
        while not stop.is_set():
            taken.extend(p.take("none").get("train", []))

    producers = [threading.Thread(target=produce, args=(n,)) for n in range(6)]
    consumer = threading.Thread(target=consume)
    for thread in (consumer, *producers):
        thread.start()
    for thread in producers:
        thread.join()
    stop.set()
    consumer.join()
    taken.extend(p.take("all").get("train", []))
    assert all(r["a"] == r["b"] for r in taken)
    assert sorted(float(r["a"][0]) for r in taken) == [1000 * n + i for n in range(6) for i in range(300)]


@pytest.mark.parametrize(("lengths", "group", "least", "size"), [((3,), 1, 0, 4), ((3, 5), 4, 0, 16), ((8,), 4, 32, 32),
                                                                ((), 3, 0, 3), ((7,), 3, 0, 12)])  # fmt: skip
def test_join_pads_to_whole_groups_and_masks_what_is_not_there(lengths, group, least, size):
    rounds = [{"a": np.arange(n, dtype=np.float32), "b": np.arange(n - 1, dtype=np.float32)} for n in lengths]
    batch = pool.join(rounds, NAMES, group, least)
    assert batch.values["a"].shape == batch.mask["b"].shape == (size,)
    assert batch.mask["a"].sum() == sum(lengths)
    assert batch.mask["b"].sum() == sum(n - 1 for n in lengths)
    np.testing.assert_array_equal(
        batch.values["a"][batch.mask["a"]], np.concatenate([r["a"] for r in rounds] or [np.empty(0)])
    )
    starts = np.flatnonzero(batch.mask["a"] & (batch.values["a"] == 0))
    assert (starts % group == 0).all()  # every round begins with a group


def test_calls_of_one_round_share_their_key():
    completions = ["x"]
    key = pool.round_key(completions, {})
    assert key == pool.round_key(copy.deepcopy(completions), {}) != pool.round_key(["y"], {})
    assert key == pool.round_key(None, {"prompts": ["p"], "responses": list(completions)})
    assert pool.round_key(None, {"n": 2}) == threading.get_ident()
    chat = [[{"role": "assistant", "content": "2"}]]
    assert pool.round_key(chat, {}) == pool.round_key(copy.deepcopy(chat), {}) != pool.round_key([[{}]], {})
    tokens = np.arange(6).reshape(2, 3)
    assert pool.round_key(tokens, {}) == pool.round_key(tokens.copy(), {}) != pool.round_key(tokens.T, {})
