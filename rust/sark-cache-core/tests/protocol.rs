//! The protocol of coherent caches under a model checker: processes that share one log on a server,
//! confirm their positions in it, serve under leases, and settle revocations by acknowledgements.
//!
//! The leases, the positions and the invalidation logs are the ones that ship; the server, the
//! network and the clocks are modelled. A request, its execution and its reply are three steps,
//! between which anything may happen and any amount of time may pass. The clocks of processes run
//! up to 10 % too slow or too fast. Two properties are checked at each answer:
//!
//! - **Staleness.** A decision is served for less than a span after its revocation was recorded.
//! - **Settling.** A request that began after a settled revocation returned gets no older decision.
//!
//! Every rule of the protocol has a variant that breaks it, and the checker has to notice each. The
//! rule for flights is checked in `model.rs`.
//!
//! `nox -s model` runs it, or `cargo test --package sark-cache-core --features shuttle --profile model
//! --test protocol`. Each scenario runs 4,000 schedules with each of two schedulers, in 20 seconds
//! together on an idle core. `SARK_CACHE_SCHEDULES` sets another number.

use sark_cache_core::invalidation::{Log, Subject, Verdict};
use sark_cache_core::{KeyWriter, Lease, Position, Positions, Scope, Stamp};
use shuttle::sync::Mutex;
use shuttle::sync::atomic::{AtomicU64, Ordering};
use shuttle::{rand, thread};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// The longest staleness, in units of the modelled time.
const SPAN: u64 = 10_000;
/// The time that a lease lasts by the clock of the process that holds it: its clock may be slow.
const LEASE: u64 = SPAN / 10 * 9;
/// The time that a writer waits by its own clock for all leases to end: its clock may be fast.
const WAIT: u64 = SPAN / 10 * 11 + 10;
/// Clocks are read in whole units.
const ROUNDING: u64 = 4;
/// The most records in a confirmation.
const PAGE: usize = 3;
/// Record IDs have a time in this many units, and a sequence number.
const MILLISECOND: u64 = 5_000;

fn explore(scenario: impl Fn() + Send + Sync + Copy + 'static) {
    let schedules = std::env::var("SARK_CACHE_SCHEDULES")
        .map_or(4_000, |given| given.parse().expect("SARK_CACHE_SCHEDULES is a number"));
    shuttle::check_random(scenario, schedules);
    shuttle::check_pct(scenario, schedules, 3);
}

/// Explores a variant that is broken on purpose until a schedule fails, at most 30 times as long. With
/// random schedules, one exploration can miss the fault.
fn expose(variant: impl Fn() + Send + Sync + Copy + 'static) {
    for _ in 0..30 {
        explore(variant);
    }
}

fn one_of<T>(choices: impl IntoIterator<Item = T>) -> T {
    use rand::Rng;
    let mut choices: Vec<T> = choices.into_iter().collect();
    choices.swap_remove(rand::thread_rng().gen_range(0..choices.len()))
}

/// Lets others run for a while.
fn dawdle() {
    for _ in 0..one_of(0..16) {
        thread::yield_now();
    }
}

fn random() -> u64 {
    use rand::RngCore;
    rand::thread_rng().next_u64()
}

/// A rule that is broken.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Broken {
    Nothing,
    /// The lease counts from the reply.
    LeaseFromReply,
    /// The lease is published before the records are applied.
    LeaseBeforeRecords,
    /// A page that is not the last one grants a lease.
    LeaseForHalfAPage,
    /// A new position is read after the flush that belongs to it.
    FlushBeforePosition,
    /// A record is known by its ID alone.
    NoNonce,
    /// A lookup asks the log before it loads the lease.
    LogBeforeLease,
    /// Nobody looks whether the server has another history.
    AnyHistory,
    /// A server that is no primary any more confirms.
    AnyRole,
    /// Clocks are taken to run at the same rate.
    NoDrift,
    /// A process that acknowledged nothing for a span is removed without being marked first.
    RemovedWithoutMark,
    /// Positions are compared by their milliseconds alone.
    ByMilliseconds,
    /// A lease is granted though the registration could not be written.
    UnregisteredLease,
    /// A forked child keeps its parent's lease.
    InheritedLease,
    /// One set of own records serves all caches of a process.
    OneOwnSet,
    /// A writer returns early though registrations may have been lost.
    EarlyAfterNewGeneration,
    /// A record is acknowledged before every cache of the process applied it.
    AcknowledgedEarly,
    /// The position of a foreign record stands for a stamp newer than an unseen own revocation.
    PositionPastOwn,
    /// A value of another process is stamped when it is read.
    StampedWhenRead,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum What {
    Begun,
    Revoked,
    /// A revocation of what nobody asks for here.
    Other,
}

#[derive(Clone, Copy, PartialEq, Debug)]
struct Record {
    position: Position,
    what: What,
}

/// The reply to one confirming transaction.
struct Confirmation {
    is_registered: bool,
    is_marked: bool,
    is_primary: bool,
    history: u64,
    generation: u64,
    /// From the position that was asked for, if it is there; it included.
    records: Vec<Record>,
}

/// The reply to one look of a settling writer.
struct Progress {
    everybody_applied: bool,
    behind: Vec<u64>,
    generation: u64,
    history: u64,
    has_own_position: bool,
}

#[derive(Clone)]
struct Server {
    log: Vec<Record>,
    /// The position that each registered reader applied.
    readers: HashMap<u64, Position>,
    suspects: HashMap<u64, u64>,
    generation: u64,
    history: u64,
    is_primary: bool,
    /// At `maxmemory` writes are refused while reads are answered.
    takes_writes: bool,
    /// The time by which the server's clock is behind.
    behind: u64,
}

impl Server {
    fn new() -> Self {
        let mut server = Self {
            log: Vec::new(),
            readers: HashMap::new(),
            suspects: HashMap::new(),
            generation: random(),
            history: random(),
            is_primary: true,
            takes_writes: true,
            behind: 0,
        };
        server.append(0, 1, What::Begun);
        server
    }

    fn append(&mut self, now: u64, nonce: u64, what: What) -> Position {
        let time = (now.saturating_sub(self.behind)) / MILLISECOND;
        let id = match self.log.last() {
            Some(last) if last.position.id.0 >= time => {
                (last.position.id.0, last.position.id.1 + 1)
            }
            _ => (time, 0),
        };
        let position = Position { id, nonce };
        self.log.push(Record { position, what });
        position
    }

    fn confirm(&self, reader: u64, position: Position) -> Confirmation {
        let from = self.log.iter().position(|record| record.position.id >= position.id);
        let records = from.map_or(&[][..], |from| &self.log[from..]);
        Confirmation {
            is_registered: self.readers.contains_key(&reader),
            is_marked: self.suspects.contains_key(&reader),
            is_primary: self.is_primary,
            history: self.history,
            generation: self.generation,
            records: records[..records.len().min(PAGE)].to_vec(),
        }
    }

    fn progress(&self, record: Position, own: Position, broken: Broken) -> Progress {
        let has_applied = |applied: &Position| match broken {
            Broken::ByMilliseconds => applied.id.0 >= record.id.0,
            _ => applied.id >= record.id,
        };
        let behind = self.readers.iter().filter(|(_, applied)| !has_applied(applied));
        let behind: Vec<u64> = behind.map(|(reader, _)| *reader).collect();
        Progress {
            everybody_applied: behind.is_empty(),
            behind,
            generation: self.generation,
            history: self.history,
            has_own_position: self.log.iter().any(|record| record.position == own),
        }
    }
}

/// The server, the engine, real time, and what has to hold.
struct World {
    broken: Broken,
    time: AtomicU64,
    /// The most time that passes in a step.
    pace: u64,
    server: Mutex<Server>,
    /// The primary of before, for processes that are cut off with it.
    replaced: Mutex<Option<Server>>,
    /// The version that evaluating brings.
    engine: AtomicU64,
    /// Requests that begin from now on get no version below this one.
    settled: AtomicU64,
    /// When the revocation of each version was recorded, in real time.
    recorded: Mutex<HashMap<u64, u64>>,
    answers: AtomicU64,
}

impl World {
    fn new(broken: Broken) -> Arc<Self> {
        Arc::new(Self {
            broken,
            time: AtomicU64::new(100 * SPAN),
            pace: one_of([SPAN / 200, SPAN / 3]),
            server: Mutex::new(Server::new()),
            replaced: Mutex::default(),
            engine: AtomicU64::new(1),
            settled: AtomicU64::new(1),
            recorded: Mutex::default(),
            answers: AtomicU64::new(0),
        })
    }

    fn now(&self) -> u64 {
        self.time.load(Ordering::SeqCst)
    }

    fn wait(&self, passes: u64) {
        self.time.fetch_add(passes, Ordering::SeqCst);
        thread::yield_now();
    }

    /// Lets others run, and time pass.
    fn step(&self) {
        let passes = one_of([0, 0, 0, self.pace / 8, self.pace]);
        if passes > 0 {
            self.time.fetch_add(passes, Ordering::SeqCst);
        }
        thread::yield_now();
    }

    /// One step of a request that takes as long as it takes, sometimes longer than a lease.
    fn travel(&self) {
        self.step();
        if one_of(0..12) == 0 {
            self.wait(2 * self.pace);
        }
    }

    /// Records the revocation of a version, unless writes are refused.
    fn append(&self, version: u64, nonce: u64) -> Option<Position> {
        let mut server = self.server.lock().unwrap();
        let now = self.now();
        server.takes_writes.then(|| {
            self.recorded.lock().unwrap().insert(version, now);
            server.append(now, nonce, What::Revoked)
        })
    }

    fn revoke_in_engine(&self) -> u64 {
        self.engine.fetch_add(1, Ordering::SeqCst)
    }

    /// Checks an answer that was read from a cache at `served`, in real time.
    fn check(&self, version: u64, must: u64, served: u64) {
        self.answers.fetch_add(1, Ordering::SeqCst);
        assert!(version >= must, "settled: got {version}, must be {must}");
        for (revoked, recorded) in self.recorded.lock().unwrap().iter() {
            assert!(
                version > *revoked || served < recorded + SPAN + ROUNDING,
                "stale: {version} served {} after it was recorded",
                served - recorded
            );
        }
    }
}

/// One tiered cache: its entry for the one request of this model, and its log.
struct Cache {
    log: Log,
    lease: Lease,
    entry: Mutex<Option<(u64, Stamp)>>,
    /// The records that this cache itself made.
    own: Mutex<HashSet<u64>>,
}

impl Cache {
    fn store(&self, version: u64, stamp: Stamp) {
        let key = key();
        let mut entry = self.entry.lock().unwrap();
        let subject = Subject { key: &key, tags: &[] };
        if let Verdict::Valid(stamp) = self.log.verdict(stamp, subject) {
            *entry = Some((version, stamp));
        }
    }
}

/// The state of the reader of a process.
struct Known {
    id: u64,
    position: Position,
    history: u64,
    generation: u64,
    /// Since when, by the own clock, it has held positions under this history and generation.
    held_since: u64,
}

/// A process: its caches, and one reader for all of them.
struct Process {
    world: Arc<World>,
    /// Tenths of real time that its clock counts.
    rate: u64,
    caches: Vec<Cache>,
    known: Mutex<Known>,
    /// True if it stays with a primary that is replaced, until that one says that it is none.
    is_cut_off: Mutex<bool>,
}

fn key() -> Vec<u8> {
    let mut writer = KeyWriter::new();
    writer.request("alice", "read", "doc").unwrap();
    writer.as_bytes().to_vec()
}

fn alice() -> Scope {
    Scope::of([Some("alice"), None, None], &[])
}

impl Process {
    /// A process that has adopted the log and registered, and holds no lease yet.
    fn start(world: &Arc<World>, caches: usize) -> Arc<Self> {
        let id = random();
        let (position, history, generation) = {
            let mut server = world.server.lock().unwrap();
            let position = server.log.last().expect("a log was begun").position;
            server.readers.insert(id, position);
            (position, server.history, server.generation)
        };
        let caches = (0..caches).map(|_| Cache {
            log: Log::new(),
            lease: Lease::none(),
            entry: Mutex::default(),
            own: Mutex::default(),
        });
        let rate = one_of([9, 10, 11]);
        let held_since = world.now() * rate / 10;
        let known = Known { id, position, history, generation, held_since };
        Arc::new(Self {
            world: Arc::clone(world),
            rate,
            caches: caches.collect(),
            known: Mutex::new(known),
            is_cut_off: Mutex::new(false),
        })
    }

    /// The clock of this process, and the real time at which it was read.
    fn clock(&self) -> (u64, u64) {
        let real = self.world.now();
        (real * self.rate / 10, real)
    }

    fn evaluates(&self, cache: &Cache) -> u64 {
        let stamp = cache.log.newest();
        self.world.step();
        let version = self.world.engine.load(Ordering::SeqCst);
        self.world.step();
        cache.store(version, stamp);
        version
    }

    /// Asks one of the caches, which evaluates if it cannot serve.
    fn ask(&self, cache: &Cache) {
        let must = self.world.settled.load(Ordering::SeqCst);
        self.world.step();
        match self.look_up(cache) {
            Some((version, served)) => self.world.check(version, must, served),
            None => assert!(self.evaluates(cache) >= must, "settled: evaluated too early"),
        }
    }

    fn look_up(&self, cache: &Cache) -> Option<(u64, u64)> {
        let (key, early) = (key(), self.world.broken == Broken::LogBeforeLease);
        let before = (!early).then(|| (cache.lease.until(), self.clock()));
        self.world.step();
        let holds = {
            let mut entry = cache.entry.lock().unwrap();
            let (version, stamp) = (*entry)?;
            match cache.log.verdict(stamp, Subject { key: &key, tags: &[] }) {
                Verdict::Invalidated => None,
                Verdict::Valid(newer) => {
                    *entry = Some((version, stamp.max(newer)));
                    Some(version)
                }
            }
        };
        self.world.step();
        let (until, (now, real)) = before.unwrap_or_else(|| (cache.lease.until(), self.clock()));
        holds.filter(|_| now < until).map(|version| (version, real))
    }

    /// One confirmation: asks, applies, acknowledges, and extends the lease if all is well.
    fn confirm(&self) {
        let (world, broken) = (&self.world, self.world.broken);
        let (reader, position) = {
            let known = self.known.lock().unwrap();
            (known.id, known.position)
        };
        let (mut sent, _) = self.clock();
        world.travel();
        let reply = self.ask_server(|server| server.confirm(reader, position));
        world.travel();
        if broken == Broken::LeaseFromReply {
            sent = self.clock().0;
        }
        if !reply.is_primary && broken != Broken::AnyRole {
            // It leaves this server, and asks the present primary from now on.
            *self.is_cut_off.lock().unwrap() = false;
            return;
        }
        let lasts = if broken == Broken::NoDrift { SPAN } else { LEASE };
        let is_same_history = self.known.lock().unwrap().history == reply.history;
        if !is_same_history && broken != Broken::AnyHistory {
            return self.adopt();
        }
        let is_mine = reply.records.first().is_some_and(|first| {
            first.position.id == position.id
                && (first.position.nonce == position.nonce || broken == Broken::NoNonce)
        });
        if !is_mine {
            return self.adopt();
        }
        self.note(reply.history, reply.generation);
        let may_lease =
            if broken == Broken::UnregisteredLease || broken == Broken::RemovedWithoutMark {
                reply.is_registered || self.register() || broken == Broken::UnregisteredLease
            } else if !reply.is_registered || reply.is_marked {
                // Registered now, so the next confirmation may grant a lease.
                self.register();
                false
            } else {
                true
            };
        let is_last = reply.records.len() < PAGE;
        let grants = may_lease && (is_last || broken == Broken::LeaseForHalfAPage);
        if grants && broken == Broken::LeaseBeforeRecords {
            self.extend(sent + lasts);
        }
        if broken == Broken::AcknowledgedEarly {
            self.acknowledge(&reply.records);
        }
        let mut own_of_all = HashSet::new();
        for record in &reply.records[1..] {
            for cache in &self.caches {
                self.apply(cache, record, &mut own_of_all);
            }
        }
        self.known.lock().unwrap().position = reply.records.last().expect("mine is there").position;
        if grants {
            self.extend(sent + lasts);
        }
        self.acknowledge(&reply.records);
    }

    fn ask_server<R>(&self, ask: impl FnOnce(&Server) -> R) -> R {
        let replaced = self.world.replaced.lock().unwrap().clone();
        match replaced {
            Some(replaced) if *self.is_cut_off.lock().unwrap() => ask(&replaced),
            _ => ask(&self.world.server.lock().unwrap()),
        }
    }

    fn apply(&self, cache: &Cache, record: &Record, own_of_all: &mut HashSet<u64>) {
        self.world.step();
        let nonce = record.position.nonce;
        let mut is_own = cache.own.lock().unwrap().remove(&nonce);
        if self.world.broken == Broken::OneOwnSet {
            is_own |= own_of_all.contains(&nonce);
            if is_own {
                own_of_all.insert(nonce);
            }
        }
        match record.what {
            What::Begun => {}
            _ if is_own => {}
            What::Revoked => _ = cache.log.record(&alice(), 0),
            What::Other => _ = cache.log.record(&Scope::of([Some("bob"), None, None], &[]), 0),
        }
    }

    fn extend(&self, until: u64) {
        for cache in &self.caches {
            cache.lease.extend_until(until);
        }
    }

    fn acknowledge(&self, records: &[Record]) {
        let position = records.last().expect("mine is there").position;
        self.world.step();
        let mut server = self.world.server.lock().unwrap();
        let id = self.known.lock().unwrap().id;
        if server.takes_writes
            && let Some(applied) = server.readers.get_mut(&id)
        {
            *applied = position;
        }
    }

    /// Registers under the position that was applied, and clears the mark; false if refused.
    fn register(&self) -> bool {
        self.world.step();
        let mut server = self.world.server.lock().unwrap();
        let known = self.known.lock().unwrap();
        if server.takes_writes {
            server.readers.insert(known.id, known.position);
            server.suspects.remove(&known.id);
        }
        server.takes_writes
    }

    /// Takes the log as it is now for a new beginning: nothing that is cached is served any more.
    fn adopt(&self) {
        let broken = self.world.broken;
        let flush = || {
            for cache in &self.caches {
                cache.log.record(&Scope::Everything, 0);
                cache.own.lock().unwrap().clear();
            }
        };
        if broken == Broken::FlushBeforePosition {
            flush();
            dawdle();
        }
        self.world.travel();
        let (position, history, generation) = {
            let now = self.world.now();
            let mut server = self.world.server.lock().unwrap();
            if server.log.is_empty() {
                if !server.takes_writes {
                    return;
                }
                server.append(now, random(), What::Begun);
            }
            let newest = server.log.last().expect("begun").position;
            (newest, server.history, server.generation)
        };
        self.world.travel();
        if broken != Broken::FlushBeforePosition {
            flush();
        }
        self.known.lock().unwrap().position = position;
        self.forget_history();
        self.note(history, generation);
        self.register();
    }

    fn forget_history(&self) {
        self.known.lock().unwrap().held_since = self.clock().0;
    }

    /// Takes down under which history and generation positions are held, and since when.
    fn note(&self, history: u64, generation: u64) {
        let now = self.clock().0;
        let mut known = self.known.lock().unwrap();
        if (known.history, known.generation) != (history, generation) {
            (known.history, known.generation) = (history, generation);
            known.held_since = now;
        }
    }

    /// Revokes everywhere, and returns once no process can serve it any more.
    fn invalidate(&self, cache: &Cache) {
        let (world, broken) = (&self.world, self.world.broken);
        let version = world.revoke_in_engine();
        let nonce = random();
        cache.log.record(&alice(), 0);
        cache.own.lock().unwrap().insert(nonce);
        world.travel();
        let own = self.known.lock().unwrap().position;
        let Some(record) = (0..8).find_map(|_| {
            world.travel();
            world.append(version, nonce)
        }) else {
            return; // an InvalidationError: nothing is certain, and nothing is promised
        };
        world.travel();
        let (answered, _) = self.clock();
        let waits = if broken == Broken::NoDrift { SPAN } else { WAIT };
        let mut marked = HashSet::new();
        while self.clock().0 < answered + waits {
            world.travel();
            let progress = world.server.lock().unwrap().progress(record, own, broken);
            let may_return_early = {
                let known = self.known.lock().unwrap();
                let held = self.clock().0.saturating_sub(known.held_since) >= waits;
                broken == Broken::EarlyAfterNewGeneration
                    || (held
                        && progress.has_own_position
                        && (known.history, known.generation)
                            == (progress.history, progress.generation))
            };
            if progress.everybody_applied && may_return_early {
                break;
            }
            self.mark(&progress.behind, nonce, &mut marked);
        }
        if self.clock().0 >= answered + waits {
            self.remove(&marked, nonce);
        }
        world.settled.fetch_max(version + 1, Ordering::SeqCst);
    }

    /// Revokes without waiting for anything but its record.
    fn records(&self) {
        let (version, nonce) = (self.world.revoke_in_engine(), random());
        self.caches[0].log.record(&alice(), 0);
        self.caches[0].own.lock().unwrap().insert(nonce);
        self.world.step();
        self.world.append(version, nonce);
    }

    fn mark(&self, behind: &[u64], nonce: u64, marked: &mut HashSet<u64>) {
        let mut server = self.world.server.lock().unwrap();
        for reader in behind {
            if marked.insert(*reader) {
                server.suspects.entry(*reader).or_insert(nonce);
            }
        }
    }

    /// Removes readers that stayed silent for as long as a lease can last.
    fn remove(&self, marked: &HashSet<u64>, nonce: u64) {
        self.world.step();
        let mut server = self.world.server.lock().unwrap();
        for reader in marked {
            let stands = server.suspects.get(reader) == Some(&nonce);
            if stands || self.world.broken == Broken::RemovedWithoutMark {
                server.readers.remove(reader);
                server.suspects.remove(reader);
            }
        }
    }
}

/// The fault of the server in a run.
#[derive(Clone, Copy, PartialEq)]
enum Fault {
    None,
    /// The log is deleted and begun again, by a server whose clock is behind.
    Deleted,
    /// The registrations are lost.
    Unregistered,
    /// The server comes back from an older snapshot, as another history.
    Restored,
    /// Memory is full for a while: writes are refused.
    Full,
    /// Another server becomes the primary. The old one goes on for the processes that are cut off
    /// with it.
    Replaced,
}

impl Fault {
    fn strike(self, world: &World) {
        world.step();
        let mut server = world.server.lock().unwrap();
        match self {
            Self::None => {}
            Self::Deleted => {
                server.behind = world.now();
                server.log.clear();
                let (now, nonce) = (world.now(), random());
                server.append(now, nonce, What::Begun);
            }
            Self::Unregistered => {
                server.readers.clear();
                server.suspects.clear();
                server.generation = random();
            }
            Self::Restored => {
                // The records that are lost were revocations, so the engine is ahead of the log.
                server.log.truncate(1);
                server.readers.clear();
                server.history = random();
            }
            Self::Full => {
                server.takes_writes = false;
                drop(server);
                for _ in 0..4 {
                    world.step();
                }
                world.server.lock().unwrap().takes_writes = true;
            }
            Self::Replaced => {
                // The old primary misses its replicas, and holds its confirmations back, before
                // they can elect another one: `down-after-milliseconds` is longer than the span.
                let mut replaced = server.clone();
                replaced.is_primary = false;
                *world.replaced.lock().unwrap() = Some(replaced);
                server.takes_writes = false;
                drop(server);
                let elected = world.now() + SPAN + ROUNDING;
                while world.now() < elected {
                    world.travel();
                }
                world.server.lock().unwrap().takes_writes = true;
            }
        }
    }
}

/// Each of some processes confirms and asks; one of them revokes twice; the server has a fault.
fn processes_revoke(broken: Broken, fault: Fault, caches: usize) {
    let world = World::new(broken);
    let processes: Vec<_> = (0..2).map(|_| Process::start(&world, caches)).collect();
    *processes[1].is_cut_off.lock().unwrap() = fault == Fault::Replaced;
    // All of them have served for long.
    for process in &processes {
        process.confirm();
        for cache in &process.caches {
            process.evaluates(cache);
        }
    }
    if fault == Fault::None || one_of([true, false]) {
        world.time.fetch_add(2 * SPAN, Ordering::SeqCst);
        for process in &processes {
            process.confirm();
        }
    }
    let mut running = Vec::new();
    for process in &processes {
        let reads = Arc::clone(process);
        running.push(thread::spawn(move || {
            for _ in 0..5 {
                reads.confirm();
            }
        }));
        for at in 0..caches {
            let asks = Arc::clone(process);
            running.push(thread::spawn(move || {
                for _ in 0..5 {
                    asks.ask(&asks.caches[at]);
                }
            }));
        }
    }
    let strikes = Arc::clone(&world);
    running.push(thread::spawn(move || fault.strike(&strikes)));
    let writer = Arc::clone(&processes[0]);
    for _ in 0..2 {
        writer.invalidate(&writer.caches[0]);
        for process in &processes {
            process.ask(&process.caches[caches - 1]);
        }
    }
    for thread in running {
        thread.join().unwrap();
    }
}

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

macro_rules! is_noticed {
    ($($name:ident: $property:literal, $broken:ident, $scenario:expr;)*) => {$(
        #[test]
        #[should_panic(expected = $property)]
        fn $name() {
            let scenario: fn(Broken) = $scenario;
            expose(move || scenario(Broken::$broken));
        }
    )*};
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

/// Two processes that serve from their caches under leases, and have for more than a span.
fn serving(broken: Broken) -> (Arc<World>, Arc<Process>, Arc<Process>) {
    let world = World::new(broken);
    let [writer, serves] = [(); 2].map(|()| Process::start(&world, 1));
    world.wait(2 * SPAN);
    for process in [&writer, &serves] {
        process.confirm();
        process.evaluates(&process.caches[0]);
    }
    (world, writer, serves)
}

fn at_once(tasks: Vec<Box<dyn FnOnce() + Send>>) {
    let running: Vec<_> = tasks.into_iter().map(thread::spawn).collect();
    for task in running {
        task.join().unwrap();
    }
}

macro_rules! at_once {
    ($($process:ident => $task:expr),* $(,)?) => {
        at_once(vec![$({
            let $process = Arc::clone(&$process);
            Box::new(move || _ = $task) as Box<dyn FnOnce() + Send>
        }),*])
    };
}

/// Revocations are recorded while a process is away, for longer than its lease lasts.
fn a_process_comes_back(broken: Broken) {
    let (world, writer, serves) = serving(broken);
    for _ in 0..one_of([0, 2]) {
        world.server.lock().unwrap().append(world.now(), random(), What::Other);
    }
    writer.records();
    world.wait(2 * SPAN);
    at_once! {
        serves => for _ in 0..3 { serves.confirm() },
        serves => {
            dawdle();
            serves.ask(&serves.caches[0]);
        },
    }
    serves.ask(&serves.caches[0]);
}

/// A revocation is recorded while a confirmation is on its way, which takes longer than a lease.
fn a_reply_is_late(broken: Broken) {
    let (world, writer, serves) = serving(broken);
    world.wait(2 * SPAN);
    at_once! {
        serves => serves.confirm(),
        writer => { writer.records(); writer.world.wait(SPAN + ROUNDING) },
    }
    serves.ask(&serves.caches[0]);
}

/// The server loses a revocation that a process did not see.
fn the_log_loses_its_end(broken: Broken, fault: Fault) {
    let world = World::new(broken);
    let [writer, serves] = [(); 2].map(|()| Process::start(&world, 1));
    serves.confirm();
    serves.evaluates(&serves.caches[0]);
    writer.records();
    fault.strike(&world);
    world.wait(SPAN + ROUNDING);
    at_once! {
        serves => for _ in 0..3 { serves.confirm() },
        writer => writer.confirm(),
    }
    serves.ask(&serves.caches[0]);
}

/// A process adopts a log that was begun again, while it evaluates and something is revoked.
fn a_log_is_adopted(broken: Broken) {
    let (world, writer, serves) = serving(broken);
    Fault::Deleted.strike(&world);
    at_once! {
        serves => serves.adopt(),
        serves => { dawdle(); serves.evaluates(&serves.caches[0]) },
        writer => { dawdle(); writer.records() },
    }
    world.wait(SPAN + ROUNDING);
    serves.confirm();
    serves.ask(&serves.caches[0]);
}

/// A writer settles twice, while both processes confirm now and then.
fn revocations_are_settled(broken: Broken) {
    let (_, writer, serves) = serving(broken);
    at_once! {
        serves => for _ in 0..one_of([1, 2, 3]) { serves.confirm() },
        writer => for _ in 0..4 { writer.confirm() },
        writer => for _ in 0..2 {
            writer.invalidate(&writer.caches[0]);
            serves.ask(&serves.caches[0]);
        },
    }
}

/// A reader that was silent confirms just when a writer has waited for it long enough.
fn a_silent_reader_comes_back(broken: Broken) {
    let (world, writer, serves) = serving(broken);
    let silent_until = world.now() + WAIT;
    at_once! {
        writer => writer.invalidate(&writer.caches[0]),
        serves => {
            while serves.world.now() < silent_until {
                serves.world.step();
            }
            for _ in 0..2 {
                serves.confirm();
            }
            serves.evaluates(&serves.caches[0]);
        },
    }
    at_once! {
        writer => for _ in 0..3 { writer.confirm() },
        writer => writer.invalidate(&writer.caches[0]),
    }
    serves.ask(&serves.caches[0]);
}

/// Registrations are lost, and for one process memory is full when it would register again.
fn a_registration_is_refused(broken: Broken) {
    let (world, writer, serves) = serving(broken);
    Fault::Unregistered.strike(&world);
    for _ in 0..2 {
        writer.confirm();
    }
    world.wait(2 * SPAN);
    world.server.lock().unwrap().takes_writes = false;
    serves.confirm();
    serves.evaluates(&serves.caches[0]);
    world.server.lock().unwrap().takes_writes = true;
    at_once! {
        writer => for _ in 0..3 { writer.confirm() },
        writer => writer.invalidate(&writer.caches[0]),
    }
    serves.ask(&serves.caches[0]);
}

/// A process forks; another one revokes, and settles with what the parent acknowledges.
fn a_process_forks(broken: Broken) {
    let (_, writer, parent) = serving(broken);
    let child = parent.fork();
    at_once! {
        parent => for _ in 0..3 { parent.confirm() },
        writer => for _ in 0..3 { writer.confirm() },
        child => if one_of([true, false]) { child.confirm() },
        writer => writer.invalidate(&writer.caches[0]),
    }
    child.ask(&child.caches[0]);
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

impl Process {
    /// A child with a copy of everything: its lease has ended before any other code of it runs.
    fn fork(&self) -> Arc<Self> {
        let parent = self.known.lock().unwrap();
        let caches = self.caches.iter().map(|cache| {
            let lease = Lease::none();
            if self.world.broken == Broken::InheritedLease {
                lease.extend_until(cache.lease.until());
            }
            // A log of its own that has no records yet, and an entry from before all of them.
            let entry = cache.entry.lock().unwrap().map(|(version, _)| (version, Stamp::default()));
            Cache { log: Log::new(), lease, entry: Mutex::new(entry), own: Mutex::default() }
        });
        let known = Known { id: random(), held_since: self.clock().0, ..*parent };
        Arc::new(Self {
            world: Arc::clone(&self.world),
            rate: self.rate,
            caches: caches.collect(),
            known: Mutex::new(known),
            is_cut_off: Mutex::new(false),
        })
    }
}

/// One process evaluates and shares what it got; another one, which revokes too, fills its cache
/// with that. A third one only revokes.
fn values_are_shared(broken: Broken) {
    let world = World::new(broken);
    let [evaluates, reads] = [(); 2].map(|()| Process::start(&world, 1));
    let shared = Arc::new(Mutex::new(None));
    let positions = Arc::new(Mutex::new(Positions::new(8)));
    let begun = reads.known.lock().unwrap().position;
    positions.lock().unwrap().enter(begun, Stamp::default());
    let cache = &reads.caches[0];
    // What another process revokes, and then evaluates, and then shares.
    let (from, to) = (Arc::clone(&world), Arc::clone(&shared));
    let sharing = thread::spawn(move || {
        if one_of([true, false]) {
            from.append(from.revoke_in_engine(), random());
        }
        evaluates.confirm();
        let at = evaluates.known.lock().unwrap().position;
        from.step();
        let version = from.engine.load(Ordering::SeqCst);
        from.step();
        *to.lock().unwrap() = Some((version, at));
        if one_of([true, false]) {
            from.append(from.revoke_in_engine(), random());
        }
    });
    // What this process revokes itself is in effect at the call, long before it is in the log.
    let mut own = None;
    dawdle();
    world.step();
    if one_of([true, false]) {
        let (version, nonce) = (world.revoke_in_engine(), random());
        let mut positions = positions.lock().unwrap();
        positions.note_own(nonce, cache.log.record(&alice(), 0).stamp);
        own = Some((version, nonce));
    }
    sharing.join().unwrap();
    let must = own.map_or(0, |(version, _)| version + 1);
    for _ in 0..2 {
        reads.replay(&positions);
        if let Some((version, at)) = *shared.lock().unwrap() {
            let stamp = match broken {
                Broken::StampedWhenRead => Some(cache.log.newest()),
                _ => positions.lock().unwrap().stamp(at),
            };
            if let Some(stamp) = stamp {
                cache.store(version, stamp);
            }
        }
        if let Some((version, served)) = reads.look_up(cache) {
            assert!(version >= must, "own: got {version}, must be {must}");
            world.check(version, 0, served);
        }
        if let Some((version, nonce)) = own.take() {
            world.append(version, nonce);
        }
        world.wait(SPAN + ROUNDING);
        reads.replay(&positions);
        if let Some((version, served)) = reads.look_up(cache) {
            assert!(version >= must, "own: got {version}, must be {must}");
            world.check(version, 0, served);
        }
    }
}

impl Process {
    /// A confirmation that enters each record that it applies into the positions.
    fn replay(&self, positions: &Mutex<Positions>) {
        let cache = &self.caches[0];
        let (sent, _) = self.clock();
        self.world.travel();
        let (reader, from) = {
            let known = self.known.lock().unwrap();
            (known.id, known.position)
        };
        let reply = self.ask_server(|server| server.confirm(reader, from));
        self.world.travel();
        for record in &reply.records[1..] {
            self.world.step();
            let mut positions = positions.lock().unwrap();
            if !positions.take_own(record.position.nonce) {
                cache.log.record(&alice(), 0);
            }
            let newest = cache.log.newest();
            if self.world.broken == Broken::PositionPastOwn {
                positions.enter_past_own(record.position, newest);
            } else {
                positions.enter(record.position, newest);
            }
        }
        self.known.lock().unwrap().position = reply.records.last().expect("mine").position;
        if reply.records.len() < PAGE {
            cache.lease.extend_until(sent + LEASE);
        }
    }
}
