//! The protocol of coherent caches under a model checker: processes that share one log on a server,
//! confirm their positions in it, serve under leases, and settle revocations by acknowledgements.
//!
//! The leases, the positions and the invalidation logs are those of the released code. The server,
//! the network and the clocks are modelled. A request, its execution and its reply are three steps.
//! Anything may happen between them, and any amount of time may pass. The clocks of processes run
//! up to 10 % too slow or too fast. Two properties are checked at each answer:
//!
//! - **Staleness.** A decision is served for less than a span after its revocation was recorded.
//! - **Settling.** A request that began after a settled revocation returned gets no older decision.
//!
//! Every rule of the protocol has a variant that breaks it (`broken.rs`), and the checker has to
//! notice each. The rule for flights is checked in `tests/model`.
//!
//! `nox -s model` runs it, or `cargo test --package sark-cache-core --features shuttle --profile
//! model --test protocol`. Each scenario runs 4,000 schedules with each of two schedulers.
//! `SARK_CACHE_SCHEDULES` sets another number.

mod broken;
mod cache;
#[path = "../checker/mod.rs"]
#[macro_use]
mod checker;
mod fault;
mod process;
mod reader;
mod scenarios;
mod server;
mod world;
mod writer;

use broken::Broken;
use checker::{explore, one_of};
use fault::Fault;
use scenarios::forks::a_process_forks;
use scenarios::histories::*;
use scenarios::leases::*;
use scenarios::positions::*;
use scenarios::revocations::*;
use scenarios::shared_values::values_are_shared;
use scenarios::silence::*;

/// The number of schedules of a scenario under each scheduler.
const SCHEDULES: usize = 4_000;

const FAULTS: [Fault; 9] = [
    Fault::None,
    Fault::Deleted,
    Fault::Cut,
    Fault::Unregistered,
    Fault::Flushed,
    Fault::Restored,
    Fault::Full,
    Fault::Replaced,
    Fault::Promoted,
];

#[test]
fn nobody_serves_what_was_revoked() {
    explore(|| processes_revoke(Broken::Nothing, one_of(FAULTS), one_of([1, 2])));
}

#[test]
fn nobody_serves_what_was_revoked_while_processes_come_and_go() {
    explore(|| processes_come_and_go(Broken::Nothing, one_of(FAULTS)));
}

is_noticed! {
    // Lookups and leases.
    a_lookup_that_asks_the_log_before_the_lease_is_noticed: "stale", LogBeforeLease,
        a_process_comes_back;
    a_lease_that_counts_from_the_reply_is_noticed: "stale", LeaseFromReply, a_reply_is_late;
    a_lease_before_the_records_is_noticed: "stale", LeaseBeforeRecords, a_process_comes_back;
    a_lease_for_half_a_page_is_noticed: "stale", LeaseForHalfAPage, a_process_comes_back;
    a_lease_without_a_registration_is_noticed: "settled", UnregisteredLease,
        a_registration_is_refused;
    a_lease_under_an_older_registration_is_noticed: "settled", AnyRegistration,
        a_registration_is_ahead;
    a_lease_under_a_mark_is_noticed: "settled", LeaseUnderMark, a_silent_reader_comes_back;
    a_lease_of_an_own_span_is_noticed: "settled", LeaseOfOwnSpan, spans_differ;
    a_primary_that_was_replaced_is_noticed: "s", AnyRole, |broken| {
        processes_revoke(broken, Fault::Replaced, 1);
    };
    clocks_of_other_rates_are_noticed: "s", NoDrift, |broken| {
        processes_revoke(broken, Fault::None, 1);
    };
}

is_noticed! {
    // Positions.
    a_record_known_by_its_id_alone_is_noticed: "stale", NoNonce, |broken| {
        the_log_loses_its_end(broken, Fault::Deleted);
    };
    news_from_anywhere_are_noticed: "stale", NewsFromAnywhere, news_are_cut;
    news_after_another_record_of_the_nonce_are_noticed: "stale", NewsAfterNonce, news_are_cut;
    another_history_is_noticed: "stale", AnyHistory, |broken| {
        the_log_loses_its_end(broken, Fault::Restored);
    };
    a_flush_before_the_position_is_noticed: "stale", FlushBeforePosition, a_log_is_adopted;
    a_registration_before_the_flush_is_noticed: "settled", RegistrationBeforeFlush, a_log_is_cut;
    a_position_past_an_own_revocation_is_noticed: "own", PositionPastOwn, values_are_shared;
    a_value_stamped_when_it_is_read_is_noticed: "stale", StampedWhenRead, values_are_shared;
}

is_noticed! {
    // Acknowledgements, exits and forks.
    one_own_set_for_all_caches_is_noticed: "s", OneOwnSet, |broken| {
        processes_revoke(broken, Fault::None, 2);
    };
    a_record_acknowledged_early_is_noticed: "settled", AcknowledgedEarly, |broken| {
        processes_revoke(broken, Fault::None, 2);
    };
    an_acknowledgement_over_a_lost_connection_is_noticed: "settled", SameIdAfterReconnect,
        an_acknowledgement_is_late;
    a_process_that_exits_before_its_lease_ends_is_noticed: "settled", DeregisteredFirst,
        a_process_exits;
    an_inherited_lease_is_noticed: "settled", InheritedLease, a_process_forks;
    an_inherited_reader_id_is_noticed: "settled", InheritedId, a_process_forks;
}

is_noticed! {
    // Early returns of writers.
    positions_compared_by_milliseconds_are_noticed: "settled", ByMilliseconds,
        revocations_are_settled;
    a_writer_without_a_history_is_noticed: "settled", EarlyWithoutHistory, |broken| {
        a_writer_is_new(broken, Fault::Unregistered);
    };
    an_early_return_in_another_generation_is_noticed: "settled", AnyGeneration, |broken| {
        a_log_is_known(broken, Fault::Unregistered);
    };
    an_early_return_in_another_history_is_noticed: "settled", EarlyInAnyHistory, |broken| {
        a_reader_is_new(broken, Fault::Restored);
    };
    an_early_return_after_a_promotion_is_noticed: "settled", HeldAcrossPromotion, |broken| {
        a_reader_is_new(broken, Fault::Promoted);
    };
    an_early_return_after_the_log_was_deleted_is_noticed: "settled", OwnPositionNotAsked,
        |broken| a_log_is_known(broken, Fault::Deleted);
    absent_registrations_after_a_flush_are_noticed: "settled", AbsentMeansNever, |broken| {
        a_writer_is_new(broken, Fault::Flushed);
    };
    absent_registrations_in_a_snapshot_are_noticed: "settled", AbsentMeansNever, |broken| {
        a_writer_is_new(broken, Fault::Restored);
    };
    absent_registrations_at_a_replica_are_noticed: "settled", AbsentMeansNever, |broken| {
        a_writer_is_new(broken, Fault::Promoted);
    };
    an_early_return_after_the_log_was_removed_is_noticed: "settled", EarlyAfterUnlink,
        memory_is_full;
    a_record_that_no_replica_confirmed_is_noticed: "s", UnconfirmedRecord, a_replica_is_promoted;
    a_wait_for_a_shorter_span_is_noticed: "settled", WaitOfOwnSpan, spans_differ;
}

is_noticed! {
    // Removals of silent readers.
    a_reader_removed_by_the_clock_is_noticed: "settled", RemovedByClock, revocations_are_settled;
    a_reader_removed_without_a_mark_is_noticed: "settled", RemovedWithoutMark,
        a_silent_reader_comes_back;
    a_mark_that_counts_from_the_record_is_noticed: "settled", MarkedBefore,
        a_reader_is_marked;
    a_mark_that_is_set_again_is_noticed: "settled", MarkedAgain, a_silent_reader_comes_back;
    a_mark_of_a_dead_writer_is_noticed: "immortal", MarkOfAnother, a_reader_dies;
}

#[test]
fn nothing_stale_is_served_where_a_rule_would_matter() {
    const SCENARIOS: [fn(Broken); 22] = [
        a_process_comes_back,
        a_reply_is_late,
        |broken| the_log_loses_its_end(broken, one_of([Fault::Deleted, Fault::Restored])),
        a_log_is_adopted,
        a_log_is_cut,
        news_are_cut,
        an_acknowledgement_is_late,
        revocations_are_settled,
        a_process_exits,
        memory_is_full,
        a_silent_reader_comes_back,
        a_reader_is_marked,
        a_reader_dies,
        a_registration_is_refused,
        a_registration_is_ahead,
        spans_differ,
        a_process_forks,
        |broken| {
            a_log_is_known(broken, one_of([Fault::Deleted, Fault::Unregistered, Fault::Flushed]));
        },
        |broken| a_reader_is_new(broken, one_of([Fault::Restored, Fault::Promoted])),
        |broken| a_writer_is_new(broken, one_of(FAULTS)),
        a_replica_is_promoted,
        values_are_shared,
    ];
    explore(|| one_of(SCENARIOS)(Broken::Nothing));
}
