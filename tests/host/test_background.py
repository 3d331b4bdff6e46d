"""Background: a job is done or counted, whenever it comes."""

import threading

from tunrex_jax_monitor.host.background import Background


def test_a_step_that_comes_behind_the_end_is_counted(monkeypatch):
    lost, done = [], []
    background = Background("jobs", lambda: lost.append(1))
    put = background._lane.put

    def end_first(job):
        threading.Thread(target=background.close, args=(30.0,)).start()
        assert background._lane.join(30.0)
        put(job)

    monkeypatch.setattr(background._lane, "put", end_first)
    background.put(lambda: done.append(1), holds_step=True)
    assert (lost, done) == ([1], [])


def test_a_step_that_waits_behind_the_end_is_counted_by_close():
    lost = []
    background = Background("jobs", lambda: lost.append(1))
    background._lane.end()
    background._lane.put((print, True))
    background._lane.put((print, False))
    assert background.close(30.0)
    assert lost == [1]
