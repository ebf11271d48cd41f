//! The requests that wait.

use super::table::{Delivery, Later, SlotState, WaiterSlot};
use super::{Asker, FlightId, Flights, Leader};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// What becomes of a request that waited.
pub enum WaitOutcome<T: Clone, A: Asker> {
    /// The outcome.
    Outcome(T),
    /// The leader gave up: this request has to evaluate.
    Lead(Leader<T, A>),
    /// It has to join again: the outcome was revoked before this request came, or another flight
    /// has the place of the one that it waited for.
    Retry,
    /// It waited for [`PATIENCE`](super::PATIENCE) and has to join again, in the place of this flight.
    Late(FlightId),
}

/// One who waits; a future of its [`WaitOutcome`].
pub struct Waiter<T: Clone, A: Asker> {
    pub(super) flights: Arc<Flights<T, A>>,
    pub(super) flight: FlightId,
    pub(super) slot: u64,
    pub(super) asker: A,
    pub(super) joined: A,
}

impl<T: Clone, A: Asker> Waiter<T, A> {
    /// The flight that it waits for.
    pub fn flight(&self) -> FlightId {
        self.flight
    }

    /// The leader of the flight when it joined.
    pub fn joined(&self) -> &A {
        &self.joined
    }

    /// Whether the leader waits for the task that waits here, as [`WaitGraph::leads_to`](super::WaitGraph::leads_to) finds out.
    pub fn is_circular(&self, others: impl FnMut(&A) -> Vec<A>) -> bool {
        let Some(id) = self.asker.id() else { return false };
        let leader = self.flights.graph.leader_for(id);
        leader.is_some_and(|leader| self.flights.graph.leads_to(leader, id, others))
    }

    /// Passes the lead on, if it was called to lead. It has to join again.
    pub fn decline(&self) {
        let mut later = Later::new();
        let mut table = self.flights.lock();
        if let Some(slot) = table.slots.get_mut(&self.slot)
            && matches!(slot.state, SlotState::Delivered(Delivery::Lead))
        {
            slot.state = SlotState::Delivered(Delivery::Retry);
            self.flights.pass_on(&mut table, self.flight, &mut later);
        }
        drop(table);
        later.run();
    }
}

impl<T: Clone, A: Asker> Future for Waiter<T, A> {
    type Output = WaitOutcome<T, A>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<WaitOutcome<T, A>> {
        let mut table = self.flights.lock();
        if let Some(slot) = table.slots.get_mut(&self.slot)
            && matches!(slot.state, SlotState::Waiting)
        {
            let before = slot.waker.replace(context.waker().clone());
            drop(table);
            drop(before);
            return Poll::Pending;
        }
        let slot = table.slots.remove(&self.slot);
        let Some(WaiterSlot { state: SlotState::Delivered(delivery), waker, asker, .. }) = slot
        else {
            return Poll::Ready(WaitOutcome::Retry); // forgotten
        };
        let outcome = match delivery {
            Delivery::Lead => match table.flights.get_mut(&self.flight) {
                Some(flight) => {
                    flight.heir = None;
                    WaitOutcome::Lead(self.flights.leader(self.flight, flight.stamp, false))
                }
                None => WaitOutcome::Retry, // ended by somebody else
            },
            Delivery::Outcome(outcome) => WaitOutcome::Outcome(outcome),
            Delivery::Retry => WaitOutcome::Retry,
            Delivery::Late => WaitOutcome::Late(self.flight),
        };
        drop(table);
        drop((waker, asker));
        Poll::Ready(outcome)
    }
}

impl<T: Clone, A: Asker> Drop for Waiter<T, A> {
    fn drop(&mut self) {
        self.flights.graph.leave(self.asker.id(), self.slot);
        let mut table = self.flights.lock();
        let Some(slot) = table.slots.remove(&self.slot) else { return };
        table.trim(self.flight);
        drop(table);
        if matches!(slot.state, SlotState::Delivered(Delivery::Lead)) {
            // Called to lead and gone: it is the next one's turn.
            self.flights.hand_over(self.flight);
        }
    }
}
