//! The exploration of interleavings, for the tests under the model checker.

use crate::SCHEDULES;
use shuttle::rand::{self, Rng};

/// The number of ordered events that a fault may take for PCT to find it with a known probability.
const PCT_DEPTH: usize = 3;

/// Runs interleavings of a scenario: random ones, then those of PCT. `SARK_CACHE_SCHEDULES` replaces
/// the number of each.
pub fn explore(scenario: impl Fn() + Send + Sync + Copy + 'static) {
    let schedules = std::env::var("SARK_CACHE_SCHEDULES")
        .map_or(SCHEDULES, |given| given.parse().expect("SARK_CACHE_SCHEDULES is a number"));
    shuttle::check_random(scenario, schedules);
    shuttle::check_pct(scenario, schedules, PCT_DEPTH);
}

/// Explores a variant that is broken on purpose until a schedule fails, at most 30 times as long. With
/// random schedules, one exploration can miss the fault.
pub fn expose(variant: impl Fn() + Send + Sync + Copy + 'static) {
    for _ in 0..30 {
        explore(variant);
    }
}

/// Returns one of the choices at random.
pub fn one_of<T>(choices: impl IntoIterator<Item = T>) -> T {
    let mut choices: Vec<T> = choices.into_iter().collect();
    choices.swap_remove(rand::thread_rng().gen_range(0..choices.len()))
}

/// Defines tests of variants that are broken on purpose. Each names the property that fails, the
/// broken rule of the caller's `Broken`, and the scenario.
macro_rules! is_noticed {
    ($($name:ident: $property:literal, $broken:ident, $scenario:expr;)*) => {$(
        #[test]
        #[should_panic(expected = $property)]
        fn $name() {
            let scenario: fn(Broken) = $scenario;
            $crate::checker::expose(move || scenario(Broken::$broken));
        }
    )*};
}
