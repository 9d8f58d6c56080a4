"""The owner of a socket, noted by the kernel where it is made and used: eBPF on the cgroup hooks.

`owner.bpf.c` runs in the kernel, `loader` puts it there, `records` reads what it notes, `witness`
makes answers of it. Whatever the notes do not tell for certain is left to /proc.
For the connection table `table.bpf.c` tells who holds which socket: `loading` puts it into the kernel,
`holdings` reads it.
"""
