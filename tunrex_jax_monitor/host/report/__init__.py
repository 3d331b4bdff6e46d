"""Pictures and pages, made of a `History`: no accelerator and no JAX is needed."""
