//! The callers that wait for a leader.

use super::table::{Delivery, SlotState, WaiterSlot};
use super::{Caller, FlightId, Flights, Leader};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// The result of waiting.
pub enum WaitOutcome<T: Clone, A: Caller> {
    /// The outcome of the leader's evaluation.
    Outcome(T),
    /// The leader was dropped: this caller has to evaluate.
    Lead(Leader<T, A>),
    /// The caller has to join again: its flight ended without an outcome, or with one that was
    /// revoked before the caller joined.
    Retry,
    /// The caller waited for [`WAIT_LIMIT`](super::WAIT_LIMIT). It has to join again, and to supersede
    /// this flight.
    TimedOut(FlightId),
}

/// The future of a [`WaitOutcome`]. May be dropped at any time.
pub struct Waiter<T: Clone, A: Caller> {
    pub(super) flights: Arc<Flights<T, A>>,
    pub(super) flight: FlightId,
    pub(super) slot: u64,
    pub(super) caller: A,
    pub(super) leader_at_join: A,
}

impl<T: Clone, A: Caller> Waiter<T, A> {
    /// Returns the number of the flight.
    pub fn flight(&self) -> FlightId {
        self.flight
    }

    /// Returns the leader at the time when this caller joined.
    pub fn leader_at_join(&self) -> &A {
        &self.leader_at_join
    }

    /// Returns whether the leader waits for the task of this waiter.
    ///
    /// `others` is as in [`WaitGraph::reaches`](super::WaitGraph::reaches).
    pub fn is_deadlocked(&self, others: impl FnMut(&A) -> Vec<A>) -> bool {
        let Some(id) = self.caller.id() else { return false };
        let leader = self.flights.graph.leader_for(id);
        leader.is_some_and(|leader| self.flights.graph.reaches(leader, id, others))
    }

    /// Passes the lead to the next waiter, if this one was appointed. This caller has to join again.
    pub fn decline(&self) {
        self.flights.change(|table, after| {
            if let Some(slot) = table.slots.get_mut(&self.slot)
                && matches!(slot.state, SlotState::Delivered(Delivery::Lead))
            {
                slot.state = SlotState::Delivered(Delivery::Retry);
                self.flights.appoint_next(table, self.flight, after);
            }
        });
    }
}

impl<T: Clone, A: Caller> Future for Waiter<T, A> {
    type Output = WaitOutcome<T, A>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<WaitOutcome<T, A>> {
        let mut table = self.flights.lock();
        if let Some(slot) = table.slots.get_mut(&self.slot)
            && matches!(slot.state, SlotState::Waiting)
        {
            let previous = slot.waker.replace(context.waker().clone());
            drop(table);
            drop(previous);
            return Poll::Pending;
        }
        let slot = table.slots.remove(&self.slot);
        let Some(WaiterSlot { state: SlotState::Delivered(delivery), waker, caller, .. }) = slot
        else {
            // `Flights::forget` removed the slot.
            return Poll::Ready(WaitOutcome::Retry);
        };
        let outcome = match delivery {
            Delivery::Lead => match table.flights.get_mut(&self.flight) {
                Some(flight) => {
                    flight.successor = None;
                    WaitOutcome::Lead(self.flights.leader(self.flight, flight.stamp, false))
                }
                // `Flights::end_abandoned` ended the flight.
                None => WaitOutcome::Retry,
            },
            Delivery::Outcome(outcome) => WaitOutcome::Outcome(outcome),
            Delivery::Retry => WaitOutcome::Retry,
            Delivery::TimedOut => WaitOutcome::TimedOut(self.flight),
        };
        drop(table);
        drop((waker, caller));
        Poll::Ready(outcome)
    }
}

impl<T: Clone, A: Caller> Drop for Waiter<T, A> {
    fn drop(&mut self) {
        self.flights.graph.leave(self.caller.id(), self.slot);
        let mut table = self.flights.lock();
        let Some(slot) = table.slots.remove(&self.slot) else { return };
        table.trim(self.flight);
        drop(table);
        if matches!(slot.state, SlotState::Delivered(Delivery::Lead)) {
            self.flights.hand_over(self.flight);
        }
    }
}
