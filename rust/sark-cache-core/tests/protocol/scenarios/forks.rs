//! A process that forks.

use super::{at_once, serving};
use crate::broken::Broken;
use crate::checker::one_of;
use crate::world::dawdle;

/// A process forks; another one revokes, and settles with what the parent acknowledges.
pub fn a_process_forks(broken: Broken) {
    let (_, writer, parent) = serving(broken);
    at_once! {
        parent => for _ in 0..3 { parent.confirm() },
        writer => for _ in 0..3 { writer.confirm() },
        writer, parent => { writer.invalidate(0); parent.ask(&parent.caches[0]) },
        parent => {
            dawdle();
            let child = parent.fork();
            for _ in 0..3 {
                child.ask(&child.caches[0]);
                if one_of([true, false]) {
                    child.confirm();
                }
            }
            for _ in 0..3 {
                dawdle();
                child.ask(&child.caches[0]);
            }
        },
    }
}
