"""A history checker: observes from outside whether processes serve decisions after a revocation.

The policy engine is a number per user, its *version*, in a file that all processes map. The members
of a fleet, each one a process, answer requests through the cache under test and log the answers.
They also revoke: they raise the version of a user, and then invalidate. The run injects faults
while they work. Afterwards the checker reads the logs of all members, which share one clock.

`python -m consistency --help` runs it, and so does `nox -s consistency`.

| module | |
|---|---|
| `clock`, `engine`, `history` | the shared clock, the versions, the logs |
| `member` | the program of each process of the fleet |
| `fleet`, `scene`, `run` | the processes, what a fault can reach, a whole run |
| `faults` | one class per fault |
| `checker`, `violations` | the rules, and what happened around an answer that breaks one |
| `recovery`, `report` | the hit ratio after a fault, and the result |
| `factories` | the caches under test |
"""
