"""JAX as strict as it gets, on eight CPU devices, for every test and doctest.

Eight devices cost nothing measurable over one (start, compile time, dispatch and memory are the same) and let one
process test what eight chips do.
"""

import jax

jax.config.update("jax_num_cpu_devices", 8)  # must come before the first use of a device
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
