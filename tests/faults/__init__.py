"""A campaign of seeded faults: processes killed, disks filled, sinks that hang; what survives is counted."""
