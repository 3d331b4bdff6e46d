"""A real Tunix `GRPOLearner` run on a CPU, watched: a tiny randomly initialised Qwen3, text rewards, no download.

    pip install "tunrex-jax-monitor[tunix]"
    python examples/train_tunix.py --output-dir runs/tunix

The model sees a colour and is paid for a short answer that names it between two tags. Everything that the monitor needs
is the three lines marked with (monitor).
"""

import argparse
import hashlib
import re
import time
from collections.abc import Iterator

import jax
import numpy as np
import optax
from flax import nnx
from tunix.models.qwen3.model import ModelConfig, Qwen3
from tunix.rl.grpo.grpo_learner import GRPOConfig, GRPOLearner
from tunix.rl.rl_cluster import ClusterConfig, RLCluster, RLTrainingConfig, Role
from tunix.rl.rollout.base_rollout import RolloutConfig
from tunix.sft.metrics_logger import MetricsLoggerOptions

import tunrex_jax_monitor as trm

COLOURS = ["red", "green", "blue", "white", "black", "grey", "pink", "gold"]
WORDS = ["<pad>", "<bos>", "<eos>", "<answer>", "</answer>", "the", "sky", "is", "?", *COLOURS]


class WordTokenizer:
    """One token per word."""

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text."""
        return [WORDS.index(word) for word in text.split()]

    def decode(self, ids: list[int]) -> str:
        """Return the text of tokens."""
        return " ".join(WORDS[int(i)] for i in ids)

    def pad_id(self) -> int:
        """Return the padding token."""
        return WORDS.index("<pad>")

    def bos_id(self) -> int:
        """Return the token that begins a text."""
        return WORDS.index("<bos>")

    def eos_id(self) -> int:
        """Return the token that ends one."""
        return WORDS.index("<eos>")


def match_format(prompts: list[str], completions: list[str], **_: object) -> list[float]:
    """1 for an answer between two tags, a third for each tag alone."""
    whole = re.compile(r"<answer> \S+ </answer>")
    parts = ("<answer>", "</answer>")
    return [1.0 if whole.search(c) else sum(c.count(part) == 1 for part in parts) / 3 for c in completions]


def check_answer(prompts: list[str], completions: list[str], answer: np.ndarray, **_: object) -> np.ndarray:
    """How often the right colour is named, up to 1 for once."""
    return np.array([float(c.split().count(str(a)) == 1) for c, a in zip(completions, answer, strict=True)])


def brevity(prompts: list[str], completions: list[str], num_generations: int, **_: object) -> list[float | None]:
    """A penalty per word; None for an empty completion. Tunix fills in `num_generations`, since it is asked for."""
    return [-0.05 * len(c.split()) if c else None for c in completions]


def data(batches: int, prompts: int, seed: int) -> Iterator[dict[str, np.ndarray]]:
    """Yield batches of prompts and answers."""
    rng = np.random.default_rng(seed)
    for _ in range(batches):
        colours = rng.choice(COLOURS, prompts).tolist()
        yield {"prompts": np.array([f"the sky is {colour} ?" for colour in colours]), "answer": np.array(colours)}


def make_model(seed: int) -> Qwen3:
    """Return a model of 20,000 parameters."""
    config = ModelConfig(
        num_layers=2, vocab_size=len(WORDS), embed_dim=32, hidden_dim=64, num_heads=2, head_dim=16,
        num_kv_heads=1, rope_theta=10_000, norm_eps=1e-6, use_tied_embedding=True,
    )  # fmt: skip
    return Qwen3(config, rngs=nnx.Rngs(seed))


def make_cluster(arguments: argparse.Namespace) -> RLCluster:
    """Return Tunix's cluster on one device."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("fsdp", "tp"))
    logging = None
    if arguments.wandb:
        options = {"wandb": {"mode": arguments.wandb}}
        logging = MetricsLoggerOptions(log_dir=arguments.output_dir, backend_kwargs=options)
    training = RLTrainingConfig(
        actor_optimizer=optax.adam(3e-3),
        eval_every_n_steps=arguments.eval_every,
        max_steps=arguments.steps * arguments.mini_batches,
        mini_batch_size=arguments.prompts // arguments.mini_batches,
        train_micro_batch_size=arguments.micro_batch,
        metrics_logging_options=logging,
        pbar_description="",
    )
    rollout = RolloutConfig(max_tokens_to_generate=8, max_prompt_length=8, kv_cache_size=32, temperature=1.0)
    return RLCluster(
        actor=make_model(arguments.seed),
        reference=make_model(arguments.seed),
        tokenizer=WordTokenizer(),
        cluster_config=ClusterConfig(
            role_to_mesh={Role.ACTOR: mesh, Role.REFERENCE: mesh, Role.ROLLOUT: mesh},
            rollout_engine="vanilla",
            training_config=training,
            rollout_config=rollout,
        ),
    )


def digest(model: nnx.Module) -> str:
    """Return a hash of all parameters, bit by bit."""
    leaves = jax.tree.leaves(nnx.state(model, nnx.Param))
    return hashlib.sha256(b"".join(np.asarray(leaf).tobytes() for leaf in leaves)).hexdigest()[:16]


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--prompts", type=int, default=4, help="prompts per step")
    parser.add_argument("--generations", type=int, default=4, help="completions per prompt")
    parser.add_argument("--mini-batches", type=int, default=1, help="optimizer updates per step")
    parser.add_argument("--micro-batch", type=int, default=2, help="prompts per gradient")
    parser.add_argument("--eval-every", type=int, default=10, help="steps between evaluations")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output-dir", default="runs/tunix")
    parser.add_argument("--wandb", choices=("offline", "online"), help="let Tunix open a W&B run")
    parser.add_argument("--no-monitor", action="store_true", help="the bare run, for comparison")
    return parser.parse_args(arguments)


def main(arguments: argparse.Namespace) -> str:
    """Train; return the digest of the parameters."""
    start = time.perf_counter()
    rewards = [match_format, check_answer, brevity]
    monitoring = None
    if not arguments.no_monitor:
        monitoring = trm.setup_grpo_monitoring(                                                # (monitor)
            rewards, use_wandb=bool(arguments.wandb), output_dir=arguments.output_dir
        )  # fmt: skip
        rewards = monitoring.get_wrapped_reward_functions()
    cluster = make_cluster(arguments)
    learner = GRPOLearner(
        rl_cluster=cluster,
        reward_fns=rewards,
        metric_fns=[monitoring.metric_fn] if monitoring else None,
        algo_config=GRPOConfig(num_generations=arguments.generations, num_iterations=1, beta=0.02),
    )
    if monitoring:
        trm.attach_to_tunix(learner, monitoring)  # (monitor)
    learner.train(
        list(data(arguments.steps, arguments.prompts, arguments.seed)),
        list(data(2, arguments.prompts, arguments.seed + 1)),
    )
    if monitoring:
        monitoring.finalize()  # (monitor)
    found = digest(cluster.actor_trainer.model)
    print(f"{arguments.steps} steps in {time.perf_counter() - start:.0f} s, parameters {found}")
    return found


if __name__ == "__main__":
    main(parse())
