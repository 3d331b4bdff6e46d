"""Pool: no sample is lost, none is counted twice, and what belongs together stays together."""

import copy
import threading

import numpy as np
import pytest

from tunrex_jax_monitor.host import pool
from tunrex_jax_monitor.host.at_work import Work
from tunrex_jax_monitor.host.pool import Pool
from tunrex_jax_monitor.host.round_key import round_key

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


@pytest.mark.parametrize(
    ("name", "batch", "key", "is_left"),
    [
        ("a", 5, 1, True),
        ("b", 5, 1, False),
        ("b", 6, 1, False),  # an object of its own, and the same contents
        ("b", 6, 3, True),  # of the next round
        ("b", 7, 1, True),  # of the other round
    ],
)
def test_a_round_is_left_where_no_function_that_it_lacks_is_at_work_on_it(monkeypatch, name, batch, key, is_left):
    p = Pool(NAMES)
    p.add("train", 1, "a", f(1), 5)
    p.add("train", 2, "b", f(2), 7)
    work = Work(name, batch, key)
    monkeypatch.setattr(pool, "now", lambda: [work])
    assert p.take_left(p.look()[:1]) == ({"train": [{"a": f(1)}]} if is_left else {})


def test_a_round_that_a_coroutine_is_at_work_on_is_not_taken_with_the_step_of_its_thread(monkeypatch):
    p = Pool(NAMES)
    p.add("train", 1, "a", f(1), 5)
    monkeypatch.setattr(pool, "now", lambda: [Work("b", 5, 1)])
    assert p.take() == {}
    assert p.take_left(p.look()) == {}
    p.add("train", 1, "b", f(2), 5)
    assert p.take() == {"train": [{"a": f(1), "b": f(2)}]}


def test_a_function_that_was_given_what_another_is_still_changing_is_of_its_round():
    p = Pool(NAMES)
    p.add("train", 2, "b", f(2))  # began behind the change, and ends first
    p.add("train", 1, "a", f(1), key_after=2)
    assert p.take("none") == {"train": [{"a": f(1), "b": f(2)}]}


def test_columns_of_objects_are_told_apart_by_what_is_in_them():
    """As a data frame makes a new one for each function."""
    first, same, other = (np.array(texts, dtype=object) for texts in (["a", "b"], ["a", "b"], ["a", "c"]))
    assert round_key(first, {}) == round_key(same, {}) != round_key(other, {})


def test_completions_that_are_judged_one_by_one_keep_their_rounds():
    p = Pool(NAMES)
    for name in NAMES:
        for completion in range(5000):
            p.add("train", completion, name, f(completion))
    assert [len(round_) for round_ in p.take("none")["train"]] == [2] * 5000


def test_completions_that_a_function_changes_are_of_the_same_round():
    p = Pool((*NAMES, "c"))
    p.add("train", 1, "a", f(1), key_after=2)
    p.add("train", 2, "b", f(2), key_after=3)  # it got what the first has changed
    p.add("train", 1, "c", f(3))  # it has a list of its own
    assert p.take("none") == {"train": [{"a": f(1), "b": f(2), "c": f(3)}]}


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
    for batch in range(2000):
        p.add("train", 7 + batch % 2 * batch, "a", f(batch), batch)  # of equal contents, and of contents of their own
    assert p.waiting > 900
    assert len(p.take("all")["train"]) == 2000


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
    key = round_key(completions, {})
    assert key == round_key(copy.deepcopy(completions), {}) != round_key(["y"], {})
    assert key == round_key(None, {"prompts": ["p"], "responses": list(completions)})
    assert round_key(None, {"n": 2}) == threading.get_ident()
    chat = [[{"role": "assistant", "content": "2"}]]
    assert round_key(chat, {}) == round_key(copy.deepcopy(chat), {}) != round_key([[{}]], {})
    tokens = np.arange(6).reshape(2, 3)
    assert round_key(tokens, {}) == round_key(tokens.copy(), {}) != round_key(tokens.T, {})
