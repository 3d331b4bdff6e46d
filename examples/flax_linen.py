"""The monitor beside a linen `TrainState`: two donated states go through one jitted step.

    python examples/flax_linen.py

A small network is paid for the right class of a synthetic task; the baseline is the group's mean, as in GRPO.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax.training.train_state import TrainState

import tunrex_jax_monitor as trm

FEATURES, CLASSES, PROMPTS, GROUP, STEPS = 8, 4, 32, 8, 80

acc = trm.RewardAccumulator(("correct", "confidence"), group_size=GROUP, correct_reward="correct")


class Policy(nn.Module):
    """One hidden layer."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the logits of the classes."""
        return nn.Dense(CLASSES)(nn.relu(nn.Dense(32)(x)))


@partial(jax.jit, donate_argnums=(0, 1))
def train_step(train: TrainState, mon: trm.MonitorState, key: jax.Array) -> tuple[TrainState, trm.MonitorState]:
    """Answer each prompt `GROUP` times, reward, update."""
    of_prompts, of_actions = jax.random.split(key)
    prompts = jax.random.normal(of_prompts, (PROMPTS, FEATURES))
    truth = jnp.argmax(prompts[:, :CLASSES], axis=1)
    logits = train.apply_fn(train.params, prompts)
    actions = jax.random.categorical(of_actions, logits[:, None], shape=(PROMPTS, GROUP))
    correct = (actions == truth[:, None]).astype(jnp.float32)
    advantages = correct - correct.mean(axis=1, keepdims=True)

    def loss(params: dict[str, jax.Array]) -> jax.Array:
        chances = jax.nn.log_softmax(train.apply_fn(params, prompts))
        return -jnp.mean(jnp.take_along_axis(chances, actions, axis=1) * advantages)

    train = train.apply_gradients(grads=jax.grad(loss)(train.params))
    confidence = jnp.take_along_axis(jax.nn.softmax(logits), actions, axis=1)
    return train, acc.update(mon, {"correct": correct, "confidence": confidence})


def main(steps: int = STEPS) -> tuple[TrainState, trm.Record]:
    """Train; return the train state and the last record."""
    policy = Policy()
    params = policy.init(jax.random.key(1), jnp.zeros((1, FEATURES)))
    train = TrainState.create(apply_fn=policy.apply, params=params, tx=optax.adam(1e-2))
    mon, sink = acc.init(batch_size=PROMPTS * GROUP), trm.MemorySink()
    with trm.Reporter(acc, [sink]) as reporter:
        for step, key in enumerate(jax.random.split(jax.random.key(0), steps)):
            train, mon = train_step(train, mon, key)
            mon = reporter.step(step, mon)
    return train, sink.records[-1]


if __name__ == "__main__":
    _, record = main()
    print(
        f"correct: {record.scalars['correct/ema_long']:.2f} on average, {record.scalars['correct/ema_short']:.2f} now"
    )
