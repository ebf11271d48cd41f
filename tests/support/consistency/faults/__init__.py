"""The faults that a run can inject, by the name of their class."""

from consistency.faults.failover import (
    FailoverOrdered,
    MinoritySuspended,
    NodeOfLogKilled,
    PrimaryCutOff,
    PrimaryKilled,
    PrimarySuspended,
    SlotOfLogMoved,
)
from consistency.faults.network import (
    ConnectionsHalfOpen,
    ConnectionsReset,
    RepliesDelayed,
    WorkersCutOff,
)
from consistency.faults.server import (
    ClientsKilled,
    ClientsPaused,
    LogDeleted,
    LogTrimmed,
    MemoryFull,
    ServerEmptied,
    ServerFlushed,
    ServerPaused,
    ServerRestored,
    ServerSleeps,
)
from consistency.faults.workers import GilHeld, LoopBlocked, WorkersForked, WorkersSuspended

ALL = (
    WorkersSuspended,
    LoopBlocked,
    GilHeld,
    WorkersForked,
    ServerPaused,
    ServerEmptied,
    ServerRestored,
    ServerSleeps,
    ClientsPaused,
    ClientsKilled,
    LogDeleted,
    LogTrimmed,
    ServerFlushed,
    MemoryFull,
    WorkersCutOff,
    RepliesDelayed,
    ConnectionsHalfOpen,
    ConnectionsReset,
    FailoverOrdered,
    PrimaryKilled,
    PrimarySuspended,
    PrimaryCutOff,
    NodeOfLogKilled,
    SlotOfLogMoved,
    MinoritySuspended,
)
BY_NAME = {fault.__name__: fault for fault in ALL}
