//! Looking after those who wait, so that none waits for ever.

use super::table::{Delivery, Flight, FlightTable, Later, SlotState};
use super::{Asker, FlightId, Flights, MOMENT, PATIENCE};
use std::mem;

/// What [`Flights::look_after`] found.
#[derive(Debug)]
pub struct Look<A> {
    /// Whether anybody waits, or has not collected what they were given.
    pub anybody: bool,
    /// The flights that somebody has been waiting for since a [`MOMENT`], and their leaders.
    pub slow: Vec<(FlightId, A)>,
}

impl<T: Clone, A: Asker> Flights<T, A> {
    /// Looks after those who wait: to be called about once a [`MOMENT`] while anybody does, with the
    /// nanoseconds of a monotonic clock.
    ///
    /// Calls the next heir where one did not take the lead within a moment; wakes again who did not
    /// collect what they were given; and ends the patience of those who waited for too long.
    pub fn look_after(&self, now: u64) -> Look<A> {
        let mut later = Later::new();
        let mut table = self.lock();
        let waited_for =
            |(_, flight): &(&u64, &Flight<A>)| flight.heir.is_some() || !flight.waiting.is_empty();
        let ids: Vec<FlightId> =
            table.flights.iter().filter(waited_for).map(|(id, _)| *id).collect();
        for id in &ids {
            self.look_after_heir(&mut table, *id, now, &mut later);
        }
        let slow = ids.into_iter().filter_map(|id| {
            let slow = self.look_after_waiters(&mut table, id, now, &mut later);
            let leader = table.flights.get(&id)?.leader.clone();
            slow.then_some((id, leader))
        });
        let slow = slow.collect();
        for slot in table.slots.values_mut() {
            if matches!(slot.state, SlotState::Delivered(_)) && slot.seen_for(now) >= MOMENT {
                slot.seen = Some(now);
                later.wakers.extend(slot.waker.clone());
            }
        }
        let anybody = !table.slots.is_empty();
        drop(table);
        later.run();
        Look { anybody, slow }
    }

    /// Calls the next heir, if the one that was called did not come.
    fn look_after_heir(
        &self,
        table: &mut FlightTable<T, A>,
        id: FlightId,
        now: u64,
        later: &mut Later<A>,
    ) {
        let Some(heir) = table.flights.get(&id).and_then(|flight| flight.heir) else { return };
        let late = table.slots.get_mut(&heir).is_none_or(|slot| slot.seen_for(now) >= MOMENT);
        if late {
            self.deliver(table, heir, Delivery::Retry, later);
            self.pass_on(table, id, later);
        }
    }

    /// Ends the patience of those who waited for too long; whether anybody waits since a moment.
    fn look_after_waiters(
        &self,
        table: &mut FlightTable<T, A>,
        id: FlightId,
        now: u64,
        later: &mut Later<A>,
    ) -> bool {
        let Some(flight) = table.flights.get_mut(&id) else { return false };
        let mut waiting = mem::take(&mut flight.waiting);
        let mut slow = false;
        waiting.retain(|slot| {
            let waited = table.slots.get_mut(slot).map(|slot| slot.seen_for(now));
            slow |= waited.is_some_and(|waited| waited >= MOMENT);
            match waited {
                Some(waited) if waited >= PATIENCE => {
                    self.deliver(table, *slot, Delivery::Late, later);
                    false
                }
                waited => waited.is_some(),
            }
        });
        if let Some(flight) = table.flights.get_mut(&id) {
            flight.waiting = waiting;
        }
        slow
    }
}
