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
//! Every rule of the protocol has a variant that breaks it (`world.rs`), and the checker has to
//! notice each. The rule for flights is checked in `tests/model`.
//!
//! `nox -s model` runs it, or `cargo test --package sark-cache-core --features shuttle --profile
//! model --test protocol`. Each scenario runs 4,000 schedules with each of two schedulers, in 20
//! seconds together on an idle core. `SARK_CACHE_SCHEDULES` sets another number.

#[path = "../checker/mod.rs"]
#[macro_use]
mod checker;
mod fault;
mod process;
mod scenarios;
mod server;
mod shared_values;
mod world;

use checker::{explore, one_of};
use fault::Fault;
use scenarios::*;
use shared_values::values_are_shared;
use world::Broken;

/// The number of schedules of a scenario under each scheduler.
const SCHEDULES: usize = 4_000;

const FAULTS: [Fault; 6] = [
    Fault::None,
    Fault::Deleted,
    Fault::Unregistered,
    Fault::Restored,
    Fault::Full,
    Fault::Replaced,
];

#[test]
fn nobody_serves_what_was_revoked() {
    explore(|| processes_revoke(Broken::Nothing, one_of(FAULTS), one_of([1, 2])));
}

is_noticed! {
    clocks_of_other_rates_are_noticed: "s", NoDrift, |broken| {
        processes_revoke(broken, Fault::None, 1);
    };
    a_reader_removed_without_a_mark_is_noticed: "settled", RemovedWithoutMark,
        a_silent_reader_comes_back;
    a_record_acknowledged_early_is_noticed: "settled", AcknowledgedEarly, |broken| {
        processes_revoke(broken, Fault::None, 2);
    };
    one_own_set_for_all_caches_is_noticed: "s", OneOwnSet, |broken| {
        processes_revoke(broken, Fault::None, 2);
    };
    a_primary_that_was_replaced_is_noticed: "s", AnyRole, |broken| {
        processes_revoke(broken, Fault::Replaced, 1);
    };
    an_early_return_after_lost_registrations_is_noticed: "settled", EarlyAfterNewGeneration,
        |broken| processes_revoke(broken, Fault::Unregistered, 1);
}

is_noticed! {
    a_lease_that_counts_from_the_reply_is_noticed: "stale", LeaseFromReply, a_reply_is_late;
    a_lease_before_the_records_is_noticed: "stale", LeaseBeforeRecords, a_process_comes_back;
    a_lease_for_half_a_page_is_noticed: "stale", LeaseForHalfAPage, a_process_comes_back;
    a_lookup_that_asks_the_log_before_the_lease_is_noticed: "stale", LogBeforeLease,
        a_process_comes_back;
    a_record_known_by_its_id_alone_is_noticed: "stale", NoNonce, |broken| {
        the_log_loses_its_end(broken, Fault::Deleted);
    };
    another_history_is_noticed: "stale", AnyHistory, |broken| {
        the_log_loses_its_end(broken, Fault::Restored);
    };
    a_flush_before_the_position_is_noticed: "stale", FlushBeforePosition, a_log_is_adopted;
    positions_compared_by_milliseconds_are_noticed: "settled", ByMilliseconds,
        revocations_are_settled;
    a_lease_without_a_registration_is_noticed: "settled", UnregisteredLease,
        a_registration_is_refused;
    an_inherited_lease_is_noticed: "settled", InheritedLease, a_process_forks;
    a_position_past_an_own_revocation_is_noticed: "own", PositionPastOwn, values_are_shared;
    a_value_stamped_when_it_is_read_is_noticed: "stale", StampedWhenRead, values_are_shared;
}

#[test]
fn nothing_stale_is_served_where_a_rule_would_matter() {
    const SCENARIOS: [fn(Broken); 10] = [
        a_process_comes_back,
        a_reply_is_late,
        |broken| the_log_loses_its_end(broken, one_of([Fault::Deleted, Fault::Restored])),
        a_log_is_adopted,
        revocations_are_settled,
        a_silent_reader_comes_back,
        a_registration_is_refused,
        a_process_forks,
        values_are_shared,
        |broken| processes_revoke(broken, Fault::None, 2),
    ];
    explore(|| one_of(SCENARIOS)(Broken::Nothing));
}
