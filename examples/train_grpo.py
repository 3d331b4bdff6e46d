"""Train a small transformer with GRPO and watch every reward signal while it learns.

The task needs no download: answer "3+8=" with `<answer>11</answer><eos>`. One jitted step samples a group of
completions per prompt, grades them with four reward functions, takes two clipped policy-gradient updates and folds the
rewards into the monitor. The host sees one small record every ten steps, and never waits for it.

    python examples/train_grpo.py                   # one to two minutes on two CPU cores
    python examples/train_grpo.py --inject drop     # plant a fault half way, and see it caught
    python examples/train_grpo.py --no-monitor      # the bare step: the same parameters, to the bit

Source: Shao et al. 2024, DeepSeekMath, arXiv:2402.03300 (GRPO); Schulman 2020, joschu.net/blog/kl-approx.html (k3).
"""

import argparse
import functools
import hashlib
import math
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import tunrex_jax_monitor as trm

VOCABULARY = (*"0123456789", "+", "=", "<answer>", "</answer>", "<eos>", "<pad>")
PLUS, EQUALS, OPEN, CLOSE, EOS, PAD = range(10, 16)
PROMPT, COMPLETION = 4, 8  # lengths in tokens: "a+b=", and three more than the longest right answer needs
PROMPTS, GROUP_SIZE = 32, 8  # per step
UPDATES_PER_ROLLOUT = 2  # from the second update on, the ratio is not 1 and the clip has work to do
CLIP, KL_WEIGHT = 0.2, 0.1
WARM_UP_STEPS, LOG_FREQUENCY = 250, 10
# How each number is written out: ANSWERS[11] is <answer> 1 1 </answer> <eos>, padded.
ANSWERS = np.array([([OPEN, *map(int, str(n)), CLOSE, EOS] + [PAD] * COMPLETION)[:COMPLETION] for n in range(100)])
REWARD_WEIGHTS = {"format_exact": 0.5, "format_approx": 0.5, "answer": 2.0, "length": 0.25}
FAULTS = {  # --inject: (what happens from the middle of the run on, alert, reward that it names)
    "drop": ("the answer reward pays a tenth", "DROP", "answer"),
    "flatline": ("format_approx returns 0.7 whatever the completion", "FLATLINE", "format_approx"),
    "nan": ("one answer reward of one step is NaN", "NONFINITE", "answer"),
    "collapse": ("a whole group gets the rewards of its first member", "GROUP_COLLAPSE", None),
}
WARM_UP_OPTIMIZER = optax.adam(3e-3)
OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(5e-4, b2=0.98))

Rewards = dict[str, jax.Array]


class TrainState(NamedTuple):
    """Everything that a step changes, except the monitor."""

    params: Any
    opt_state: optax.OptState
    step: jax.Array  # int32[]


class Fault(NamedTuple):
    """What --inject plants, and when; hashable, so that it may be a static argument."""

    kind: str | None
    step: int


class Transformer(nn.Module):
    """Decoder-only transformer: int32[N, T] tokens to float32[N, T, PAD] logits."""

    width: int = 64
    layers: int = 2
    heads: int = 4

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Return the logits of the next token after every position."""
        position = self.param("position", nn.initializers.normal(0.1), (PROMPT + COMPLETION, self.width))
        x = nn.Embed(len(VOCABULARY), self.width)(tokens) + position[None, : tokens.shape[1]]
        causal = nn.make_causal_mask(tokens)
        for _ in range(self.layers):
            x = x + nn.MultiHeadDotProductAttention(self.heads)(nn.LayerNorm()(x), mask=causal)
            x = x + nn.Dense(self.width)(nn.gelu(nn.Dense(4 * self.width)(nn.LayerNorm()(x))))
        return nn.Dense(PAD)(nn.LayerNorm()(x))  # padding, the last word, is never said


MODEL = Transformer()


def sample_problems(key: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """Draw prompts "a+b=", int32[count, 4], and their sums, int32[count]."""
    terms = jax.random.randint(key, (count, 2), 0, 10)
    prompts = [terms[:, 0], jnp.full(count, PLUS), terms[:, 1], jnp.full(count, EQUALS)]
    return jnp.stack(prompts, axis=1), terms.sum(axis=1)


def demonstrate(key: jax.Array, count: int) -> jax.Array:
    """Write careless demonstrations, int32[count, T]: sums off by up to two, one token in five a slip."""
    keys = jax.random.split(key, 4)
    prompts, sums = sample_problems(keys[0], count)
    answer = jnp.clip(sums + jax.random.randint(keys[1], (count,), -2, 3), 0, 18)
    right = jnp.asarray(ANSWERS)[answer]
    slips = jax.random.randint(keys[2], right.shape, 0, PAD)
    slipped = jax.random.bernoulli(keys[3], 0.2, right.shape) & (right != PAD)
    return jnp.concatenate([prompts, jnp.where(slipped, slips, right)], axis=1)


def logprobs_of(params: Any, tokens: jax.Array) -> jax.Array:
    """Return the log-probability of every completion token, 0 for padding, float32[N, COMPLETION]."""
    logits, targets = MODEL.apply(params, tokens[:, :-1])[:, PROMPT - 1 :], tokens[:, PROMPT:]
    picked = jnp.take_along_axis(nn.log_softmax(logits), jnp.minimum(targets, EOS)[..., None], axis=-1)
    return jnp.where(targets == PAD, 0.0, picked[..., 0])


def descend(optimizer: Any, loss: Callable[..., jax.Array], params: Any, opt_state: Any, xs: Any) -> tuple[Any, Any]:
    """Take one optimizer step on `loss(params, x)` for each x of xs; returns parameters and optimizer state."""

    def update(carry: tuple[Any, Any], x: Any) -> tuple[tuple[Any, Any], None]:
        updates, opt_state = optimizer.update(jax.grad(loss)(carry[0], x), carry[1])
        return (optax.apply_updates(carry[0], updates), opt_state), None

    return jax.lax.scan(update, (params, opt_state), xs)[0]


@jax.jit
def warm_up(key: jax.Array) -> Any:
    """Return parameters that imitate the demonstrations: GRPO can only reinforce what is sampled now and then."""

    def loss(params: Any, key: jax.Array) -> jax.Array:
        return -logprobs_of(params, demonstrate(key, 128)).mean()

    params = MODEL.init(key, jnp.zeros((1, PROMPT + COMPLETION), jnp.int32))
    keys = jax.random.split(key, WARM_UP_STEPS)
    return descend(WARM_UP_OPTIMIZER, loss, params, WARM_UP_OPTIMIZER.init(params), keys)[0]


def sample_completions(params: Any, key: jax.Array, prompts: jax.Array) -> jax.Array:
    """Complete each prompt at temperature 1; returns prompt and completion, padded after `<eos>`."""

    def append(carry: tuple[jax.Array, jax.Array], inputs: tuple[jax.Array, jax.Array]) -> tuple[Any, None]:
        (tokens, done), (position, key) = carry, inputs
        # Twelve positions are so few that running the whole sequence again is simpler than a key-value cache, and fast.
        logits = jax.lax.dynamic_index_in_dim(MODEL.apply(params, tokens), position - 1, axis=1, keepdims=False)
        token = jnp.where(done, PAD, jax.random.categorical(key, logits))
        return (tokens.at[:, position].set(token), done | (token == EOS)), None

    tokens = jnp.pad(prompts, ((0, 0), (0, COMPLETION)), constant_values=PAD)
    steps = (PROMPT + jnp.arange(COMPLETION), jax.random.split(key, COMPLETION))
    (tokens, _), _ = jax.lax.scan(append, (tokens, jnp.zeros(prompts.shape[0], bool)), steps)
    return tokens


def grade(completions: jax.Array, sums: jax.Array) -> tuple[Rewards, jax.Array]:
    """Apply the four reward functions to int32[N, COMPLETION]; returns them and the lengths, float32[N] each."""
    opened, closed, digit = completions == OPEN, completions == CLOSE, completions < 10
    between = (jnp.cumsum(opened, axis=1) > 0) & (jnp.cumsum(closed, axis=1) == 0) & ~opened
    value = jnp.zeros_like(sums)
    for t in range(COMPLETION):
        value = jnp.where(between[:, t] & digit[:, t], 10 * value + completions[:, t], value)
    lengths = (completions != PAD).sum(axis=1)
    one_open, one_close = opened.sum(axis=1) == 1, closed.sum(axis=1) == 1
    ends = (completions == EOS).any(axis=1)
    parsed = one_open & one_close & (between & digit).any(axis=1) & ~(between & ~digit).any(axis=1)
    rewards = {
        "format_exact": (completions[:, None] == ANSWERS[None]).all(axis=2).any(axis=1),
        "format_approx": (one_open.astype(jnp.float32) + one_close + ends) / 3,
        "answer": parsed & (value == sums),
        "length": 1 - lengths / COMPLETION,
    }
    return {name: reward.astype(jnp.float32) for name, reward in rewards.items()}, lengths.astype(jnp.float32)


def plant(fault: Fault, rewards: Rewards, step: jax.Array) -> Rewards:
    """Damage the rewards on the device; the step is traced, so the fault costs no second compilation."""
    active = step >= fault.step
    if fault.kind == "drop":
        return rewards | {"answer": rewards["answer"] * jnp.where(active, 0.1, 1.0)}
    if fault.kind == "flatline":
        return rewards | {"format_approx": jnp.where(active, 0.7, rewards["format_approx"])}
    if fault.kind == "nan":
        return rewards | {"answer": rewards["answer"].at[0, 0].add(jnp.where(step == fault.step, jnp.nan, 0.0))}
    if fault.kind == "collapse":
        return {name: jnp.where(active, reward[:, :1], reward) for name, reward in rewards.items()}
    return rewards


def group_advantages(total: jax.Array) -> jax.Array:
    """Return (r - mean of its group) / (std of its group + eps) for float32[B, G]."""
    # A single NaN would reach every parameter, so such a sample neither learns nor counts in its group.
    valid = jnp.isfinite(total)
    mean, std = (f(total, axis=1, keepdims=True, where=valid) for f in (jnp.mean, jnp.std))
    return jnp.where(valid, (total - mean) / (std + 1e-4), 0.0)


def grpo_loss(params: Any, tokens: jax.Array, old: jax.Array, reference: jax.Array, advantages: jax.Array) -> jax.Array:
    """Return the clipped policy loss plus the KL (k3) to the reference, as a mean over completion tokens."""
    mask = tokens[:, PROMPT:] != PAD
    logprobs = logprobs_of(params, tokens)
    ratio, advantages = jnp.exp(logprobs - old), advantages[:, None]
    gain = jnp.minimum(ratio * advantages, jnp.clip(ratio, 1 - CLIP, 1 + CLIP) * advantages)
    kl = jnp.exp(reference - logprobs) - (reference - logprobs) - 1
    return jnp.mean(KL_WEIGHT * kl - gain, where=mask)


@functools.partial(jax.jit, static_argnums=(4, 5), donate_argnums=(0, 1))
def train_step(
    state: TrainState, mon: Any, reference: Any, key: jax.Array, acc: trm.RewardAccumulator | None, fault: Fault
) -> tuple[TrainState, Any, Rewards]:
    """Sample, grade, update and, unless `acc` is None, monitor; the third result is the step's means."""
    problem_key, sample_key = jax.random.split(jax.random.fold_in(key, state.step))
    questions, sums = (jnp.repeat(x, GROUP_SIZE, axis=0) for x in sample_problems(problem_key, PROMPTS))
    tokens = sample_completions(state.params, sample_key, questions)
    flat, lengths = grade(tokens[:, PROMPT:], sums)
    rewards = {name: reward.reshape(PROMPTS, GROUP_SIZE) for name, reward in flat.items()}
    rewards = plant(fault, rewards, state.step)
    total = sum(weight * rewards[name] for name, weight in REWARD_WEIGHTS.items())
    old, anchor = logprobs_of(state.params, tokens), logprobs_of(reference, tokens)

    def loss(params: Any, _: jax.Array) -> jax.Array:
        return grpo_loss(params, tokens, old, anchor, group_advantages(total).reshape(-1))

    params, opt_state = descend(OPTIMIZER, loss, state.params, state.opt_state, jnp.arange(UPDATES_PER_ROLLOUT))
    if acc is not None:
        mon = acc.update(mon, rewards, lengths=lengths.reshape(PROMPTS, GROUP_SIZE))
    means = {name: reward.mean() for name, reward in rewards.items()}
    means["zero_std"] = jnp.mean(jnp.ptp(total, axis=1) <= 1e-6)
    return TrainState(params, opt_state, state.step + 1), mon, means


class Progress:
    """Prints a line for every interval and every alert, as they come, and keeps the records."""

    def __init__(self) -> None:
        self.records: list[trm.Record] = []
        self.step, self.time = -1, time.perf_counter()
        print(f"{'step':>6}", *(f"{name:>14}" for name in REWARD_WEIGHTS), " zero-std groups  ms/step", flush=True)

    def show(self, step: int, values: Mapping[str, float], mean: str, zero_std: str) -> None:
        """Print mean rewards and the time per step; a reward without a single number in the interval has no key."""
        now = time.perf_counter()
        columns = "".join(f"{values.get(mean.format(name), math.nan):15.3f}" for name in REWARD_WEIGHTS)
        pace = 1000 * (now - self.time) / (step - self.step)
        print(f"{step:6d}{columns}{values.get(zero_std, math.nan):17.2f}{pace:9.0f}", flush=True)
        self.step, self.time = step, now

    def on_record(self, record: trm.Record) -> None:
        """Take a record from the reporter, on its thread; the last one comes with `close`, for the step before."""
        self.records.append(record)
        if record.step > self.step:
            self.show(record.step, record.scalars, "{}/interval/mean", "frac_reward_zero_std")
        for alert in record.alerts:
            print(f"[ALERT] step {alert.step}: {alert.message}", flush=True)


def report(records: Sequence[trm.Record], fault: Fault) -> None:
    """Print the summary block, the alerts with what to do, and whether a planted fault was caught."""
    print("\n" + trm.format_summary(records[-1]))
    alerts = [alert for record in records for alert in record.alerts]
    print(f"\nalerts: {len(alerts) or 'none'}")
    for alert in alerts:
        print(f"  step {alert.step}: {alert.message}\n    {alert.remedy}")
    if fault.kind:
        _, kind, reward = FAULTS[fault.kind]
        seen = [a.step for a in alerts if a.type == kind and a.step >= fault.step and reward in (None, a.reward)]
        outcome = (
            f"seen at step {seen[0]}" if seen else "NOT SEEN (rules need 20 steps before it and 20 after: use more)"
        )
        print(f"planted at step {fault.step}: {fault.kind}; expected: {kind} {reward or '(groups)'}; {outcome}")


def digest(params: Any) -> str:
    """Return a fingerprint of all parameter bits."""
    leaves = (np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(params))
    return hashlib.sha256(b"".join(leaves)).hexdigest()[:16]


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line, and take the run directory; what cannot work ends here, before the first compilation."""

    def whole(text: str, low: int = 0) -> int:
        if not text.isdecimal() or not low <= int(text) < 2**31:
            raise argparse.ArgumentTypeError(f"got {text!r}, allowed: a whole number from {low} to {2**31 - 1}")
        return int(text)

    parser = argparse.ArgumentParser(description="Train with GRPO on sums of two digits, and monitor every reward.")
    faults = "; ".join(f"{name}: {effect}, expect {alert}" for name, (effect, alert, _) in FAULTS.items())
    parser.add_argument(
        "--steps", type=functools.partial(whole, low=1), default=250, help="training steps (default: %(default)s)"
    )
    parser.add_argument("--seed", type=whole, default=0, help="of everything random (default: %(default)s)")
    parser.add_argument("--run-dir", type=Path, help="new or empty directory (default: runs/train_grpo-<time>)")
    parser.add_argument("--inject", choices=FAULTS, help=f"plant a fault half way. {faults}")
    parser.add_argument("--no-monitor", action="store_true", help="run the bare step, for comparison")
    options = parser.parse_args(argv)
    if options.no_monitor and options.run_dir:
        parser.error("--run-dir: there is nothing to write with --no-monitor. Leave out one of the two.")
    options.run_dir = options.run_dir or Path("runs") / time.strftime("train_grpo-%Y%m%d-%H%M%S")
    if options.run_dir.exists() and (not options.run_dir.is_dir() or any(options.run_dir.iterdir())):
        parser.error(f"--run-dir: {options.run_dir} is not an empty directory. Name a new one, or remove it.")
    try:
        options.sink = None if options.no_monitor else trm.JsonlSink(options.run_dir)
    except (OSError, ValueError) as error:
        parser.error(f"--run-dir: {error}")
    return options


def main(argv: Sequence[str] | None = None) -> None:
    """Warm up, train, and say what the monitor saw."""
    options = parse_arguments(argv)
    print(f"{jax.devices()[0].device_kind}: {PROMPTS} prompts x {GROUP_SIZE} completions per step", flush=True)
    print("warming up by supervised imitation, then compiling: about half a minute on two CPU cores", flush=True)
    warm_up_key, key = jax.random.split(jax.random.key(options.seed))
    start = time.perf_counter()
    reference = jax.block_until_ready(warm_up(warm_up_key))
    print(f"warm-up: {time.perf_counter() - start:.1f} s of supervised imitation; the result is the KL reference")

    acc = mon = None
    if not options.no_monitor:
        settings = {"weights": REWARD_WEIGHTS, "correct_reward": "answer", "log_frequency": LOG_FREQUENCY}
        acc = trm.RewardAccumulator(tuple(REWARD_WEIGHTS), group_size=GROUP_SIZE, **settings)
        mon = acc.init(batch_size=PROMPTS * GROUP_SIZE)
    params = jax.tree.map(jnp.copy, reference)  # the step takes its own parameters; the reference must outlive it
    state = TrainState(params, OPTIMIZER.init(params), jnp.zeros((), jnp.int32))
    fault = Fault(options.inject, options.steps // 2)
    start = time.perf_counter()
    step_fn = train_step.lower(state, mon, reference, key, acc, fault).compile()
    print(f"compiled the train step in {time.perf_counter() - start:.1f} s", flush=True)

    progress, interrupted = Progress(), False
    if acc is None:
        seen: list[Rewards] = []
        for step in range(options.steps):
            state, mon, means = step_fn(state, mon, reference, key)
            seen.append(means)
            if (step + 1) % LOG_FREQUENCY == 0:
                progress.show(step, jax.tree.map(lambda *v: float(np.mean(v)), *seen), "{}", "zero_std")
                seen.clear()
    else:
        with trm.Reporter(acc, [options.sink], on_record=progress.on_record) as reporter:
            try:
                for step in range(options.steps):
                    state, mon, _ = step_fn(state, mon, reference, key)
                    mon = reporter.step(step, mon)  # never waits for the device; a record arrives one interval later
            except KeyboardInterrupt:
                interrupted = True
        if progress.records:
            report(progress.records, fault)
        print(f"run directory: {options.run_dir}")
        print(f"its report: tunrex-jax-monitor report {shlex.quote(str(options.run_dir))}")
    if interrupted:
        raise SystemExit("interrupted: what was written until then is complete")
    print(f"parameters: {digest(state.params)} (the same with and without the monitor)")


if __name__ == "__main__":
    main()
