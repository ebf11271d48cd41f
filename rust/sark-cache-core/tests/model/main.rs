//! The invalidation log, the single flight and the index under a model checker.
//!
//! The checker runs random interleavings, and those of probabilistic concurrency testing (PCT), which
//! finds any bug that takes up to three ordered events with a known probability. `nox -s model --
//! 100000` runs that many schedules of each property with each scheduler; the default is 10,000.
//! Variants that are broken on purpose show that the checker finds such faults.

#[path = "../checker/mod.rs"]
#[macro_use]
mod checker;
mod index;
mod scenarios;
mod world;

use checker::explore;
use scenarios::*;
use world::Broken;

/// The number of schedules of a property under each scheduler.
const SCHEDULES: usize = 10_000;

#[test]
fn no_request_gets_a_decision_that_was_revoked_before_it() {
    explore(|| decisions_change(Broken::Nothing));
}

#[test]
fn exactly_one_of_three_requests_loads() {
    explore(|| one_leads(Broken::Nothing));
}

#[test]
fn every_request_that_is_not_cancelled_is_answered() {
    explore(|| some_are_cancelled(Broken::Nothing));
}

#[test]
fn no_request_waits_forever_for_a_task_that_stopped() {
    explore(|| one_task_stops(Broken::Nothing));
}

#[test]
fn loaders_that_wait_for_each_other_get_an_error() {
    explore(|| loaders_request_each_other(1));
}

#[test]
fn loaders_of_two_caches_that_wait_for_each_other_get_an_error() {
    explore(|| loaders_request_each_other(2));
}

#[test]
fn every_lookup_after_a_record_sees_it() {
    explore(records_are_made);
}

#[test]
fn no_request_gets_a_decision_that_another_process_revoked_before_it() {
    explore(|| another_process_revokes(Broken::Nothing));
}

#[test]
fn every_request_without_a_lease_that_is_not_cancelled_is_answered() {
    explore(some_are_cancelled_without_a_lease);
}

is_noticed! {
    an_insert_that_ignores_the_stamp_is_noticed: "stale", Stamp, decisions_change;
    joining_a_revoked_flight_is_noticed: "stale", Join, decisions_change;
    forgetting_the_late_tags_of_a_loader_is_noticed: "stale", LateTags, decisions_change;
    a_flight_that_ends_before_it_stores_is_noticed: "loaded more than once", Order, one_leads;
    a_cancelled_leader_that_does_not_hand_over_is_noticed: "deadlock", HandOver, some_are_cancelled;
    waiters_that_are_not_checked_are_noticed: "deadlock", Check, one_task_stops;
    an_abandoned_leader_that_stores_is_noticed: "stale", Fence, one_task_stops;
    joining_an_old_flight_without_a_lease_is_noticed: "stale", OldFlight, another_process_revokes;
}
