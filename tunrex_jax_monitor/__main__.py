"""`python -m tunrex_jax_monitor`: the command line."""

from tunrex_jax_monitor.cli import commands

if __name__ == "__main__":
    commands(prog_name="python -m tunrex_jax_monitor")
