"""Train a small transformer with GRPO and watch every reward signal while it learns.

The task needs no download: answer "3+8=" with `<answer>11</answer><eos>`. One jitted step samples a group of completions
per prompt, scores them with four reward functions, takes two clipped policy-gradient updates and folds the rewards into
the monitor. The host only sees one small record every ten steps.

    python examples/train_grpo.py                   # about two minutes on two CPU cores
    python examples/train_grpo.py --inject drop     # plant a fault half way, and see it caught
    python examples/train_grpo.py --no-monitor      # the bare step: same parameters, to the bit

Source: Shao et al. 2024, DeepSeekMath, arXiv:2402.03300 (GRPO); Schulman 2020, joschu.net/blog/kl-approx.html (k3).
"""

import argparse
import functools
import hashlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

VOCABULARY = (*"0123456789", "+", "=", "<answer>", "</answer>", "<eos>", "<pad>")
PLUS, EQUALS, OPEN, CLOSE, EOS, PAD = range(10, 16)
PROMPT_LENGTH, COMPLETION_LENGTH = 4, 8  # "a+b=" and room for one echo of it, or for a rambling answer
REWARD_WEIGHTS = {"format_exact": 0.5, "format_approx": 0.5, "answer": 2.0, "length": 0.25}
LOG_FREQUENCY = 10
UPDATES_PER_ROLLOUT = 2  # from the second update on the ratio differs from 1 and the clip has something to do
CLIP, KL_WEIGHT = 0.2, 0.01
OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3, b2=0.98))

Rewards = dict[str, jax.Array]


class TrainState(NamedTuple):
    """Everything that a step changes, except the monitor."""

    params: Any
    opt_state: optax.OptState
    key: jax.Array
    step: jax.Array  # int32[]


class Transformer(nn.Module):
    """Decoder-only transformer; `int32[N, T]` tokens to `float32[N, T, V]` logits."""

    width: int = 64
    layers: int = 2
    heads: int = 4

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        position = self.param("position", nn.initializers.normal(0.1), (PROMPT_LENGTH + COMPLETION_LENGTH, self.width))
        x = nn.Embed(len(VOCABULARY), self.width)(tokens) + position[None, : tokens.shape[1]]
        causal = nn.make_causal_mask(tokens)
        for _ in range(self.layers):
            x = x + nn.MultiHeadDotProductAttention(self.heads)(nn.LayerNorm()(x), mask=causal)
            x = x + nn.Dense(self.width)(nn.gelu(nn.Dense(4 * self.width)(nn.LayerNorm()(x))))
        return nn.Dense(len(VOCABULARY))(nn.LayerNorm()(x))


MODEL = Transformer()


def sample_problems(key: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """Draw `count` prompts "a+b=" (int32[count, 4]) and their sums (int32[count])."""
    terms = jax.random.randint(key, (count, 2), 0, 10)
    plus, equals = jnp.full(count, PLUS), jnp.full(count, EQUALS)
    return jnp.stack([terms[:, 0], plus, terms[:, 1], equals], axis=1), terms.sum(axis=1)


def completion_logprobs(params: Any, tokens: jax.Array) -> jax.Array:
    """Return the log-probability of every completion token, float32[N, COMPLETION_LENGTH]."""
    logits = MODEL.apply(params, tokens[:, :-1])[:, PROMPT_LENGTH - 1 :]
    picked = tokens[:, PROMPT_LENGTH:, None]
    return jnp.take_along_axis(nn.log_softmax(logits), picked, axis=-1)[..., 0]


def sample_completions(params: Any, key: jax.Array, prompts: jax.Array) -> jax.Array:
    """Complete each prompt at temperature 1; returns prompt and completion, padded after `<eos>`."""
    tokens = jnp.pad(prompts, ((0, 0), (0, COMPLETION_LENGTH)), constant_values=PAD)

    def append_token(carry: tuple[jax.Array, jax.Array], inputs: tuple[jax.Array, jax.Array]) -> tuple[Any, None]:
        tokens, done = carry
        position, key = inputs
        # Twelve positions are so few that running the whole sequence again beats the bookkeeping of a key-value cache.
        logits = jax.lax.dynamic_index_in_dim(MODEL.apply(params, tokens), position - 1, axis=1, keepdims=False)
        token = jnp.where(done, PAD, jax.random.categorical(key, logits))
        return (tokens.at[:, position].set(token), done | (token == EOS)), None

    positions = PROMPT_LENGTH + jnp.arange(COMPLETION_LENGTH)
    carry = (tokens, jnp.zeros(prompts.shape[0], bool))
    (tokens, _), _ = jax.lax.scan(append_token, carry, (positions, jax.random.split(key, COMPLETION_LENGTH)))
    return tokens


def score(completions: jax.Array, sums: jax.Array) -> tuple[Rewards, jax.Array]:
    """Grade completions int32[N, T] with the four reward functions; returns them and the lengths, float32[N] each."""
    opened, closed = (completions == tag for tag in (OPEN, CLOSE))
    between = (jnp.cumsum(opened, axis=1) > 0) & (jnp.cumsum(closed, axis=1) == 0) & ~opened
    digit = completions < 10
    value = jnp.zeros_like(sums)
    for t in range(COMPLETION_LENGTH):
        value = jnp.where(between[:, t] & digit[:, t], 10 * value + completions[:, t], value)

    digits = (between & digit).sum(axis=1)
    one_open, one_close = opened.sum(axis=1) == 1, closed.sum(axis=1) == 1
    ends = (completions == EOS).any(axis=1)
    lengths = (completions != PAD).sum(axis=1)
    parsed = one_open & one_close & (digits > 0) & ~(between & ~digit).any(axis=1)
    rewards = {
        # Nothing but open tag, one or two digits, close tag, end.
        "format_exact": parsed & ends & opened[:, 0] & (digits <= 2) & (lengths == digits + 3),
        "format_approx": (one_open * 1.0 + one_close * 1.0 + ends * 1.0) / 3.0,
        "answer": parsed & (value == sums),
        "length": 1.0 - lengths / COMPLETION_LENGTH,
    }
    return {name: reward.astype(jnp.float32) for name, reward in rewards.items()}, lengths.astype(jnp.float32)


def group_advantages(rewards: Rewards) -> jax.Array:
    """Return (r - group mean) / (group std + eps) of the weighted sum, float32[B, G]."""
    total = sum(weight * rewards[name] for name, weight in REWARD_WEIGHTS.items())
    # One NaN here would turn every parameter into NaN: such a sample teaches nothing and leaves its group's statistics.
    valid = jnp.isfinite(total)
    mean = jnp.mean(total, axis=1, keepdims=True, where=valid)
    std = jnp.std(total, axis=1, keepdims=True, where=valid)
    return jnp.where(valid, (total - mean) / (std + 1e-4), 0.0)


def grpo_loss(
    params: Any, tokens: jax.Array, old: jax.Array, reference: jax.Array, advantages: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Return the clipped policy loss with the KL penalty to the reference, and that KL, both per token."""
    mask = (tokens[:, PROMPT_LENGTH:] != PAD).astype(jnp.float32)
    logprobs = completion_logprobs(params, tokens)
    ratio = jnp.exp(logprobs - old)
    gain = jnp.minimum(ratio * advantages[:, None], jnp.clip(ratio, 1 - CLIP, 1 + CLIP) * advantages[:, None])
    kl = jnp.exp(reference - logprobs) - (reference - logprobs) - 1.0
    return -((gain - KL_WEIGHT * kl) * mask).sum() / mask.sum(), (kl * mask).sum() / mask.sum()


def plant_fault(fault: str | None, rewards: Rewards, step: jax.Array, fault_step: int) -> Rewards:
    """Damage the rewards from `fault_step` on, on the device; the step is traced, so nothing is compiled again."""
    active = step >= fault_step
    if fault == "drop":
        return rewards | {"answer": jnp.where(active, 0.1, 1.0) * rewards["answer"]}
    if fault == "flatline":
        return rewards | {"format_approx": jnp.where(active, 0.7, rewards["format_approx"])}
    if fault == "nan":
        return rewards | {"answer": rewards["answer"].at[0, 0].set(jnp.where(step == fault_step, jnp.nan, 0.0))}
    if fault == "collapse":
        return {name: jnp.where(active, reward[:, :1], reward) for name, reward in rewards.items()}
    return rewards
