"""Train a small transformer with GRPO and watch every reward signal while it learns.

The task needs no download: answer "3+8=" with `<answer>11</answer><eos>`. One jitted step samples a group of completions
per prompt, grades them with four reward functions, takes two clipped policy-gradient updates and folds the rewards into
the monitor. The host sees one small record every ten steps, and never waits for it.

    python examples/train_grpo.py                   # one to two minutes on two CPU cores
    python examples/train_grpo.py --inject drop     # plant a fault half way, and see it caught
    python examples/train_grpo.py --no-monitor      # the bare step: the same parameters, to the bit

Source: Shao et al. 2024, DeepSeekMath, arXiv:2402.03300 (GRPO); Schulman 2020, joschu.net/blog/kl-approx.html (k3).
"""

import argparse
import functools
import hashlib
import time
from collections.abc import Mapping, Sequence
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
GROUP_SIZE, UPDATES_PER_ROLLOUT = 8, 2  # from the second update on, the ratio is not 1 and the clip has work to do
CLIP, KL_WEIGHT = 0.2, 0.1
LOG_FREQUENCY = 10
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


class Transformer(nn.Module):
    """Decoder-only transformer: int32[N, T] tokens to float32[N, T, V] logits."""

    width: int = 64
    layers: int = 2
    heads: int = 4

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        position = self.param("position", nn.initializers.normal(0.1), (PROMPT + COMPLETION, self.width))
        x = nn.Embed(len(VOCABULARY), self.width)(tokens) + position[None, : tokens.shape[1]]
        causal = nn.make_causal_mask(tokens)
        for _ in range(self.layers):
            x = x + nn.MultiHeadDotProductAttention(self.heads)(nn.LayerNorm()(x), mask=causal)
            x = x + nn.Dense(self.width)(nn.gelu(nn.Dense(4 * self.width)(nn.LayerNorm()(x))))
        return nn.Dense(len(VOCABULARY))(nn.LayerNorm()(x))


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
    tag = functools.partial(jnp.full, count)
    short = jnp.stack([tag(OPEN), answer, tag(CLOSE), tag(EOS), tag(PAD)], axis=1)
    long = jnp.stack([tag(OPEN), answer // 10, answer % 10, tag(CLOSE), tag(EOS)], axis=1)
    completions = jnp.where(answer[:, None] < 10, short, long)
    slips = jax.random.randint(keys[2], completions.shape, 0, len(VOCABULARY))
    completions = jnp.where(jax.random.bernoulli(keys[3], 0.2, completions.shape), slips, completions)
    padding = ((0, 0), (0, COMPLETION - completions.shape[1]))
    return jnp.concatenate([prompts, jnp.pad(completions, padding, constant_values=PAD)], axis=1)


def logprobs_of(params: Any, tokens: jax.Array) -> jax.Array:
    """Return the log-probability of every completion token, float32[N, COMPLETION]."""
    logits = MODEL.apply(params, tokens[:, :-1])[:, PROMPT - 1 :]
    return jnp.take_along_axis(nn.log_softmax(logits), tokens[:, PROMPT:, None], axis=-1)[..., 0]


@functools.partial(jax.jit, static_argnums=1)
def warm_up(key: jax.Array, steps: int) -> Any:
    """Return parameters that imitate the demonstrations: GRPO can only reinforce what is sampled now and then."""

    def imitate(carry: tuple[Any, Any], key: jax.Array) -> tuple[tuple[Any, Any], None]:
        params, opt_state = carry
        tokens = demonstrate(key, 128)
        grads = jax.grad(lambda params: -logprobs_of(params, tokens).mean())(params)
        updates, opt_state = WARM_UP_OPTIMIZER.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state), None

    params = MODEL.init(key, jnp.zeros((1, PROMPT + COMPLETION), jnp.int32))
    (params, _), _ = jax.lax.scan(imitate, (params, WARM_UP_OPTIMIZER.init(params)), jax.random.split(key, steps))
    return params


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
    digits, lengths = (between & digit).sum(axis=1), (completions != PAD).sum(axis=1)
    one_open, one_close = opened.sum(axis=1) == 1, closed.sum(axis=1) == 1
    ends = (completions == EOS).any(axis=1)
    parsed = one_open & one_close & (digits > 0) & ~(between & ~digit).any(axis=1)
    rewards = {
        "format_exact": parsed & ends & opened[:, 0] & (lengths == digits + 3),  # the tags, digits, the end: no more
        "format_approx": (one_open.astype(jnp.float32) + one_close + ends) / 3,
        "answer": parsed & (value == sums),
        "length": 1 - lengths / COMPLETION,
    }
    return {name: reward.astype(jnp.float32) for name, reward in rewards.items()}, lengths.astype(jnp.float32)


def plant(fault: str | None, rewards: Rewards, step: jax.Array, fault_step: int) -> Rewards:
    """Damage the rewards on the device; the step is traced, so the fault costs no second compilation."""
    active = step >= fault_step
    if fault == "drop":
        return rewards | {"answer": rewards["answer"] * jnp.where(active, 0.1, 1.0)}
    if fault == "flatline":
        return rewards | {"format_approx": jnp.where(active, 0.7, rewards["format_approx"])}
    if fault == "nan":
        return rewards | {"answer": rewards["answer"].at[0, 0].add(jnp.where(step == fault_step, jnp.nan, 0.0))}
    if fault == "collapse":
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


@functools.partial(jax.jit, static_argnames=("acc", "prompts", "fault", "fault_step"), donate_argnums=(0, 1))
def train_step(
    state: TrainState,
    mon: Any,
    reference: Any,
    key: jax.Array,
    *,
    acc: trm.RewardAccumulator | None,
    prompts: int,
    fault: str | None,
    fault_step: int,
) -> tuple[TrainState, Any, Rewards]:
    """Sample, grade, update and monitor; `acc=None` with `mon=None` is the bare step.

    Returns:
      The new train state, the new monitor state, and the step's mean rewards (nobody needs to read them).
    """
    problem_key, sample_key = jax.random.split(jax.random.fold_in(key, state.step))
    questions, sums = (jnp.repeat(x, GROUP_SIZE, axis=0) for x in sample_problems(problem_key, prompts))
    tokens = sample_completions(state.params, sample_key, questions)
    flat, lengths = grade(tokens[:, PROMPT:], sums)
    rewards = {name: reward.reshape(prompts, GROUP_SIZE) for name, reward in flat.items()}
    rewards = plant(fault, rewards, state.step, fault_step)
    total = sum(weight * rewards[name] for name, weight in REWARD_WEIGHTS.items())
    old, anchor = logprobs_of(state.params, tokens), logprobs_of(reference, tokens)

    def update(carry: tuple[Any, Any], _: None) -> tuple[tuple[Any, Any], None]:
        params, opt_state = carry
        grads = jax.grad(grpo_loss)(params, tokens, old, anchor, group_advantages(total).reshape(-1))
        updates, opt_state = OPTIMIZER.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state), None

    (params, opt_state), _ = jax.lax.scan(update, (state.params, state.opt_state), length=UPDATES_PER_ROLLOUT)
    if acc is not None:
        mon = acc.update(mon, rewards, lengths=lengths.reshape(prompts, GROUP_SIZE))
    means = {name: reward.mean() for name, reward in rewards.items()}
    means["zero_std"] = jnp.mean(jnp.ptp(total, axis=1) <= 1e-6)
    return TrainState(params, opt_state, state.step + 1), mon, means


class Progress:
    """Prints one line per call, and keeps the records: the host side of a run."""

    def __init__(self) -> None:
        """Print the head of the table and start the clock."""
        self.records: list[trm.Record] = []
        self.step, self.time = -1, time.perf_counter()
        print(f"{'step':>6}", *(f"{name:>14}" for name in REWARD_WEIGHTS), " zero-std groups  ms/step", flush=True)

    def show(self, step: int, means: Mapping[str, float], zero_std: float) -> None:
        """Print the mean rewards and the time per step since the last line."""
        now = time.perf_counter()
        pace = 1000 * (now - self.time) / max(step - self.step, 1)
        columns = (f"{means.get(name, float('nan')):14.3f}" for name in REWARD_WEIGHTS)
        print(f"{step:6d}", *columns, f"{zero_std:16.2f}{pace:9.0f}", flush=True)
        self.step, self.time = step, now

    def on_record(self, record: trm.Record) -> None:
        """Take a record from the reporter; a reward without data in this interval has no key."""
        self.records.append(record)
        if record.step > self.step:
            means = {n: record.scalars.get(f"{n}/interval/mean", float("nan")) for n in REWARD_WEIGHTS}
            self.show(record.step, means, record.scalars.get("frac_reward_zero_std", float("nan")))


def report(progress: Progress, fault: str | None, fault_step: int) -> None:
    """Print the summary block, the alerts, and whether a planted fault was caught."""
    print("\n" + trm.format_summary(progress.records[-1]))
    alerts = [alert for record in progress.records for alert in record.alerts]
    print(f"\nalerts: {len(alerts) or 'none'}")
    for alert in alerts:
        print(f"  step {alert.step}: {alert.message}\n    {alert.remedy}")
    if fault:
        _, kind, reward = FAULTS[fault]
        seen = [a.step for a in alerts if a.type == kind and a.step >= fault_step and reward in (None, a.reward)]
        outcome = f"seen, {seen[0] - fault_step} steps later" if seen else "NOT SEEN"
        print(f"planted at step {fault_step}: {fault}. Expected alert: {kind} {reward or ''}: {outcome}")


def digest(params: Any) -> str:
    """Return a fingerprint of all parameter bits."""
    leaves = (np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(params))
    return hashlib.sha256(b"".join(leaves)).hexdigest()[:16]


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line; anything that cannot work ends here, before the first compilation."""

    def positive(text: str) -> int:
        if not text.isdecimal() or int(text) < 1:
            raise argparse.ArgumentTypeError(f"got {text!r}, allowed: a whole number, 1 or more")
        return int(text)

    parser = argparse.ArgumentParser(description="Train with GRPO on sums of two digits, and monitor every reward.")
    parser.add_argument("--steps", type=positive, default=300, help="training steps (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of everything random (default: %(default)s)")
    parser.add_argument("--run-dir", type=Path, help="new or empty directory (default: runs/train_grpo-<time>)")
    faults = "; ".join(f"{fault}: {effect}, expect {kind}" for fault, (effect, kind, _) in FAULTS.items())
    parser.add_argument("--inject", choices=FAULTS, help=f"plant a fault in the middle of the run. {faults}")
    parser.add_argument("--no-monitor", action="store_true", help="run the bare step, for comparison")
    parser.add_argument("--prompts", type=positive, default=32, help="per step, 8 completions each (default: %(default)s)")
    parser.add_argument("--warm-up-steps", type=positive, default=300, help="of imitation (default: %(default)s)")
    options = parser.parse_args(argv)
    if options.no_monitor and options.run_dir:
        parser.error("--run-dir: there is nothing to write with --no-monitor. Leave out one of the two.")
    options.run_dir = options.run_dir or Path("runs") / time.strftime("train_grpo-%Y%m%d-%H%M%S")
    if options.run_dir.exists() and (not options.run_dir.is_dir() or any(options.run_dir.iterdir())):
        parser.error(f"--run-dir: {options.run_dir} exists and is not an empty directory. Name a new one, or remove it.")
    return options


def main(argv: Sequence[str] | None = None) -> None:
    """Warm up, train, and say what the monitor saw."""
    options = parse_arguments(argv)
    print(f"{jax.devices()[0].device_kind}: {options.prompts} prompts x {GROUP_SIZE} completions per step", flush=True)
    warm_key, key = jax.random.split(jax.random.key(options.seed))
    start = time.perf_counter()
    reference = jax.block_until_ready(warm_up(warm_key, options.warm_up_steps))
    print(f"warm-up: imitated careless demonstrations for {time.perf_counter() - start:.1f} s; this is the KL reference")

    acc = trm.RewardAccumulator(
        tuple(REWARD_WEIGHTS),
        group_size=GROUP_SIZE,
        weights=tuple(REWARD_WEIGHTS.values()),
        log_frequency=LOG_FREQUENCY,
        correct_reward="answer",
    )
    mon = None if options.no_monitor else acc.init(batch_size=options.prompts * GROUP_SIZE)
    params = jax.tree.map(jnp.copy, reference)  # the train state is donated, the reference must survive it
    state = TrainState(params, OPTIMIZER.init(params), jnp.zeros((), jnp.int32))
    fault = {"fault": options.inject, "fault_step": options.steps // 2}
    start = time.perf_counter()
    step_fn = train_step.lower(
        state, mon, reference, key, acc=None if options.no_monitor else acc, prompts=options.prompts, **fault
    ).compile()
    print(f"compiled the train step in {time.perf_counter() - start:.1f} s", flush=True)

    progress = Progress()
    if options.no_monitor:
        for step in range(options.steps):
            state, mon, means = step_fn(state, mon, reference, key)
            if (step + 1) % LOG_FREQUENCY == 0:
                progress.show(step, {n: float(v) for n, v in means.items()}, float(means["zero_std"]))
    else:
        with trm.Reporter(acc, sinks=[trm.JsonlSink(options.run_dir)], on_record=progress.on_record) as reporter:
            for step in range(options.steps):
                state, mon, _ = step_fn(state, mon, reference, key)
                mon = reporter.step(step, mon)  # never blocks; a record comes back one interval later
        report(progress, **fault)
        print(f"run directory: {options.run_dir}")
    print(f"parameters: {digest(state.params)} (sha256; the same with and without --no-monitor)")


if __name__ == "__main__":
    main()
