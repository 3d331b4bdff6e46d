"""The monitor in an `nnx.jit` step: model and optimizer are mutated in place, the monitor's state comes and goes.

    python examples/flax_nnx.py

A policy over ten actions is paid 1 for the third; REINFORCE finds it.
"""

import jax
import jax.numpy as jnp
import optax
from flax import nnx

import tunrex_jax_monitor as trm

ACTIONS, BATCH, STEPS = 10, 256, 60


class Policy(nnx.Module):
    """Logits that are learned."""

    def __init__(self) -> None:
        self.logits = nnx.Param(jnp.zeros(ACTIONS))

    def __call__(self) -> jax.Array:
        """Return the logits."""
        return self.logits[...]


acc = trm.RewardAccumulator(("hit", "spread"), weights={"spread": 0.0}, bounds={"hit": (0, 1)})


@nnx.jit(donate_argnums=2)
def train_step(policy: Policy, optimizer: nnx.Optimizer, mon: trm.MonitorState, key: jax.Array) -> trm.MonitorState:
    """Sample, reward, update; what is donated is the monitor's state alone."""
    actions = jax.random.categorical(key, policy(), shape=(BATCH,))
    hit = (actions == 3).astype(jnp.float32)

    def loss(policy: Policy) -> jax.Array:
        return -jnp.mean(jax.nn.log_softmax(policy())[actions] * (hit - jnp.mean(hit)))

    optimizer.update(policy, nnx.grad(loss)(policy))
    return acc.update(mon, {"hit": hit, "spread": actions.astype(jnp.float32)})


def main(steps: int = STEPS) -> tuple[Policy, trm.Record]:
    """Train; return the policy and the last record."""
    policy = Policy()
    optimizer = nnx.Optimizer(policy, optax.adam(0.1), wrt=nnx.Param)
    mon, sink = acc.init(batch_size=BATCH), trm.MemorySink()
    with trm.Reporter(acc, [sink]) as reporter:
        for step, key in enumerate(jax.random.split(jax.random.key(0), steps)):
            mon = reporter.step(step, train_step(policy, optimizer, mon, key))
    return policy, sink.records[-1]


if __name__ == "__main__":
    _, record = main()
    print(f"hit: {record.scalars['hit/ema_long']:.2f} on average, {record.scalars['hit/ema_short']:.2f} now")
