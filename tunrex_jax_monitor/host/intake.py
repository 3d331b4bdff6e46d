"""Intake: from calls to states. What reward functions return is collected until a step ends, and then folded in.

Collecting runs on the threads that call the functions, and folding on a thread beside the training. Nothing here raises
into training or waits for a device. A forked child has none of the threads, and takes in nothing.
"""

import atexit
import os
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, SupportsInt

from tunrex_jax_monitor.host.background import Background
from tunrex_jax_monitor.host.collector import Collector, mode_of
from tunrex_jax_monitor.host.ended import EndedStep, EndedSteps
from tunrex_jax_monitor.host.functions import Call
from tunrex_jax_monitor.host.guard import attempt
from tunrex_jax_monitor.host.monitor import RewardMonitor
from tunrex_jax_monitor.host.names import ADVANTAGES
from tunrex_jax_monitor.host.pool import Round, one_by_one, replace
from tunrex_jax_monitor.host.samples import NO_SAMPLE, to_samples
from tunrex_jax_monitor.host.transfer import as_step, hold

_UNSTEPPED = 4096  # rounds that wait for a first end of a step; beyond, every round is a step of its own
_MODES = 8
_SETTLE_SECONDS = 0.02  # from the end of a step until a thread has called its next function, if it does
_SILENT = 10  # steps without a call, from the first on, that are told
_EXIT_SECONDS = 30.0
_COMPILE_SECONDS = 90.0  # beyond those of the sinks: all of a short run may wait for its first step to be compiled


class Intake:
    """Feeds a monitor, and one more for each other mode of calls.

    Args:
      monitor: of the training calls.
      options: arguments of `RewardMonitor` for the others.
      on_step: called with the number of each training step that has been folded in, on the thread beside the training.
      hold: makes the context in which a signal must not interrupt us: who writes then would wait for our locks.

    Attributes:
      side_monitors: a `RewardMonitor` of each other mode of calls ("eval"), and of "advantages".
    """

    def __init__(
        self,
        monitor: RewardMonitor,
        options: Mapping[str, Any],
        on_step: Callable[[int], object],
        hold: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self.side_monitors: dict[str, RewardMonitor] = {}
        self._monitor, self._options, self._on_step = monitor, dict(options), on_step
        self._hold = hold
        self._collector = Collector(monitor.reward_names, self.set_group_size)
        self._background = Background("tunrex-monitor", on_loss=monitor.lose)
        self._has_stepped = self._has_data = False
        self._ended = EndedSteps(self._put)
        self._silent_steps = 0  # ended before there was data
        self._sources: list[Callable[[], object]] = []
        self._pid = os.getpid()
        monitor.closes_at_exit = False  # its first step may still be compiling then, with others behind it
        self._close_at_exit = partial(self.close, _EXIT_SECONDS)
        atexit.register(self._close_at_exit)

    @property
    def is_forked(self) -> bool:
        """Whether this is a child of the process that it was made in."""
        return os.getpid() != self._pid

    def hear(self, call: Call) -> bool:
        """Take in what a reward function returned; False where that cannot be one reward per completion."""
        is_recorded = self._collector.hear(call)
        if not self._has_stepped and self._collector.waiting > _UNSTEPPED:
            for step in one_by_one(self._collector.take("none")):
                self._background.put(partial(self._fold, step, None), holds_step=True)
        return is_recorded

    def end_step(self, step: SupportsInt, reward_values: Mapping[str, Any] | None = None) -> None:
        """End a step: everything since the last one is its data; `reward_values` replace what a function returned."""
        self._ended.hear_owner()
        self.guard(lambda: self._end_step(step, reward_values))

    def end_given_step(
        self, step: SupportsInt, rounds: Mapping[str, list[Round]], completions: Iterable[Any] | None = None
    ) -> None:
        """End a step whose rewards are all given; what the functions returned is left alone from then on.

        For a trainer that knows which rewards belong to which step, also while the next ones are being computed.

        Args:
          step: the trainer's step.
          rounds: by mode, a list of blocks, each samples by name.
          completions: those of the step, as objects, to find its advantages by; all that there are by default.
        """
        self.guard(lambda: self._end_given_step(step, rounds, completions))

    def end_step_of_source(self, step: SupportsInt) -> None:
        """End a step of which a trainer has told the end, and no reward: it hands over none, or does so later."""
        if self._ended.hear_trainer(int(step)):
            self.guard(lambda: self._end_step(step, None, is_trainers=True))

    def expect_given(self, first: int) -> None:
        """Say that rewards are handed over, from this step on: what the functions returned in it comes that way too."""
        if self._ended.expect_given(first):
            self._has_stepped = True
            self._collector.stop_listening()
        else:
            self.tell("The trainer hands over rewards that update_step has ended the steps of; those are counted.")

    def add(self, rewards: Mapping[str, Any], mode: str = "train") -> None:
        """Add one block of samples to the step that is going on, as if the functions had returned them."""
        if not self._ended.are_given:
            self.guard(lambda: self._collector.add(rewards, mode))

    def add_advantages(self, advantages: Any, completions: Any) -> None:
        """Add the advantages of some completions; those of an evaluation are left out."""
        self.guard(lambda: self._collector.add_advantages(advantages, completions))

    def note_mode(self, completions: Any, mode: Any) -> None:
        """Tell of which mode completions are, since what hands over advantages is not told."""
        self.guard(lambda: self._collector.note_mode(completions, mode_of(mode)))

    def expect_steps(self, rest: Callable[[], object] | None = None) -> None:
        """Say that steps will be ended, so that a round of calls is no step by itself; `rest` ends the last ones."""
        self._has_stepped = True
        if rest is not None:
            self._sources.append(rest)
            self._ended.has_trainer = True

    def stop_listening(self) -> None:
        """Leave what the wrapped functions return alone, but for their counters: it comes by `add` as well."""
        self._collector.stop_listening()

    def set_group_size(self, group_size: int) -> None:
        """Tell how many completions a prompt has; no effect once there is data, or where it was given."""
        self._background.put(lambda: self._monitor.set_group_size(group_size))

    def flush(self, timeout_seconds: float, then: Callable[[], object] | None = None) -> None:
        """Wait until what has been handed over so far is in the sinks, and `then` is done behind it."""
        self._background.put(self._flush_all)
        if then is not None:
            self._background.put(then)
        self._background.drain(timeout_seconds)

    def flush_rest(self, timeout_seconds: float) -> None:
        """The same, with what belongs to steps that have not ended: the process is about to."""
        self._end_steps()
        self.flush(timeout_seconds)

    def close(self, timeout_seconds: float) -> None:
        """Fold in what is left, and close the monitors. At the exit of the process too, if need be."""
        if self.is_forked:
            return
        atexit.unregister(self._close_at_exit)
        self._end_steps()
        if not self._background.close(timeout_seconds + _COMPILE_SECONDS):
            self.tell("The reward monitor is still busy with steps before the end; those are missing.")
        self._collector.stop_listening()  # nobody takes what comes from now on
        for monitor in (self._monitor, *self.side_monitors.values()):
            self.guard(partial(monitor.close, timeout_seconds))

    def guard(self, action: Callable[[], object]) -> None:
        """Do something; what it raises is told once, and stops here."""
        if self.is_forked:
            return
        with self._hold():
            _, error = attempt(action)
        if error is not None:
            self.tell(f"The reward monitor failed at one thing and goes on: {type(error).__name__}: {error}")

    def tell(self, message: str) -> None:
        """Log a warning, once."""
        self._collector.tell(message)

    def _flush_all(self) -> None:
        for monitor in (*self.side_monitors.values(), self._monitor):
            monitor.flush()

    def _end_step(
        self, step: SupportsInt, reward_values: Mapping[str, Any] | None, *, is_trainers: bool = False
    ) -> None:
        self._has_stepped = True
        if self._ended.are_given:
            if reward_values:
                self.tell("update_step got reward_values, but the trainer hands over the rewards; they are left out.")
            return
        given = [] if reward_values is None else self._collector.to_rounds(reward_values)
        rounds = self._collector.take() if self._ended.is_sure else self._collector.take_rounds()
        looks = self._collector.look()
        self._has_data = self._has_data or bool(rounds or looks or given)
        if not self._has_data:
            self._count_silent_step()
        self._ended.add(EndedStep(hold(step), rounds, looks, given, time.monotonic(), is_trainers))

    def _put(self, ended: EndedStep) -> None:
        self._background.put(partial(self._fold_step, ended), holds_step=True)

    def _count_silent_step(self) -> None:
        self._silent_steps += 1
        if self._silent_steps == _SILENT:
            self.tell(
                f"{_SILENT} steps have ended, and no reward function was called. Give the trainer what "
                "get_wrapped_reward_functions() returns, or update_step the samples."
            )

    def _end_given_step(
        self, step: SupportsInt, rounds: Mapping[str, list[Round]], completions: Iterable[Any] | None
    ) -> None:
        self.expect_given(int(step))
        if not self._ended.are_given:
            return
        extra = self._collector.take_advantages(completions) if "train" in rounds else {}
        self._background.put(partial(self._fold, {**rounds, **extra}, hold(step)), holds_step=True)

    def _end_steps(self) -> None:
        for rest in self._sources:
            self.guard(rest)
        self._ended.settle()
        self._background.put(self._fold_rest)  # behind steps that wait for what other threads do

    def _fold_rest(self) -> None:
        rounds = self._collector.take_advantages() if self._ended.are_given else self._collector.take("all")
        steps = [rounds] if self._has_stepped else one_by_one(rounds)
        if not self._has_stepped:
            self._tell_of_rounds(rounds)
        for step in filter(None, steps):
            self.guard(partial(self._fold, step, None))

    def _tell_of_rounds(self, rounds: Mapping[str, list[Round]]) -> None:
        if count := len(rounds.get("train", [])):
            self.tell(
                f"update_step was never called: each of {count} rounds of calls is taken for a step. Where a step has "
                "several, call update_step(step) behind them."
            )

    def _fold_step(self, ended: EndedStep) -> None:
        """Fold a step; what another thread began before its end and does not go on with belongs to it."""
        rounds = ended.rounds
        if ended.looks:
            time.sleep(max(0.0, ended.time + _SETTLE_SECONDS - time.monotonic()))
        for mode, left in self._collector.take_left(ended.looks).items():
            rounds.setdefault(mode, []).extend(left)
        if ended.given:
            rounds["train"] = replace(rounds.get("train", []), ended.given[0])
        if rounds:
            self._fold(rounds, ended.step)

    def _fold(self, rounds: Mapping[str, list[Round]], step: SupportsInt | None) -> None:
        """Fold a step into the states, on the thread beside the training."""
        number, error = attempt(lambda: None if step is None else as_step(step))
        if error is not None:
            self.tell(f"{error} Counting on.")
        rounds = {mode: list(map(self._read, given)) for mode, given in rounds.items()}
        if "train" in rounds:
            self._monitor.fold(rounds["train"], number)
        for mode in rounds.keys() - {"train"}:
            self._fold_aside(mode, rounds[mode], self._monitor.global_step if number is None else number)
        if "train" in rounds:
            self._on_step(self._monitor.global_step)

    def _read(self, round_: Round) -> Round:
        """Wait for what lies on a device; what turns out to be no number costs itself."""
        read: Round = {}
        for name, samples in round_.items():
            read[name], error = attempt(partial(to_samples, samples))
            if error is not None:
                read[name] = NO_SAMPLE
                self._collector.tell(f"{name}: a result could not be recorded: {error}", about=f"result {name}")
        return read

    def _fold_aside(self, mode: str, rounds: list[Round], step: int) -> None:
        monitor = self.side_monitors.get(mode)
        if monitor is None:
            if len(self.side_monitors) >= _MODES:
                self.tell(f"Calls of mode {mode!r} are left out: there are more than {_MODES} modes. Is it a column?")
                return
            names = (ADVANTAGES,) if mode == ADVANTAGES else tuple(self._monitor.reward_names)
            group_size = self._monitor.accumulator.group_size
            monitor = RewardMonitor(names, **{**self._options, "group_size": group_size})
            monitor.closes_at_exit = False
            self.side_monitors[mode] = monitor
        monitor.fold(rounds, step)
