//! The rules of the protocol, each as the variant that breaks it.

/// A rule that is broken.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Broken {
    Nothing,

    // Lookups.
    /// A lookup asks the log before it loads the lease.
    LogBeforeLease,

    // Leases.
    /// The lease counts from the reply.
    LeaseFromReply,
    /// The lease is published before the records are applied.
    LeaseBeforeRecords,
    /// A page that is not the last one grants a lease.
    LeaseForHalfAPage,
    /// A lease is granted though the registration could not be written.
    UnregisteredLease,
    /// A lease is granted under a registration of another position than the one that is asked from.
    AnyRegistration,
    /// A lease is granted to a reader that is marked as silent.
    LeaseUnderMark,
    /// A reader with a larger setting than the log's span grants itself a lease of its own setting.
    LeaseOfOwnSpan,
    /// A server that is no primary any more confirms.
    AnyRole,
    /// Clocks are taken to run at the same rate.
    NoDrift,

    // Positions.
    /// A record is known by its ID alone.
    NoNonce,
    /// A reader that hears of news does not ask whether they follow its position.
    NewsFromAnywhere,
    /// A reader knows the record before its news by the nonce alone.
    NewsAfterNonce,
    /// A reader goes on though the server has another history.
    AnyHistory,
    /// A new position is read after the flush that belongs to it.
    FlushBeforePosition,
    /// A new position is registered before the flush that belongs to it.
    RegistrationBeforeFlush,
    /// The position of a foreign record stands for a stamp newer than an unseen own revocation.
    PositionPastOwn,
    /// A value of another process is stamped when it is read.
    StampedWhenRead,

    // Acknowledgements.
    /// One set of own records serves all caches of a process.
    OneOwnSet,
    /// A record is acknowledged before every cache of the process applied it.
    AcknowledgedEarly,
    /// A reader keeps its ID when its connection is lost.
    SameIdAfterReconnect,
    /// A process that exits removes its registration before it ends its lease.
    DeregisteredFirst,

    // Forks.
    /// A forked child keeps its parent's lease.
    InheritedLease,
    /// A forked child keeps its parent's reader ID.
    InheritedId,

    // Writers.
    /// Positions are compared by their milliseconds alone.
    ByMilliseconds,
    /// A writer returns early though it has not known the log for a span.
    EarlyWithoutHistory,
    /// A writer returns early though the log has another generation.
    AnyGeneration,
    /// A writer returns early though the server has another history.
    EarlyInAnyHistory,
    /// The promotion of a replica does not restart the time for which a writer has known the log.
    HeldAcrossPromotion,
    /// A writer returns early though its own position is not in the log any more.
    OwnPositionNotAsked,
    /// A writer takes the absence of registrations for a log that never had a reader.
    AbsentMeansNever,
    /// A writer returns early after it removed the log, because memory was full.
    EarlyAfterUnlink,
    /// A writer settles a record that no replica confirmed.
    UnconfirmedRecord,
    /// A writer waits for its own setting where the log's span is larger.
    WaitOfOwnSpan,

    // Removals of silent readers.
    /// A reader that wrote nothing for a span is removed at once.
    RemovedByClock,
    /// A reader is removed though its mark does not stand any more.
    RemovedWithoutMark,
    /// The time until a removal counts from the writer's record, not from the mark.
    MarkedBefore,
    /// A writer marks a reader again with the same nonce.
    MarkedAgain,
    /// A writer does not remove a reader that another writer marked.
    MarkOfAnother,
}
